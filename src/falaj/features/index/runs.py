"""A run: some events of a view, sorted, so that what was known at an instant is found fast.

A run covers the rows of a source table at the positions ``[begin, end)`` of its log. Its
events are sorted by (entity, event_time, recorded_at, position). Values of fixed width
stand in rows of words, so that a gather touches one or two lines of the cache; strings,
bytes and lists stay in Arrow, in the run's order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from falaj.features.columns import Ints
from falaj.features.index.entities import Entities
from falaj.features.kernels import in_slices

NONE = np.empty(0, np.int64)
ALL = np.iinfo(np.int64).max
"""A bound above every position."""
EVER = 1 << 61
"""A duration, in microseconds, that is longer than there are instants."""
LATE, PINNED = "recorded_at", "position"


@dataclass(frozen=True)
class Span:
    """Which rows of a source table a run covers.

    ``n_rows`` were at the positions ``[begin, end)`` of the table named ``identity`` when
    it was read at ``snapshot``, events or not.
    """

    identity: str
    begin: int
    end: int
    n_rows: int
    snapshot: int


class Blocks(NamedTuple):
    """The extremes of a column in blocks of 64 events, of 64 such blocks, and so on."""

    least: Ints
    greatest: Ints


class Visible(NamedTuple):
    """What decides which events of a run are visible; arrays of no length decide nothing."""

    recorded: Ints
    least_recorded: Ints
    greatest_recorded: Ints
    position: Ints
    least_position: Ints
    greatest_position: Ints
    levels: Ints


@dataclass(frozen=True)
class Run:
    """Sorted events; arrays have a row for each of its n events unless said otherwise.

    ``starts`` (n_entities + 1,) says where each entity's events begin. ``recorded_at`` has
    no length if every event was recorded when it happened. ``words`` (n, n_flags +
    n_columns) is laid out as in ``kernels_runs``; ``columns`` numbers its columns.
    ``arrow`` holds the columns of variable width.
    """

    span: Span
    entities: Entities
    starts: Ints
    event_time: Ints
    recorded_at: Ints
    position: Ints
    blocks: Mapping[str, Blocks]
    """Of ``recorded_at`` (if any event was recorded late) and of ``position``."""
    words: Ints
    n_flags: int
    columns: Mapping[str, int] = field(default_factory=dict)
    arrow: Mapping[str, pa.Array] = field(default_factory=dict)
    mapped: bool = False
    """True if the arrays stand in a mapped file, not in memory."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    """Held while something is computed that is kept with the run."""
    kept_partials: dict[str, Ints] = field(default_factory=dict, repr=False, compare=False)
    kept_texts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.event_time)

    @property
    def n_bytes(self) -> int:
        """The bytes that it takes in memory; those of a mapped file are not counted."""
        arrays = [*self.kept_partials.values()]
        if not self.mapped:
            arrays += [
                self.starts, self.event_time, self.recorded_at, self.position, self.words,
                *(part for blocks in self.blocks.values() for part in blocks),
                *self.entities.arrays().values(), *self.arrow.values(),
            ]  # fmt: skip
        return sum(int(array.nbytes) for array in arrays)

    @cached_property
    def late(self) -> bool:
        """True if an event was recorded later than it happened."""
        return LATE in self.blocks

    @cached_property
    def levels(self) -> Ints:
        """Where each level of blocks begins."""
        return level_starts(len(self))

    def visible(self, *, hide_late: bool, bound: int) -> Visible:
        """What kernels need to see which events are visible; nothing where all are.

        Args:
            hide_late: whether an event is invisible before it was recorded.
            bound: events at positions from here on are invisible.
        """
        late, pinned = hide_late and self.late, bound < self.span.end
        recorded, position = Blocks(NONE, NONE), Blocks(NONE, NONE)
        if late:
            recorded = self.blocks[LATE]
        if pinned:
            position = self.blocks[PINNED]
        return Visible(
            self.recorded_at if late else NONE, recorded.least, recorded.greatest,
            self.position if pinned else NONE, position.least, position.greatest,
            self.levels,
        )  # fmt: skip

    @cached_property
    def longest(self) -> int:
        """The events of the entity that has most."""
        return int(np.diff(self.starts).max()) if len(self.starts) > 1 else 0

    def partials(self, key: str, kind: int, at: int, flag: int) -> Ints:
        """The partial aggregates of every block of a column, kept from the first use on.

        Args:
            key: the column (or that events are counted), to find them again.
            kind, at, flag: as in ``kernels_windows``.
        """
        from falaj.features.index import kernels_windows as kernels

        with self.lock:
            found = self.kept_partials.get(key)
            if found is None:
                n_blocks = sum(level_lengths(len(self)))
                found = np.zeros((n_blocks, kernels.N_BLOCK), np.int64)
                kernels.blocks_of(
                    self.words, self.words.view(np.float64), kind, at, flag, self.levels,
                    len(self), found, found.view(np.float64),
                )  # fmt: skip
                self.kept_partials[key] = found
            return found

    def latest(
        self, codes: Ints, at: Ints, *, ttl_us: int | None, hide_late: bool, bound: int
    ) -> Ints:
        """The latest event of each asked entity that is visible at its instant.

        Args:
            codes: (m,) the run's numbers of entities, -1 for unknown.
            at: (m,) UTC microseconds.
            ttl_us: an event that has expired counts as none; None if none does.
            hide_late, bound: as for ``visible``.

        Returns:
            (m,) indices of events, -1 where there is none.
        """
        from falaj.features.index import kernels_runs as kernels

        found = np.empty(len(codes), np.int64)
        ttl = -1 if ttl_us is None else min(ttl_us, EVER)
        seen = self.visible(hide_late=hide_late, bound=bound)

        def work(low: int, high: int) -> None:
            kernels.find_latest(
                codes[low:high], at[low:high], ttl, bound, self.starts, self.event_time,
                seen.recorded, seen.least_recorded, seen.position, seen.least_position,
                seen.levels, found[low:high],
            )  # fmt: skip

        in_slices(work, len(codes))
        return found


def level_lengths(n: int) -> list[int]:
    """How many blocks of 64, of 64 blocks and so on n events have."""
    lengths = [-(-n // 64)]
    while lengths[-1] > 64:
        lengths.append(-(-lengths[-1] // 64))
    return lengths


def level_starts(n: int) -> Ints:
    """Where each level of blocks begins."""
    return np.concatenate([[0], np.cumsum(level_lengths(n))])[:-1].astype(np.int64)


def blocks_of(values: Ints) -> Blocks:
    """The extremes of each block, level after level."""
    from falaj.features.index import kernels_runs as kernels

    least, greatest = [values], [values]
    for length in level_lengths(len(values)) if len(values) else ():
        least.append(np.empty(length, np.int64))
        greatest.append(np.empty(length, np.int64))
        kernels.extremes(least[-2], greatest[-2], least[-1], greatest[-1])
    return Blocks(np.concatenate([NONE, *least[1:]]), np.concatenate([NONE, *greatest[1:]]))
