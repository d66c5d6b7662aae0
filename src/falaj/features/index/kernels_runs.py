"""Compiled loops that sort events into a run, find in it, and gather from it.

A run's events stand sorted by (entity, event_time, recorded_at, position); the events of
entity ``c`` are ``starts[c]`` to ``starts[c + 1]``. ``words`` are rows of eight-byte words:
``n_flags`` words of validity (bit ``k % 64`` of word ``k // 64`` for column ``k``; none if
no value is null), then a word for each column.
"""

from __future__ import annotations

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.kernels import compiled

_SHORT = 24
"""So few events are sorted by insertion."""
BLOCK_BITS = 6
"""Least values are kept for blocks of 64 events, of 64 such blocks, and so on."""


@compiled
def _before(keys: Ints, i: int, j: int) -> bool:
    for k in range(keys.shape[1] - 1):
        if keys[i, k] != keys[j, k]:
            return bool(keys[i, k] < keys[j, k])
    return False


@compiled
def _insertion(keys: Ints, low: int, high: int, held: Ints) -> None:
    width = keys.shape[1]
    for i in range(low + 1, high):
        j = i
        if not _before(keys, i, i - 1):
            continue
        for k in range(width):
            held[0, k] = keys[i, k]
        while j > low:
            less = False
            for k in range(width - 1):
                if held[0, k] != keys[j - 1, k]:
                    less = held[0, k] < keys[j - 1, k]
                    break
            if not less:
                break
            for k in range(width):
                keys[j, k] = keys[j - 1, k]
            j -= 1
        for k in range(width):
            keys[j, k] = held[0, k]


@compiled
def _merged(keys: Ints, low: int, high: int, spare: Ints) -> None:
    """Merge sort from the bottom, after the short parts have been sorted by insertion."""
    width, length = keys.shape[1], high - low
    part = _SHORT
    for begin in range(low, high, part):
        _insertion(keys, begin, min(begin + part, high), spare)
    while part < length:
        for begin in range(low, high, 2 * part):
            middle, end = min(begin + part, high), min(begin + 2 * part, high)
            if middle >= end or not _before(keys, middle, middle - 1):
                continue
            n_left = middle - begin
            for i in range(n_left):
                for k in range(width):
                    spare[i, k] = keys[begin + i, k]
            left, right, out = 0, middle, begin
            while left < n_left and right < end:
                less = False
                for k in range(width - 1):
                    if keys[right, k] != spare[left, k]:
                        less = keys[right, k] < spare[left, k]
                        break
                for k in range(width):
                    keys[out, k] = keys[right, k] if less else spare[left, k]
                right += less
                left += not less
                out += 1
            while left < n_left:
                for k in range(width):
                    keys[out, k] = spare[left, k]
                left += 1
                out += 1
        part *= 2


@compiled
def sort_events(codes: Ints, given: Ints, keys: Ints, starts: Ints) -> None:
    """Sort events by entity, then by their keys.

    Args:
        codes: (n,) the entity of each event; -1 for those that are left out.
        given: (n, k) what orders the events of an entity: instants, then position.
        keys: (n, k + 1) is filled with the sorted keys and, last, the index of the event.
        starts: (n_entities + 1,) zeros; becomes where each entity's events begin.
    """
    for i in range(len(codes)):
        if codes[i] >= 0:
            starts[codes[i] + 1] += 1
    longest = 1
    for c in range(1, len(starts)):
        longest = max(longest, starts[c])
        starts[c] += starts[c - 1]
    free = starts[:-1].copy()
    width = given.shape[1]
    for i in range(len(codes)):
        if codes[i] >= 0:
            at = free[codes[i]]
            free[codes[i]] = at + 1
            for k in range(width):
                keys[at, k] = given[i, k]
            keys[at, width] = i
    spare = np.empty((longest + 1, width + 1), np.int64)
    for c in range(len(starts) - 1):
        low, high = starts[c], starts[c + 1]
        for i in range(low + 1, high):
            if _before(keys, i, i - 1):
                if high - low <= _SHORT:
                    _insertion(keys, low, high, spare)
                else:
                    _merged(keys, low, high, spare)
                break


@compiled
def place_words(values: Ints, valid: Array, order: Ints, words: Ints, at: int, flag: int) -> None:
    """Put a column into rows of words, in the order of the run.

    Args:
        values, valid: (n,) the column in the order of the events.
        order: (n_run,) the event of each row.
        at: the word of the column.
        flag: the number of the column among the validity bits; -1 if there are none.
    """
    bit = np.int64(1) << np.int64(flag & 63)
    word = flag >> 6
    for i in range(len(order)):
        j = order[i]
        words[i, at] = values[j]
        if flag >= 0 and valid[j]:
            words[i, word] |= bit


@compiled
def extremes(low: Ints, high: Ints, least: Ints, greatest: Ints) -> None:
    """The least of ``low`` and the greatest of ``high`` in each block of 64."""
    for block in range(len(least)):
        begin = block << BLOCK_BITS
        found, largest = low[begin], high[begin]
        for i in range(begin, min(begin + 64, len(low))):
            found = min(found, low[i])
            largest = max(largest, high[i])
        least[block], greatest[block] = found, largest


@compiled
def last_visible(
    j: int,
    first: int,
    t: int,
    bound: int,
    recorded: Ints,
    least_recorded: Ints,
    positions: Ints,
    least_position: Ints,
    levels: Ints,
) -> int:
    """The last event in ``[first, j]`` that was recorded by ``t`` at a position below ``bound``.

    Args:
        recorded, positions: of the events; of no length if every one is visible.
        least_recorded, least_position: the least of each block, level after level.
        levels: where each level begins in them.

    Returns:
        Its index, or ``first - 1``.
    """
    late, pinned = len(recorded) > 0, len(positions) > 0
    while j >= first:
        skipped = False
        if (j & 63) == 63:
            for level in range(len(levels) - 1, -1, -1):
                bits = BLOCK_BITS * (level + 1)
                length = 1 << bits
                if (j & (length - 1)) != length - 1 or j - length + 1 < first:
                    continue
                block = levels[level] + (j >> bits)
                if (late and least_recorded[block] > t) or (
                    pinned and least_position[block] >= bound
                ):
                    j -= length
                    skipped = True
                    break
        if skipped:
            continue
        if (not late or recorded[j] <= t) and (not pinned or positions[j] < bound):
            return j
        j -= 1
    return first - 1


@compiled
def end_of(event_time: Ints, low: int, high: int, t: int) -> int:
    """One past the last event in ``[low, high)`` with ``event_time <= t``."""
    while low < high:
        middle = (low + high) >> 1
        if event_time[middle] <= t:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def find_latest(
    codes: Ints,
    at: Ints,
    ttl: int,
    bound: int,
    starts: Ints,
    event_time: Ints,
    recorded: Ints,
    least_recorded: Ints,
    positions: Ints,
    least_position: Ints,
    levels: Ints,
    found: Ints,
) -> None:
    """``found[i]`` becomes the latest event of ``codes[i]`` that is visible at ``at[i]``, or -1.

    Args:
        ttl: an event with ``event_time <= at - ttl`` has expired and counts as none; if
            negative, none expires.
        bound: as in ``last_visible``, as the arrays after it are.
    """
    filtered = len(recorded) > 0 or len(positions) > 0
    for i in range(len(codes)):
        found[i] = -1
        code = codes[i]
        if code < 0:
            continue
        first, t = starts[code], at[i]
        j = end_of(event_time, first, starts[code + 1], t) - 1
        if filtered and j >= first:
            j = last_visible(
                j, first, t, bound, recorded, least_recorded, positions, least_position, levels
            )
        if j >= first and (ttl < 0 or event_time[j] > t - ttl):
            found[i] = j


@compiled
def choose(
    found: Ints,
    number: int,
    event_time: Ints,
    recorded: Ints,
    best: Ints,
    best_run: Ints,
    best_time: Ints,
    best_recorded: Ints,
) -> None:
    """Where a run's event is later than the best so far, or as late and from a later run, take it.

    ``recorded`` has no length if events were recorded when they happened.
    """
    for i in range(len(found)):
        j = found[i]
        if j < 0:
            continue
        time = event_time[j]
        known = recorded[j] if len(recorded) > 0 else time
        if (
            best[i] < 0
            or time > best_time[i]
            or (time == best_time[i] and known >= best_recorded[i])
        ):
            best[i], best_run[i], best_time[i], best_recorded[i] = j, number, time, known


@compiled
def gather(
    found: Ints, words: Ints, n_flags: int, columns: Ints, begin: int, out: Ints, bits: Array
) -> None:
    """Copy columns of the found rows; where none is found nothing is changed.

    Args:
        found: (m,) rows of ``words``, or -1.
        columns: which columns, by number.
        begin: where the first goes; a multiple of 64.
        out: (n_columns, n) values.
        bits: (n_columns, n_bytes) their Arrow validity bitmaps.
    """
    n_columns = len(columns)
    for low in range(0, len(found), 64):
        high = min(low + 64, len(found))
        whole = high - low == 64
        for i in range(low, high):
            whole = whole and found[i] >= 0
        for i in range(low, high):
            j = found[i]
            if j >= 0:
                for k in range(n_columns):
                    out[k, begin + i] = words[j, n_flags + columns[k]]
        if whole and n_flags == 0:
            for k in range(n_columns):
                for byte in range((begin + low) >> 3, (begin + high) >> 3):
                    bits[k, byte] = 255
            continue
        for k in range(n_columns):
            column = columns[k]
            for i in range(low, high):
                j = found[i]
                if j < 0:
                    continue
                if n_flags == 0 or (words[j, column >> 6] >> (column & 63)) & 1:
                    bits[k, (begin + i) >> 3] |= np.uint8(1 << ((begin + i) & 7))
