"""Reading a window view: from stored rows to values, statuses and event times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Ints
from falaj.features.order import times_of
from falaj.features.plan import ViewUse
from falaj.features.requestfields import lacks
from falaj.features.types import DType
from falaj.features.vectors import MISSING, NULL, PRESENT, Assembly
from falaj.features.viewstorage import ViewStorage


class Asked:
    """What one read needs of the view: ``keys`` whose rows are to be read."""

    def __init__(self, reading: WindowReading, owners: list[bytes | None], at: int | Ints) -> None:
        self._reading, self._owners, self._at = reading, owners, at
        self.keys = [key for key in owners if key is not None]

    def fill(self, into: Assembly, rows: Sequence[bytes | None]) -> bool:
        """Put the features into columns; False if other keys have to be read."""
        found = iter(rows)
        r = self._reading
        for i, key in enumerate(self._owners):
            at = self._at if isinstance(self._at, int) else int(self._at[i])
            row = None if key is None else next(found)
            if row is not None:
                row = r._storage.opened(key or b"", row)
                into.event_times[i, r._view] = min(times_of(row)[0], at)
            values = {} if key is None else r._storage.tiles.read(row, at)
            for feature, name, place, dtype in r._named:
                if i == 0:
                    into.values[name] = np.full(
                        len(self._owners), np.nan if dtype is DType.FLOAT64 else 0, NUMPY[dtype]
                    )
                value = values.get(feature)
                into.codes[i, place] = (
                    PRESENT if value is not None else MISSING if row is None else NULL
                )
                if value is not None:
                    into.values[name][i] = value
        if not self._owners:
            for _, name, _, dtype in r._named:
                into.values[name] = np.zeros(0, NUMPY[dtype])
        return True


class WindowReading:
    """One window view, as a reader of a service uses it."""

    def __init__(
        self, use: ViewUse, storage: ViewStorage, places: Mapping[str, int], view: int
    ) -> None:
        self._storage, self._view = storage, view
        self._key_columns = use.key_columns
        self._named = [
            (f, f"{use.plan.name}__{f}", places[f"{use.plan.name}__{f}"], use.plan.outputs[f])
            for f in use.features
        ]

    def key(self, row: Mapping[str, Any]) -> bytes | None:
        """The entity's key in a request, None if it is null; raises InvalidInput."""
        try:
            return self._storage.keys.encoded([row[column] for column in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None

    def ask(self, given: Mapping[str, Sequence[Any]], m: int, at: int | Ints) -> Asked:
        """Begin a read of m entities; raises InvalidInput."""
        try:
            keys = self._storage.keys.asked([given[name] for name in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None
        return Asked(self, keys, at)
