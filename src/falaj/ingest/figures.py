"""Checks of all rows together: a figure, and the bounds that it keeps or does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from falaj.ingest.checks import (
    Check,
    Distinct,
    Freshness,
    HasColumns,
    RowCount,
    Statistic,
    Usual,
)
from falaj.ingest.conditions import DAY_US
from falaj.ingest.model import CheckResult, Contract
from falaj.ingest.usual import Bounds, Past, bounds_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Asked:
    """What a figure is held against: instants, the columns of the rows, earlier figures."""

    now: datetime
    loaded_at: datetime
    columns: frozenset[str]
    earlier: Callable[[Contract, Check], Past]


@dataclass(frozen=True)
class _Found:
    passed: bool
    measured: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


def figure_of(
    contract: Contract, check: Check, n_rows: int, measured: Any, asked: Asked
) -> CheckResult:
    """The result of a check of all rows together.

    Args:
        contract, check: which one.
        n_rows: how many there are.
        measured: what its SQL gave (``Compiled.measured``).
        asked: what it is held against.
    """
    found = _found(contract, check, n_rows, measured, asked)
    return CheckResult(
        contract=contract.name,
        check=check.label,
        severity=check.severity,
        n_rows=n_rows,
        n_violations=int(not found.passed),
        share=0.0,
        passed=found.passed,
        measured=found.measured,
        value=found.value,
        low=found.low,
        high=found.high,
    )


def _found(contract: Contract, check: Check, n_rows: int, measured: Any, asked: Asked) -> _Found:
    if isinstance(check, RowCount):
        return _between(float(n_rows), check.least, check.greatest, f"{n_rows} rows")
    if isinstance(check, Freshness):
        return _fresh(check, measured, asked)
    if isinstance(check, HasColumns):
        return _columns(check, asked.columns)
    if isinstance(check, Usual):
        return _usual(contract, check, n_rows, measured, asked)
    assert isinstance(check, Statistic | Distinct)  # noqa: S101 - what is left of the union
    if measured is None or not isfinite(measured):
        return _Found(False, "no value", low=check.least, high=check.greatest)
    return _between(float(measured), check.least, check.greatest, f"{measured:g}")


def _fresh(check: Freshness, measured: Any, asked: Asked) -> _Found:
    age = _age(check, measured, asked)
    if age is None:
        return _Found(False, "no value", high=check.max_age_seconds)
    return _between(age, None, check.max_age_seconds, f"{age:.0f} s old")


def _between(value: float, low: float | None, high: float | None, told: str) -> _Found:
    kept = (low is None or value >= low) and (high is None or value <= high)
    return _Found(kept, told, value, low, high)


def _columns(check: HasColumns, columns: frozenset[str]) -> _Found:
    missing = sorted(set(check.columns) - columns)
    more = sorted(columns - set(check.columns)) if check.exact else []
    parts = [f"{word} {', '.join(names)}" for word, names in (("missing:", missing),
             ("not expected:", more)) if names]  # fmt: skip
    return _Found(not parts, "; ".join(parts) or f"{len(columns)} columns")


def _age(check: Freshness | Usual, newest_us: int | None, asked: Asked) -> float | None:
    if check.column is None:
        return (asked.now - asked.loaded_at).total_seconds()
    return None if newest_us is None else asked.now.timestamp() - newest_us / 1_000_000


def _usual(contract: Contract, check: Usual, n_rows: int, measured: Any, asked: Asked) -> _Found:
    at = asked.now
    value: float | None
    past = asked.earlier(contract, check)
    if check.of == "rows":
        value, unit = float(n_rows), "rows"
    elif check.of == "age":
        value, unit = _age(check, measured, asked), "s old"
    else:
        at, value, past = _last_day(measured or {}, asked.now)
        unit = "rows in the last whole day"
    if value is None:
        return _Found(False, "no value", low=check.least, high=check.greatest)
    learned = bounds_of(past, at, width=check.width, least=check.least_history)
    low, high = _declared_first(check, learned)
    told = f"{value:.0f} {unit}"
    if learned is not None:
        told += f"; usual is {learned.expected:.0f} ({learned.told})"
    elif low is None and high is None:
        told += f"; {len(past)} earlier ones are too few to tell what is usual"
    return _between(value, low, high, told)


def _declared_first(check: Usual, learned: Bounds | None) -> tuple[float | None, float | None]:
    low = None if learned is None or check.of == "age" else learned.low  # young is never wrong
    high = None if learned is None else learned.high
    return (
        low if check.least is None else check.least,
        high if check.greatest is None else check.greatest,
    )


def _last_day(counts: dict[int, int], now: datetime) -> tuple[datetime, float | None, Past]:
    """The last whole day, its rows (0 if there are none), and the days before it.

    The days begin with the first that has rows; of those between, a day without rows counts
    as one with none. A count of days later than today is a wrong instant and is left out.
    """
    today = int(now.timestamp() * 1_000_000) // DAY_US
    last = today - 1
    at = _EPOCH + timedelta(days=last)
    known = {day: n for day, n in counts.items() if day is not None and day <= last}
    if not known:
        return at, None, ()
    first = max(min(known), last - 366)
    past = [(_EPOCH + timedelta(days=day), float(known.get(day, 0))) for day in range(first, last)]
    return at, float(known.get(last, 0)), past
