"""Events by entity: dense numbers for entities, and the latest event of each.

Keys are hashed, never compared one by one; what is sorted are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Array, Ints
from falaj.features.views import Events


def numbered(keys: Sequence[pa.Array]) -> tuple[Ints, Ints]:
    """Dense numbers for the entities of n events, in the order of their first event.

    Args:
        keys: typed key columns without nulls, (n,) each.

    Returns:
        (n,) the number of each event's entity, and for each number the first event with it.
    """
    codes = _codes(keys[0])
    for key in keys[1:]:
        more = _codes(key)
        both = codes * (int(more.max(initial=0)) + 1) + more
        codes = _codes(pa.array(both))
    n = int(codes.max(initial=-1)) + 1
    first = np.empty(n, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, first


def _codes(key: pa.Array) -> Ints:
    if pa.types.is_integer(key.type) and len(key):
        values = key.to_numpy(zero_copy_only=False)
        least, most = int(values.min()), int(values.max())
        if most - least < 4 * len(values) + 1024:  # close together: a table instead of hashing
            return _by_table(values - least, most - least + 1)
    return np.asarray(pc.dictionary_encode(key).indices.to_numpy(), np.int64)


def _by_table(values: Ints, size: int) -> Ints:
    n = len(values)
    first = np.full(size, n, np.int64)
    first[values[::-1]] = np.arange(n - 1, -1, -1)
    there = np.flatnonzero(first < n)
    rank = np.empty(size, np.int64)
    rank[there[np.argsort(first[there], kind="stable")]] = np.arange(len(there))
    return rank[values]


def latest_of_each(events: Events) -> Ints:
    """The row of the latest event of each entity: by event time, recording, then log position."""
    codes, first = numbered(events.keys)
    n = len(codes)
    if len(first) == n:
        return first
    best = _greatest(codes, len(first), events.event_time, np.arange(n))
    if events.recorded_at is not None:
        best = _greatest(codes[best], len(first), events.recorded_at[best], best)
    final = np.empty(len(first), np.int64)
    final[codes[best]] = best  # of equal ones the last in the log
    return final


def _greatest(codes: Ints, n_codes: int, values: Ints, rows: Ints) -> Ints:
    """Those of the rows, in their order, whose value is the greatest of their code."""
    greatest: Array = np.full(n_codes, np.iinfo(np.int64).min)
    np.maximum.at(greatest, codes, values)
    kept: Ints = rows[values == greatest[codes]]
    return kept
