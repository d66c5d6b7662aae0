"""What an online read gives: by row with Python values, or by column in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.model import Status
from falaj.features.order import LEAST

STATUSES = (Status.PRESENT, Status.NULL, Status.EXPIRED, Status.MISSING)
"""By the number that stands for each in arrays."""
PRESENT, NULL, EXPIRED, MISSING = range(4)
NO_TIME = LEAST
"""In arrays of event times: there is none."""


@dataclass(frozen=True)
class Vectors:
    """What a read gives: m rows of the service's columns.

    ``values[row][column]`` is None for null; timestamps are UTC microseconds.
    ``statuses`` has the same shape; ``event_times`` is, of each row and view, the event time
    of the newest event that the values may hold, at most the instant asked for (UTC
    microseconds), or None.
    """

    names: tuple[str, ...]
    values: list[list[Any]]
    statuses: list[list[Status]]
    event_times: list[dict[str, int | None]]

    def records(self) -> list[dict[str, Any]]:
        """The rows as dicts by column."""
        return [dict(zip(self.names, row, strict=True)) for row in self.values]


class Block(Mapping[str, Array]):
    """Columns of one type by name, which stand in one array (n, m)."""

    __slots__ = ("array", "places")

    def __init__(self, places: Mapping[str, int], array: Array) -> None:
        self.places = places
        self.array = array

    def __getitem__(self, name: str) -> Array:
        column: Array = self.array[self.places[name]]
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(slots=True)
class OnlineColumns:
    """What a read gives, in columns: m entities, n features.

    ``values`` holds for each name an array of (m,): float64, int64 (also instants, UTC
    microseconds), bool, or object (text, bytes, lists); of a fixed list of numbers (m,
    length). Where a value is null it is NaN, 0, False or None, or the service's default.
    ``statuses`` (m, n) uint8 are places in ``STATUSES``; ``event_times`` (m, views) int64 as
    in ``Vectors``, ``NO_TIME`` where there is none. ``filled`` names the columns that have a
    default.
    """

    names: tuple[str, ...]
    values: Mapping[str, Array]
    statuses: Array
    views: tuple[str, ...]
    event_times: Ints
    filled: frozenset[str] = frozenset()

    def lists(self) -> list[list[Any]]:
        """For each column its values as Python has them, None for null."""
        some: list[bool] = np.any(self.statuses, axis=0).tolist()
        if isinstance(self.values, Block):
            found: list[list[Any]] = self.values.array.tolist()
            for place in compress(range(len(some)), some):
                found[place] = self.lists_of(self.names[place], place)
            return found
        return [self.lists_of(name, place) for place, name in enumerate(self.names)]

    def lists_of(self, name: str, place: int) -> list[Any]:
        """The values of one column, the ``place``-th, as Python has them, None for null."""
        array = self.values[name]
        column: list[Any] = array.tolist()
        if name not in self.filled:
            for row in np.flatnonzero(self.statuses[:, place]).tolist():
                column[row] = None
        if array.dtype == np.object_:
            column = [one.tolist() if isinstance(one, np.ndarray) else one for one in column]
        return column

    def records(self) -> list[dict[str, Any]]:
        """The rows as dicts by column, None for null."""
        names = self.names
        return [dict(zip(names, row, strict=True)) for row in zip(*self.lists(), strict=True)]

    def vectors(self) -> Vectors:
        """The same by row."""
        values = list(map(list, zip(*self.lists(), strict=True)))
        statuses = [[STATUSES[code] for code in row] for row in self.statuses.tolist()]
        return Vectors(self.names, values, statuses, self.times())

    def times(self) -> list[dict[str, int | None]]:
        """Of each row, the event time of each view."""
        return [
            {
                view: None if time == NO_TIME else time
                for view, time in zip(self.views, row, strict=True)
            }
            for row in self.event_times.tolist()
        ]


@dataclass
class Assembly:
    """Columns that a read is putting together: what is asked for, and what that needs.

    ``values`` by name (or, if all are float64, in ``block`` (width, m) by place), ``codes``
    (m, width) statuses by place, ``event_times`` (m, views).
    """

    block: Array | None
    values: dict[str, Array]
    codes: Array
    event_times: Ints
