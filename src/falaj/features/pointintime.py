"""The latest value that was known at an instant.

For an entity and an instant ``t`` the answer is the row with the greatest
``event_time <= t``; ties are decided by the greatest ``recorded_at``, then by position
in the log. With recorded knowledge a row with ``recorded_at > t`` is invisible: if the
newest event was recorded later than ``t``, the answer is the newest one known by then.
The row has expired if ``event_time <= t - ttl``; an older row never stands in for it.

Rows without a key or without an event time are no events. A row without ``recorded_at``
counts as recorded at its event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints
from falaj.features.index.building import from_words
from falaj.features.index.runs import Run, gathered, latest_of, taken
from falaj.features.types import DType, is_fixed_width
from falaj.features.views import ViewPlan, column_key

_STEPS_BEFORE_TABLE = 4
"""Late rows are mostly few and alone: look back a few rows before building a table."""


class EventIndex:
    """Events sorted by (entity code, event time, recorded at, position), to search in.

    Args:
        codes: (n,) entity codes; rows with -1 are left out.
        event_time: (n,) UTC microseconds.
        recorded_at: (n,) UTC microseconds, or None if every event was recorded at once.
        hide_late: whether an event is invisible before it was recorded; if not, the
            instant of recording decides ties alone.

    ``rows[i]`` is the log position of the i-th sorted event.
    """

    def __init__(
        self,
        codes: Ints,
        event_time: Ints,
        recorded_at: Ints | None = None,
        *,
        hide_late: bool = True,
    ) -> None:
        order = np.flatnonzero(codes >= 0)
        keys = [event_time[order], codes[order]]
        if recorded_at is not None:
            keys.insert(0, recorded_at[order])
        order = order[np.lexsort(keys)]
        self.rows = order
        self.codes = codes[order]
        self.event_time = event_time[order]
        self._times = np.unique(self.event_time)
        self._width = len(self._times) + 1
        self._places = self.codes * self._width + np.searchsorted(
            self._times, self.event_time, "right"
        )
        self.known_at: Ints | None = None
        """When each event could first be used, if that is later than its event time for any."""
        if recorded_at is not None and hide_late:
            known = np.maximum(recorded_at[order], self.event_time)
            if bool((known > self.event_time).any()):
                self.known_at = known

    def __len__(self) -> int:
        return len(self.rows)

    def starts(self, codes: Ints) -> Ints:
        """Where the events of each asked entity begin; 0 for code -1."""
        found = np.searchsorted(self._places, codes * self._width, "left")
        return np.where(codes < 0, 0, found)

    def ends(self, codes: Ints, at: Ints) -> Ints:
        """One past the last event of each asked entity with ``event_time <= at``."""
        ranks = np.searchsorted(self._times, at, "right")
        found = np.searchsorted(self._places, codes * self._width + ranks, "right")
        return np.where(codes < 0, 0, found)

    def last_known(self, starts: Ints, ends: Ints, at: Ints) -> Ints:
        """The last index in ``[start, end)`` that was known at ``at``; -1 where none is."""
        last = ends - 1
        if self.known_at is not None:
            last = self._known(starts, last, at)
        return np.where(last >= starts, last, -1)

    def _known(self, starts: Ints, last: Ints, at: Ints) -> Ints:
        known_at = self.known_at
        if known_at is None or not len(known_at):
            return last
        last = last.copy()
        open_ = np.flatnonzero(last >= starts)
        for _ in range(_STEPS_BEFORE_TABLE):
            open_ = open_[known_at[last[open_]] > at[open_]]
            last[open_] -= 1
            open_ = open_[last[open_] >= starts[open_]]
            if not len(open_):
                return last
        for span, earliest in reversed(self._earliest):
            here = last[open_]
            fits = here - span + 1 >= starts[open_]
            late = np.zeros(len(open_), np.bool_)
            late[fits] = earliest[here[fits] - span + 1] > at[open_[fits]]
            last[open_[late]] -= span
        return last

    @cached_property
    def _earliest(self) -> list[tuple[int, Any]]:
        """For spans 1, 2, 4 …: the earliest ``known_at`` among that many events from i on."""
        if self.known_at is None:
            return []
        table = [(1, self.known_at)]
        longest = int(np.bincount(self.codes).max()) if len(self.codes) else 0
        while table[-1][0] * 2 <= longest:
            span, earliest = table[-1]
            table.append((span * 2, np.minimum(earliest[:-span], earliest[span:])))
        return table

    def latest(self, codes: Ints, at: Ints, *, ttl_us: int | None = None) -> tuple[Ints, Array]:
        """The log position of the latest value known at each instant.

        Args:
            codes: (m,) asked entity codes, -1 for unknown.
            at: (m,) UTC microseconds.
            ttl_us: time to live, or None for no end.

        Returns:
            (m,) log positions, -1 where no event is known, and (m,) True where the
            event found has expired.
        """
        found = self.last_known(self.starts(codes), self.ends(codes, at), at)
        there = found >= 0
        positions = np.full(len(codes), -1, np.int64)
        positions[there] = self.rows[found[there]]
        expired = np.zeros(len(codes), np.bool_)
        if ttl_us is not None:
            expired[there] = self.event_time[found[there]] <= at[there] - ttl_us
        return positions, expired


def latest_values(
    plan: ViewPlan,
    features: Sequence[str],
    runs: Sequence[Run],
    keys: Sequence[pa.Array],
    at: Ints,
    *,
    hide_late: bool,
    bound: int,
) -> dict[str, pa.Array]:
    """Features of a view with latest values, from its index.

    Args:
        features: which of the view's.
        runs: its index; they cover the log of its source in order.
        keys: the entity's key columns, typed, m rows each.
        at: (m,) UTC microseconds.
        hide_late: whether an event is invisible before it was recorded.
        bound: events at log positions from here on are invisible.

    Returns:
        By feature an Arrow array of m rows, null where nothing is known.
    """
    found = latest_of(runs, keys, at, ttl_us=plan.ttl_us, hide_late=hide_late, bound=bound)
    wanted = {one.name: one for one in plan.view.features if one.name in set(features)}
    columns = {name: column_key(one.column, one.dtype) for name, one in wanted.items()}
    fixed = {columns[name]: one.dtype for name, one in wanted.items() if is_fixed_width(one.dtype)}
    words = gathered(found, list(fixed))
    given = {
        column: from_words(*words[column], dtype)
        for column, dtype in fixed.items()
        if isinstance(dtype, DType)
    }
    for column in columns.values():
        if column not in given:
            given[column] = taken(found, column)
    return {name: given[columns[name]] for name in features}
