"""Contracts, judged: one aggregate over all rows, and a second look only at what is broken.

The first pass counts the violating rows of every check at once and keeps nothing of the
rows. Only if it finds some, a second one goes after the rows themselves: their numbers, a
few examples, and those to set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import duckdb

from falaj.ingest.checks import Check, Expression, Severity, Statistic, Unique
from falaj.ingest.conditions import Compiled, Compiler, Extent, Lookup, extent_sql
from falaj.ingest.expressions import has_window
from falaj.ingest.figures import Asked, figure_of
from falaj.ingest.model import CheckResult, Contract, Example
from falaj.ingest.typing import RAW, ROWS, Bench, name, plain, text
from falaj.ingest.usual import Past
from falaj.kernel.errors import InvalidInput

__all__ = ["JUDGED", "Judgement", "Lookup", "judge"]

JUDGED = "_judged"
N_EXAMPLES = 5
Earlier = Callable[[Contract, Check], Past]
"""The earlier figures of a check."""


class Again(Protocol):
    """Lays rows that can be read but once (a stream from the lake) into ``ROWS`` anew."""

    def whole(self) -> None:
        """All of them."""
        ...

    def pieces(self) -> Iterator[int]:
        """Piece by piece; gives how many rows came before. The caller need not take all."""
        ...


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
    earlier: Earlier = lambda _contract, _check: (),
    loaded_at: datetime | None = None,
    again: Again | None = None,
    extent: Extent | None = None,
) -> Judgement:
    """Hold the rows of ``ROWS`` to contracts.

    Args:
        bench: has ``ROWS`` (with ``_row``), and ``RAW`` for examples.
        contracts: all of one table.
        now: what freshness is measured from.
        lookup: reads the tables that foreign keys name.
        existing: the lake table whose rows stand beside these, for ``unique``.
        show_values: False keeps the values of rows out of results and errors.
        earlier: what a ``usual`` check has measured before.
        loaded_at: of the newest load into the table; ``now`` if None.
        again: lays the same rows into ``ROWS`` anew, without ``_row``, where they can be
            read but once (a stream from the lake). Nothing is set aside then, examples are
            numbered as the rows come, and of ``unique`` show the repeated values.
        extent: tells the extent of a column of such rows, so that ``unique`` need not hash.

    Raises:
        InvalidInput: a check names a column or a table that there is not, or is wrong.
    """
    checks = [(contract, check) for contract in contracts for check in contract.checks]
    types = {str(row[0]): str(row[1]) for row in bench.execute(f"DESCRIBE {ROWS}").fetchall()}
    columns = set(types)
    if again is None:
        extent = _extent_in(bench)
    compiler = Compiler(bench, lookup, existing, types, extent)
    compiled = [compiler.compiled(*one, place) for place, one in enumerate(checks)]
    own = columns - {"_row"} if again is None else columns  # of a stream it is the table's
    asked = Asked(now, loaded_at or now, frozenset(own), earlier)
    try:
        n_rows, *measured = _measured(bench, compiled)
        found = {place: (int(n or 0), list[Example]()) for place, n in enumerate(measured)
                 if compiled[place].violating is not None}  # fmt: skip
        suspected = {place: compiled[place] for place, (n, _) in found.items() if n}
        if suspected and again is None:
            counts = {place: n for place, (n, _) in found.items()}
            found |= _looked_at(bench, suspected, counts)
        elif suspected and again is not None:
            counts = {place: n for place, (n, _) in found.items()}
            found |= _streamed(bench, suspected, counts, sorted(columns), again)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        told = ", ".join(repr(contract.name) for contract in contracts)
        why = plain(error, show_values=show_values)
        if not show_values:
            why += _where(bench, compiled, again)
        raise InvalidInput(
            f"The contract {told} cannot be checked: {why}.",
            hint="Correct the expression or the type of its bounds.",
        ) from None
    results = [
        _told_openly(
            one.check,
            show_values,
            figure_of(one.contract, one.check, n_rows, measured[place], asked),
        )
        if one.violating is None
        else _counted(one.contract, one.check, n_rows, *found[place])
        for place, one in enumerate(compiled)
    ]
    if again is not None:
        return Judgement(results if show_values else list(map(_without_values, results)))
    if show_values:
        results = _with_values(bench, results)
    return Judgement(results, _set_aside(bench, suspected))


def _extent_in(bench: Bench) -> Extent:
    """Tells the extents of the columns of ``ROWS``."""

    def told(column: str) -> tuple[int | None, int | None]:
        low, high = bench.execute(extent_sql(column, ROWS)).fetchall()[0]
        return low, high

    return told


def _measured(bench: Bench, compiled: Sequence[Compiled]) -> tuple[Any, ...]:
    """The number of rows and what each check measures, in one pass."""
    beside = [one.beside for one in compiled if one.beside is not None]
    rows = f"(SELECT r.*, {', '.join(beside)} FROM {ROWS} r)" if beside else ROWS
    aggregates = ", ".join(["count(*)", *(one.measured for one in compiled)])
    return bench.execute(f"SELECT {aggregates} FROM {rows} r").fetchone() or ()


def _where(bench: Bench, compiled: Sequence[Compiled], again: Again | None) -> str:
    """The check that cannot be made of the rows, in words; nothing if it is none by itself.

    The error itself is not told where values are not, and it may be of any of them.
    """
    for one in compiled:
        if again is not None:
            again.whole()
        try:
            _measured(bench, [one])
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:
            return f" in {one.check.label}"
    return ""


def _looked_at(
    bench: Bench, suspected: dict[int, Compiled], counts: Mapping[int, int]
) -> dict[int, tuple[int, list[Example]]]:
    """How many rows violate each check, and the first ones.

    Most checks are counted already, so that the first rows are enough, which the engine gives
    in the order of the rows without going further (it preserves insertion order).
    """
    found: dict[int, tuple[int, list[Example]]] = {}
    whole = {place: one for place, one in suspected.items() if _asks_for_all(one.check)}
    if whole:
        found = _judged(bench, whole)
    found |= {place: (counts[place], []) for place in suspected if place not in whole}
    first = " UNION ALL ".join(
        f"(SELECT {place}, _row FROM {ROWS} r WHERE coalesce(({one.violating}\n), false)"
        f" LIMIT {N_EXAMPLES})"
        for place, one in suspected.items()
        if place not in whole
    )
    if first:
        for place, row in sorted(bench.execute(first).fetchall()):
            found[int(place)][1].append(Example(row=int(row)))
    return found


def _asks_for_all(check: Check) -> bool:
    """True if every row that violates it is wanted: to be set aside, or to be counted exactly."""
    if isinstance(check, Unique) or check.severity is Severity.QUARANTINE:
        return True
    return _looks_around(check)


def _judged(bench: Bench, suspected: dict[int, Compiled]) -> dict[int, tuple[int, list[Example]]]:
    """Make ``JUDGED`` of the rows that violate a check; their number and first ones."""
    conditions = ", ".join(
        f"coalesce(({one.violating}\n), false) AS b{place}" for place, one in suspected.items()
    )
    either = " OR ".join(f"b{place}" for place in suspected)
    bench.execute(
        f"CREATE TEMP TABLE {JUDGED} AS SELECT * FROM"
        f" (SELECT _row, {conditions} FROM {ROWS} r) WHERE {either}"
    )
    told = ", ".join(
        f"count_if(b{place}), min(_row, {N_EXAMPLES}) FILTER (WHERE b{place})"
        for place in suspected
    )
    row = bench.execute(f"SELECT {told} FROM {JUDGED}").fetchone() or ()
    return {
        place: (int(row[2 * at]), [Example(row=number) for number in row[2 * at + 1] or []])
        for at, place in enumerate(suspected)
    }


def _streamed(
    bench: Bench,
    suspected: dict[int, Compiled],
    counts: Mapping[int, int],
    columns: Sequence[str],
    again: Again,
) -> dict[int, tuple[int, list[Example]]]:
    """As ``_looked_at``, of rows that come once and are counted already.

    The first rows that violate checks are looked for piece by piece, until enough are found,
    which mostly is soon. Each ``unique`` takes a pass of its own columns, which counts exactly
    what was counted by hashes; each condition that looks at other rows takes one of all rows.
    """
    number = _free(columns)
    found: dict[int, tuple[int, list[Example]]] = {
        place: (counts[place], []) for place in suspected
    }
    windows = {p: one for p, one in suspected.items() if _looks_around(one.check)}
    left = {p: one for p, one in suspected.items()
            if not isinstance(one.check, Unique) and p not in windows}  # fmt: skip
    if left:
        for n_before in again.pieces():
            for place, shown in _first_ones(bench, left, columns, number, n_before).items():
                n, examples = found[place]
                examples += shown[: N_EXAMPLES - len(examples)]
                if len(examples) >= min(N_EXAMPLES, n):
                    del left[place]
            if not left:
                break
    for place, one in windows.items():
        again.whole()
        shown = _first_ones(bench, {place: one}, columns, number, 0)[place]
        found[place] = (counts[place], shown)
    for place, one in suspected.items():
        if isinstance(one.check, Unique):
            again.whole()
            found[place] = _repeated(bench, one.check, number)
    return found


def _looks_around(check: Check) -> bool:
    """True if whether a row violates it depends on other rows as well."""
    return isinstance(check, Expression) and has_window(check.sql)


def _free(columns: Sequence[str]) -> str:
    """A name for the number of a row that is none of the columns."""
    taken, number = {one.lower() for one in columns}, "_row"
    while number in taken:
        number = f"_{number}"
    return number


def _first_ones(
    bench: Bench,
    broken: Mapping[int, Compiled],
    columns: Sequence[str],
    number: str,
    n_before: int,
) -> dict[int, list[Example]]:
    """The first rows of a piece that violate each check, numbered behind those before it."""
    seen = ", ".join(f"{name(one)} := r.{name(one)}" for one in columns)
    conditions = ", ".join(
        f"coalesce(({one.violating}\n), false) AS b{place}" for place, one in broken.items()
    )
    told = ", ".join(
        f"arg_min(seen, seen.{number}, {N_EXAMPLES}) FILTER (WHERE b{place})" for place in broken
    )
    row = _only_row(
        bench,
        f"SELECT {told} FROM (SELECT struct_pack({number} := {n_before} + row_number() OVER (),"
        f" {seen}) AS seen, {conditions} FROM {ROWS} r)",
    )
    return {
        place: [_example(dict(one), number) for one in shown or []]
        for place, shown in zip(broken, row, strict=True)
    }


def _repeated(bench: Bench, check: Unique, number: str) -> tuple[int, list[Example]]:
    keys = ", ".join(map(name, check.columns))
    whole = " AND ".join(f"{name(column)} IS NOT NULL" for column in check.columns)
    seen = ", ".join(f"{name(one)} := {name(one)}" for one in check.columns)
    n, shown = _only_row(bench,
        f"SELECT coalesce(sum(n - 1), 0), arg_min(seen, seen.{number}, {N_EXAMPLES}) FROM"
        f" (SELECT count(*) AS n, struct_pack({number} := max({number}), {seen}) AS seen FROM"
        f" (SELECT row_number() OVER () AS {number}, {keys} FROM {ROWS}) WHERE {whole}"
        f" GROUP BY {keys} HAVING count(*) > 1)"
    )  # fmt: skip
    return int(n), [_example(dict(one), number) for one in shown or []]


def _only_row(bench: Bench, sql: str) -> list[Any]:
    """The one row of an answer; by Arrow, since the engine itself gives no instants of a zone."""
    columns = bench.execute(sql).to_arrow_table().columns
    return [column[0].as_py() for column in columns]


def _counted(
    contract: Contract, check: Check, n_rows: int, n: int, examples: list[Example]
) -> CheckResult:
    share = n / n_rows if n_rows else 0.0
    return CheckResult(
        contract=contract.name,
        check=check.label,
        severity=check.severity,
        n_rows=n_rows,
        n_violations=n,
        share=share,
        passed=n == 0 or share <= check.tolerance,
        value=share,
        examples=examples,
    )


def _example(row: dict[str, Any], number: str) -> Example:
    """A row of which one item is its number."""
    at = int(row.pop(number))
    return Example(row=at, values=_plain(row))


def _told_openly(check: Check, show_values: bool, result: CheckResult) -> CheckResult:
    """The result, without a figure that may be one person's value."""
    if show_values or not isinstance(check, Statistic) or check.of in ("mean", "std", "null_share"):
        return result
    return result.model_copy(
        update={"value": None, "measured": "kept" if result.passed else "not kept"}
    )


def _without_values(result: CheckResult) -> CheckResult:
    bare = [Example(row=example.row) for example in result.examples]
    return result.model_copy(update={"examples": bare})


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


def _set_aside(bench: Bench, suspected: dict[int, Compiled]) -> list[tuple[int, str]]:
    checks = {p: one.check for p, one in suspected.items()
              if one.check.severity is Severity.QUARANTINE}  # fmt: skip
    if not checks:
        return []
    reasons = ", ".join(
        f"CASE WHEN b{place} THEN {text(check.label)} END" for place, check in checks.items()
    )
    found = bench.execute(
        f"SELECT _row, concat_ws('; ', {reasons}) FROM {JUDGED}"
        f" WHERE {' OR '.join(f'b{place}' for place in checks)} ORDER BY _row"
    ).fetchall()
    return [(int(row), str(reason)) for row, reason in found]
