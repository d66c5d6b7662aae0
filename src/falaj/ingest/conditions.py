"""Checks as SQL: what a violating row is, and what is measured of all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from falaj.ingest.checks import (
    Between,
    Check,
    Distinct,
    Expression,
    ForeignKey,
    Freshness,
    HasColumns,
    InSet,
    Length,
    Matches,
    NotInSet,
    NotNull,
    RowCheck,
    Statistic,
    Unique,
    Usual,
    Value,
)
from falaj.ingest.expressions import HINT, objection
from falaj.ingest.model import Contract
from falaj.ingest.typing import Bench, name, text
from falaj.kernel.errors import InvalidInput

DAY_US = 86_400_000_000
_WHOLE = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
)
"""Types of whole numbers whose differences the engine's numbers hold."""
_MOST_BITS = 1 << 27
"""16 MB; so far may the least and the greatest number lie apart."""
Extent = Callable[[str], tuple[int | None, int | None]]
"""The least and the greatest value of a column of whole numbers; None if it has no value."""
Lookup = Callable[[str, Sequence[str]], pa.Table | None]
"""The columns of a lake table as they stood before the load; None if there is no table."""
_STATISTICS = {
    "mean": "avg({})",
    "sum": "sum({})",
    "std": "stddev_samp({})",
    "min": "min({})",
    "max": "max({})",
    "median": "median({})",
    "null_share": "(1 - count({}) / greatest(count(*), 1))",
}


def extent_sql(column: str, rows: str) -> str:
    """The query of an ``Extent``."""
    told = name(column)
    return f"SELECT min({told}), max({told}) FROM {rows}"


@dataclass(frozen=True)
class Compiled:
    """One check in SQL.

    ``measured`` is the aggregate of the pass over all rows: the number of violating rows (of
    ``unique`` an upper bound that is 0 exactly if there is none), or the figure of a check of
    all rows together. ``violating`` is true of a violating row, and None for such a check.
    """

    contract: Contract
    check: Check
    measured: str
    violating: str | None = None
    beside: str | None = None
    """A condition that an aggregate cannot hold (a subquery, a window): it is made beside the
    columns first, and ``measured`` names it."""


class Compiler:
    """Makes SQL of checks, and registers the tables that they name with the bench.

    Args:
        bench: where the SQL will run.
        lookup: reads the tables that foreign keys name.
        existing: the lake table whose rows stand beside these, for ``unique``.
        columns: of the rows, with their types as the engine names them.
        extent: tells the extent of a column; None where nothing may be asked of the rows
            beforehand.
    """

    def __init__(
        self,
        bench: Bench,
        lookup: Lookup,
        existing: str | None,
        columns: Mapping[str, str],
        extent: Extent | None = None,
    ) -> None:
        self._bench = bench
        self._lookup = lookup
        self._existing = existing
        self._columns = columns
        self._extent = extent

    def compiled(self, contract: Contract, check: Check, place: int) -> Compiled:
        """A check in SQL; ``place`` tells its tables apart from those of other checks.

        Raises:
            InvalidInput: it names a column or a table that there is not, or its SQL is more
                than one expression.
        """
        self._known(contract, check)
        if isinstance(check, Unique):
            return self._repeated(contract, check, place)
        if isinstance(check, RowCheck):
            condition = self._condition(check, place)
            if not isinstance(check, Expression | ForeignKey):
                return Compiled(contract, check, f"count_if({condition})", condition)
            beside = f"({condition}\n) AS _beside{place}"
            return Compiled(contract, check, f"count_if(_beside{place})", condition, beside)
        return Compiled(contract, check, _figure(check))

    def _condition(self, check: RowCheck, place: int) -> str:
        """SQL that is true of a row which violates the check."""
        if isinstance(check, NotNull):
            return f"{name(check.column)} IS NULL"
        if isinstance(check, Expression):
            return f"NOT coalesce(({_alone(check.sql)}\n), true)"
        if isinstance(check, ForeignKey):
            return self._unknown(check, place)
        assert not isinstance(check, Unique)  # noqa: S101 - it is compiled by itself
        return _odd(check)

    def _unknown(self, check: ForeignKey, place: int) -> str:
        known = self._lookup(check.table, [check.to_column])
        if known is None:
            raise InvalidInput(
                f"The check {check.label} names the lake table {check.table!r},"
                " which there is not.",
                hint="Load that table first.",
            )
        self._bench.register(f"_known{place}", known)
        column = name(check.column)
        return (
            f"{column} IS NOT NULL AND {column} NOT IN (SELECT {name(check.to_column)}"
            f" FROM _known{place} WHERE {name(check.to_column)} IS NOT NULL)"
        )

    def _repeated(self, contract: Contract, check: Unique, place: int) -> Compiled:
        """Unique, told by hashes: as many hashes as rows are surely as many values.

        A hash is 8 bytes whatever the columns are. Fewer hashes than rows are a suspicion,
        which the exact condition decides. Whole numbers that lie near each other are told by a
        bit for each, which takes a sixth of the time.
        """
        columns = [f"r.{name(column)}" for column in check.columns]
        whole = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        hashes = self._bits(check) or (
            f"count(DISTINCT hash({', '.join(columns)})) FILTER (WHERE {whole})"
        )
        suspected = f"count_if({whole}) - {hashes}"
        here = f"row_number() OVER (PARTITION BY {', '.join(columns)} ORDER BY r._row) > 1"
        before = None
        if self._existing is not None:
            before = self._lookup(self._existing, check.columns)
        if before is None:
            return Compiled(contract, check, suspected, f"{whole} AND {here}")
        self._bench.register(f"_before{place}", before)
        same = " AND ".join(f"e.{name(one)} = r.{name(one)}" for one in check.columns)
        there = f"EXISTS (SELECT 1 FROM _before{place} e WHERE {same})"
        return Compiled(
            contract,
            check,
            f"{suspected} + count_if(_beside{place})",
            f"{whole} AND ({here} OR {there})",
            f"({whole} AND {there}) AS _beside{place}",
        )

    def _bits(self, check: Unique) -> str | None:
        """The number of distinct values by a bit for each; None where that is not the thing."""
        column, *others = check.columns
        if self._extent is None or others or self._columns[column] not in _WHOLE:
            return None
        low, high = self._extent(column)
        if low is None or high is None or high - low >= _MOST_BITS:
            return None
        return f"coalesce(bit_count(bitstring_agg(r.{name(column)}, {low}, {high})), 0)"

    def _known(self, contract: Contract, check: Check) -> None:
        if isinstance(check, HasColumns):
            return
        named: tuple[str | None, ...] = (getattr(check, "column", None),)
        if isinstance(check, Unique):
            named = check.columns
        for column in named:
            if column is not None and column not in self._columns:
                raise InvalidInput(
                    f"The contract {contract.name!r} checks the column {column!r} of"
                    f" {contract.table!r}, which there is not.",
                    hint=f"Its columns are {', '.join(sorted(self._columns.keys() - {'_row'}))}.",
                )


def _alone(said: str) -> str:
    """A condition that is one expression: whatever else it holds would be run as well."""
    why = objection(said)  # plans ask, too; this one may have been applied before they did
    if why is not None:
        raise InvalidInput(f"The condition {said!r} cannot be checked: {why}.", hint=HINT)
    return said


def _odd(check: Between | InSet | NotInSet | Matches | Length) -> str:
    column = name(check.column)
    if isinstance(check, InSet):
        return f"{column} NOT IN ({', '.join(map(_literal, check.values))})"
    if isinstance(check, NotInSet):
        return f"{column} IN ({', '.join(map(_literal, check.values))})"
    if isinstance(check, Matches):
        return f"NOT regexp_full_match({column}, {text(check.pattern)})"
    measured = f"length({column})" if isinstance(check, Length) else column
    bounds = [
        f"{measured} {sign} {_literal(bound)}"
        for sign, bound in (("<", check.least), (">", check.greatest))
        if bound is not None
    ]
    return " OR ".join(bounds)


def _figure(check: Check) -> str:
    """SQL of what a check of all rows together measures."""
    if isinstance(check, Statistic):
        column = name(check.column)
        if check.of == "quantile":
            return f"quantile_cont({column}, {check.share!r})::DOUBLE"
        return f"{_STATISTICS[check.of].format(column)}::DOUBLE"
    if isinstance(check, Distinct):
        return f"count(DISTINCT {name(check.column)})"
    if isinstance(check, Freshness | Usual) and check.column is not None:
        instant = f"epoch_us({name(check.column)}::TIMESTAMPTZ)"
        if isinstance(check, Usual) and check.of == "daily_rows":
            return f"histogram({instant} // {DAY_US})"
        return f"max({instant})"
    return "NULL"


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return text(value)
    return f"{value!r}::DOUBLE" if isinstance(value, float) else str(value)
