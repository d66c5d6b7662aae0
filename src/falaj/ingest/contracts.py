"""Contracts, compiled: one pass that judges every row, one aggregate over the judgements.

Each row check becomes a condition that is true of a *violating* row; the aggregate counts
them all at once, with the first few row numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from falaj.ingest.model import (
    Between,
    Check,
    CheckResult,
    Contract,
    Example,
    Expression,
    ForeignKey,
    Freshness,
    InSet,
    Matches,
    NotNull,
    RowCheck,
    RowCount,
    Severity,
    Unique,
    Value,
)
from falaj.ingest.typing import RAW, ROWS, Bench, first_line, name, text
from falaj.kernel.errors import InvalidInput

JUDGED = "_judged"
N_EXAMPLES = 5
Lookup = Callable[[str, Sequence[str]], pa.Table | None]
"""The columns of a lake table as they stood before the load; None if there is no table."""


@dataclass(frozen=True)
class Judgement:
    """What a contract's pass found.

    ``set_aside`` are the rows to quarantine: number and reason.
    """

    results: list[CheckResult]
    set_aside: list[tuple[int, str]] = field(default_factory=list)

    @property
    def broken(self) -> list[CheckResult]:
        """The broken checks of severity ``fail``."""
        return [r for r in self.results if not r.passed and r.severity is Severity.FAIL]


def judge(
    bench: Bench,
    contracts: Sequence[Contract],
    *,
    now: datetime,
    lookup: Lookup,
    existing: str | None = None,
    show_values: bool = True,
) -> Judgement:
    """Hold the rows of ``ROWS`` to contracts.

    Args:
        bench: has ``ROWS`` (with ``_row``), and ``RAW`` for examples.
        contracts: all of one table.
        now: what freshness is measured from.
        lookup: reads the tables that foreign keys name.
        existing: the lake table whose rows stand beside these, for ``unique``.
        show_values: False keeps the values of violating rows out of the results.

    Raises:
        InvalidInput: a check names a column or a table that there is not, or is wrong.
    """
    checks = [(contract, check) for contract in contracts for check in contract.checks]
    columns = {row[0] for row in bench.execute(f"DESCRIBE {ROWS}").fetchall()}
    parts, aggregates = ["_row"], ["count(*)"]
    for place, (contract, check) in enumerate(checks):
        _known(contract, check, columns)
        if isinstance(check, RowCount):
            aggregates += ["NULL", "NULL"]
        elif isinstance(check, Freshness):
            parts.append(f"{name(check.column)} AS f{place}")
            aggregates += ["NULL", f"epoch_us(max(f{place})::TIMESTAMPTZ)"]
        else:
            condition = _condition(bench, check, place, lookup, existing)
            parts.append(f"coalesce(({condition}\n), false) AS b{place}")
            aggregates += [
                f"count(*) FILTER (WHERE b{place})",
                f"min(_row, {N_EXAMPLES}) FILTER (WHERE b{place})",
            ]
    try:
        bench.execute(f"CREATE TEMP TABLE {JUDGED} AS SELECT {', '.join(parts)} FROM {ROWS} r")
        measured = bench.execute(f"SELECT {', '.join(aggregates)} FROM {JUDGED}").fetchone() or ()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        told = ", ".join(repr(contract.name) for contract in contracts)
        raise InvalidInput(
            f"The contract {told} cannot be checked: {first_line(error)}.",
            hint="Correct the expression or the type of its bounds.",
        ) from None
    n_rows = int(measured[0])
    results = [
        _result(contract, check, n_rows, measured[1 + 2 * place], measured[2 + 2 * place], now)
        for place, (contract, check) in enumerate(checks)
    ]
    if show_values:
        results = _with_values(bench, results)
    return Judgement(results, _set_aside(bench, [check for _, check in checks]))


def _condition(
    bench: Bench, check: RowCheck, place: int, lookup: Lookup, existing: str | None
) -> str:
    """SQL that is true of a row which violates the check."""
    if isinstance(check, NotNull):
        return f"{name(check.column)} IS NULL"
    if isinstance(check, Unique):
        return _repeated(bench, check, place, lookup, existing)
    if isinstance(check, Expression):
        return f"NOT coalesce(({check.sql}\n), true)"
    if isinstance(check, ForeignKey):
        return _unknown(bench, check, place, lookup)
    return _odd(check)


def _odd(check: Between | InSet | Matches) -> str:
    column = name(check.column)
    if isinstance(check, InSet):
        return f"{column} NOT IN ({', '.join(map(_literal, check.values))})"
    if isinstance(check, Matches):
        return f"NOT regexp_full_match({column}, {text(check.pattern)})"
    bounds = [
        f"{column} {sign} {_literal(bound)}"
        for sign, bound in (("<", check.least), (">", check.greatest))
        if bound is not None
    ]
    return " OR ".join(bounds)


def _unknown(bench: Bench, check: ForeignKey, place: int, lookup: Lookup) -> str:
    known = lookup(check.table, [check.to_column])
    if known is None:
        raise InvalidInput(
            f"The check {check.label} names the lake table {check.table!r}, which there is not.",
            hint="Load that table first.",
        )
    bench.register(f"_known{place}", known)
    column = name(check.column)
    return (
        f"{column} IS NOT NULL AND {column} NOT IN (SELECT {name(check.to_column)}"
        f" FROM _known{place} WHERE {name(check.to_column)} IS NOT NULL)"
    )


def _repeated(bench: Bench, check: Unique, place: int, lookup: Lookup, existing: str | None) -> str:
    columns = [name(column) for column in check.columns]
    whole = " AND ".join(f"r.{column} IS NOT NULL" for column in columns)
    partition = ", ".join(f"r.{column}" for column in columns)
    here = f"row_number() OVER (PARTITION BY {partition} ORDER BY r._row) > 1"
    before = lookup(existing, check.columns) if existing is not None else None
    if before is None:
        return f"{whole} AND {here}"
    bench.register(f"_before{place}", before)
    same = " AND ".join(f"e.{column} = r.{column}" for column in columns)
    there = f"EXISTS (SELECT 1 FROM _before{place} e WHERE {same})"
    return f"{whole} AND ({here} OR {there})"


def _known(contract: Contract, check: Check, columns: set[str]) -> None:
    named: tuple[str, ...] = ()
    if isinstance(check, Unique):
        named = check.columns
    elif not isinstance(check, RowCount | Expression):
        named = (check.column,)
    for column in named:
        if column not in columns:
            raise InvalidInput(
                f"The contract {contract.name!r} checks the column {column!r} of"
                f" {contract.table!r}, which there is not.",
                hint=f"Its columns are {', '.join(sorted(columns - {'_row'}))}.",
            )


def _result(
    contract: Contract, check: Check, n_rows: int, first: Any, second: Any, now: datetime
) -> CheckResult:
    said: dict[str, Any] = {"contract": contract.name, "check": check.label, "n_rows": n_rows,
                            "severity": check.severity}  # fmt: skip
    if isinstance(check, RowCount):
        passed = check.least <= n_rows and (check.greatest is None or n_rows <= check.greatest)
        return CheckResult(
            **said, n_violations=int(not passed), share=0.0, passed=passed,
            measured=f"{n_rows} rows",
        )  # fmt: skip
    if isinstance(check, Freshness):
        age = None if second is None else now.timestamp() - second / 1_000_000
        passed = age is not None and age <= check.max_age_seconds
        return CheckResult(
            **said, n_violations=int(not passed), share=0.0, passed=passed,
            measured="no value" if age is None else f"{age:.0f} s old",
        )  # fmt: skip
    share = first / n_rows if n_rows else 0.0
    return CheckResult(
        **said,
        n_violations=first,
        share=share,
        passed=first == 0 or share <= check.tolerance,
        examples=[Example(row=row) for row in second or []],
    )


def _with_values(bench: Bench, results: list[CheckResult]) -> list[CheckResult]:
    wanted = sorted({example.row for result in results for example in result.examples})
    if not wanted:
        return results
    listed = ", ".join(map(str, wanted))
    rows = bench.execute(f"SELECT * FROM {RAW} WHERE _row IN ({listed})").to_arrow_table()
    values = {row.pop("_row"): row for row in rows.to_pylist()}
    return [
        result.model_copy(
            update={
                "examples": [
                    Example(row=example.row, values=_plain(values.get(example.row, {})))
                    for example in result.examples
                ]
            }
        )
        for result in results
    ]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        column: value if value is None or isinstance(value, bool | int) else str(value)[:200]
        for column, value in row.items()
    }


def _set_aside(bench: Bench, checks: list[Check]) -> list[tuple[int, str]]:
    places = [place for place, check in enumerate(checks) if check.severity is Severity.QUARANTINE]
    if not places:
        return []
    reasons = ", ".join(
        f"CASE WHEN b{place} THEN {text(checks[place].label)} END" for place in places
    )
    found = bench.execute(
        f"SELECT _row, concat_ws('; ', {reasons}) FROM {JUDGED}"
        f" WHERE {' OR '.join(f'b{place}' for place in places)} ORDER BY _row"
    ).fetchall()
    return [(int(row), str(reason)) for row, reason in found]


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return text(value)
    return f"{value!r}::DOUBLE" if isinstance(value, float) else str(value)
