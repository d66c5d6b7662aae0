"""Aggregates that need how often each value occurs in a window: distinct, topk, quantile.

They are exact, over the multiset of the values that are not null. ``quantile`` is the
inverse of the distribution function: the least value with at least ``ceil(q n)`` values
that do not exceed it. ``topk`` lists the most frequent values first, of equally frequent
ones the smaller first. NaN is greater than every number and equals itself; -0.0 equals
0.0. Without values, distinct is 0, topk and quantile are null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Array, Ints, Values, arrow_type
from falaj.features.index.runs import EVER, Run
from falaj.features.kernels import in_slices
from falaj.features.model import Aggregate, Function
from falaj.features.types import DType
from falaj.features.views import column_key

if TYPE_CHECKING:
    from falaj.features.windows import Asked

_VALUES_AT_ONCE = 1 << 20
"""Values that a thread collects at a time, 24 bytes each."""


def span_of(aggregate: Aggregate) -> tuple[int, int]:
    """The window and the hop of an aggregate, in microseconds that fit into a kernel."""
    return min(aggregate.window_us, EVER), min(aggregate.hop_us, EVER)


def by_value(wanted: Sequence[Aggregate], asked: Asked) -> Iterator[tuple[Aggregate, pa.Array]]:
    """Each aggregate with its (m,) Arrow column."""
    groups: dict[tuple[str, DType], list[Aggregate]] = {}
    for one in wanted:
        groups.setdefault((one.column or "", one.dtype), []).append(one)
    for (name, dtype), group in groups.items():
        column = _Column.of(asked.runs, name, dtype)
        for result in _results(asked, column, group):
            yield result.aggregate, result.column(column, asked.absent)


def _results(asked: Asked, column: _Column, group: Sequence[Aggregate]) -> list[_Result]:
    results = [_Result.empty(one, len(asked.at)) for one in group]
    chunks = list(_chunks(asked, group))

    def work(low: int, high: int) -> None:
        for chunk in chunks[low:high]:
            _counted(asked, column, chunk, results)

    in_slices(work, len(chunks), least=1)
    return results


@dataclass(frozen=True)
class _Column:
    """The values of a column in each run, as ``kernels_frequencies.collect`` takes them."""

    kind: int
    dtype: DType
    words: Sequence[Ints]
    places: Sequence[tuple[int, int]]
    """(word, validity bit) in each run."""
    texts: pa.Array | None
    """The sorted dictionary of texts."""

    @classmethod
    def of(cls, runs: Sequence[Run], name: str, dtype: DType) -> _Column:
        from falaj.features.index import kernels_frequencies as kernels

        key = column_key(name, dtype)
        if dtype is DType.STRING:
            texts, words = ranked_texts(runs, key)
            return cls(kernels.TEXTS, dtype, words, [(0, -1)] * len(runs), texts)
        kind = kernels.FLOATS if dtype is DType.FLOAT64 else kernels.WHOLE
        places = [
            (run.n_flags + run.columns[key], run.columns[key] if run.n_flags else -1)
            for run in runs
        ]
        return cls(kind, dtype, [run.words for run in runs], places, None)

    def values(self, codes: Ints) -> pa.Array:
        """The values of codes, in the column's type."""
        if self.texts is not None:
            return self.texts.take(pa.array(codes))
        if self.dtype is DType.FLOAT64:
            return pa.array(floats_of(codes))
        if self.dtype is DType.BOOL:
            return pa.array(codes != 0)
        return pa.array(codes).cast(arrow_type(self.dtype))


def floats_of(codes: Ints) -> Array:
    """The numbers that codes stand for; see ``kernels_frequencies``."""
    turned = np.where(codes < 0, codes ^ np.int64(np.iinfo(np.int64).max), codes)
    return turned.view(np.float64)


def ranked_texts(runs: Sequence[Run], key: str) -> tuple[pa.Array, list[Ints]]:
    """The sorted texts of a column, and for each run the (n, 1) ranks, -1 for null.

    They are kept with the newest run, which belongs to one chain of runs alone.
    """
    with runs[-1].lock:
        found: tuple[pa.Array, list[Ints]] | None = runs[-1].kept_texts.get(key)
        if found is None:
            encoded = [run.arrow[key].dictionary_encode() for run in runs]
            known = pc.unique(pa.concat_arrays([one.dictionary for one in encoded]))
            known = known.take(pc.sort_indices(known))
            words = []
            for one in encoded:
                ranks = pc.index_in(one.dictionary, value_set=known).to_numpy(zero_copy_only=False)
                codes = one.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                own = np.append(ranks, -1).astype(np.int64)[codes]
                words.append(own.reshape(-1, 1))
            found = runs[-1].kept_texts[key] = (known, words)
        return found


@dataclass(frozen=True)
class _Chunk:
    """Questions ``[low, high)`` with their events in each run, (begins, ends)."""

    low: int
    high: int
    spans: Sequence[tuple[Ints, Ints]]


def _chunks(asked: Asked, group: Sequence[Aggregate]) -> Iterator[_Chunk]:
    from falaj.features.index import kernels_frequencies as kernels

    asked_for = [span_of(one) for one in group]
    windows, hops = (np.array(part, np.int64) for part in zip(*asked_for, strict=True))
    m = len(asked.at)
    spans, total = [], np.zeros(m, np.int64)
    for run, codes in zip(asked.runs, asked.codes, strict=True):
        begins, ends = np.empty(m, np.int64), np.empty(m, np.int64)
        kernels.widest(codes, asked.at, windows, hops, run.starts, run.event_time, begins, ends)
        spans.append((begins, ends))
        total += ends - begins
    sums, low = np.cumsum(total), 0
    while low < m:
        before = int(sums[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(sums, before + _VALUES_AT_ONCE, "right")))
        yield _Chunk(low, high, [(begins[low:high], ends[low:high]) for begins, ends in spans])
        low = high


@dataclass(frozen=True)
class _Result:
    """What one aggregate gave: codes or counts (m,) or (m, k), and how many values there were."""

    aggregate: Aggregate
    out: Ints
    lengths: Ints

    @classmethod
    def empty(cls, aggregate: Aggregate, m: int) -> _Result:
        shape = (m, aggregate.k or 0) if aggregate.function is Function.TOPK else (m,)
        return cls(aggregate, np.zeros(shape, np.int64), np.zeros(m, np.int64))

    def column(self, of: _Column, absent: Array) -> pa.Array:
        """As Arrow."""
        function = self.aggregate.function
        if function is Function.DISTINCT:
            return Values(self.out, ~absent).to_arrow(DType.INT64)
        some = (self.lengths > 0) & ~absent
        if function is Function.QUANTILE:
            numbers = floats_of(self.out) if of.dtype is DType.FLOAT64 else self.out
            return Values(numbers.astype(np.float64), some).to_arrow(DType.FLOAT64)
        lengths = np.where(some, self.lengths, 0)
        within = np.arange(self.out.shape[1]) < lengths[:, None]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        mask = pa.array(~some)
        return pa.ListArray.from_arrays(pa.array(offsets), of.values(self.out[within]), mask=mask)


def _counted(asked: Asked, column: _Column, chunk: _Chunk, results: Sequence[_Result]) -> None:
    from falaj.features.index import kernels_frequencies as kernels

    at = asked.at[chunk.low : chunk.high]
    sizes = sum((ends - begins for begins, ends in chunk.spans), np.zeros(len(at), np.int64))
    begins = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    ends = begins.copy()
    codes, times, chosen = (np.empty(int(sizes.sum()), np.int64) for _ in range(3))
    for number, run in enumerate(asked.runs):
        words, (word, flag) = column.words[number], column.places[number]
        seen = run.visible(hide_late=asked.hide_late, bound=asked.bound)
        kernels.collect(
            *chunk.spans[number], at, asked.bound, seen.recorded, seen.position,
            run.event_time, words, words.view(np.float64), column.kind, word, flag,
            ends, codes, times,
        )  # fmt: skip
    n = np.empty(len(at), np.int64)
    done: tuple[int, int] | None = None
    for result in sorted(results, key=lambda one: span_of(one.aggregate)):
        one = result.aggregate
        if done != span_of(one):
            done = span_of(one)
            kernels.sort_window(at, *done, begins, ends, codes, times, chosen, n)
        out = result.out[chunk.low : chunk.high]
        result.lengths[chunk.low : chunk.high] = n
        if one.function is Function.DISTINCT:
            kernels.distinct(begins, n, chosen, out)
        elif one.function is Function.QUANTILE:
            kernels.quantile(begins, n, chosen, one.q or 0.0, out)
        else:
            lengths = result.lengths[chunk.low : chunk.high]
            kernels.most_frequent(begins, n, chosen, one.k or 0, out, lengths)
