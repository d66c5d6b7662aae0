"""Prices: exact to the millionth, by the price of the time, and sums that add up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.resources import GIB, Resources
from falaj.training.costs.model import Prices, PriceTable
from falaj.training.costs.pricing import amount, charges

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AED = Prices(currency="AED", cpu_hour=Decimal("0.2"), memory_gib_hour=Decimal("0.03"),
             gpu_hour=Decimal("9.5"), spot_share=Decimal("0.3"))  # fmt: skip
rates = st.decimals(0, 1000, places=6)


def table(version, prices, valid_from):
    return PriceTable(
        version=version, prices=prices, valid_from=valid_from, set_by="user:omar", set_at=NOW
    )


def test_an_hour_of_everything_costs_its_prices():
    held = Resources(cpus=2.5, memory_bytes=4 * GIB, gpus=0.5)
    assert amount(AED, held, 3_600_000_000) == Decimal("0.5") + Decimal("0.12") + Decimal("4.75")


def test_spot_resources_cost_their_share_and_workers_cost_each():
    held = Resources(cpus=1, memory_bytes=1 * GIB, workers=3)
    whole = amount(AED, held, 3_600_000_000)
    assert whole == 3 * Decimal("0.23")
    spot = amount(AED, held.model_copy(update={"spot": True}), 3_600_000_000)
    assert spot == whole * Decimal("0.3")


@given(
    cpu=rates, memory=rates, gpu=rates,
    share=st.decimals(0, 1, places=6),
    cpus=st.integers(1, 64_000).map(lambda n: n / 1000),
    memory_bytes=st.integers(2**28, 2**40),
    gpus=st.sampled_from((0.0, 0.25, 1.0, 8.0)),
    spot=st.booleans(),
    n=st.integers(0, 30 * 86_400 * 10**6),
)  # fmt: skip
def test_an_amount_is_the_exact_one_rounded_half_to_even_once(
    cpu, memory, gpu, share, cpus, memory_bytes, gpus, spot, n
):
    prices = Prices(
        currency="USD", cpu_hour=cpu, memory_gib_hour=memory, gpu_hour=gpu, spot_share=share
    )
    held = Resources(cpus=cpus, memory_bytes=memory_bytes, gpus=gpus, spot=spot)
    exact = (
        Fraction(cpu) * round(cpus * 1000) / 1000
        + Fraction(gpu) * round(gpus * 1000) / 1000
        + Fraction(memory) * memory_bytes / GIB
    )
    exact *= Fraction(share) if spot else 1
    millionths = exact * n / 3_600_000_000 * 1_000_000
    assert amount(prices, held, n) == Decimal(round(millionths)) / 1_000_000


def test_a_cost_is_computed_with_the_prices_of_its_time():
    later = AED.model_copy(update={"cpu_hour": Decimal("0.4"), "currency": "USD"})
    tables = [table(1, AED, NOW), table(2, later, NOW + 2 * HOUR)]
    held = Resources(cpus=1, memory_bytes=GIB)
    found = charges(tables, held, NOW - HOUR, NOW + 3 * HOUR)
    assert [(one.version, one.currency, one.amount) for one in found] == [
        (1, "AED", Decimal("0.46")),
        (2, "USD", Decimal("0.43")),
    ]
    assert charges(tables, held, NOW - 3 * HOUR, NOW - HOUR) == []
