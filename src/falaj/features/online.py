"""Reading a service's vectors from the online store.

``OnlineReader`` is compiled once from a ``ServicePlan`` and asked once per request, by row
or by column. A few rows are read by plain Python, many by numpy: both give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Array, Ints
from falaj.features.entitykeys import plain
from falaj.features.latestreading import LatestReading
from falaj.features.plan import ServicePlan
from falaj.features.ports import OnlineStore, Secrets
from falaj.features.requestfields import checker, lacks
from falaj.features.rows import Slot
from falaj.features.types import DType
from falaj.features.vectors import (
    NO_TIME,
    NULL,
    PRESENT,
    STATUSES,
    Assembly,
    Block,
    OnlineColumns,
    Vectors,
)
from falaj.features.viewstorage import ViewStorage
from falaj.features.windowreading import WindowReading
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.trust.subjectciphers import SubjectCiphers

_FEW = 6
"""So many rows are read faster one by one than as columns."""
Row = tuple[list[Any], bytearray, list[int]]


class OnlineReader:
    """Reads vectors of one service; compiled once, then asked many times.

    Args:
        plan: the compiled service (``ServicePlan.from_documents`` in a worker).
        store: where rows are.
        secrets: opens the rows of personal and sensitive views.
        subjects: opens the rows of views with a subject; a person without a key is one of
            whom nothing is known.

    Safe from many threads. Nothing but the online store is asked; one call reads one state
    of it. Of each call: ``at_us`` is the instant that it is answered for (UTC microseconds),
    one for all rows or one for each.
    """

    def __init__(
        self,
        plan: ServicePlan,
        store: OnlineStore,
        secrets: Secrets,
        subjects: SubjectCiphers | None = None,
    ) -> None:
        self.plan = plan
        self.names = tuple(plan.outputs)
        self.views = tuple(use.plan.name for use in plan.views)
        self._store = store
        places = _places(plan)
        self._places, self._width = places, len(places)
        self._fields = [
            (name, dtype, checker(name, dtype)) for name, dtype in plan.request_fields.items()
        ]
        self._latest: list[LatestReading] = []
        self._windows: list[WindowReading] = []
        for number, use in enumerate(plan.views):
            storage = ViewStorage(use.plan, secrets, subjects)
            if storage.rows is not None:
                self._latest.append(LatestReading(use, storage, storage.rows, places, number))
            if storage.window is not None:
                self._windows.append(WindowReading(use, storage.window, places, number))
        self._keys = [one.key for one in self._latest] + [one.key for one in self._windows]
        self._filling = [(name, places[name]) for name in plan.defaults]
        self._defaults = [(places[name], value) for name, value in plan.defaults.items()]
        self._filled = frozenset(plan.defaults)
        self._optional = {name for name in plan.request_fields if name in plan.defaults}
        self._slots = [Slot(dtype, 0, 0, 1) for dtype in plan.outputs.values()]
        self._by_row = not self._windows and not plan.on_demand
        self._all_float = self._by_row and all(
            dtype is DType.FLOAT64 for dtype in plan.outputs.values()
        )
        self._needed = plan.spine_columns
        alone = self._all_float and len(self._latest) == 1 and self._width == len(self.names)
        plain_vector = alone and not self._fields and not self._filled
        self._only = self._latest[0] if plain_vector and self._latest[0].is_block else None
        self._all_present = np.zeros((1, self._width), np.uint8)
        self._all_present.flags.writeable = False
        self._own_places = {name: places[name] for name in self.names}

    # ── what callers ask for ─────────────────────────────────────────────────────────

    def read(self, rows: Sequence[Mapping[str, Any]], at_us: int | Sequence[int]) -> Vectors:
        """The vectors of m requests.

        Args:
            rows: each with the entity keys and request fields that the service needs
                (more are ignored); None is null.
            at_us: the instant.

        Raises:
            InvalidInput: a key or field is not there or has another type; says which row.
            Corrupt: a stored row is damaged.
        """
        if not self._by_row or len(rows) > _FEW:
            return self.columns_of(rows, at_us).vectors()
        found = self._rows(rows, at_us)
        return Vectors(
            self.names,
            [values for values, _, _ in found],
            [[STATUSES[code] for code in codes] for _, codes, _ in found],
            [
                {v: None if t == NO_TIME else t for v, t in zip(self.views, times, strict=True)}
                for _, _, times in found
            ],
        )

    def record(self, row: Mapping[str, Any], at_us: int) -> dict[str, Any]:
        """The vector of one request as a dict by column, None for null; raises as ``read``."""
        if self._by_row:
            return dict(zip(self.names, self._rows([row], at_us)[0][0], strict=True))
        return self.columns_of([row], at_us).records()[0]

    def records(
        self, rows: Sequence[Mapping[str, Any]], at_us: int | Sequence[int]
    ) -> list[dict[str, Any]]:
        """The vectors of m requests as dicts by column, None for null; raises as ``read``."""
        if self._by_row and len(rows) <= _FEW:
            return [
                dict(zip(self.names, values, strict=True))
                for values, _, _ in self._rows(rows, at_us)
            ]
        return self.columns_of(rows, at_us).records()

    def columns(
        self, keys: Mapping[str, Sequence[Any]], at_us: int | Sequence[int] | Ints
    ) -> OnlineColumns:
        """The vectors of m entities, by column.

        Args:
            keys: by name the entity keys and request fields that the service needs, each m
                Python values (None is null) or a numpy array.
            at_us: the instant.

        Raises:
            InvalidInput: a key or field is not there, has another type, or another length.
            Corrupt: a stored row is damaged.
        """
        if self._by_row:
            row = _only_row(keys, self._needed)
            if row is not None:
                found = self._block(row, at_us) if self._only is not None else None
                if found is not None:
                    return found
                return self._column_of_one(self._rows([row], at_us)[0])
        m = _length(keys, self._needed)
        return self._columns(keys, m, at_us)

    def columns_of(
        self, rows: Sequence[Mapping[str, Any]], at_us: int | Sequence[int] | Ints
    ) -> OnlineColumns:
        """As ``columns``, of requests given by row; raises as ``read``."""
        if len(rows) == 1 and self._by_row:
            return self._column_of_one(self._rows(rows, at_us)[0])
        try:
            columns = {
                name: [row.get(name) for row in rows]
                if name in self._optional
                else [row[name] for row in rows]
                for name in self._needed
            }
            return self._columns(columns, len(rows), at_us)
        except (KeyError, FalajError):
            self._told_by_row(rows)
            raise

    # ── one by one ───────────────────────────────────────────────────────────────────

    def _rows(
        self, rows: Sequence[Mapping[str, Any]], at_us: int | Sequence[int] | Ints
    ) -> list[Row]:
        """Of each request its values, the numbers of their statuses, and event times."""
        vectors: list[list[Any]] = []
        keys: list[bytes | None] = []
        latest = self._latest
        try:
            for row in rows:
                vectors.append(self._requested(row) if self._fields else [None] * self._width)
                for view in latest:
                    keys.append(view.key(row))
        except FalajError:
            self._told_by_row(rows)
            raise
        if None in keys:
            there = [key is not None for key in keys]
            stored = iter(self._store.read([key for key in keys if key is not None]))
            found = iter([next(stored) if here else None for here in there])
        else:
            found = iter(self._store.read(keys))  # type: ignore[arg-type]
        asked = iter(keys)
        result: list[Row] = []
        for number, vector in enumerate(vectors):
            at = at_us if isinstance(at_us, int) else int(at_us[number])
            codes = bytearray(self._width)
            for i in range(len(self._fields)):
                if vector[i] is None:
                    codes[i] = NULL
            times = [view.fill_one(vector, codes, next(asked), next(found), at) for view in latest]
            for place, default in self._defaults:
                if vector[place] is None:
                    vector[place] = default
            result.append((vector, codes, times))
        return result

    def _requested(self, row: Mapping[str, Any]) -> list[Any]:
        vector: list[Any] = [None] * self._width
        for i, (name, _, check) in enumerate(self._fields):
            try:
                value = row[name]
            except KeyError:
                if name in self._optional:
                    continue
                raise lacks(name, "request field") from None
            if value is not None:
                vector[i] = check(value)
        return vector

    def _told_by_row(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise what is wrong with the first wrong row, and say which it is."""
        for number, row in enumerate(rows):
            try:
                self._requested(row)
                for key in self._keys:
                    key(row)
            except FalajError as error:
                if len(rows) == 1:
                    raise
                raise type(error)(
                    f"Row {number}: {error.message}", hint=error.hint, **error.details
                ) from None

    def _block(
        self, row: Mapping[str, Any], at_us: int | Sequence[int] | Ints
    ) -> OnlineColumns | None:
        """One vector as it stands in one stored row, or None if it takes more than that."""
        if self._only is None or not isinstance(at_us, int):
            return None
        key = self._only.key(row)
        (stored,) = self._store.read([key]) if key is not None else (None,)
        told = None if stored is None else self._only.block(stored, at_us)
        if told is None:
            return None
        columns, times = Block(self._own_places, told[0]), np.array([[told[1]]])
        return OnlineColumns(
            self.names, columns, self._all_present, self.views, times, self._filled
        )

    def _column_of_one(self, row: Row) -> OnlineColumns:
        values, codes, times = row
        columns: Mapping[str, Array]
        if self._all_float:
            columns = Block(self._own_places, np.array(values, np.float64).reshape(-1, 1))
        else:
            columns = {
                name: _array_of_one(value, slot)
                for name, value, slot in zip(self.names, values, self._slots, strict=True)
            }
        statuses = np.frombuffer(codes, np.uint8).reshape(1, -1)
        event_times = np.array([times], np.int64)
        return OnlineColumns(self.names, columns, statuses, self.views, event_times, self._filled)

    # ── by column ────────────────────────────────────────────────────────────────────

    def _columns(
        self, given: Mapping[str, Sequence[Any]], m: int, at_us: int | Sequence[int] | Ints
    ) -> OnlineColumns:
        at: int | Ints = at_us if isinstance(at_us, int) else np.asarray(at_us, np.int64)
        if not isinstance(at, int) and at.ndim == 0:
            at = int(at)
        into = Assembly(
            np.empty((self._width, m)) if self._all_float else None,
            {},
            np.zeros((m, self._width), np.uint8),
            np.full((m, len(self.views)), NO_TIME, np.int64),
        )
        for place in range(len(self._fields)):
            self._request(into, place, given, m)
        latest = [(view, view.lookups(given)) for view in self._latest]
        while True:
            windows = [window.ask(given, m, at) for window in self._windows]
            stored = self._stored([keys for _, keys in latest], [one.keys for one in windows])
            for view, keys in latest:
                view.fill(into, keys, next(stored), at)
            if all(one.fill(into, next(stored)) for one in windows):
                break
        if self.plan.on_demand:
            self._compute(into, m)
        return self._finished(into)

    def _stored(
        self, nullable: Sequence[Sequence[bytes | None]], others: Sequence[Sequence[bytes]]
    ) -> Iterator[list[bytes | None]]:
        """The rows of lists of keys, of one state of the store; of no key, none."""
        there = [key for keys in nullable for key in keys if key is not None]
        rows = self._store.read(there + [key for keys in others for key in keys])
        start = 0
        for keys in nullable:
            n = len(keys) - keys.count(None)
            if n == len(keys):
                yield rows[start : start + n]
            else:
                found = iter(rows[start : start + n])
                yield [None if key is None else next(found) for key in keys]
            start += n
        for others_keys in others:
            yield rows[start : start + len(others_keys)]
            start += len(others_keys)

    def _request(self, into: Assembly, place: int, given: Mapping[str, Any], m: int) -> None:
        """Put a request field into columns."""
        name, dtype, check = self._fields[place]
        if name in given:
            values = [None if value is None else check(value) for value in plain(given[name])]
        elif name in self._optional:
            values = [None] * m
        else:
            raise lacks(name, "request field")
        absent = [value is None for value in values]
        if any(absent):
            into.codes[absent, place] = NULL
            if dtype is not DType.FLOAT64 and NUMPY[dtype] is not np.object_:
                values = [0 if value is None else value for value in values]
        column = np.array([*values, None], np.object_)[:-1].astype(NUMPY[dtype])
        if into.block is not None:
            into.block[place] = column
        else:
            into.values[name] = column

    def _compute(self, into: Assembly, m: int) -> None:
        for use in self.plan.on_demand:
            inputs = {
                column: (into.values[column], into.codes[:, self._places[column]] == PRESENT)
                for _, column, _ in use.inputs
            }
            for name, done in use.computed(inputs, m).items():
                into.values[name] = done.values
                into.codes[:, self._places[name]] = np.where(done.valid, PRESENT, NULL)

    def _finished(self, into: Assembly) -> OnlineColumns:
        for name, place in self._filling:
            absent = into.codes[:, place] != PRESENT
            if absent.any():
                if into.block is not None:
                    into.block[place, absent] = self.plan.defaults[name]
                    continue
                column = into.values[name].copy()
                column[absent] = self.plan.defaults[name]
                into.values[name] = column
        n = len(self.names)
        return OnlineColumns(
            self.names,
            {name: into.values[name] for name in self.names}
            if into.block is None
            else Block(self._own_places, into.block),
            into.codes if self._width == n else into.codes[:, :n],
            self.views,
            into.event_times,
            self._filled,
        )


def _places(plan: ServicePlan) -> dict[str, int]:
    """The place of each column: those of the vector, then those that only compute others."""
    places = {name: i for i, name in enumerate(plan.outputs)}
    hidden = [f"{use.plan.name}__{feature}" for use in plan.views for feature in use.features]
    hidden += [
        f"{use.definition.name}__{output.name}"
        for use in plan.on_demand
        for output in use.definition.outputs
    ]
    for name in hidden:
        places.setdefault(name, len(places))
    return places


def _only_row(columns: Mapping[str, Sequence[Any]], needed: Sequence[str]) -> dict[str, Any] | None:
    """The row of columns that have one; None if they have another number of rows."""
    row = {}
    for name in needed:
        column = columns.get(name)
        if column is not None:
            if len(column) != 1:
                return None
            row[name] = column[0] if type(column) is list else plain(column)[0]
    return row or None


def _length(columns: Mapping[str, Sequence[Any]], needed: Sequence[str]) -> int:
    """How many rows the columns have; raises InvalidInput if they differ."""
    lengths = {name: len(columns[name]) for name in needed if name in columns}
    if len(set(lengths.values())) > 1:
        raise InvalidInput(
            f"The columns of a read have different lengths: {lengths}.",
            hint="Give each key and request field for every row.",
        )
    return next(iter(lengths.values()), 0)


def _array_of_one(value: Any, slot: Slot) -> Array:
    """One value of a feature as an array."""
    found = slot.empty(1)
    if value is not None:
        found[0] = value
    return found
