"""Compiled loops over tiles: adding events to them, and merging them into windows.

A tile is a run of eight-byte fields. The *slots* of a hop say what they are: ``op`` what a
slot keeps, ``at`` its first field, ``column`` the source column it is about (-1: the event
itself), ``real`` whether that column is float64. Arrays of fields come twice, as int64 and
as float64 over the same memory. The arithmetic is that of ``partials``: nothing is ever
subtracted, so a NaN or an infinity reaches only the windows that hold it.
"""

from __future__ import annotations

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.kernels import compiled

COUNT, SUM, MIN, MAX, MOMENTS, LAST = range(6)
EVER = -(1 << 62)
"""The event time of the last value of a tile that has none; before every instant."""


@compiled
def fill_empty(ints: Ints, floats: Array, width: int, op: Ints, at: Ints, real: Array) -> None:
    """Make every tile of width fields hold nothing."""
    for start in range(0, len(ints), width):
        for s in range(len(op)):
            i = start + at[s]
            if op[s] == MIN:
                if real[s]:
                    floats[i] = np.inf
                else:
                    ints[i] = np.iinfo(np.int64).max
            elif op[s] == MAX:
                if real[s]:
                    floats[i] = -np.inf
                else:
                    ints[i] = np.iinfo(np.int64).min
            elif op[s] == LAST:
                ints[i] = EVER
                ints[i + 1] = EVER
                ints[i + 2] = 0
            elif op[s] == MOMENTS:
                ints[i] = 0
                ints[i + 1] = 0
                ints[i + 2] = 0
            else:
                ints[i] = 0


@compiled
def _extreme(one: float, other: float, what: int) -> float:
    """The lesser or the greater of two numbers; NaN if one is."""
    if np.isnan(one) or np.isnan(other):
        return np.nan
    return min(one, other) if what == MIN else max(one, other)


@compiled
def _extreme_int(one: int, other: int, what: int) -> int:
    """The lesser or the greater of two integers."""
    return min(one, other) if what == MIN else max(one, other)


@compiled
def _add_moment(floats: Array, i: int, x: float) -> None:
    """Count, mean and squared deviations with one more value (Welford 1962)."""
    n = floats[i] + 1.0
    floats[i] = n
    if n == 1.0:
        floats[i + 1] = x
        floats[i + 2] = x * 0.0
    else:
        delta = x - floats[i + 1]
        floats[i + 1] += delta / n
        floats[i + 2] += delta * delta * ((n - 1.0) / n) + x * 0.0


@compiled
def _merge_moments(floats: Array, i: int, numbers: Array, j: int) -> None:
    """Chan, Golub and LeVeque (1983), eq. 2.1."""
    one, other = floats[i], numbers[j]
    if other > 0.0:
        if one > 0.0:
            n = one + other
            delta = numbers[j + 1] - floats[i + 1]
            floats[i + 1] += delta * (other / n)
            floats[i + 2] += numbers[j + 2] + delta * delta * (one * other / n)
            floats[i] = n
        else:
            floats[i] = other
            floats[i + 1] = numbers[j + 1]
            floats[i + 2] = numbers[j + 2]


@compiled
def _add(
    ints: Ints,
    floats: Array,
    start: int,
    op: Ints,
    at: Ints,
    column: Ints,
    real: Array,
    bits: Ints,
    numbers: Array,
    valid: Array,
    event_time: Ints,
    recorded_at: Ints,
    e: int,
) -> None:
    """Add event ``e`` to the tile that starts at a field."""
    for s in range(len(op)):
        c = column[s]
        if c >= 0 and not valid[c, e]:
            continue
        i = start + at[s]
        what = op[s]
        if what == COUNT:
            ints[i] += 1
        elif what == LAST:
            when, recorded = event_time[e], recorded_at[e]
            if when > ints[i] or (when == ints[i] and recorded >= ints[i + 1]):
                ints[i] = when
                ints[i + 1] = recorded
                ints[i + 2] = bits[c, e]
        elif what in (MIN, MAX):
            if real[s]:
                floats[i] = _extreme(floats[i], numbers[c, e], what)
            else:
                ints[i] = _extreme_int(ints[i], bits[c, e], what)
        else:
            x = numbers[c, e] if real[s] else float(bits[c, e])
            if what == SUM:
                floats[i] += x
            else:
                _add_moment(floats, i, x)


@compiled
def add_events(
    ints: Ints,
    floats: Array,
    starts: Ints,
    op: Ints,
    at: Ints,
    column: Ints,
    real: Array,
    bits: Ints,
    numbers: Array,
    valid: Array,
    event_time: Ints,
    recorded_at: Ints,
) -> None:
    """Add n events to tiles, in their order.

    Args:
        ints, floats: the fields of all tiles.
        starts: (n,) the first field of each event's tile; -1 leaves the event out.
        op, at, column, real: the slots.
        bits, numbers, valid: (columns, n) the values of the source columns.
        event_time, recorded_at: (n,) UTC microseconds.
    """
    for e in range(len(starts)):
        if starts[e] >= 0:
            _add(ints, floats, starts[e], op, at, column, real, bits, numbers, valid,
                 event_time, recorded_at, e)  # fmt: skip


@compiled
def _merge(
    ints: Ints,
    floats: Array,
    i0: int,
    more: Ints,
    numbers: Array,
    j0: int,
    op: Ints,
    at: Ints,
    real: Array,
) -> None:
    """Merge one tile into another; of equal last values that of the merged one stays."""
    for s in range(len(op)):
        i, j, what = i0 + at[s], j0 + at[s], op[s]
        if what == COUNT:
            ints[i] += more[j]
        elif what == SUM:
            floats[i] += numbers[j]
        elif what == LAST:
            if more[j] > ints[i] or (more[j] == ints[i] and more[j + 1] >= ints[i + 1]):
                ints[i] = more[j]
                ints[i + 1] = more[j + 1]
                ints[i + 2] = more[j + 2]
        elif what == MOMENTS:
            _merge_moments(floats, i, numbers, j)
        elif real[s]:
            floats[i] = _extreme(floats[i], numbers[j], what)
        else:
            ints[i] = _extreme_int(ints[i], more[j], what)


@compiled
def merge_windows(
    out: Ints,
    out_floats: Array,
    stored: Ints,
    stored_floats: Array,
    rows: Ints,
    first_chunk: Ints,
    first: Ints,
    last: Ints,
    n_tiles: int,
    width: int,
    op: Ints,
    at: Ints,
    column: Ints,
    real: Array,
    heads: Ints,
    after: Ints,
    asked: Ints,
    bits: Ints,
    numbers: Array,
    valid: Array,
    event_time: Ints,
    recorded_at: Ints,
) -> None:
    """What each of m windows holds: its tiles, and then the events of its head.

    Args:
        out, out_floats: (m · width,) empty tiles, into which is merged.
        stored, stored_floats: the fields of all chunks of ``n_tiles`` tiles that were read.
        rows: (m, k) which stored chunk is the i-th from ``first_chunk`` on; -1: none.
        first, last: (m,) the first and last tile of each window.
        heads: (m, 2) which head events belong to the entity.
        after, asked: (m,) the head counts events of ``after < event_time <= asked`` that
            were recorded by then.
    """
    for i in range(len(first)):
        for k in range(rows.shape[1]):
            row = rows[i, k]
            if row < 0:
                continue
            begin = (first_chunk[i] + k) * n_tiles
            low, high = max(first[i], begin), min(last[i], begin + n_tiles - 1)
            for tile in range(low, high + 1):
                _merge(out, out_floats, i * width, stored, stored_floats,
                       (row * n_tiles + tile - begin) * width, op, at, real)  # fmt: skip
        for e in range(heads[i, 0], heads[i, 1]):
            when = event_time[e]
            if after[i] < when <= asked[i] and recorded_at[e] <= asked[i]:
                _add(out, out_floats, i * width, op, at, column, real, bits, numbers, valid,
                     event_time, recorded_at, e)  # fmt: skip


@compiled
def latest_times(owner: Ints, event_time: Ints, recorded_at: Ints, newest: Ints) -> None:
    """Bring (n, 2) greatest (event time, recorded at) of each owner up to date."""
    for e in range(len(owner)):
        o = owner[e]
        if event_time[e] > newest[o, 0] or (
            event_time[e] == newest[o, 0] and recorded_at[e] > newest[o, 1]
        ):
            newest[o, 0] = event_time[e]
            newest[o, 1] = recorded_at[e]
