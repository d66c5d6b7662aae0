"""Columns of tables as counts: on thousands of quantiles of the reference, in one pass each.

Edges are quantiles of a random sample of the reference, so that the greatest bin holds about
a thousandth of it and a distance of distribution functions is as exact as that; what is
summed beside (extremes, moments, missing values) is of every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.monitoring.seen import Reals

if TYPE_CHECKING:
    import pyarrow as pa

N_EDGES = 4_096
SAMPLE = 65_536
MOST_WORDS = 64
"""Words with bins of their own; all other known ones share a bin."""
_KEY_BITS, _LEAST_SHIFT, _MOST_SHIFT = 16, 2, 44  # at 2 no difference of keys overflows


@dataclass(frozen=True)
class ColumnCounts:
    """One column of one table.

    Attributes:
        counts: of the bins.
        missing, infinite, total, squares, low, high: as in a sketch.
    """

    counts: Reals
    missing: int
    infinite: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Edges:
    """Growing edges, and the cells that lead to them."""

    values: Reals
    starts: NDArray[np.uint16]
    first: int
    shift: int

    @classmethod
    def of(cls, values: Reals) -> Edges:
        """Of edges; none give one bin."""
        if not len(values):
            return cls(values, np.zeros(1, dtype=np.uint16), 0, _MOST_SHIFT)
        values = values + 0.0  # one zero, not two
        bits = values.view(np.int64)
        keys = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        width = (int(keys[-1]) - int(keys[0])).bit_length()
        shift = min(_MOST_SHIFT, max(_LEAST_SHIFT, width - _KEY_BITS))
        cells = keys >> shift
        first = int(cells[0])
        in_cell = np.bincount(cells - first)
        starts = np.concatenate(([0], np.cumsum(in_cell))).astype(np.uint16)
        return cls(values, starts, first, shift)


@dataclass(frozen=True)
class Numbers:
    """A column of numbers in the pieces that it was read in; NaN is missing.

    Pieces are counted one by one: to join them first would take more time than to count them,
    most of it to get new memory.
    """

    parts: tuple[NDArray[np.float64], ...]

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values of some rows, given in growing order."""
        ends = np.cumsum([len(part) for part in self.parts])
        cuts = np.searchsorted(rows, ends)
        starts = ends - [len(part) for part in self.parts]
        taken = [
            part[rows[low:high] - start]
            for part, start, low, high in zip(
                self.parts, starts, [0, *cuts[:-1]], cuts, strict=True
            )
        ]
        return np.concatenate(taken) if taken else np.zeros(0)

    def extremes(self) -> tuple[float, float] | None:
        """The least and the greatest finite number; None if there is none."""
        low, high = np.inf, -np.inf
        for part in self.parts:
            if not len(part):
                continue
            ends = float(np.fmin.reduce(part)), float(np.fmax.reduce(part))
            if not np.isfinite(ends).all():
                finite = part[np.isfinite(part)]
                if not len(finite):
                    continue
                ends = float(finite.min()), float(finite.max())
            low, high = min(low, ends[0]), max(high, ends[1])
        return (low, high) if low <= high else None


def edges_of(values: Numbers, rows: NDArray[np.int64]) -> Edges:
    """Quantiles of a column at sampled rows, between the extremes of the whole column.

    Args:
        values: the column.
        rows: which rows are sampled, in growing order.
    """
    extremes = values.extremes()
    if extremes is None:
        return Edges.of(np.zeros(0))
    low, high = extremes
    sample = values.at(rows)
    sample = np.sort(sample[np.isfinite(sample)])
    edges = np.zeros(0)
    if len(sample):
        places = np.linspace(0, len(sample) - 1, min(N_EDGES, len(sample)) + 1).astype(np.int64)
        edges = np.unique(sample[places])
    inner = edges[(edges >= low) & (edges < high)]
    return Edges.of(np.concatenate(([np.nextafter(low, -np.inf)], inner, [high])))


def numbers_counted(values: Numbers, edges: Edges) -> ColumnCounts:
    """Count a column of numbers."""
    from falaj.monitoring.kernels_counting import count

    counts = np.zeros(len(edges.values) + 1, dtype=np.int64)
    sums = np.array([0, 0, 0, 0, np.inf, -np.inf], dtype=np.float64)
    for part in values.parts:
        count(part, edges.values, edges.starts, edges.first, edges.shift, counts, sums)
    missing, infinite, total, squares, low, high = sums.tolist()
    return ColumnCounts(
        counts.astype(np.float64), int(missing), int(infinite), total, squares, low, high
    )


def words_counted(
    reference: pa.ChunkedArray, observed: pa.ChunkedArray
) -> tuple[ColumnCounts, ColumnCounts, float, list[str]]:
    """Count two columns of words on the words of the first.

    Returns:
        both; the share of unknown words that chance alone would bring, which is that of the
        words seen once (Good, Biometrika 40, 1953); the unknown words, the commonest first.
    """
    before, now = _words(reference), _words(observed)
    n_before = sum(before.values())
    common = sorted(before, key=lambda word: (-before[word], word))[:MOST_WORDS]
    places = {word: place for place, word in enumerate(common)}
    counts = [np.zeros(len(common) + 2), np.zeros(len(common) + 2)]
    for side, words in enumerate((before, now)):
        for word, n in words.items():
            place = places.get(word)
            if place is None:
                place = len(common) + (0 if word in before else 1)
            counts[side][place] += n
    unknown = sorted((word for word in now if word not in before), key=lambda word: -now[word])
    once = sum(1 for n in before.values() if n == 1)
    return (
        ColumnCounts(counts[0], reference.null_count),
        ColumnCounts(counts[1], observed.null_count),
        once / n_before if n_before else 1.0,
        unknown,
    )


def as_numbers(column: pa.ChunkedArray) -> Numbers | None:
    """A column as numbers with NaN for null; instants in seconds; None if it is none."""
    import pyarrow as pa

    parts = []
    for chunk in column.chunks or [pa.array([], column.type)]:
        numbers = _chunk_of_numbers(chunk)
        if numbers is None:
            return None
        parts.append(_seen_by_numpy(numbers))
    return Numbers(tuple(parts))


def _seen_by_numpy(chunk: pa.Array) -> NDArray[np.float64]:
    """What Arrow holds, as kernels take it: not copied, not to be written.

    ``chunk.to_numpy`` does the same, and loads pandas first.
    """
    data = chunk.buffers()[1]
    part = np.zeros(0) if data is None else np.frombuffer(data, np.float64)
    part = part[chunk.offset : chunk.offset + len(chunk)]
    part.flags.writeable = False
    return part


def _chunk_of_numbers(chunk: pa.Array) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = chunk.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        chunk = chunk.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64())
        chunk = pc.divide(chunk.cast(pa.float64(), safe=False), 1e6)
    elif pa.types.is_boolean(kind):
        chunk = chunk.cast(pa.int8()).cast(pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if not pa.types.is_float64(kind):
            chunk = chunk.cast(pa.float64(), safe=False)
    else:
        return None
    return pc.fill_null(chunk, float("nan")) if chunk.null_count else chunk


def is_of_words(kind: pa.DataType) -> bool:
    """True for text, as it is or as a dictionary."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_of_vectors(reference: pa.Schema, observed: pa.Schema, name: str) -> bool:
    """True for lists of floats on both sides."""
    import pyarrow as pa

    def vectors(kind: pa.DataType) -> bool:
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(one(kind) for one in lists) and bool(pa.types.is_floating(kind.value_type))

    return vectors(reference.field(name).type) and vectors(observed.field(name).type)


def vectors_of(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> Reals | None:
    """Some rows of a column of vectors, those without one left out; None if they have not
    all the same length, or are fewer than 20."""
    taken = column.take(rows).drop_null().to_pylist()
    lengths = {len(one) for one in taken}
    if len(lengths) != 1 or len(taken) < 20:
        return None
    return np.array([[np.nan if v is None else v for v in one] for one in taken], np.float64)


def _words(column: pa.ChunkedArray) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    counted: Any = pc.value_counts(column.drop_null())
    words, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return dict(zip(words, counts, strict=True))
