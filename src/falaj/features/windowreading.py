"""Reading a window view: its heads and the chunks of its windows, merged by one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Array, Ints
from falaj.features.hops import Fields, Hop
from falaj.features.model import Aggregate
from falaj.features.plan import ViewUse
from falaj.features.requestfields import lacks
from falaj.features.tiles import Mark, TileLayout, chunk_prefix, first_tile
from falaj.features.types import DType
from falaj.features.valuecounts import Counts, answer, counted, keys_of, unpacked, within
from falaj.features.vectors import MISSING, NO_TIME, NULL, PRESENT, Assembly
from falaj.features.windowstorage import WindowStorage
from falaj.kernel.errors import Corrupt

_MOST_PREFIXES = 4096
_Hop = tuple[int, int, int, "_Prefixes"]
"""Length of a tile, tiles of a chunk, the longest window, and what the keys begin with."""
_WORD = 8


class _Prefixes(dict[int, bytes]):
    """What the keys of the chunks of one hop begin with, by the number of the chunk."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__()
        self._prefix = prefix

    def __missing__(self, number: int) -> bytes:
        if len(self) >= _MOST_PREFIXES:
            self.clear()
        made = self[number] = chunk_prefix(self._prefix, number)
        return made


class _Frame:
    """One kind of chunk that a read needs: those of a hop, of tiles or of counted values."""

    def __init__(
        self, number: int, hop: Hop, wanted: Sequence[Aggregate], *, by_value: bool
    ) -> None:
        self.number, self.hop, self.by_value = number, hop, by_value
        self.windows: dict[int, list[Aggregate]] = {}
        for aggregate in wanted:
            self.windows.setdefault(aggregate.window_us, []).append(aggregate)
        self.longest_us = max(self.windows)


class _Program:
    """What the kernel is told of the frames of tiles, once; see ``kernels_tiles.read_windows``."""

    def __init__(self, frames: Sequence[_Frame]) -> None:
        hops: list[tuple[int, ...]] = []
        windows: list[tuple[int, ...]] = []
        wanted: list[tuple[int, ...]] = []
        self.aggregates: list[Aggregate] = []
        fields = [frame.hop.fields for frame in frames]
        slot = 0
        for frame, own in zip(frames, fields, strict=True):
            hop, first = frame.hop, len(windows)
            for window_us, aggregates in frame.windows.items():
                begin = len(wanted)
                wanted += [hop.program(aggregate) for aggregate in aggregates]
                self.aggregates += aggregates
                windows.append((window_us, begin, len(wanted)))
            end = slot + len(own.op)
            hops.append((hop.hop_us, hop.n_tiles, hop.width, slot, end, first, len(windows)))
            slot = end
        self._hops = np.array(hops, np.int64)
        self._windows = np.array(windows, np.int64)
        self._wanted = np.array(wanted, np.int64)
        self._fields = Fields(*map(np.concatenate, zip(*fields, strict=True)))

    def merged(
        self, rows: Sequence[bytes | None], at: Ints, frames: Ints, n_columns: int
    ) -> tuple[Ints, Array, Ints]:
        """Values (n, A) as bits, their statuses, and the newest event times (n,) of n reads.

        Args:
            rows: n heads, without texts, and then the chunks.
            at: (n,) the instants.
            frames: (n, 3 or more hops) where the chunks are; see the kernel.
            n_columns: source columns of the view.

        Raises:
            Corrupt: a row has another length than it should have.
        """
        from falaj.features.kernels_tiles import read_windows

        n, n_wanted, f = len(at), len(self.aggregates), self._fields
        raw = bytearray().join(filter(None, rows))
        words = np.frombuffer(raw, np.int64, len(raw) // _WORD)
        sizes = np.array([-1 if row is None else len(row) // _WORD for row in rows], np.int64)
        out, newest = np.empty((n, n_wanted), np.int64), np.empty(n, np.int64)
        codes = np.empty((n, n_wanted), np.uint8)
        if len(raw) % _WORD or not read_windows(
            words, sizes, at, frames, self._hops, self._windows, self._wanted,
            f.op, f.at, f.column, f.real, n_columns, out, codes, newest,
        ):  # fmt: skip
            raise Corrupt(
                "A row of a window view in the online store is cut short.",
                hint="Materialise the view again; see `falaj doctor`.",
            )
        return out, codes, newest


class _Keys:
    """What the keys of one generation of a view begin with."""

    def __init__(self, layout: TileLayout, frames: Sequence[_Frame], generation: int) -> None:
        self.generation = generation
        (self.head,) = layout.head_keys(generation, [b""])
        self.hops: list[_Hop] = [
            (
                one.hop.hop_us, one.hop.n_tiles, one.longest_us,
                _Prefixes(layout.hop_prefix(generation, one.number, by_value=one.by_value)),
            )
            for one in frames
        ]  # fmt: skip


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
        self.n_columns = len(storage.layout.columns)
        self.has_texts = any(dtype is DType.STRING for _, dtype in storage.layout.columns)
        tiles: list[_Frame] = []
        counting: list[_Frame] = []
        for number, hop in enumerate(storage.layout.hops):
            for into, some in ((tiles, hop.aggregates), (counting, hop.by_value)):
                wanted = [one for one in some if one.name in self.names]
                if wanted:
                    into.append(_Frame(number, hop, wanted, by_value=into is counting))
        self.tiles, self.counting = tiles, counting
        self.keys = _Keys(storage.layout, [*tiles, *counting], 0)
        self.program = _Program(tiles) if tiles else None
        if self.program is not None:
            nobody = np.zeros(0, np.int64)  # loads or compiles the kernel before the first read
            self.program.merged([], nobody, nobody.reshape(0, 3 * len(tiles)), self.n_columns)
            self._columns = [(self.names[one.name], one.output) for one in self.program.aggregates]
            self._own_places = [self.places[one.name] for one in self.program.aggregates]

    def of_generation(self, generation: int) -> None:
        """Read this generation from now on."""
        self.keys = _Keys(self.storage.layout, [*self.tiles, *self.counting], generation)

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
        return Asked(self, keys, at_us)

    def put(self, into: Assembly, there: list[int], out: Ints, codes: Array) -> None:
        """Put the aggregates of tiles, (n, A) of the entities of some rows, into columns."""
        m = len(into.codes)
        if len(there) == m:
            into.codes[:, self._own_places] = codes
        else:
            some, out = out, np.zeros((m, out.shape[1]), np.int64)
            out.view(np.float64)[:, [dtype is DType.FLOAT64 for _, dtype in self._columns]] = np.nan
            out[there] = some
            into.codes[np.ix_(there, self._own_places)] = codes
        numbers = out.view(np.float64)
        for place, (name, dtype) in enumerate(self._columns):
            column = numbers[:, place] if dtype is DType.FLOAT64 else out[:, place]
            into.values[name] = column.astype(np.bool_) if dtype is DType.BOOL else column


class Asked:
    """What one read needs of the view: ``keys`` whose rows are to be read."""

    def __init__(
        self, reading: WindowReading, entities: Sequence[bytes | None], at_us: int | Ints
    ) -> None:
        self._reading, self._own = reading, reading.keys
        self._there = [i for i, entity in enumerate(entities) if entity is not None]
        named = [entity for entity in entities if entity is not None]
        self._at: list[int] = (
            [at_us] * len(named) if isinstance(at_us, int) else at_us[self._there].tolist()
        )
        head, hops = self._own.head, self._own.hops
        n_tiles = len(reading.tiles)
        self.keys = [reading.storage.layout.mark_key, *[head + entity for entity in named]]
        self._frames = self._framed(named, hops[:n_tiles])
        self._counting_at = len(self.keys)
        self._counting = self._framed(named, hops[n_tiles:]) if reading.counting else self._frames

    def _framed(self, named: Sequence[bytes], hops: Sequence[_Hop]) -> Ints:
        """Add the keys of the chunks of some hops; (n, 3 hops) as the kernel takes it."""
        keys, told = self.keys, list[int]()
        for entity, at in zip(named, self._at, strict=True):
            for hop_us, n_tiles, longest_us, prefixes in hops:
                first = (at - longest_us) // hop_us // n_tiles
                end = (at - 1) // hop_us // n_tiles + 1
                told += (first, len(keys) - 1, end - first)
                keys += [prefixes[number] + entity for number in range(first, end)]
        return np.array(told, np.int64).reshape(len(named), 3 * len(hops))

    def fill(self, into: Assembly, rows: Sequence[bytes | None]) -> bool:
        """Put the features into columns; False if other keys have to be read: the view has
        been rebuilt."""
        reading = self._reading
        generation = Mark.of(rows[0]).generation
        if generation != self._own.generation:
            reading.of_generation(generation)
            return False
        end, then, layout = 1 + len(self._there), self._counting_at, reading.storage.layout
        heads = layout.opened(self.keys[1:end], rows[1:end], heads=True)
        into.codes[:, reading.all_places] = MISSING
        at = np.array(self._at, np.int64)
        if reading.program is not None:
            fixed = layout.heads.without_texts(heads) if reading.has_texts else heads
            chunks = layout.opened(self.keys[end:then], rows[end:then])
            out, codes, newest = reading.program.merged(
                [*fixed, *chunks], at, self._frames, reading.n_columns
            )
            into.event_times[self._there, reading.view] = newest
            reading.put(into, self._there, out, codes)
        if reading.counting:
            self._counted(into, at, heads, layout.opened(self.keys[then:], rows[then:]))
        return True

    def _counted(
        self, into: Assembly, at: Ints, rows: list[bytes | None], chunks: list[bytes | None]
    ) -> None:
        """The features that are made of how often each value occurs."""
        reading, n = self._reading, len(self._there)
        heads = reading.storage.layout.heads.unpacked(rows)
        there = np.array([row is not None for row in rows], np.bool_)
        times = np.where(there, np.minimum(heads.newest[:, 0], at), NO_TIME)
        into.event_times[self._there, reading.view] = times
        ends = np.searchsorted(heads.owner, np.arange(n + 1)).tolist()
        exact = (at >= heads.horizon).tolist()
        frames = self._counting.tolist()
        for number, frame in enumerate(reading.counting):
            hop = frame.hop
            for aggregate in (one for some in frame.windows.values() for one in some):
                column = hop.column(aggregate)
                waiting = keys_of(heads.events, column, aggregate.dtype)
                values = np.full(n, None, np.object_)
                for i, t in enumerate(self._at):
                    _, place, k = frames[i][3 * number : 3 * number + 3]
                    place -= self._counting_at - 1
                    counts: list[Counts] = [
                        unpacked(row) for row in chunks[place : place + k] if row is not None
                    ]
                    first = first_tile(hop, t, aggregate.window_us)
                    last = (t - 1) // hop.hop_us if exact[i] else t // hop.hop_us - 1
                    own = within(counts, column, first, last)
                    if exact[i] and ends[i] < ends[i + 1]:
                        head: Counts = {(column, 0): own}
                        used = [
                            e
                            for e in range(ends[i], ends[i + 1])
                            if first * hop.hop_us < heads.events.event_time[e] <= t
                            and heads.events.recorded_at[e] <= t
                        ]
                        counted(head, column, [0] * len(used), [waiting[e] for e in used])
                        own = head[(column, 0)]
                    values[i] = answer(aggregate, own)
                self._put(into, aggregate, values, there)

    def _put(self, into: Assembly, aggregate: Aggregate, values: Array, there: Array) -> None:
        reading, m = self._reading, len(into.codes)
        name, place = reading.names[aggregate.name], reading.places[aggregate.name]
        valid = np.array([value is not None for value in values], np.bool_)
        whole = np.full(m, None, np.object_)
        if isinstance(aggregate.output, DType):
            null = np.nan if aggregate.output is DType.FLOAT64 else 0
            values = np.where(valid, values, null)
            whole = np.full(m, null, NUMPY[aggregate.output])
        whole[self._there] = values
        into.values[name] = whole
        into.codes[self._there, place] = np.where(valid, PRESENT, np.where(there, NULL, MISSING))
