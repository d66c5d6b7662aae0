"""Reading a window view: its heads and the chunks of its windows, merged by one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Array, Ints
from falaj.features.heads import Heads
from falaj.features.hops import Hop
from falaj.features.model import Aggregate
from falaj.features.plan import ViewUse
from falaj.features.requestfields import lacks
from falaj.features.tiles import Mark, chunk_of, first_tile, words
from falaj.features.types import DType
from falaj.features.valuecounts import Counts, answer, counted, keys_of, unpacked, within
from falaj.features.vectors import MISSING, NULL, PRESENT, Assembly
from falaj.features.windowstorage import WindowStorage

ByWindow = list[tuple[int, list[Aggregate]]]
"""Aggregates by their window, in microseconds."""


def _by_window(wanted: Sequence[Aggregate]) -> ByWindow:
    """The aggregates by their window."""
    found: dict[int, list[Aggregate]] = {}
    for aggregate in wanted:
        found.setdefault(aggregate.window_us, []).append(aggregate)
    return list(found.items())


class WindowReading:
    """One window view, as a reader of a service uses it.

    Args:
        use: the view, and which of its features are wanted.
        storage: its place in the store.
        places: the place of each column of the service.
        view: the place of the view among the event times.
    """

    def __init__(
        self, use: ViewUse, storage: WindowStorage, places: Mapping[str, int], view: int
    ) -> None:
        self.storage, self.view = storage, view
        self._key_columns = use.key_columns
        self.names = {feature: f"{use.plan.name}__{feature}" for feature in use.features}
        self.places = {feature: places[name] for feature, name in self.names.items()}
        self.all_places = list(self.places.values())
        self.generation = 0
        self.hops: list[tuple[int, Hop, bool, list[Aggregate], ByWindow]] = []
        for number, hop in enumerate(storage.layout.hops):
            for by_value, some in ((False, hop.aggregates), (True, hop.by_value)):
                wanted = [one for one in some if one.name in self.names]
                if wanted:
                    self.hops.append((number, hop, by_value, wanted, _by_window(wanted)))
        for _, hop, by_value, _, _ in self.hops:
            if not by_value:
                hop.empty(1)  # loads or compiles the kernels now, not at the first read

    def key(self, row: Mapping[str, Any]) -> bytes | None:
        """The entity's key in a request, None if it is null; raises InvalidInput."""
        try:
            return self.storage.keys.encoded([row[column] for column in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None

    def ask(self, given: Mapping[str, Sequence[Any]], m: int, at_us: int | Ints) -> Asked:
        """Begin a read of m entities; raises InvalidInput."""
        try:
            keys = self.storage.keys.asked([given[name] for name in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None
        return Asked(self, keys, np.broadcast_to(np.asarray(at_us, np.int64), m))


class Asked:
    """What one read needs of the view: ``keys`` whose rows are to be read."""

    def __init__(self, reading: WindowReading, entities: list[bytes | None], at: Ints) -> None:
        self._reading = reading
        self._m = len(entities)
        self._there = np.array([i for i, e in enumerate(entities) if e is not None], np.int64)
        self._entities = [entity for entity in entities if entity is not None]
        self._at = at[self._there]
        layout, generation = reading.storage.layout, reading.generation
        self.keys = [layout.mark_key, *layout.head_keys(generation, self._entities)]
        self._numbers: list[Ints] = []
        for number, hop, by_value, _, windows in reading.hops:
            longest = max(window_us for window_us, _ in windows)
            first = chunk_of(hop, first_tile(hop, self._at, longest))
            last = chunk_of(hop, (self._at - 1) // hop.hop_us)
            k = int((last - first).max(initial=-1)) + 1
            numbers = first[:, None] + np.arange(k)
            self._numbers.append(numbers)
            prefix = layout.hop_prefix(generation, number, by_value=by_value)
            self.keys += layout.chunk_keys(
                prefix,
                numbers.ravel().tolist(),
                [entity for entity in self._entities for _ in range(k)],
            )

    def fill(self, into: Assembly, rows: Sequence[bytes | None]) -> bool:
        """Put the features into columns; False if other keys have to be read: the view has
        been rebuilt."""
        reading = self._reading
        generation = Mark.of(rows[0]).generation
        if generation != reading.generation:
            reading.generation = generation
            return False
        layout, n = reading.storage.layout, len(self._entities)
        there = np.array([row is not None for row in rows[1 : 1 + n]], np.bool_)
        found = layout.opened(self.keys[1 : 1 + n], rows[1 : 1 + n], heads=True)
        heads = layout.heads.unpacked(found)
        into.codes[:, reading.all_places] = MISSING
        into.event_times[self._there[there], reading.view] = np.minimum(
            heads.newest[there, 0], self._at[there]
        )
        start = 1 + n
        for (_, hop, by_value, wanted, windows), numbers in zip(
            reading.hops, self._numbers, strict=True
        ):
            end = start + numbers.size
            found = layout.opened(self.keys[start:end], rows[start:end])
            start = end
            if by_value:
                self._by_value(into, hop, wanted, heads, there, numbers, found)
                continue
            for window_us, aggregates in windows:
                tiles = self._merged(hop, window_us, heads, numbers, found)
                if n == 1 and self._m == 1:
                    self._put_one(into, hop, aggregates, tiles, there=bool(there[0]))
                    continue
                for aggregate in aggregates:
                    values, valid = hop.finished(aggregate, tiles)
                    self._put(into, aggregate, values, valid, there)
        return True

    def _put_one(
        self, into: Assembly, hop: Hop, aggregates: Sequence[Aggregate], tiles: Ints, *, there: bool
    ) -> None:
        """The features of a single entity: arrays of one value are slow to compute with."""
        ints, reals = tiles[0].tolist(), tiles.view(np.float64)[0].tolist()
        absent = NULL if there else MISSING
        reading = self._reading
        for aggregate in aggregates:
            value = hop.finished_one(aggregate, ints, reals)
            kind = NUMPY[aggregate.output] if isinstance(aggregate.output, DType) else np.object_
            null = np.nan if kind is np.float64 else 0
            column = np.array([null if value is None else value], kind)
            into.values[reading.names[aggregate.name]] = column
            place = reading.places[aggregate.name]
            into.codes[0, place] = absent if value is None else PRESENT

    def _last_tiles(self, hop: Hop, heads: Heads) -> Ints:
        """The last tile that each read may use: before the horizon, the last that had ended."""
        ended = self._at // hop.hop_us - 1
        return np.where(self._at < heads.horizon, ended, (self._at - 1) // hop.hop_us)

    def _merged(
        self, hop: Hop, window_us: int, heads: Heads, numbers: Ints, rows: Sequence[bytes | None]
    ) -> Ints:
        """(n, fields) what each window holds."""
        from falaj.features.kernels_tiles import merge_windows

        n, f = len(self._entities), hop.fields
        out = hop.empty(n)
        here = np.array([row is not None for row in rows], np.bool_)
        index = np.where(here, np.cumsum(here) - 1, -1).reshape(numbers.shape)
        stored = words([row for row in rows if row is not None], b"")
        first = first_tile(hop, self._at, window_us)
        ends = np.searchsorted(heads.owner, np.arange(n + 1))
        spans = np.stack([ends[:-1], ends[1:]], axis=1)
        spans[self._at < heads.horizon] = 0
        events = heads.events
        first_chunk = numbers[:, 0] if numbers.size else np.zeros(n, np.int64)
        merge_windows(
            out, out.view(np.float64), stored, stored.view(np.float64), index, first_chunk,
            first, self._last_tiles(hop, heads), hop.n_tiles, hop.width, f.op, f.at, f.column,
            f.real, spans, first * hop.hop_us, self._at, events.bits,
            events.bits.view(np.float64), events.valid, events.event_time, events.recorded_at,
        )  # fmt: skip
        return out.reshape(n, hop.width)

    def _by_value(
        self,
        into: Assembly,
        hop: Hop,
        wanted: Sequence[Aggregate],
        heads: Heads,
        there: Array,
        numbers: Ints,
        rows: Sequence[bytes | None],
    ) -> None:
        n, k = len(self._entities), numbers.shape[1]
        ends = np.searchsorted(heads.owner, np.arange(n + 1)).tolist()
        last = self._last_tiles(hop, heads).tolist()
        exact = (self._at >= heads.horizon).tolist()
        for aggregate in wanted:
            column = hop.column(aggregate)
            waiting = keys_of(heads.events, column, aggregate.dtype)
            values = np.full(n, None, np.object_)
            for i in range(n):
                at, first = int(self._at[i]), int(first_tile(hop, self._at[i], aggregate.window_us))
                counts: list[Counts] = [
                    unpacked(row) for row in rows[i * k : i * k + k] if row is not None
                ]
                own = within(counts, column, first, last[i])
                if exact[i] and ends[i] < ends[i + 1]:
                    head: Counts = {(column, 0): own}
                    used = [
                        e
                        for e in range(ends[i], ends[i + 1])
                        if first * hop.hop_us < heads.events.event_time[e] <= at
                        and heads.events.recorded_at[e] <= at
                    ]
                    counted(head, column, [0] * len(used), [waiting[e] for e in used])
                    own = head[(column, 0)]
                values[i] = answer(aggregate, own)
            valid = np.array([value is not None for value in values], np.bool_)
            if isinstance(aggregate.output, DType):
                values = np.where(valid, values, 0).astype(NUMPY[aggregate.output])
            self._put(into, aggregate, values, valid, there)

    def _put(
        self, into: Assembly, aggregate: Aggregate, values: Array, valid: Array, there: Array
    ) -> None:
        reading = self._reading
        name, place = reading.names[aggregate.name], reading.places[aggregate.name]
        if values.dtype == np.float64:
            values = np.where(valid, values, np.nan)
        if len(values) == self._m:
            whole = values
        else:
            null = np.nan if values.dtype == np.float64 else 0
            whole = np.full(self._m, None if values.dtype == np.object_ else null, values.dtype)
            whole[self._there] = values
        into.values[name] = whole
        into.codes[self._there, place] = np.where(valid, PRESENT, np.where(there, NULL, MISSING))
