"""Window aggregates over the events that were known at an instant.

An aggregate over window ``w`` with hop ``h`` uses, at ``t``, the events with
``floor(t - w, h) < event_time <= t``: exact at the head, whole tiles ``(k h, (k+1) h]`` at
the tail. With recorded knowledge, events with ``recorded_at > t`` are left out. Null
values are skipped; count without a column counts events. Without any value, count is 0
and every other function is null. ``std`` is the population's. A NaN among the values
makes sum, mean, min, max and std NaN; an infinity follows IEEE 754.

Offline and online agree exactly for count, min, max and last; sums, means and standard
deviations agree to 1e-9 of the sum of the absolute values.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.partials import Partial, State, identity, running
from falaj.features.pointintime import EventIndex


def tail(at: Ints, window_us: int, hop_us: int) -> Ints:
    """The instant after which events count: ``floor(at - window, hop)``."""
    return (at - window_us) // hop_us * hop_us


def merged_over(
    partials: Iterable[tuple[str, Partial, Array, Array]],
    index: EventIndex,
    starts: Ints,
    ends: Ints,
    at: Ints,
) -> dict[str, State]:
    """Merged partials over ranges of sorted events, as known at each instant.

    Args:
        partials: (name, kind, values, valid), the arrays (n,) in the index's order.
        index: the sorted events.
        starts, ends: (m,) half-open ranges of sorted events, each within one entity.
        at: (m,) UTC microseconds; events known later are left out.

    Returns:
        For each name the state of arrays (m,).
    """
    wanted = list(partials)
    if index.known_at is None:
        return {
            name: _over_all(kind, values, valid, starts, ends)
            for name, kind, values, valid in wanted
        }
    return _over_known(wanted, index.known_at, starts, ends, at)


def _over_all(kind: Partial, values: Array, valid: Array, starts: Ints, ends: Ints) -> State:
    """Every range as O(log n) blocks of 1, 2, 4 … events, without any subtraction."""
    low, high = starts.copy(), np.maximum(ends, starts)
    total = identity(kind, values, len(low))
    level = kind.lift(values, valid)
    empty = identity(kind, values, 1)
    rows = np.flatnonzero(low < high)
    while len(rows):
        here_low, here_high = low[rows], high[rows]
        odd = (here_low & 1) == 1
        _merge_in(kind, total, rows[odd], tuple(part[here_low[odd]] for part in level))
        here_low += odd
        odd = (here_high & 1 == 1) & (here_high > here_low)
        here_high -= odd
        _merge_in(kind, total, rows[odd], tuple(part[here_high[odd]] for part in level))
        low[rows], high[rows] = here_low >> 1, here_high >> 1
        rows = rows[low[rows] < high[rows]]
        if len(level[0]) & 1:
            level = tuple(np.append(part, end) for part, end in zip(level, empty, strict=True))
        level = kind.merge(tuple(part[0::2] for part in level), tuple(part[1::2] for part in level))
    return total


def _merge_in(kind: Partial, total: State, rows: Ints, more: State) -> None:
    if not len(rows):
        return
    merged = kind.merge(tuple(part[rows] for part in total), more)
    for part, new in zip(total, merged, strict=True):
        part[rows] = new


def _over_known(
    wanted: list[tuple[str, Partial, Array, Array]],
    known_at: Ints,
    starts: Ints,
    ends: Ints,
    at: Ints,
) -> dict[str, State]:
    """The same blocks, but within each only the events known by then.

    Each block's events are put in the order in which they became known, with running
    merges: what was known at an instant is then one prefix of a block. O((n + m) log² n).
    """
    n = len(known_at)
    times = np.unique(known_at)
    rank, asked = np.searchsorted(times, known_at, "left"), np.searchsorted(times, at, "right")
    width = len(times) + 1
    low, high = starts.copy(), np.maximum(ends, starts)
    totals = {name: identity(kind, values, len(low)) for name, kind, values, _ in wanted}
    lifted = {name: kind.lift(values, valid) for name, kind, values, valid in wanted}
    rows, bits = np.flatnonzero(low < high), 0
    while len(rows):
        here_low, here_high = low[rows], high[rows]
        first = (here_low & 1) == 1
        after = here_low + first
        final = (here_high & 1 == 1) & (here_high > after)
        asking = np.concatenate([rows[first], rows[final]])
        blocks = np.concatenate([here_low[first], here_high[final] - 1])
        if len(asking):
            keys = (np.arange(n) >> bits) * width + rank
            order = np.argsort(keys, kind="stable")
            stop = np.searchsorted(keys[order], blocks * width + asked[asking], "left")
            some = stop > (blocks << bits)
            place = np.arange(n) & ((1 << bits) - 1)
            for name, kind, _, _ in wanted:
                prefix = running(kind, tuple(part[order] for part in lifted[name]), place)
                for half in (slice(None, int(first.sum())), slice(int(first.sum()), None)):
                    there = some[half]
                    into, out = asking[half][there], stop[half][there] - 1
                    _merge_in(kind, totals[name], into, tuple(part[out] for part in prefix))
        low[rows], high[rows] = after >> 1, (here_high - final) >> 1
        rows = rows[low[rows] < high[rows]]
        bits += 1
    return totals
