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
from falaj.features.order import LEAST
from falaj.features.vectors import MISSING, NULL, PRESENT

COUNT, SUM, MIN, MAX, MOMENTS, LAST, MEAN = range(7)
"""What a slot keeps; a mean is finished from a count and a sum."""
EVER = -(1 << 62)
"""The event time of the last value of a tile that has none; before every instant."""
HEAD_WORDS = 5
"""Of a head before its events: its order, its horizon, and how many events there are."""


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
def _instant(word: int) -> int:
    """The instant that a word of an order tells: its bytes turned round, less the shift."""
    turned = 0
    for k in range(8):
        turned = (turned << 8) | ((word >> (8 * k)) & 0xFF)
    return turned ^ LEAST


@compiled
def _finish(
    ints: Ints, floats: Array, wanted: Ints, out: Ints, numbers: Array, r: int, a: int
) -> bool:
    """Put the value of one aggregate of a merged tile into ``out[r, a]``; False if it is null.

    ``wanted`` as in ``read_windows``.
    """
    kind, i = wanted[0], wanted[2]
    n = 1 if kind == LAST else ints[wanted[1]]
    if (kind == LAST and ints[i] == EVER) or (n <= 0 and kind != COUNT):
        if wanted[3]:
            numbers[r, a] = np.nan
        else:
            out[r, a] = 0
        return False
    if kind == COUNT:
        out[r, a] = n
    elif kind == LAST:
        out[r, a] = ints[i + 2]
    elif kind == MEAN:
        numbers[r, a] = floats[i] / n
    elif kind == MOMENTS:
        numbers[r, a] = np.sqrt(floats[i + 2] / floats[i])
    else:  # a sum, the least or the greatest, as it stands
        out[r, a] = ints[i]
    return True


@compiled
def _checked_events(words: Ints, head: int, size: int, n_columns: int) -> int:
    """How many events a head of so many words holds; -1 if it is no head."""
    if size < HEAD_WORDS:
        return -1
    n = int(words[head + HEAD_WORDS - 1])
    if n < 0 or n > size or size < HEAD_WORDS + n * (2 + 2 * n_columns):
        return -1
    return n


@compiled
def _put_events(
    words: Ints, head: int, bits: Ints, valid: Array, event_time: Ints, recorded_at: Ints
) -> None:
    """Lay the first events of a head out by column."""
    n_columns, n = bits.shape
    for e in range(n):
        j = head + HEAD_WORDS + e * (2 + 2 * n_columns)
        event_time[e], recorded_at[e] = words[j], words[j + 1]
        for c in range(n_columns):
            valid[c, e] = words[j + 2 + 2 * c] != 0
            bits[c, e] = words[j + 3 + 2 * c]


@compiled
def _merge_chunks(
    tile: Ints,
    tile_numbers: Array,
    words: Ints,
    word_numbers: Array,
    starts: Ints,
    sizes: Ints,
    frame: Ints,
    first: int,
    last: int,
    n_tiles: int,
    op: Ints,
    at: Ints,
    real: Array,
) -> bool:
    """Merge the tiles from first to last of an entity's chunks into one; False if a chunk has
    another length than it should have. ``frame`` as in ``read_windows``."""
    width = len(tile)
    for k in range(frame[2]):
        row = frame[1] + k
        if sizes[row] < 0:
            continue
        if sizes[row] != n_tiles * width:
            return False
        begin = (frame[0] + k) * n_tiles
        low, high = max(first, begin), min(last, begin + n_tiles - 1)
        for number in range(low, high + 1):
            _merge(tile, tile_numbers, 0, words, word_numbers,
                   starts[row] + (number - begin) * width, op, at, real)  # fmt: skip
    return True


@compiled
def _starts(sizes: Ints) -> Ints:
    """Where each row begins, and behind them where the last one ends; -1 is no row."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    for row in range(len(sizes)):
        starts[row + 1] = starts[row] + max(sizes[row], 0)
    return starts


@compiled
def read_windows(
    words: Ints,
    sizes: Ints,
    asked: Ints,
    frames: Ints,
    hops: Ints,
    windows: Ints,
    wanted: Ints,
    op: Ints,
    at: Ints,
    column: Ints,
    real: Array,
    n_columns: int,
    out: Ints,
    codes: Array,
    newest: Ints,
) -> bool:
    """The aggregates of n reads: of each its tiles, and then the events of its head.

    Args:
        words: all stored rows behind one another: the n heads, then the chunks.
        sizes: (rows,) how many words each has, -1 if it is not there.
        asked: (n,) instants.
        frames: (n, 3 hops) of each hop the number of the first chunk, its place among the
            rows, and how many chunks there are.
        hops: (hops, 7) length of a tile, tiles of a chunk, fields of a tile, and where its
            slots and its windows begin and end.
        windows: (windows, 3) length, and where its aggregates begin and end.
        wanted: (A, 4) what each aggregate is, the field of its count, the first field of its
            value, and whether it is float64.
        op, at, column, real: the slots of all hops.
        n_columns: source columns of an event in a head.
        out: (n, A) takes the values, floats by their bits; 0 or NaN where they are null.
        codes: (n, A) takes their statuses.
        newest: (n,) takes the event time of the newest event, at most the instant asked for,
            or the least integer.

    Returns:
        False if a row has another length than it should have.
    """
    starts = _starts(sizes)
    if starts[-1] != len(words):
        return False
    word_numbers, numbers = words.view(np.float64), out.view(np.float64)
    tile = np.empty(hops[:, 2].max(), np.int64)
    tile_numbers = tile.view(np.float64)
    for r in range(len(asked)):
        t, head = asked[r], starts[r]
        horizon, n_events, newest[r] = EVER, 0, LEAST
        if sizes[r] >= 0:
            n_events = _checked_events(words, head, sizes[r], n_columns)
            if n_events < 0:
                return False
            horizon = words[head + HEAD_WORDS - 2]
            newest[r] = min(_instant(words[head]), t)
        exact, absent = t >= horizon, NULL if sizes[r] >= 0 else MISSING
        if not exact:
            n_events = 0
        bits = np.empty((n_columns, n_events), np.int64)
        valid = np.empty((n_columns, n_events), np.bool_)
        event_time, recorded_at = np.empty(n_events, np.int64), np.empty(n_events, np.int64)
        _put_events(words, head, bits, valid, event_time, recorded_at)
        for h in range(len(hops)):
            hop_us, width, s0, s1 = hops[h, 0], hops[h, 2], hops[h, 3], hops[h, 4]
            last = (t - 1) // hop_us if exact else t // hop_us - 1
            ints, floats = tile[:width], tile_numbers[:width]
            for w in range(hops[h, 5], hops[h, 6]):
                first = (t - windows[w, 0]) // hop_us
                fill_empty(ints, floats, width, op[s0:s1], at[s0:s1], real[s0:s1])
                if not _merge_chunks(ints, floats, words, word_numbers, starts, sizes,
                                     frames[r, 3 * h : 3 * h + 3], first, last, hops[h, 1],
                                     op[s0:s1], at[s0:s1], real[s0:s1]):  # fmt: skip
                    return False
                for e in range(n_events):
                    if first * hop_us < event_time[e] <= t and recorded_at[e] <= t:
                        _add(ints, floats, 0, op[s0:s1], at[s0:s1], column[s0:s1], real[s0:s1],
                             bits, bits.view(np.float64), valid, event_time, recorded_at,
                             e)  # fmt: skip
                for a in range(windows[w, 1], windows[w, 2]):
                    there = _finish(ints, floats, wanted[a], out, numbers, r, a)
                    codes[r, a] = PRESENT if there else absent
    return True


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
