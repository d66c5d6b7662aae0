"""From the events of a view to a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints, Values
from falaj.features.index.entities import Entities
from falaj.features.index.runs import LATE, NONE, PINNED, Run, Span, blocks_of
from falaj.features.kernels import plain
from falaj.features.types import DType, Type, is_fixed_width
from falaj.features.views import Events, ViewPlan, column_key


def run_of(plan: ViewPlan, events: Events, span: Span) -> Run:
    """A run of the events of a view with latest values.

    Args:
        plan: says which columns are kept.
        events: n events with their positions, in any order.
        span: the rows of the source that were read.
    """
    from falaj.features.index import kernels_runs as kernels

    if events.positions is None:
        raise ValueError("events without positions have no order")
    entities, codes = Entities.numbered(events.keys)
    recorded = events.recorded_at
    if recorded is not None and bool((recorded == events.event_time).all()):
        recorded = None
    parts = [events.event_time, *([] if recorded is None else [recorded]), events.positions]
    given = np.stack(parts, axis=1)
    keys = np.empty((int((codes >= 0).sum()), given.shape[1] + 1), np.int64)
    starts = np.zeros(entities.n + 1, np.int64)
    kernels.sort_events(codes, given, keys, starts)
    event_time, position, order = (np.ascontiguousarray(keys[:, i]) for i in (0, -2, -1))
    known = NONE if recorded is None else np.ascontiguousarray(keys[:, 1])
    del parts, given, keys, codes  # the words take as much again
    blocks = {PINNED: blocks_of(position)}
    if bool((known > event_time[: len(known)]).any()):
        blocks[LATE] = blocks_of(known)
    words, n_flags, columns = _words(plan, events, order)
    return Run(
        span=span,
        entities=entities,
        starts=starts,
        event_time=event_time,
        recorded_at=known,
        position=position,
        blocks=blocks,
        words=words,
        n_flags=n_flags,
        columns=columns,
        arrow=_arrow(plan, events, order),
    )


def _words(plan: ViewPlan, events: Events, order: Ints) -> tuple[Ints, int, dict[str, int]]:
    from falaj.features.index import kernels_runs as kernels

    fixed = [
        (name, dtype)
        for name, dtype in plan.columns
        if dtype is None or (isinstance(dtype, DType) and is_fixed_width(dtype))
    ]
    nulls = any(events.columns[column_key(name, dtype)].null_count for name, dtype in fixed)
    n_flags = -(-len(fixed) // 64) if nulls else 0
    words = np.zeros((len(order), n_flags + len(fixed)), np.int64)
    columns = {}
    for place, (name, dtype) in enumerate(fixed):
        values = events.values(name, dtype)
        flag = place if nulls else -1
        kernels.place_words(
            as_words(values), plain(values.valid, np.bool_), order, words,
            n_flags + place, flag,
        )  # fmt: skip
        columns[column_key(name, dtype)] = place
    return words, n_flags, columns


def as_words(values: Values) -> Ints:
    """Values as eight-byte words: a number by its bits, a bool as 0 or 1."""
    array: Array = values.values
    if array.dtype == np.float64:
        return plain(plain(array, np.float64).view(np.int64), np.int64)
    return plain(array, np.int64)


def from_words(words: Ints, bits: Array, dtype: DType) -> pa.Array:
    """An Arrow column from words and their validity bitmap."""
    n = len(words)
    valid = pa.py_buffer(bits)
    if dtype is DType.BOOL:
        packed = np.packbits(words.astype(np.bool_), bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), n, [valid, pa.py_buffer(packed)])
    kind = {
        DType.INT64: pa.int64(),
        DType.FLOAT64: pa.float64(),
        DType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }[dtype]
    return pa.Array.from_buffers(kind, n, [valid, pa.py_buffer(words)])


def _arrow(plan: ViewPlan, events: Events, order: Ints) -> Mapping[str, pa.Array]:
    def variable(dtype: Type | None) -> bool:
        return dtype is not None and not is_fixed_width(dtype)

    picked = pa.array(order)
    return {
        column_key(name, dtype): events.columns[column_key(name, dtype)].take(picked)
        for name, dtype in plan.columns
        if variable(dtype)
    }
