"""Window aggregates over the events that were known at an instant.

An aggregate over window ``w`` with hop ``h`` uses, at ``t``, the events with
``floor(t - w, h) < event_time <= t``: exact at the head, whole tiles ``(k h, (k+1) h]`` at
the tail. With recorded knowledge, events with ``recorded_at > t`` are left out. Null
values are skipped; count without a column counts events. Without any value, count and
distinct are 0 and every other function is null. ``std`` is the population's. A NaN among
the values makes sum, mean, min, max and std NaN; an infinity follows IEEE 754. For
distinct, topk and quantile see ``frequencies``.

Offline and online agree exactly for count, min, max, last and what is counted by value;
sums, means and standard deviations agree to 1e-9 of the sum of the absolute values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints, Values
from falaj.features.frequencies import by_value, span_of
from falaj.features.index.runs import Run
from falaj.features.kernels import in_slices
from falaj.features.model import BY_VALUE, Aggregate, Function
from falaj.features.types import DType
from falaj.features.views import ViewPlan, column_key

_ROWS_AT_ONCE = 131_072
"""Questions that are answered together: their partials take 80 bytes for each window."""
_WORTH_BLOCKS = 256
"""Partials of blocks are made for a run in which an entity has so many events."""

Spans = tuple[tuple[int, int], ...]
"""Windows with their hops, microseconds."""


def tail(at: Ints, window_us: int, hop_us: int) -> Ints:
    """The instant after which events count: ``floor(at - window, hop)``."""
    return (at - window_us) // hop_us * hop_us


@dataclass(frozen=True)
class Asked:
    """Questions about windows.

    ``codes`` are (m,) for each run, ``at`` (m,) UTC microseconds; ``absent`` is True where
    a key is null.
    """

    runs: Sequence[Run]
    codes: Sequence[Ints]
    at: Ints
    absent: Array
    hide_late: bool
    bound: int

    def slices(self, length: int) -> Iterator[Asked]:
        """The same questions, so many at a time (at least one slice)."""
        for low in range(0, max(len(self.at), 1), length):
            part = slice(low, low + length)
            yield Asked(
                self.runs, [codes[part] for codes in self.codes], self.at[part],
                self.absent[part], self.hide_late, self.bound,
            )  # fmt: skip


def aggregated(
    plan: ViewPlan,
    features: Sequence[str],
    runs: Sequence[Run],
    keys: Sequence[pa.Array],
    at: Ints,
    *,
    hide_late: bool,
    bound: int,
) -> dict[str, pa.Array]:
    """Aggregates of a view from its index, as known at each instant.

    Args:
        features: which of the view's.
        runs: its index; they cover the log of its source in order.
        keys: the entity's key columns, typed, m rows each.
        at: (m,) UTC microseconds.
        hide_late: whether an event is invisible before it was recorded.
        bound: events at log positions from here on are invisible.

    Returns:
        By feature an Arrow array of m rows.
    """
    absent = np.zeros(len(at), np.bool_)
    for key in keys:
        if key.null_count:
            absent |= key.is_null().to_numpy(zero_copy_only=False)
    codes = [run.entities.find(keys) for run in runs]
    asked = Asked(runs, codes, at, absent, hide_late, bound)
    wanted = [one for one in plan.view.aggregates if one.name in set(features)]
    found: dict[str, list[pa.Array]] = {name: [] for name in features}
    for part in asked.slices(_ROWS_AT_ONCE):
        for (name, dtype), group in _by_column(wanted).items():
            for aggregate, column in _walked(part, name, dtype, group):
                found[aggregate.name].append(column)
        for aggregate, column in by_value(
            [one for one in wanted if one.function in BY_VALUE], part
        ):
            found[aggregate.name].append(column)
    return {name: pa.concat_arrays(parts) for name, parts in found.items()}


def _by_column(
    wanted: Sequence[Aggregate],
) -> dict[tuple[str | None, DType | None], list[Aggregate]]:
    """Aggregates that one walk answers: of one column, where a count joins the others."""
    groups: dict[tuple[str | None, DType | None], list[Aggregate]] = {}
    for one in wanted:
        if one.function is not Function.COUNT and one.function not in BY_VALUE:
            groups.setdefault((one.column, one.dtype), []).append(one)
    typed = {name: (name, dtype) for name, dtype in groups}
    for one in wanted:
        if one.function is Function.COUNT:
            groups.setdefault(typed.get(one.column, (one.column, None)), []).append(one)
    return groups


def _walked(
    asked: Asked, name: str | None, dtype: DType | None, group: Sequence[Aggregate]
) -> Iterator[tuple[Aggregate, pa.Array]]:
    from falaj.features.index import kernels_windows as kernels

    spans: Spans = tuple(dict.fromkeys(span_of(one) for one in group))
    kind = kernels.ROWS if name is None else kernels.COUNTED if dtype is None else (
        kernels.FLOATS if dtype is DType.FLOAT64 else kernels.WHOLE
    )  # fmt: skip
    out = np.zeros((len(asked.at), len(spans), kernels.N_STATE), np.int64)
    spread = any(one.function is Function.STD for one in group)
    for run, codes in zip(asked.runs, asked.codes, strict=True):
        _walk(asked, run, codes, spans, kind, spread, column_key(name or "", dtype), out)
    for one in group:
        state = out[:, spans.index(span_of(one))]
        yield one, _finished(one, state, asked.absent)


def _walk(
    asked: Asked, run: Run, codes: Ints, spans: Spans, kind: int, spread: bool, key: str, out: Ints
) -> None:
    from falaj.features.index import kernels_windows as kernels

    windows, hops = (np.array(part, np.int64) for part in zip(*spans, strict=True))
    column = run.columns.get(key, 0)
    at_word, flag = run.n_flags + column, column if run.n_flags else -1
    real, out_real = run.words.view(np.float64), out.view(np.float64)
    seen = run.visible(hide_late=asked.hide_late, bound=asked.bound)
    partials = run.partials(key, kind, at_word, flag) if run.longest >= _WORTH_BLOCKS else None
    blocks = np.empty((0, kernels.N_BLOCK), np.int64) if partials is None else partials

    def work(low: int, high: int) -> None:
        kernels.aggregate(
            codes[low:high], asked.at[low:high], windows, hops, asked.bound, run.starts,
            run.event_time, run.recorded_at, *seen, run.words, real, kind, spread, at_word, flag,
            blocks, blocks.view(np.float64), out[low:high], out_real[low:high],
        )  # fmt: skip

    in_slices(work, len(codes), least=1_024)


def _finished(aggregate: Aggregate, state: Ints, absent: Array) -> pa.Array:
    """One aggregate from (m, N_STATE) partials."""
    from falaj.features.index import kernels_windows as kernels

    function, dtype = aggregate.function, aggregate.dtype
    n, real = state[:, kernels.COUNT], state.view(np.float64)
    some = (n > 0) & ~absent
    values: Array
    if function is Function.COUNT:
        values, some = n.copy(), ~absent
    elif function is Function.SUM:
        values = real[:, kernels.SUM].copy()
    elif function is Function.MEAN:
        with np.errstate(invalid="ignore", over="ignore"):
            values = real[:, kernels.SUM] / np.maximum(n, 1)
    elif function is Function.STD:
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.sqrt(real[:, kernels.SQUARES] / np.maximum(n, 1))
    else:
        place = {
            Function.MIN: kernels.LEAST,
            Function.MAX: kernels.GREATEST,
            Function.LAST: kernels.LAST_WORD,
        }[function]
        values = (real if dtype is DType.FLOAT64 else state)[:, place].copy()
    if function is Function.LAST and dtype is DType.BOOL:
        values = values != 0
    output = aggregate.output
    if not isinstance(output, DType):
        raise TypeError(f"{function} has one value")
    return Values(values, some).to_arrow(output)
