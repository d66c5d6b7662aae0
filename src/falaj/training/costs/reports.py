"""Costs added up by run, model, team or month, and per 1,000 predictions.

Charges are whole millionths and are added as whole numbers: lines add up to totals exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from falaj.training.costs.ledger import CORE_HOUR, OPEN
from falaj.training.costs.model import (
    SMALLEST,
    Amount,
    CostLine,
    CostReport,
    Grouping,
    ModelCost,
    UsageKind,
)
from falaj.training.costs.tables import charge_rows, usage_rows

OTHERS, PIPELINES = "(others)", "(pipelines)"
"""The lines of what one may not know of, and of what is of no model."""
ASSETS = {UsageKind.STEP: "pipeline_run"}
"""What kind of asset the run of a usage is, if it is no run."""


class _Sum:
    """What one line adds up."""

    def __init__(self) -> None:
        self.n = 0
        self.core_time = 0
        self.gpu_time = 0
        self.cpu_seconds = 0.0
        self.millionths: dict[str, int] = {}


def _selected(since: datetime | None, until: datetime | None, model: str | None) -> list[Any]:
    conditions = [usage_rows.c.outcome != OPEN]
    if since is not None:
        conditions.append(usage_rows.c.begun_at >= since)
    if until is not None:
        conditions.append(usage_rows.c.begun_at < until)
    if model is not None:
        conditions.append(usage_rows.c.model == model)
    return conditions


def cost_report(
    connection: Connection,
    by: Grouping,
    seen: Callable[[str, str], bool] = lambda _kind, _name: True,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    model: str | None = None,
) -> CostReport:
    """What ended attempts that began in a time used and cost, by one kind of thing.

    Names that are not ``seen`` are added up as one line, ``(others)``.

    Args:
        seen: of the kind of an asset (``run``, ``pipeline_run``, ``model``) and its name.
    """
    conditions = _selected(since, until, model)
    told: dict[str, str] = {}
    sums: dict[str, _Sum] = {}
    line_of: dict[str, str] = {}
    for row in connection.execute(select(usage_rows).where(*conditions)):
        name, asset = _name(row, by)
        if name not in told:
            told[name] = name if asset is None or seen(asset, name) else OTHERS
        name = told[name]
        line_of[row.id] = name
        line = sums.setdefault(name, _Sum())
        line.n += 1
        line.core_time += row.core_time
        line.gpu_time += row.gpu_time
        line.cpu_seconds += row.cpu_seconds
    charged: set[str] = set()
    joined = (
        select(charge_rows)
        .join(usage_rows, usage_rows.c.id == charge_rows.c.usage_id)
        .where(*conditions)
    )
    for row in connection.execute(joined):
        charged.add(row.usage_id)
        money = sums[line_of[row.usage_id]].millionths
        money[row.currency] = money.get(row.currency, 0) + row.millionths
    lines = tuple(_line(name, sums[name]) for name in sorted(sums))
    return CostReport(
        by=by,
        since=since,
        until=until,
        lines=lines,
        totals=added(amount for line in lines for amount in line.amounts),
        n_unpriced=len(set(line_of) - charged),
    )


def model_cost(connection: Connection, model: str, n_predictions: int) -> ModelCost:
    """What all attempts at runs of a model have cost, and that for each 1,000 predictions."""
    report = cost_report(connection, Grouping.MODEL, model=model)
    per = tuple(
        Amount(
            currency=one.currency,
            amount=(one.amount * 1000 / n_predictions).quantize(SMALLEST, rounding=ROUND_HALF_EVEN),
        )
        for one in report.totals
        if n_predictions
    )
    return ModelCost(
        model=model, n_predictions=n_predictions, cost=report.totals, per_1000_predictions=per
    )


def added(amounts: Iterable[Amount]) -> tuple[Amount, ...]:
    """Amounts added up, by currency."""
    sums: dict[str, Decimal] = {}
    for one in amounts:
        sums[one.currency] = sums.get(one.currency, Decimal(0)) + one.amount
    return listed(sums)


def listed(sums: Mapping[str, Decimal]) -> tuple[Amount, ...]:
    """Sums by currency, in the order of the currencies."""
    return tuple(Amount(currency=name, amount=sums[name]) for name in sorted(sums))


def _name(row: Any, by: Grouping) -> tuple[str, str | None]:
    """Of the line that a usage belongs to, and which kind of asset that is, if it is one."""
    if by is Grouping.MONTH:
        return f"{row.begun_at:%Y-%m}", None
    if by is Grouping.RUN:
        return row.run_id, ASSETS.get(UsageKind(row.kind), "run")
    if by is Grouping.MODEL:
        return (row.model, "model") if row.model else (PIPELINES, None)
    return (row.team if by is Grouping.TEAM else row.kind), None


def _line(name: str, line: _Sum) -> CostLine:
    return CostLine(
        name=name,
        n_attempts=line.n,
        core_hours=line.core_time / CORE_HOUR,
        gpu_hours=line.gpu_time / CORE_HOUR,
        cpu_seconds=line.cpu_seconds,
        amounts=listed({name: n * SMALLEST for name, n in line.millionths.items()}),
    )
