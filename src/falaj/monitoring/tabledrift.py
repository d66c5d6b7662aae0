"""Drift between two tables: Parquet files, lake tables, or two snapshots of one.

Columns are read a few at a time, counted on quantiles of the reference in one pass, and
compared like a model's inputs. A sample of rows tells which pairs of columns go together in
another way than before, which no column shows by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.columncounts import (
    SAMPLE,
    ColumnCounts,
    as_numbers,
    edges_of,
    is_of_vectors,
    is_of_words,
    numbers_counted,
    vectors_of,
    words_counted,
)
from falaj.monitoring.comparing import compared
from falaj.monitoring.driftwords import (
    DriftLimits,
    Finding,
    QualityLimits,
    TableDrift,
)
from falaj.monitoring.embeddings import discrepancy
from falaj.monitoring.findings import found
from falaj.monitoring.measures import measured
from falaj.monitoring.multivariate import reconstruction, separability
from falaj.monitoring.relations import changed_relations
from falaj.monitoring.seen import Layout, Reals, Seen

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_LIMITS = DriftLimits(missing=0.05, wasserstein=0.1, ks=0.1, jensen_shannon=0.1)
"""A tenth of a standard deviation, or of the rows, by any measure."""
TABLE_QUALITY = QualityLimits()
_PAIRED = 10_000
"""Rows of each side whose columns are set against one another."""


_PERMUTATIONS = 999
"""Of embeddings: chance alone reaches the least p-value once in a thousand reports."""


class Columns(Protocol):
    """A table that is read by columns."""

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        ...

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some columns, all rows; the rows come in the same order each time."""
        ...


@dataclass
class _Compared:
    """What is known of one column on both sides."""

    name: str
    ordered: bool
    edges: Reals
    sides: tuple[ColumnCounts, ColumnCounts]
    by_chance: float = 0.0
    unknown: list[str] = field(default_factory=list)
    paired: tuple[Reals, Reals] | None = None


def compare_tables(
    reference: Columns,
    observed: Columns,
    *,
    columns: Sequence[str] | None = None,
    limits: DriftLimits = TABLE_LIMITS,
    quality: QualityLimits = TABLE_QUALITY,
    seed: int = 0,
    together: bool = False,
) -> TableDrift:
    """Compare all columns that both tables have, of numbers, instants, booleans, text, vectors.

    Args:
        reference, observed: the tables.
        columns: these alone.
        limits, quality: when a column has drifted, and when it is faulty.
        seed: of the sampled rows.
        together: also tell sampled rows apart as a whole, by a classifier and by rebuilding.

    Raises:
        InvalidInput: a named column is missing, a table is empty, or nothing can be compared.
    """
    names, skipped = _common(reference.schema, observed.schema, columns)
    for what, one in (("reference", reference), ("observed", observed)):
        if not one.n_rows:
            raise InvalidInput(f"The {what} table has no rows.", hint="Name another snapshot.")
    rows = _Rows.of(reference.n_rows, observed.n_rows, seed)
    vectors = [name for name in names if is_of_vectors(reference.schema, observed.schema, name)]
    plain = [name for name in names if name not in vectors]
    found_columns: list[_Compared] = []
    _compare_plain(reference, observed, plain, rows, found_columns, skipped)
    if not found_columns and not vectors:
        raise InvalidInput(
            "The tables have no column that can be compared.",
            hint="Numbers, instants, booleans and text can; both tables must have the column.",
        )
    report = _reported(found_columns, skipped, reference, observed, limits, quality)
    for name in vectors:
        _add_embedding(report, name, reference.read([name]), observed.read([name]), rows, seed)
    if together:
        _add_together(report, found_columns, seed)
    return report


def _add_embedding(
    told: TableDrift, name: str, before: pa.Table, now: pa.Table, rows: _Rows, seed: int
) -> None:
    sides = [
        vectors_of(one.column(name), places)
        for one, places in zip((before, now), rows.pairs, strict=True)
    ]
    if sides[0] is None or sides[1] is None:
        told.skipped = sorted([*told.skipped, name])
        return
    apart = discrepancy(sides[0], sides[1], permutations=_PERMUTATIONS, seed=seed)
    told.embeddings[name] = apart
    if apart.p_value <= 1 / _PERMUTATIONS:
        told.findings.append(
            Finding(
                name="embedding_drift",
                column=name,
                numbers={"squared_discrepancy": apart.squared, "p_value": apart.p_value},
                sentence=f"The vectors of {name} are spread in another way: squared maximum mean "
                f"discrepancy {apart.squared:.4f} (p {apart.p_value:.3f}).",
            )
        )


def _add_together(report: TableDrift, columns: list[_Compared], seed: int) -> None:
    numbers = [one for one in columns if one.paired is not None]
    pairs = [one.paired for one in numbers if one.paired is not None]
    if not pairs:
        return
    before, now = (np.column_stack([pair[side] for pair in pairs]) for side in (0, 1))
    names = [one.name for one in numbers]
    report.separability = separability(names, before, now, seed=seed)
    report.reconstruction = reconstruction(before, now, seed=seed)


@dataclass(frozen=True)
class _Rows:
    """Which rows are sampled: for edges of the reference, and of both for pairs."""

    edges: NDArray[np.int64]
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]

    @classmethod
    def of(cls, n_reference: int, n_observed: int, seed: int) -> _Rows:
        random = np.random.default_rng(seed)

        def some(n: int, most: int) -> NDArray[np.int64]:
            return np.arange(n) if n <= most else np.sort(random.integers(0, n, most))

        return cls(
            some(n_reference, SAMPLE), (some(n_reference, _PAIRED), some(n_observed, _PAIRED))
        )


def _compare_plain(
    reference: Columns,
    observed: Columns,
    names: list[str],
    rows: _Rows,
    compared_columns: list[_Compared],
    skipped: list[str],
) -> None:
    """Read and count columns, two at a time; adds to the two lists."""
    reading = Lock()

    def column(name: str) -> _Compared | None:
        with reading:  # tables need not bear two readers; while one reads, the other one counts
            before, now = reference.read([name]), observed.read([name])
        return _column(name, before.column(name), now.column(name), rows)

    with ThreadPoolExecutor(2, "drift") as threads:
        for name, told in zip(names, threads.map(column, names), strict=True):
            if told is None:
                skipped.append(name)
            else:
                compared_columns.append(told)


def _common(
    reference: pa.Schema, observed: pa.Schema, columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    both = [name for name in reference.names if name in set(observed.names)]
    if columns is not None:
        missing = [name for name in columns if name not in both]
        if missing:
            raise InvalidInput(
                f"Not both tables have the column {missing[0]!r}.",
                hint=f"Both have: {', '.join(both)}.",
            )
        return list(columns), []
    alone = {*reference.names, *observed.names} - set(both)
    return both, sorted(alone)


def _column(
    name: str, before: pa.ChunkedArray, now: pa.ChunkedArray, rows: _Rows
) -> _Compared | None:
    if is_of_words(before.type) and is_of_words(now.type):
        first, second, by_chance, unknown = words_counted(before, now)
        return _Compared(name, False, np.zeros(0), (first, second), by_chance, unknown)
    values = as_numbers(before), as_numbers(now)
    if values[0] is None or values[1] is None:
        return None
    edges = edges_of(values[0], rows.edges)
    sides = numbers_counted(values[0], edges), numbers_counted(values[1], edges)
    paired = values[0].at(rows.pairs[0]), values[1].at(rows.pairs[1])
    return _Compared(name, True, edges.values, sides, paired=paired)


def _reported(
    columns: list[_Compared],
    skipped: list[str],
    reference: Columns,
    observed: Columns,
    limits: DriftLimits,
    quality: QualityLimits,
) -> TableDrift:
    ordered = np.array([one.ordered for one in columns])
    layout = Layout(
        tuple(one.name for one in columns),
        ordered,
        ordered & np.array([len(one.edges) > 1 for one in columns]),
        tuple(one.edges for one in columns),
        np.array([len(one.sides[0].counts) for one in columns], dtype=np.int64),
    )
    before = _seen(layout, reference.n_rows, [one.sides[0] for one in columns])
    now = _seen(layout, observed.n_rows, [one.sides[1] for one in columns])
    distances = measured(layout, before, now)
    findings = [
        one
        for one in found(layout, before, now, distances, quality)
        if one.name != "new_categories"
    ]
    findings += [one for column in columns for one in _new_words(column, quality)]
    pairs = [(one.name, *one.paired) for one in columns if one.paired is not None]
    findings += changed_relations(pairs)
    return TableDrift(
        n_reference=reference.n_rows,
        n_observed=observed.n_rows,
        limits=limits,
        columns=compared(layout, before, now, distances, limits),
        findings=findings,
        skipped=sorted(skipped),
    )


def _seen(layout: Layout, n: int, columns: list[ColumnCounts]) -> Seen:
    def of(values: Iterator[float]) -> Reals:
        return np.array(list(values), dtype=np.float64)

    known = of(one.counts.sum() - one.infinite for one in columns)
    total = of(one.total for one in columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(layout.ordered, total / known, np.nan)
        variance = of(one.squares for one in columns) / known - mean * mean
    variance = np.where(variance <= 1e-12 * mean * mean, 0.0, variance)
    low = of(one.low for one in columns)
    high = of(one.high for one in columns)
    return Seen(
        n,
        layout.padded(np.concatenate([one.counts for one in columns])),
        of(one.missing for one in columns),
        of(one.infinite for one in columns),
        mean,
        np.sqrt(variance),
        np.where(np.isfinite(low), low, np.nan),
        np.where(np.isfinite(high), high, np.nan),
    )


def _new_words(column: _Compared, quality: QualityLimits) -> Iterator[Finding]:
    if column.ordered:
        return
    now = column.sides[1]
    n, unknown = float(now.counts.sum()), float(now.counts[-1])
    if n < quality.least_rows or unknown / n < quality.unknown:
        return
    expected = column.by_chance * n
    if unknown <= 1.5 * expected + 10 * max(expected, 1.0) ** 0.5:
        return
    shown = ", ".join(repr(word[:40]) for word in column.unknown[:5])
    yield Finding(
        name="new_categories",
        column=column.name,
        numbers={"share": unknown / n, "words": float(len(column.unknown))},
        sentence=f"{column.name} has {len(column.unknown)} words that the reference does not "
        f"know in {unknown / n:.1%} of the rows: {shown}"
        + (" and others." if len(column.unknown) > 5 else "."),
    )
