"""The aggregates of a window view by length of tile: what each tile keeps, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from falaj.features.columns import NUMPY, Array, Ints, Values
from falaj.features.model import Aggregate, Function
from falaj.features.partials import MAX, MIN, MOMENTS, Partial, State, running
from falaj.features.types import DType
from falaj.features.views import Columns, Slot, column_key, slot_values, slots_of

EVER = -(1 << 62)
"""Before every instant: the horizon of a row that does not exist yet."""


def _later(one: State, other: State) -> State:
    newer = (other[0] > one[0]) | ((other[0] == one[0]) & (other[1] >= one[1]))
    return tuple(np.where(newer, b, a) for a, b in zip(one, other, strict=True))


def _no_lift(values: Array, valid: Array) -> State:
    raise NotImplementedError("a last value is lifted with its times, in Hop.lifted")


LAST = Partial("last", ("event_time", "recorded_at", "value"), _no_lift, _later)


@dataclass(frozen=True)
class Kept:
    """Events in the numpy form in which rows keep them."""

    event_time: Ints
    recorded_at: Ints
    columns: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.event_time)

    def values(self, column: str, dtype: DType | None) -> Values:
        """One column."""
        return self.columns[column_key(column, dtype)]

    def take(self, rows: Array) -> Kept:
        """Some of the events, by index or mask."""
        columns = {
            name: Values(column.values[rows], column.valid[rows])
            for name, column in self.columns.items()
        }
        return Kept(self.event_time[rows], self.recorded_at[rows], columns)


@dataclass(frozen=True)
class Hop:
    """The aggregates of a view that share a length of tile."""

    hop_us: int
    aggregates: tuple[Aggregate, ...]

    @cached_property
    def window_us(self) -> int:
        """The longest window."""
        return max(aggregate.window_us for aggregate in self.aggregates)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """What each tile keeps, in order."""
        found = {slot.name: slot for a in self.aggregates for slot in self.slots_of(a)}
        return tuple(found.values())

    @staticmethod
    def slots_of(aggregate: Aggregate) -> list[Slot]:
        """What one aggregate needs of a tile."""
        if aggregate.function is Function.LAST:
            return [Slot(LAST, aggregate.column, aggregate.dtype)]
        return slots_of(aggregate)

    @cached_property
    def fields(self) -> tuple[tuple[str, Any], ...]:
        """(slot name, numpy type) of each eight-byte field of a tile."""
        return tuple((slot.name, kind) for slot in self.slots for kind in _types(slot))

    def lifted(self, events: Columns, times: tuple[Ints, Ints]) -> list[State]:
        """The state of each event alone, for every slot."""
        states: list[State] = []
        for slot in self.slots:
            values, valid = slot_values(slot, events)
            if slot.partial is LAST:
                event_time = np.where(valid, times[0], EVER)
                states.append((event_time, times[1], values.astype(_types(slot)[2])))
            else:
                states.append(slot.partial.lift(values, valid))
        return states

    def packed(self, states: Sequence[State]) -> Ints:
        """States as an int64 matrix (n, fields), floats by their bits."""
        flat = [part for state in states for part in state]
        columns = [
            np.ascontiguousarray(part.astype(kind, copy=False)).view(np.int64)
            for part, (_, kind) in zip(flat, self.fields, strict=True)
        ]
        return np.stack(columns, axis=1)

    def unpacked(self, matrix: Ints) -> list[State]:
        """The states of an int64 matrix."""
        columns = [
            np.ascontiguousarray(matrix[:, i]).view(kind) for i, (_, kind) in enumerate(self.fields)
        ]
        states, at = [], 0
        for slot in self.slots:
            width = len(slot.partial.fields)
            states.append(tuple(columns[at : at + width]))
            at += width
        return states

    def merged(self, states: Sequence[State], place: Ints) -> list[State]:
        """Each element merged with those before it in its segment, for every slot."""
        return [
            running(slot.partial, state, place)
            for slot, state in zip(self.slots, states, strict=True)
        ]


def _types(slot: Slot) -> tuple[Any, ...]:
    kind = np.int64 if slot.dtype in (None, DType.BOOL) else NUMPY[slot.dtype or DType.INT64]
    if slot.partial is LAST:
        return (np.int64, np.int64, kind)
    if slot.partial in (MIN, MAX):
        return (kind,)
    if slot.partial is MOMENTS:
        return (np.float64,) * 3
    return (np.int64,) if slot.partial.name == "count" else (np.float64,)


def places(*keys: Ints) -> tuple[Ints, Array]:
    """Position of each element in its run of equal keys, and True at each run's last."""
    n = len(keys[0])
    new = np.ones(n, np.bool_)
    if n:
        new[1:] = False
        for key in keys:
            new[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, n))
    return np.arange(n) - np.repeat(starts, sizes), np.append(new[1:], True)[:n]
