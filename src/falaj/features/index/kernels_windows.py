"""Compiled window aggregates: one walk back from the head of each question.

The windows of a question are nested at its instant: the walk visits each event once, from
the newest to the oldest, and writes what it holds whenever it leaves a window. Blocks of 64
events, of 64 such blocks and so on, have their partial aggregates ready: a block that lies
within the window and is visible is merged whole, one that is invisible is skipped whole.

The partials of a block, or of all values so far, are words: how many values, their sum,
mean and squared deviations from it, the least, the greatest, and the index of the last.
Numbers with a fraction stand in them by their bits. Nothing is ever subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.kernels import compiled

ROWS, COUNTED, FLOATS, WHOLE = 0, 1, 2, 3
"""What is aggregated: events, whether a value is there, and numbers of either kind."""
COUNT, SUM, MEAN, SQUARES, LEAST, GREATEST, LAST = 0, 1, 2, 3, 4, 5, 6
LAST_TIME, LAST_RECORDED, LAST_WORD = 7, 8, 9
N_BLOCK, N_STATE = 7, 10
_BITS = 6


@compiled
def _start(state: Ints) -> None:
    for k in range(len(state)):
        state[k] = 0
    state[LAST] = -1


@compiled
def _add(
    state: Ints, real: Array, kind: int, spread: bool, word: int, value: float, j: int
) -> None:
    """Take in one value: ``word`` as it stands, ``value`` as a number (Welford 1962)."""
    n = state[COUNT] + 1
    state[COUNT] = n
    if kind == FLOATS:
        if n == 1:
            real[LEAST] = value
            real[GREATEST] = value
        else:
            if value < real[LEAST] or np.isnan(value):
                real[LEAST] = value
            if value > real[GREATEST] or np.isnan(value):
                real[GREATEST] = value
    elif kind == WHOLE:
        if n == 1 or word < state[LEAST]:
            state[LEAST] = word
        if n == 1 or word > state[GREATEST]:
            state[GREATEST] = word
    if kind >= FLOATS:
        real[SUM] += value
        if spread:
            delta = value - real[MEAN]
            real[MEAN] += delta / n
            real[SQUARES] += delta * (value - real[MEAN])
    if state[LAST] < 0:
        state[LAST] = j


@compiled
def _merge(
    state: Ints, real: Array, kind: int, spread: bool, other: Ints, other_real: Array
) -> None:
    """Take in partials (Chan, Golub and LeVeque 1983, eq. 2.1); the state's last stays."""
    n_other = other[COUNT]
    if n_other == 0:
        return
    n_own = state[COUNT]
    state[COUNT] = n_own + n_other
    if kind == FLOATS:
        value = other_real[LEAST]
        if n_own == 0 or value < real[LEAST] or np.isnan(value):
            real[LEAST] = value
        value = other_real[GREATEST]
        if n_own == 0 or value > real[GREATEST] or np.isnan(value):
            real[GREATEST] = value
    elif kind == WHOLE:
        if n_own == 0 or other[LEAST] < state[LEAST]:
            state[LEAST] = other[LEAST]
        if n_own == 0 or other[GREATEST] > state[GREATEST]:
            state[GREATEST] = other[GREATEST]
    if kind >= FLOATS:
        real[SUM] += other_real[SUM]
        if n_own == 0:
            real[MEAN] = other_real[MEAN]
            real[SQUARES] = other_real[SQUARES]
        elif spread:
            share = n_other / (n_own + n_other)
            delta = other_real[MEAN] - real[MEAN]
            real[MEAN] += delta * share
            real[SQUARES] += other_real[SQUARES] + delta * delta * (n_own * share)
    if state[LAST] < 0:
        state[LAST] = other[LAST]


@compiled
def _value(words: Ints, real: Array, kind: int, at: int, j: int) -> Any:
    if kind == FLOATS:
        return real[j, at]
    if kind == WHOLE:
        return np.float64(words[j, at])
    return 1.0


@compiled
def _there(words: Ints, kind: int, at: int, flag: int, j: int) -> Any:
    """Whether the j-th event has a value."""
    if kind == ROWS:
        return True
    if kind == COUNTED:
        return words[j, at] != 0
    return flag < 0 or ((words[j, flag >> 6] >> (flag & 63)) & 1) != 0


@compiled
def blocks_of(
    words: Ints, real: Array, kind: int, at: int, flag: int, levels: Ints, n: int,
    blocks: Ints, blocks_real: Array,
) -> None:  # fmt: skip
    """The partials of every block, level after level.

    Args:
        words, real: the run's words, and the same bytes as floats.
        kind, at, flag: what the column is, its word, its validity bit (-1: all valid).
        levels: where each level begins in ``blocks``.
        blocks, blocks_real: (n_blocks, N_BLOCK) is filled; the same bytes.
    """
    for level in range(len(levels)):
        begin = levels[level]
        end = levels[level + 1] if level + 1 < len(levels) else len(blocks)
        n_below = n if level == 0 else begin - levels[level - 1]
        for block in range(begin, end):
            state, state_real = blocks[block], blocks_real[block]
            _start(state)
            low = (block - begin) << _BITS
            for j in range(min(low + 64, n_below) - 1, low - 1, -1):
                if level > 0:
                    below = levels[level - 1] + j
                    _merge(state, state_real, kind, True, blocks[below], blocks_real[below])
                elif _there(words, kind, at, flag, j):
                    word = words[j, at] if kind != ROWS else 1
                    _add(state, state_real, kind, True, word, _value(words, real, kind, at, j), j)


@compiled
def _end_of(event_time: Ints, low: int, high: int, t: int) -> int:
    while low < high:
        middle = (low + high) >> 1
        if event_time[middle] <= t:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _walk(
    j: int, begin: int, t: int, bound: int, recorded: Ints, least_recorded: Ints,
    greatest_recorded: Ints, position: Ints, least_position: Ints, greatest_position: Ints,
    levels: Ints, words: Ints, real: Array, kind: int, spread: bool, at: int, flag: int,
    blocks: Ints, blocks_real: Array, state: Ints, state_real: Array,
) -> None:  # fmt: skip
    """Take in the visible events from ``j`` back to ``begin``."""
    late, pinned = len(recorded) > 0, len(position) > 0
    if kind == ROWS and not late and not pinned:
        if j >= begin:
            state[COUNT] += j + 1 - begin
        return
    while j >= begin:
        skipped = False
        if (j & 63) == 63 and j - 63 >= begin and len(blocks) > 0:
            for level in range(len(levels) - 1, -1, -1):
                bits = _BITS * (level + 1)
                length = 1 << bits
                if (j & (length - 1)) != length - 1 or j - length + 1 < begin:
                    continue
                block = levels[level] + (j >> bits)
                hidden = (late and least_recorded[block] > t) or (
                    pinned and least_position[block] >= bound
                )
                whole = (not late or greatest_recorded[block] <= t) and (
                    not pinned or greatest_position[block] < bound
                )
                if hidden or whole:
                    if whole:
                        _merge(state, state_real, kind, spread, blocks[block], blocks_real[block])
                    j -= length
                    skipped = True
                    break
        if skipped:
            continue
        seen = (not late or recorded[j] <= t) and (not pinned or position[j] < bound)
        if seen and _there(words, kind, at, flag, j):
            word = words[j, at] if kind != ROWS else 1
            _add(state, state_real, kind, spread, word, _value(words, real, kind, at, j), j)
        j -= 1


@compiled
def aggregate(
    codes: Ints, at: Ints, windows: Ints, hops: Ints, bound: int, starts: Ints,
    event_time: Ints, own_recorded: Ints, recorded: Ints, least_recorded: Ints,
    greatest_recorded: Ints, position: Ints, least_position: Ints, greatest_position: Ints,
    levels: Ints, words: Ints, real: Array, kind: int, spread: bool, column: int, flag: int,
    blocks: Ints, blocks_real: Array, out: Ints, out_real: Array,
) -> None:  # fmt: skip
    """Merge the partials of each question's windows into what earlier runs gave.

    Args:
        codes, at: (m,) the run's numbers of entities (-1: none) and the instants.
        windows, hops: (n_windows,) in microseconds.
        bound: events at positions from here on are invisible.
        own_recorded: when events were recorded; of no length if when they happened.
        recorded … levels: what decides what is visible; of no length if nothing.
        words … flag: the column, as in ``blocks_of``; ``spread`` says whether the squared
            deviations are wanted, which cost as much as all the rest.
        blocks, blocks_real: its partials; of no length if they are not worth it.
        out, out_real: (m, n_windows, N_STATE) the same bytes. ``LAST_WORD`` becomes the word
            of the last value, ``LAST_TIME`` and ``LAST_RECORDED`` its instants.
    """
    n_windows = len(windows)
    tails = np.empty(n_windows, np.int64)
    order = np.arange(n_windows)
    state = np.empty(N_STATE, np.int64)
    state_real = state.view(np.float64)
    for i in range(len(codes)):
        code = codes[i]
        if code < 0:
            continue
        t, first = at[i], starts[code]
        j = _end_of(event_time, first, starts[code + 1], t) - 1
        for w in range(n_windows):
            tails[w] = (t - windows[w]) // hops[w] * hops[w]
        for k in range(1, n_windows):  # mostly in order already
            held, place = order[k], k
            while place > 0 and tails[order[place - 1]] < tails[held]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = held
        _start(state)
        for k in range(n_windows):
            w = order[k]
            begin = _end_of(event_time, first, j + 1, tails[w])
            _walk(
                j, begin, t, bound, recorded, least_recorded, greatest_recorded, position,
                least_position, greatest_position, levels, words, real, kind, spread, column, flag,
                blocks, blocks_real, state, state_real,
            )  # fmt: skip
            j = begin - 1
            last = state[LAST]
            if last >= 0 and kind >= FLOATS:
                time = event_time[last]
                known = own_recorded[last] if len(own_recorded) > 0 else time
                if (
                    out[i, w, COUNT] == 0
                    or time > out[i, w, LAST_TIME]
                    or (time == out[i, w, LAST_TIME] and known >= out[i, w, LAST_RECORDED])
                ):
                    out[i, w, LAST_WORD] = words[last, column]
                    out[i, w, LAST_TIME] = time
                    out[i, w, LAST_RECORDED] = known
            _merge(out[i, w], out_real[i, w], kind, spread, state, state_real)
