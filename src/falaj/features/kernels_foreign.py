"""The inner loops of joins over foreign tables; see ``foreign_join``."""

from __future__ import annotations

from typing import Any

import numpy as np

from falaj.features.kernels import compiled

_HASH = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 64
"""Events of which the earliest knowledge is kept, to step over many late ones at once."""


@compiled
def hashed(keys: Any, slots: Any, codes: Any) -> None:
    """Put distinct keys into a table of open addresses.

    Args:
        keys: (n,) int64, each once.
        slots, codes: (2^k,) int64 and int32, more than n; ``codes`` are all -1.
    """
    mask = np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        at = (np.uint64(keys[i]) * _HASH >> np.uint64(20)) & mask
        while codes[at] >= 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = keys[i]
        codes[at] = i


@compiled
def looked_up(keys: Any, kept: Any, slots: Any, codes: Any, out: Any) -> None:
    """The number of each key in the table, -1 for others and where ``kept`` is False.

    Args:
        keys, kept: (n,) int64 and bool.
        slots, codes: what ``hashed`` filled.
        out: (n,) int32.
    """
    mask = np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        found = np.int32(-1)
        if kept[i]:
            key = keys[i]
            at = (np.uint64(key) * _HASH >> np.uint64(20)) & mask
            while codes[at] >= 0:
                if slots[at] == key:
                    found = codes[at]
                    break
                at = (at + np.uint64(1)) & mask
        out[i] = found


@compiled
def first_disorder(times: Any, valid: Any, before: int) -> int:
    """The first row whose instant is earlier than one before it; -1 if there is none.

    Args:
        times, valid: (n,) int64 and bool; rows that are not valid do not count.
        before: the latest instant of all earlier rows.
    """
    latest = before
    for i in range(len(times)):
        if valid[i]:
            if times[i] < latest:
                return i
            latest = times[i]
    return -1


@compiled
def swept(codes: Any, limits: Any, asked: Any, n_entities: int, out: Any) -> None:
    """The last row of each asked entity among the rows before a limit.

    Args:
        codes: (n,) int32 entity of each row in the order of time; -1 for none.
        limits: (m,) int64, ascending: how many rows count.
        asked: (m,) int32 entity; -1 for none.
        n_entities: one more than the greatest code.
        out: (m,) int64: the row, or -1.
    """
    last = np.full(n_entities, -1, np.int64)
    row = 0
    for s in range(len(limits)):
        while row < limits[s]:
            code = codes[row]
            if code >= 0:
                last[code] = row
            row += 1
        out[s] = last[asked[s]] if asked[s] >= 0 else -1


@compiled
def grouped(codes: Any, n_entities: int) -> tuple[Any, Any]:
    """Rows by entity, each entity's in the order in which they stand (a counting sort).

    Returns:
        (n_entities + 1,) where each entity begins, and the rows, int64.
    """
    starts = np.zeros(n_entities + 1, np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            starts[codes[i] + 1] += 1
    for entity in range(n_entities):
        starts[entity + 1] += starts[entity]
    following = starts[:-1].copy()
    rows = np.empty(starts[n_entities], np.int64)
    for i in range(len(codes)):
        code = codes[i]
        if code >= 0:
            rows[following[code]] = i
            following[code] += 1
    return starts, rows


@compiled
def ties_ordered(starts: Any, rows: Any, times: Any, recorded: Any) -> None:
    """Put rows of one entity and one instant into the order in which they were recorded.

    Args:
        starts, rows: what ``grouped`` gave, of rows in the order of time; changed in place.
        times, recorded: (n,) int64 by row.
    """
    for entity in range(len(starts) - 1):
        low, stop = starts[entity], starts[entity + 1]
        while low < stop:
            high = low + 1
            sorted_ = True
            while high < stop and times[rows[high]] == times[rows[low]]:
                if recorded[rows[high]] < recorded[rows[high - 1]]:
                    sorted_ = False
                high += 1
            if not sorted_:
                run = rows[low:high].copy()
                rows[low:high] = run[np.argsort(recorded[run], kind="mergesort")]
            low = high


@compiled
def earliest_known(rows: Any, known: Any) -> Any:
    """The least ``known`` of every 64 places of ``rows``, int64."""
    n_blocks = (len(rows) + _BLOCK - 1) // _BLOCK
    least = np.empty(n_blocks, np.int64)
    for block in range(n_blocks):
        first = block * _BLOCK
        found = known[rows[first]]
        for place in range(first + 1, min(first + _BLOCK, len(rows))):
            found = min(found, known[rows[place]])
        least[block] = found
    return least


@compiled
def latest_known(
    starts: Any, rows: Any, times: Any, known: Any, least: Any, asked: Any, at: Any, out: Any
) -> None:
    """The last row of each asked entity that had happened and was known by an instant.

    Args:
        starts, rows: rows by entity, ordered by time, then by when they were recorded.
        times, known: (n,) int64 by row.
        least: what ``earliest_known`` gave.
        asked, at: (m,) entity (-1 for none) and instant.
        out: (m,) int64: the row, or -1.
    """
    for s in range(len(asked)):
        out[s] = -1
        if asked[s] < 0:
            continue
        first, high = starts[asked[s]], starts[asked[s] + 1]
        low = first
        while low < high:  # the first place later than the instant
            middle = (low + high) // 2
            if times[rows[middle]] <= at[s]:
                low = middle + 1
            else:
                high = middle
        place = low - 1
        while place >= first:
            if known[rows[place]] <= at[s]:
                out[s] = rows[place]
                break
            if place % _BLOCK == _BLOCK - 1 and least[place // _BLOCK] > at[s]:
                place -= _BLOCK
            else:
                place -= 1
