"""Merging events into the rows of a window view, all entities of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.entitykeys import sliced
from falaj.features.heads import Heads
from falaj.features.hops import EVER, Hop, Kept
from falaj.features.ports import Merge
from falaj.features.tiles import Mark, TileLayout, chunk_of, first_tile, words
from falaj.features.valuecounts import counted, keys_of, packed, tiles_of, unpacked

Rows = Sequence[bytes | None]


@dataclass(frozen=True)
class Batch:
    """Events that are to be merged.

    ``entities`` are the keys of n entities, sorted; ``owner`` says whose each event is;
    ``now_us`` is the time of the write.
    """

    entities: Sequence[bytes]
    owner: Ints
    events: Kept
    now_us: int


@dataclass(frozen=True)
class _Chunks:
    """The chunks of one hop that a merge changes: their keys, and of each settled event its
    tile's place among the tiles of all chunks (-1: in none, it is too old)."""

    hop: Hop
    keys: list[bytes]
    numbers: Ints
    place: Ints
    by_value: bool


@dataclass(frozen=True)
class _Planned:
    heads: Heads
    settled: Kept
    chunks: list[_Chunks]
    gone: list[bytes]

    @property
    def keys(self) -> list[bytes]:
        """The rows besides heads that are read and changed."""
        return [key for chunks in self.chunks for key in chunks.keys] + self.gone


class TileMerge:
    """One batch as a merge: reads the mark and the heads, then the chunks that those name.

    Args:
        layout: of the view.
        batch: the events.
        marked: what the batch does to the view's mark; None says that it is in already, and
            what it raises undoes the write.
        expected: the generation to read at once; another one costs one more reading.
    """

    def __init__(
        self,
        layout: TileLayout,
        batch: Batch,
        marked: Callable[[Mark], tuple[Mark, int] | None],
        expected: int,
    ) -> None:
        self._layout = layout
        self._batch = batch
        self._marked = marked
        self._expected = expected
        self._guessed = layout.head_keys(expected, batch.entities)
        self._last: tuple[Rows, _Planned] | None = None

    def merge(self) -> Merge:
        """The merge."""
        return Merge([self._layout.mark_key, *self._guessed], self.change, self.more)

    def _heads(self, stored: Rows, generation: int) -> tuple[list[bytes], Rows, int]:
        """The keys of the heads, their rows, and one past the last of these."""
        n = len(self._batch.entities)
        if generation == self._expected:
            return self._guessed, stored[1 : 1 + n], 1 + n
        keys = self._layout.head_keys(generation, self._batch.entities)
        return keys, stored[1 + n : 1 + 2 * n], 1 + 2 * n

    def more(self, stored: Rows) -> Sequence[bytes]:
        """Which further rows are needed."""
        marked = self._marked(Mark.of(stored[0]))
        if marked is None:
            return []
        keys, heads, end = self._heads(stored, marked[1])
        if len(stored) < end:
            return keys
        return self._planned(keys, heads, marked[1]).keys if len(stored) == end else []

    def change(self, stored: Rows) -> list[bytes | None]:
        """The rows after these events."""
        marked = self._marked(Mark.of(stored[0]))
        if marked is None:
            return list(stored)
        mark, generation = marked
        keys, heads, end = self._heads(stored, generation)
        planned = self._planned(keys, heads, generation)
        layout = self._layout
        rows: list[bytes | None] = [mark.row(), *stored[1 : end - len(keys)]]
        rows += layout.closed(keys, layout.heads.packed(planned.heads), heads=True)
        at = end
        for chunks in planned.chunks:
            before = layout.opened(chunks.keys, stored[at : at + len(chunks.keys)])
            merged = _counts if chunks.by_value else _tiles
            rows += layout.closed(chunks.keys, merged(chunks, before, planned.settled))
            at += len(chunks.keys)
        rows += [None] * len(planned.gone)
        return rows

    def _planned(self, keys: Sequence[bytes], rows: Rows, generation: int) -> _Planned:
        if self._last is not None and self._last[0] == rows:
            return self._last[1]
        from falaj.features.kernels_tiles import latest_times

        layout, batch = self._layout, self._batch
        before = layout.heads.unpacked(layout.opened(keys, rows, heads=True))
        events, owner = batch.events, batch.owner
        newest = before.newest
        latest_times(owner, events.event_time, events.recorded_at, newest)
        horizon = np.maximum(
            before.horizon, np.minimum(newest[:, 0], batch.now_us) - layout.head_us
        )
        if len(before.owner):
            events = Kept.joined([before.events, events])
            owner = np.concatenate([before.owner, owner])
        done = events.event_time <= horizon[owner]
        if done.all():
            settled, whose = events, owner
            waiting, waits_for = events.take(owner[:0]), owner[:0]
        else:
            settled, whose = events.take(done), owner[done]
            waits_for = owner[~done]
            order = np.argsort(waits_for, kind="stable")
            waiting, waits_for = events.take(np.flatnonzero(~done)[order]), waits_for[order]
        chunks, gone = [], []
        for number, hop in enumerate(layout.hops):
            for by_value in (False, True):
                if not (hop.by_value if by_value else hop.aggregates):
                    continue
                prefix = layout.hop_prefix(generation, number, by_value=by_value)
                tile = tiles_of(settled.event_time, hop.hop_us)
                needed = tile >= first_tile(hop, horizon)[whose]
                chunks.append(
                    _chunks(layout, hop, prefix, batch.entities, whose, tile, needed, by_value)
                )
                gone += _gone(layout, hop, prefix, batch.entities, before.horizon, horizon)
        heads = Heads(newest, horizon, waits_for, waiting)
        self._last = (rows, _Planned(heads, settled, chunks, gone))
        return self._last[1]


def _chunks(
    layout: TileLayout,
    hop: Hop,
    prefix: bytes,
    entities: Sequence[bytes],
    owner: Ints,
    tile: Ints,
    needed: Array,
    by_value: bool,
) -> _Chunks:
    number = chunk_of(hop, tile)
    kept = number[needed]
    if not len(kept):
        return _Chunks(hop, [], kept, np.full(len(tile), -1), by_value)
    least, n = int(kept.min()), len(entities)
    span = int(kept.max()) - least + 1
    code = (number - least) * n + owner  # by time, and then by key
    if n * span <= 8 * len(tile) + 65_536:
        there = np.zeros(n * span, np.bool_)
        there[code[needed]] = True
        found = np.flatnonzero(there)
        rank = np.cumsum(there) - 1
        index = rank[np.where(needed, code, 0)]
    else:
        found = np.unique(code[needed])
        index = np.searchsorted(found, code)
    numbers = found // n + least
    keys = layout.chunk_keys(
        prefix, numbers.tolist(), map(entities.__getitem__, (found % n).tolist())
    )
    place = np.where(needed, index * hop.n_tiles + tile - number * hop.n_tiles, -1)
    return _Chunks(hop, keys, numbers, place, by_value)


def _gone(
    layout: TileLayout,
    hop: Hop,
    prefix: bytes,
    entities: Sequence[bytes],
    before: Ints,
    horizon: Ints,
) -> list[bytes]:
    """The keys of chunks that stood before, and that no read from the horizon on needs."""
    there = before > EVER
    first = chunk_of(hop, first_tile(hop, np.where(there, before, 0)))
    end = np.minimum(
        chunk_of(hop, first_tile(hop, horizon)),
        chunk_of(hop, tiles_of(np.where(there, before, 0), hop.hop_us)) + 1,
    )
    n = np.where(there, np.maximum(end - first, 0), 0)
    owner = np.repeat(np.arange(len(entities)), n)
    if not len(owner):
        return []
    numbers = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(n) - n, n)
    return layout.chunk_keys(prefix, numbers.tolist(), map(entities.__getitem__, owner.tolist()))


def _tiles(chunks: _Chunks, before: Rows, events: Kept) -> list[bytes]:
    """Chunks of tiles with the events added."""
    from falaj.features.kernels_tiles import add_events

    if not chunks.keys:
        return []
    hop = chunks.hop
    ints = words(before, hop.empty(hop.n_tiles).tobytes())
    f = hop.fields
    starts = np.where(chunks.place >= 0, chunks.place * hop.width, -1)
    add_events(
        ints, ints.view(np.float64), starts, f.op, f.at, f.column, f.real, events.bits,
        events.bits.view(np.float64), events.valid, events.event_time, events.recorded_at,
    )  # fmt: skip
    return sliced(ints.reshape(-1, hop.words))


def _counts(chunks: _Chunks, before: Rows, events: Kept) -> list[bytes]:
    """Chunks of counted values with the events added."""
    hop = chunks.hop
    found = [unpacked(row) for row in before]
    used = np.flatnonzero(chunks.place >= 0)
    row = (chunks.place[used] // hop.n_tiles).tolist()
    tiles = tiles_of(events.event_time[used], hop.hop_us).tolist()
    for column, dtype in hop.counted.items():
        values = keys_of(events, column, dtype)
        for r, tile, e in zip(row, tiles, used.tolist(), strict=True):
            counted(found[r], column, [tile], [values[e]])
    return [packed(counts) for counts in found]


def applied(position: int) -> Callable[[Mark], tuple[Mark, int] | None]:
    """What a batch of a lake snapshot does to the mark; 0 is merged in any case."""

    def marked(mark: Mark) -> tuple[Mark, int] | None:
        if position and position <= mark.rebuilt:
            return None
        return replace(mark, applied=max(mark.applied, position)), mark.generation

    return marked
