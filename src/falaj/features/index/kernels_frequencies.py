"""Compiled loops for what is counted by value: collect, sort, then count equals.

Values are compared by codes, int64 that order as the values do: whole numbers are their
own, numbers with a fraction by their bits with the negative ones turned round, NaN above
all, both zeros one; a text by its rank in the sorted dictionary of the runs.
"""

from __future__ import annotations

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.kernels import compiled

WHOLE, FLOATS, TEXTS = 0, 1, 2
NAN = np.iinfo(np.int64).max
_TURN = np.int64(np.iinfo(np.int64).max)


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
def widest(
    codes: Ints, at: Ints, windows: Ints, hops: Ints, starts: Ints, event_time: Ints,
    begins: Ints, ends: Ints,
) -> None:  # fmt: skip
    """The events of the longest window of each question, ``[begins[i], ends[i])``."""
    for i in range(len(codes)):
        begins[i] = ends[i] = 0
        if codes[i] < 0:
            continue
        t, first = at[i], starts[codes[i]]
        least = t
        for w in range(len(windows)):
            least = min(least, (t - windows[w]) // hops[w] * hops[w])
        ends[i] = _end_of(event_time, first, starts[codes[i] + 1], t)
        begins[i] = _end_of(event_time, first, ends[i], least)


@compiled
def collect(
    begins: Ints, ends: Ints, at: Ints, bound: int, recorded: Ints, position: Ints,
    event_time: Ints, words: Ints, real: Array, kind: int, column: int, flag: int,
    places: Ints, codes: Ints, times: Ints,
) -> None:  # fmt: skip
    """Append the codes and instants of the visible values of each question.

    Args:
        recorded, position: as in ``kernels_windows``.
        words, real, column, flag: the values; texts by rank, -1 for null.
        places: (m,) where the next code of each question goes; it moves on.
        codes, times: is filled.
    """
    for i in range(len(begins)):
        place, t = places[i], at[i]
        for j in range(begins[i], ends[i]):
            if (len(recorded) > 0 and recorded[j] > t) or (
                len(position) > 0 and position[j] >= bound
            ):
                continue
            code = words[j, column]
            if kind == TEXTS:
                if code < 0:
                    continue
            elif flag >= 0 and ((words[j, flag >> 6] >> (flag & 63)) & 1) == 0:
                continue
            if kind == FLOATS:
                value = real[j, column]
                if np.isnan(value):
                    code = _TURN
                elif value == 0:
                    code = np.int64(0)
                elif code < 0:
                    code ^= _TURN
            codes[place], times[place] = code, event_time[j]
            place += 1
        places[i] = place


@compiled
def sort_window(
    at: Ints, window: int, hop: int, begins: Ints, ends: Ints, codes: Ints, times: Ints,
    chosen: Ints, n: Ints,
) -> None:  # fmt: skip
    """The codes within one window, sorted: ``chosen[begins[i] : begins[i] + n[i]]``."""
    for i in range(len(at)):
        tail = (at[i] - window) // hop * hop
        begin = begins[i]
        place = begin
        for j in range(begin, ends[i]):
            if times[j] > tail:
                chosen[place] = codes[j]
                place += 1
        n[i] = place - begin
        chosen[begin:place].sort()


@compiled
def distinct(begins: Ints, n: Ints, chosen: Ints, out: Ints) -> None:
    """How many different codes each question has."""
    for i in range(len(n)):
        found = 0
        for j in range(begins[i], begins[i] + n[i]):
            if j == begins[i] or chosen[j] != chosen[j - 1]:
                found += 1
        out[i] = found


@compiled
def quantile(begins: Ints, n: Ints, chosen: Ints, q: float, out: Ints) -> None:
    """The code at the rank ``ceil(q n)``, 0 where there is none."""
    for i in range(len(n)):
        out[i] = 0
        if n[i] > 0:
            rank = min(max(np.int64(np.ceil(q * n[i])), 1), n[i])
            out[i] = chosen[begins[i] + rank - 1]


@compiled
def most_frequent(begins: Ints, n: Ints, chosen: Ints, k: int, out: Ints, lengths: Ints) -> None:
    """The ``k`` most frequent codes, ``out[i, : lengths[i]]``; of equals the smaller first."""
    counts = np.empty(k, np.int64)
    for i in range(len(n)):
        held = 0
        j, end = begins[i], begins[i] + n[i]
        while j < end:
            code, count = chosen[j], 1
            while j + count < end and chosen[j + count] == code:
                count += 1
            j += count
            if held == k and count <= counts[k - 1]:
                continue
            place = min(held, k - 1)
            while place > 0 and counts[place - 1] < count:
                counts[place], out[i, place] = counts[place - 1], out[i, place - 1]
                place -= 1
            counts[place], out[i, place] = count, code
            held = min(held + 1, k)
        lengths[i] = held
