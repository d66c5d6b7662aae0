"""From a price table and a time to an amount.

An attempt is charged for what it *held*: its cores, memory and GPUs, whether it used them or
not, from its begin to its end. Each price table that was valid meanwhile charges its part, and
each part is rounded once, to a millionth of the currency's unit, half to even. Sums are sums of
these parts, so that they add up exactly however they are grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from falaj.kernel.clock import microseconds
from falaj.kernel.resources import GIB, Resources
from falaj.training.costs.model import SMALLEST, Charge, Prices, PriceTable

_HOUR = Decimal(3_600_000_000)
_DIGITS = 60


def amount(prices: Prices, resources: Resources, n_microseconds: int) -> Decimal:
    """What holding resources for so long costs, to the millionth."""
    with localcontext() as context:
        context.prec = _DIGITS
        hourly = (
            prices.cpu_hour * resources.cpu_thousandths / 1000
            + prices.gpu_hour * resources.gpu_thousandths / 1000
            + prices.memory_gib_hour * resources.all_memory_bytes / GIB
        )
        if resources.spot:
            hourly *= prices.spot_share
        exact = hourly * n_microseconds / _HOUR
        return exact.quantize(SMALLEST, rounding=ROUND_HALF_EVEN)


def charges(
    tables: Sequence[PriceTable], resources: Resources, begun_at: datetime, ended_at: datetime
) -> list[Charge]:
    """What each price table charges for its part of a time.

    Args:
        tables: by ``valid_from``; each is valid until the next begins.
    """
    found = []
    for place, table in enumerate(tables):
        following = tables[place + 1].valid_from if place + 1 < len(tables) else ended_at
        begins, ends = max(begun_at, table.valid_from), min(ended_at, following)
        if begins >= ends:
            continue
        held = microseconds(ends) - microseconds(begins)
        found.append(
            Charge(
                version=table.version,
                begins_at=begins,
                ends_at=ends,
                currency=table.prices.currency,
                amount=amount(table.prices, resources, held),
            )
        )
    return found
