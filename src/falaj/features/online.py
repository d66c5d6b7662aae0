"""Reading a service's vectors from the online store, and writing views to it.

``ViewStorage`` is one view in the store: its key codec, its row codec and its sealer.
``OnlineReader`` is compiled once from a ``ServicePlan`` and asked once per request.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from falaj.features.columns import Ints
from falaj.features.model import Status, microseconds
from falaj.features.order import ORDER_BYTES, orders, times_of
from falaj.features.plan import ServicePlan, ViewUse
from falaj.features.pointintime import EventIndex
from falaj.features.ports import Merge, OnlineStore, Secrets
from falaj.features.rows import KeyCodec, RowCodec, Sealer
from falaj.features.tiles import TileCodec
from falaj.features.types import DType
from falaj.features.views import Events, ViewPlan
from falaj.kernel.clock import microseconds as instant_us
from falaj.kernel.errors import FalajError, InvalidInput

_MARK = struct.Struct(">qq")


class Superseded(FalajError):
    """A rebuilt view would lose events that were applied while it was being rebuilt."""

    code = "superseded"
    retryable = True


class ViewStorage:
    """One view in the online store.

    Args:
        plan: the compiled view.
        secrets: for views whose classification is personal or sensitive: keys of
            entities are replaced by keyed hashes, and values are encrypted.

    Of each window view one more row, its *mark*, tells up to which lake snapshot the view
    was rebuilt and which is the newest that was applied since, so that a push and a
    rebuild at the same time neither lose nor double an event.
    """

    def __init__(self, plan: ViewPlan, secrets: Secrets) -> None:
        self.plan = plan
        prefix = plan.storage_id
        self.mark = prefix
        hash_key, self._sealer = None, None
        if plan.sealed:
            name = prefix.hex()
            hash_key = secrets.derive(f"online-key.{name}", 32)
            self._sealer = Sealer(secrets.derive(f"online-value.{name}", 32))
        self.keys = KeyCodec(prefix, plan.keys, secret=hash_key)
        self.tiles: TileCodec | None = None
        self.rows: RowCodec | None = None
        if plan.view.aggregates:
            self.tiles = TileCodec(plan, head_us=microseconds(plan.view.head))
        else:
            self.rows = RowCodec(list(plan.outputs.values()))

    def opened(self, key: bytes, row: bytes) -> bytes:
        """The row in clear; raises Corrupt."""
        return row if self._sealer is None else self._sealer.open(key, row)

    def sealed(self, key: bytes, row: bytes) -> bytes:
        """The row as it is stored."""
        return row if self._sealer is None else self._sealer.seal(key, row)

    def latest_rows(self, events: Events) -> list[tuple[bytes, bytes]]:
        """(key, row) of the latest event of each entity among these, for ``Write.newer``."""
        if self.rows is None or not len(events):
            return []
        keys = self.keys.column(events.keys)
        codes, names = _numbered(keys)
        index = EventIndex(codes, events.event_time, events.recorded_at, hide_late=False)
        final = index.rows[index.ends(np.arange(len(names)), np.full(len(names), 1 << 62)) - 1]
        recorded = events.event_time if events.recorded_at is None else events.recorded_at
        order = orders(events.event_time[final].tolist(), recorded[final].tolist())
        columns = [
            events.columns[f"{feature.column}:{feature.dtype.value}"].take(final)
            for feature in self.plan.view.features
        ]
        return [
            (key, self.sealed(key, begin + record))
            for key, begin, record in zip(names, order, self.rows.packed(columns), strict=True)
        ]

    def applier(self, events: Events, now_us: int) -> Callable[[int], Merge] | None:
        """Prepares the merge of new events into the rows of a window view.

        Everything that can be refused is refused here. The function returned makes the
        merge, given the lake snapshot that holds these events: if the view was rebuilt
        from it or a later one, they are in already. (0: merged in any case.)
        """
        if self.tiles is None or not len(events):
            return None
        tiles = self.tiles
        owners, names = _numbered(self.keys.column(events.keys))
        kept = tiles.kept(events, events.event_time, events.recorded_at)

        def merge(position: int) -> Merge:
            def change(stored: Sequence[bytes | None]) -> list[bytes | None]:
                rebuilt, applied = _MARK.unpack(stored[0]) if stored[0] else (0, 0)
                if position and position <= rebuilt:
                    return list(stored)
                old = [
                    None if row is None else self.opened(key, row)
                    for key, row in zip(names, stored[1:], strict=True)
                ]
                new = tiles.merged(old, owners, kept, now_us)
                mark = _MARK.pack(rebuilt, max(applied, position))
                return [mark, *map(self.sealed, names, new)]

            return Merge([self.mark, *names], change)

        return merge

    def rebuilt(self, events: Events, now_us: int, snapshot: int) -> Merge | None:
        """The merge that puts rows made of these events in the place of what stands there.

        Its ``change`` raises Superseded if events of a later snapshot were applied.
        """
        if self.tiles is None:
            return None
        owners, names = _numbered(self.keys.column(events.keys))
        kept = self.tiles.kept(events, events.event_time, events.recorded_at)
        rows = self.tiles.merged([None] * len(names), owners, kept, now_us)
        stored_rows = [*map(self.sealed, names, rows)]

        def change(stored: Sequence[bytes | None]) -> list[bytes | None]:
            _, applied = _MARK.unpack(stored[0]) if stored[0] else (0, 0)
            if applied > snapshot:
                raise Superseded(
                    f"Events were pushed to {self.plan.name!r} while it was being rebuilt.",
                    hint="Materialise it again.",
                )
            return [_MARK.pack(snapshot, applied), *stored_rows]

        return Merge([self.mark, *names], change)


def _numbered(keys: Sequence[bytes | None]) -> tuple[Ints, list[bytes]]:
    """Each event's place among the distinct keys (events have no null keys)."""
    places: dict[bytes, int] = {}
    owners = [places.setdefault(key, len(places)) for key in keys if key is not None]
    return np.array(owners, np.int64), list(places)


def once_mark(table: str, key: str) -> bytes:
    """The mark of a push, by the table and the caller's idempotency key."""
    return hashlib.blake2b(f"push\0{table}\0{key}".encode(), digest_size=24).digest()


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


class OnlineReader:
    """Reads vectors of one service; compiled once, then asked many times.

    Args:
        plan: the compiled service (``ServicePlan.from_documents`` in a worker).
        store: where rows are.
        secrets: opens the rows of personal and sensitive views.

    Safe from many threads. Nothing but the online store is asked.
    """

    def __init__(self, plan: ServicePlan, store: OnlineStore, secrets: Secrets) -> None:
        self.plan = plan
        self.names = tuple(plan.outputs)
        self._store = store
        places = {name: i for i, name in enumerate(plan.outputs)}
        hidden = [name for use in plan.views for name in _columns(use) if name not in places]
        hidden += [
            f"{use.definition.name}__{output.name}"
            for use in plan.on_demand
            for output in use.definition.outputs
            if f"{use.definition.name}__{output.name}" not in places
        ]
        for name in dict.fromkeys(hidden):
            places[name] = len(places)
        self._places = places
        self._width = len(places)
        self._fields = [
            (name, _checker(name, dtype)) for name, dtype in plan.request_fields.items()
        ]
        self._views = [_View(use, places, secrets) for use in plan.views]
        self._defaults = [(places[name], value) for name, value in plan.defaults.items()]
        self._optional = {name for name in plan.request_fields if name in plan.defaults}

    def read(self, rows: Sequence[Mapping[str, Any]], at_us: int | Sequence[int]) -> Vectors:
        """The vectors of m requests.

        Args:
            rows: each with the entity keys and request fields that the service needs
                (more are ignored); None is null.
            at_us: the instant, UTC microseconds, one for all or one for each row.

        Raises:
            InvalidInput: a key or field is not there or has another type; says which row.
            Corrupt: a stored row is damaged.
        """
        times = [at_us] * len(rows) if isinstance(at_us, int) else list(at_us)
        values: list[list[Any]] = []
        keys: list[bytes] = []
        present: list[list[bool]] = []
        for number, row in enumerate(rows):
            try:
                values.append(self._requested(row))
                mine = [view.key(row) for view in self._views]
            except FalajError as error:
                if len(rows) == 1:
                    raise
                raise type(error)(
                    f"Row {number}: {error.message}", hint=error.hint, **error.details
                ) from None
            present.append([key is not None for key in mine])
            keys += [key for key in mine if key is not None]
        stored = iter(zip(keys, self._store.read(keys) if keys else [], strict=True))
        statuses, event_times = [], []
        for vector, here, at in zip(values, present, times, strict=True):
            states = [Status.PRESENT] * self._width
            for i in range(len(self._fields)):
                if vector[i] is None:
                    states[i] = Status.NULL
            seen: dict[str, int | None] = {}
            for view, there in zip(self._views, here, strict=True):
                key, row_bytes = next(stored) if there else (None, None)
                seen[view.name] = view.fill(vector, states, key, row_bytes, at)
            statuses.append(states)
            event_times.append(seen)
        if self.plan.on_demand and values:
            self._compute(values, statuses)
        n = len(self.names)
        for vector in values:
            for place, default in self._defaults:
                if vector[place] is None:
                    vector[place] = default
        if self._width > n:
            values = [vector[:n] for vector in values]
            statuses = [states[:n] for states in statuses]
        return Vectors(self.names, values, statuses, event_times)

    def _requested(self, row: Mapping[str, Any]) -> list[Any]:
        vector: list[Any] = [None] * self._width
        for i, (name, check) in enumerate(self._fields):
            try:
                value = row[name]
            except KeyError:
                if name in self._optional:
                    continue
                raise _lacks(name, "request field") from None
            if value is not None:
                vector[i] = check(value)
        return vector

    def _compute(self, values: list[list[Any]], statuses: list[list[Status]]) -> None:
        n = len(values)
        for use in self.plan.on_demand:
            inputs = {}
            for _, column, dtype in use.inputs:
                place = self._places[column]
                given = [vector[place] for vector in values]
                valid = np.array([value is not None for value in given], np.bool_)
                if dtype is DType.STRING:
                    inputs[column] = np.array([*given, None], np.object_)[:-1], valid
                    continue
                kind = np.int64 if dtype is DType.TIMESTAMP else np.float64
                filled = [0 if value is None else value for value in given]
                inputs[column] = np.array(filled, kind), valid
            for name, done in use.computed(inputs, n).items():
                place = self._places[name]
                for vector, states, value, valid in zip(
                    values, statuses, done.values.tolist(), done.valid.tolist(), strict=True
                ):
                    vector[place] = value if valid else None
                    states[place] = Status.PRESENT if valid else Status.NULL


def _columns(use: ViewUse) -> list[str]:
    return [f"{use.plan.name}__{feature}" for feature in use.features]


def _lacks(name: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"The {what} {name!r} is not given.",
        hint="Give every key and request field; null (None) where it is not known.",
    )


class _View:
    """One view as the reader uses it."""

    def __init__(self, use: ViewUse, places: Mapping[str, int], secrets: Secrets) -> None:
        self.storage = ViewStorage(use.plan, secrets)
        self.name = use.plan.name
        self._key_columns = use.key_columns
        offered = list(use.plan.outputs)
        self._at = [
            (offered.index(feature), places[f"{self.name}__{feature}"]) for feature in use.features
        ]
        self._named = [(feature, places[f"{self.name}__{feature}"]) for feature in use.features]
        self._ttl_us = use.plan.ttl_us
        self._encoded = self.storage.keys.encoded
        self._unpacked = self.storage.rows.unpacked if self.storage.rows else None
        self._tiles = self.storage.tiles

    def key(self, row: Mapping[str, Any]) -> bytes | None:
        """The entity's key in a request; raises InvalidInput."""
        try:
            return self._encoded([row[column] for column in self._key_columns])
        except KeyError as error:
            raise _lacks(error.args[0], "entity key") from None

    def fill(
        self,
        vector: list[Any],
        states: list[Status],
        key: bytes | None,
        row: bytes | None,
        at_us: int,
    ) -> int | None:
        """Put the view's features into a vector; returns its newest event time."""
        if key is not None and row is not None:
            row = self.storage.opened(key, row)
        if self._tiles is not None:
            return self._aggregates(vector, states, key, row, at_us)
        if row is None:
            return self._none(states, Status.MISSING)
        event_time, recorded_at = times_of(row)
        if event_time > at_us or recorded_at > at_us:
            return self._none(states, Status.MISSING)  # nothing of the future is ever told
        if self._ttl_us is not None and event_time <= at_us - self._ttl_us:
            return self._none(states, Status.EXPIRED, event_time)
        values = self._unpacked(row[ORDER_BYTES:]) if self._unpacked else []
        for source, place in self._at:
            value = vector[place] = values[source]
            if value is None:
                states[place] = Status.NULL
        return event_time

    def _none(
        self, states: list[Status], status: Status, event_time: int | None = None
    ) -> int | None:
        for _, place in self._at:
            states[place] = status
        return event_time

    def _aggregates(
        self,
        vector: list[Any],
        states: list[Status],
        key: bytes | None,
        row: bytes | None,
        at_us: int,
    ) -> int | None:
        if key is None or self._tiles is None:
            return self._none(states, Status.MISSING)
        found = self._tiles.read(row, at_us)
        absent = Status.MISSING if row is None else Status.NULL
        for feature, place in self._named:
            value = vector[place] = found[feature]
            if value is None:
                states[place] = absent
        # A newer event than the instant asked for was not used; the instant bounds those that were.
        return None if row is None else min(times_of(row)[0], at_us)


def _checker(name: str, dtype: DType) -> Callable[[Any], Any]:
    """Checks and converts one request field that is not null."""

    def refused(value: Any) -> InvalidInput:
        told = "a time without a zone" if isinstance(value, datetime) else type(value).__name__
        return InvalidInput(
            f"The request field {name!r} is {told} ({str(value)[:60]!r}), not {dtype}.",
            hint="Give the declared type; times as UTC microseconds or ISO 8601 with a zone.",
        )

    def plain(value: Any) -> Any:
        if type(value) is not kind:
            raise refused(value)
        return value

    def number(value: Any) -> float:
        if type(value) is float:
            return value
        if type(value) is not int or abs(value) > 1 << 53:
            raise refused(value)
        return float(value)

    def integer(value: Any) -> int:
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            raise refused(value)
        return value

    def instant(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise refused(value) from None
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise refused(value)
            return instant_us(value)
        return integer(value)

    kind = bool if dtype is DType.BOOL else str
    checks: dict[DType, Callable[[Any], Any]] = {
        DType.FLOAT64: number,
        DType.INT64: integer,
        DType.TIMESTAMP: instant,
    }
    return checks.get(dtype, plain)
