"""Window aggregates online: tiles that are merged on write and read by one look-up.

A row of a window view holds, for one entity, behind its order: the *horizon*, then for
each hop the tiles that a read at or after the horizon can need, and then raw *head*
events later than the horizon. A tile ``k`` holds the partial aggregates of the events
with ``k h < event_time <= (k+1) h``. Beside each tile stands its *suffix*: the merge of
it and all newer tiles, so that a read finds its first tile by bisection and is done.

The horizon is ``min(time of the write, newest event) - head`` of the view and never moves
back. What is promised: a read at any ``t`` not before the horizon, and not before the
greatest ``recorded_at`` of what was pushed, gives what the offline execution gives. Before
the horizon a read leaves out each tile that ends after ``t``, so that it never counts an
event of the future, but may miss up to one hop at the head and, farther back, tiles that
were let go.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Ints, Values
from falaj.features.finishing import field_places, finisher, folder, plain
from falaj.features.hops import EVER, Hop, Kept, places
from falaj.features.model import Aggregate, Function
from falaj.features.order import ORDER_BYTES, order_of, times_of
from falaj.features.partials import State
from falaj.features.types import DType
from falaj.features.views import Columns, ViewPlan, column_key, finished


class TileCodec:
    """Merges events into the rows of one window view, and reads aggregates from a row."""

    def __init__(self, plan: ViewPlan, *, head_us: int = 0) -> None:
        groups: dict[int, list[Aggregate]] = {}
        for aggregate in plan.view.aggregates:
            groups.setdefault(aggregate.hop_us, []).append(aggregate)
        self.hops = [Hop(hop, tuple(found)) for hop, found in groups.items()]
        self._head_us = head_us
        self._columns = list(plan.columns)
        self._header = struct.Struct("<q" + "I" * (len(self.hops) + 1))
        self._head_width = 2 + 2 * len(self._columns)
        codes = ("qd" if dtype is DType.FLOAT64 else "qq" for _, dtype in self._columns)
        self._head_record = struct.Struct("<qq" + "".join(codes))
        at = {column_key(*column): 2 + 2 * i for i, column in enumerate(self._columns)}
        self._onto = {
            aggregate.name: folder(hop, aggregate, at)
            for hop in self.hops
            for aggregate in hop.aggregates
        }
        self._readers = [self._reader(hop) for hop in self.hops]
        self.names = list(plan.outputs)

    # ── writing ──────────────────────────────────────────────────────────────────────

    def kept(self, events: Columns, event_time: Ints, recorded_at: Ints | None) -> Kept:
        """A view's events in the form that rows keep."""
        columns = {
            column_key(name, dtype): events.values(name, dtype) for name, dtype in self._columns
        }
        return Kept(event_time, event_time if recorded_at is None else recorded_at, columns)

    def merged(
        self, old: Sequence[bytes | None], owners: Ints, events: Kept, now_us: int
    ) -> list[bytes]:
        """The rows after these events.

        Args:
            old: the stored rows of some entities, None where there is none.
            owners: (n,) for each event which row of ``old`` it belongs to.
            events: n events in log order.
            now_us: the time of the write.
        """
        horizons, newest, tiles, heads = self._parsed(old)
        all_events = _joined(heads[1], events, self._columns)
        owner = np.concatenate([heads[0], owners])
        for row, event_time, recorded_at in zip(
            owners.tolist(), events.event_time.tolist(), events.recorded_at.tolist(), strict=True
        ):
            newest[row] = max(newest[row], (event_time, recorded_at))
        latest = np.array([times[0] for times in newest], np.int64)
        horizons = np.maximum(horizons, np.minimum(latest, now_us) - self._head_us)
        settled = all_events.event_time <= horizons[owner]
        done, done_owner = all_events.take(settled), owner[settled]
        parts = [
            self._tiled(hop, stored, done, done_owner, horizons)
            for hop, stored in zip(self.hops, tiles, strict=True)
        ]
        rest, rest_owner = all_events.take(~settled), owner[~settled]
        order = np.argsort(rest_owner, kind="stable")
        return self._written(
            newest, horizons, parts, rest_owner[order], self._raw(rest.take(order))
        )

    def _tiled(
        self,
        hop: Hop,
        stored: tuple[Ints, Ints, Ints],
        events: Kept,
        owner: Ints,
        horizons: Ints,
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """(owners, tile numbers, suffixes, tiles) of one hop, sorted by owner and number."""
        first = (horizons - hop.window_us) // hop.hop_us
        old_owner, old_number, old_tiles = stored
        lifted = hop.lifted(events, (events.event_time, events.recorded_at))
        owners = np.concatenate([old_owner, owner])
        numbers = np.concatenate([old_number, (events.event_time - 1) // hop.hop_us])
        states = [
            tuple(np.concatenate([a, b]) for a, b in zip(before, new, strict=True))
            for before, new in zip(hop.unpacked(old_tiles), lifted, strict=True)
        ]
        needed = np.flatnonzero(numbers >= first[owners])
        order = needed[np.lexsort((numbers[needed], owners[needed]))]
        owners, numbers = owners[order], numbers[order]
        place, final = places(owners, numbers)
        states = hop.merged([tuple(part[order] for part in state) for state in states], place)
        states = [tuple(part[final] for part in state) for state in states]
        owners, numbers = owners[final], numbers[final]
        back, _ = places(owners[::-1])
        suffixes = hop.merged([tuple(part[::-1] for part in state) for state in states], back)
        suffixes = [tuple(part[::-1] for part in state) for state in suffixes]
        return owners, numbers, hop.packed(suffixes), hop.packed(states)

    def _parsed(
        self, old: Sequence[bytes | None]
    ) -> tuple[Ints, list[tuple[int, int]], list[tuple[Ints, Ints, Ints]], tuple[Ints, Kept]]:
        n = len(old)
        horizons, newest = np.full(n, EVER, np.int64), [(EVER, EVER)] * n
        counts = np.zeros((n, len(self.hops) + 1), np.int64)
        numbers: list[list[bytes]] = [[] for _ in self.hops]
        tiles: list[list[bytes]] = [[] for _ in self.hops]
        heads: list[bytes] = []
        for row, stored in enumerate(old):
            if stored is None:
                continue
            newest[row] = times_of(stored)
            horizons[row], *here = self._header.unpack_from(stored, ORDER_BYTES)
            counts[row] = here
            at = ORDER_BYTES + self._header.size
            for i, hop in enumerate(self.hops):
                size, width = here[i] * 8, here[i] * 8 * len(hop.fields)
                numbers[i].append(stored[at : at + size])
                tiles[i].append(stored[at + size + width : at + size + 2 * width])
                at += size + 2 * width
            heads.append(stored[at:])
        found = []
        for i, hop in enumerate(self.hops):
            owner = np.repeat(np.arange(n), counts[:, i])
            matrix = np.frombuffer(b"".join(tiles[i]), np.int64).reshape(-1, len(hop.fields))
            found.append((owner, np.frombuffer(b"".join(numbers[i]), np.int64), matrix))
        head_owner = np.repeat(np.arange(n), counts[:, -1])
        return horizons, newest, found, (head_owner, self._unraw(b"".join(heads)))

    def _raw(self, events: Kept) -> Ints:
        columns = [events.event_time, events.recorded_at]
        for name, dtype in self._columns:
            column = events.values(name, dtype)
            bits = column.values
            if bits.dtype == np.bool_:
                bits = bits.astype(np.int64)
            columns += [column.valid.astype(np.int64), np.ascontiguousarray(bits).view(np.int64)]
        return np.stack(columns, axis=1)

    def _unraw(self, raw: bytes) -> Kept:
        matrix = np.frombuffer(raw, np.int64).reshape(-1, self._head_width)
        columns = {}
        for i, (name, dtype) in enumerate(self._columns):
            bits = np.ascontiguousarray(matrix[:, 3 + 2 * i])
            kind = NUMPY[dtype or DType.BOOL]
            values = bits.view(np.float64) if kind is np.float64 else bits.astype(kind)
            columns[column_key(name, dtype)] = Values(values, matrix[:, 2 + 2 * i] == 1)
        return Kept(matrix[:, 0].copy(), matrix[:, 1].copy(), columns)

    def _written(
        self,
        newest: Sequence[tuple[int, int]],
        horizons: Ints,
        parts: Sequence[tuple[Ints, Ints, Ints, Ints]],
        head_owner: Ints,
        head: Ints,
    ) -> list[bytes]:
        n = len(newest)
        cuts = [np.searchsorted(part[0], np.arange(n + 1)).tolist() for part in parts]
        head_cuts = np.searchsorted(head_owner, np.arange(n + 1)).tolist()
        raw = [
            (part[1].tobytes(), part[2].tobytes(), part[3].tobytes(), 8 * part[2].shape[1])
            for part in parts
        ]
        raw_head, width = head.tobytes(), 8 * self._head_width
        rows = []
        for row, horizon in enumerate(horizons.tolist()):
            counts = [cut[row + 1] - cut[row] for cut in cuts]
            counts.append(head_cuts[row + 1] - head_cuts[row])
            pieces = [order_of(*newest[row]), self._header.pack(horizon, *counts)]
            for cut, (numbers, suffixes, tiles, size) in zip(cuts, raw, strict=True):
                low, high = cut[row], cut[row + 1]
                pieces += [
                    numbers[low * 8 : high * 8],
                    suffixes[low * size : high * size],
                    tiles[low * size : high * size],
                ]
            pieces.append(raw_head[head_cuts[row] * width : head_cuts[row + 1] * width])
            rows.append(b"".join(pieces))
        return rows

    # ── reading ──────────────────────────────────────────────────────────────────────

    def read(self, row: bytes | None, at_us: int) -> dict[str, Any]:
        """The aggregates of one entity at an instant, None for null."""
        found: dict[str, Any] = {}
        if row is None:
            for _, _, _, finishers in self._readers:
                for name, _, finish in finishers:
                    found[name] = finish(None)
            return found
        horizon, *counts = self._header.unpack_from(row, ORDER_BYTES)
        if at_us < horizon:
            return self._read_before(row, at_us)
        at = ORDER_BYTES + self._header.size
        head = self._head(row, at, counts, at_us) if counts[-1] else None
        view = memoryview(row)
        for (hop_us, size, record, finishers), n in zip(self._readers, counts, strict=False):
            numbers = view[at : at + n * 8].cast("q")
            for name, window_us, finish in finishers:
                number = (at_us - window_us) // hop_us
                first = bisect_left(numbers, number)
                tile = record.unpack_from(row, at + n * 8 + first * size) if first < n else None
                if head:
                    after = number * hop_us
                    tile = self._onto[name](tile, [event for event in head if event[0] > after])
                found[name] = finish(tile)
            at += n * (8 + 2 * size)
        return found

    def _head(
        self, row: bytes, at: int, counts: Sequence[int], at_us: int
    ) -> list[tuple[Any, ...]]:
        """The events later than the horizon that were known at the instant."""
        for (_, size, _, _), n in zip(self._readers, counts, strict=False):
            at += n * (8 + 2 * size)
        events = self._head_record.iter_unpack(row[at:])
        return [event for event in events if event[0] <= at_us and event[1] <= at_us]

    def _reader(self, hop: Hop) -> tuple[int, int, struct.Struct, list[Any]]:
        codes = "".join("d" if kind is np.float64 else "q" for _, kind in hop.fields)
        record = struct.Struct("<" + codes)
        at = field_places(hop)
        finishers = [
            (aggregate.name, aggregate.window_us, finisher(aggregate, at))
            for aggregate in hop.aggregates
        ]
        return hop.hop_us, record.size, record, finishers

    def _read_before(self, row: bytes, at_us: int) -> dict[str, Any]:
        """Before the horizon: of the tiles, those that had ended by then."""
        _, _, tiles, _ = self._parsed([row])
        found: dict[str, Any] = {}
        for (_, numbers, matrix), hop in zip(tiles, self.hops, strict=True):
            for aggregate in hop.aggregates:
                used = numbers >= (at_us - aggregate.window_us) // hop.hop_us
                used &= (numbers + 1) * hop.hop_us <= at_us
                found[aggregate.name] = _finished_one(hop, aggregate, hop.unpacked(matrix[used]))
        return {name: found[name] for name in self.names}


def _finished_one(hop: Hop, aggregate: Aggregate, states: list[State]) -> Any:
    n = len(states[0][0])
    if not n:
        return 0 if aggregate.function is Function.COUNT else None
    done = hop.merged(states, np.arange(n))
    final = {
        slot.name: tuple(part[-1:] for part in state)
        for slot, state in zip(hop.slots, done, strict=True)
    }
    if aggregate.function is Function.LAST:
        event_time, _, value = final[Hop.slots_of(aggregate)[0].name]
        return None if event_time[0] == EVER else plain(aggregate, value[0].item())
    values, valid = finished(aggregate, final)
    return values[0].item() if valid[0] else None


def _joined(one: Kept, other: Kept, columns: Sequence[tuple[str, DType | None]]) -> Kept:
    joined = {}
    for name, dtype in columns:
        a, b = one.values(name, dtype), other.values(name, dtype)
        joined[column_key(name, dtype)] = Values(
            np.concatenate([a.values, b.values]), np.concatenate([a.valid, b.valid])
        )
    return Kept(
        np.concatenate([one.event_time, other.event_time]),
        np.concatenate([one.recorded_at, other.recorded_at]),
        joined,
    )
