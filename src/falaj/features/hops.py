"""The aggregates of a window view by length of tile: what each tile keeps, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.model import BY_VALUE, Aggregate, Function
from falaj.features.types import DType, Type
from falaj.features.views import column_key, slots_of

EVER = -(1 << 62)
"""Before every instant."""

_MOST_CHUNKS = 16
_FEWEST_TILES, _MOST_TILES = 16, 1024


class Fields(NamedTuple):
    """The slots of a tile, as the kernels take them; (slots,) each."""

    op: Ints
    at: Ints
    column: Ints
    real: Array


@dataclass(frozen=True)
class Kept:
    """Events in the form in which heads and tiles keep them.

    ``bits`` (columns, n) int64: numbers, floats by their bits; ``valid`` of the same shape;
    ``texts`` by column, objects, of string columns.
    """

    event_time: Ints
    recorded_at: Ints
    bits: Ints
    valid: Array
    texts: dict[int, Array]

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, rows: Array) -> Kept:
        """Some of the events, by index or mask."""
        return Kept(
            self.event_time[rows],
            self.recorded_at[rows],
            np.ascontiguousarray(self.bits[:, rows]),
            np.ascontiguousarray(self.valid[:, rows]),
            {column: texts[rows] for column, texts in self.texts.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Kept]) -> Kept:
        """Events after events."""
        first = parts[0]
        return cls(
            np.concatenate([part.event_time for part in parts]),
            np.concatenate([part.recorded_at for part in parts]),
            np.concatenate([part.bits for part in parts], axis=1),
            np.concatenate([part.valid for part in parts], axis=1),
            {c: np.concatenate([part.texts[c] for part in parts]) for c in first.texts},
        )


class Hop:
    """The aggregates of a view that share a length of tile.

    Args:
        hop_us: that length.
        aggregates: the aggregates; those by value are kept apart.
        columns: the source columns of the view, in the order in which events keep them.
    """

    def __init__(
        self,
        hop_us: int,
        aggregates: Sequence[Aggregate],
        columns: Sequence[tuple[str, Type | None]],
    ) -> None:
        self.hop_us = hop_us
        self.aggregates = [a for a in aggregates if a.function not in BY_VALUE]
        self.by_value = [a for a in aggregates if a.function in BY_VALUE]
        self.window_us = max(aggregate.window_us for aggregate in aggregates)
        n_tiles, most = _FEWEST_TILES, -(-self.window_us // hop_us) + 1
        while n_tiles * _MOST_CHUNKS < most and n_tiles < _MOST_TILES:
            n_tiles *= 2
        self.n_tiles = n_tiles
        """Tiles of a chunk, so that a window is made of few chunks."""
        self._columns = {column_key(*column): i for i, column in enumerate(columns)}

    def column(self, aggregate: Aggregate) -> int:
        """The place of an aggregate's column; -1 if it counts events."""
        if aggregate.column is None:
            return -1
        counts = aggregate.function is Function.COUNT
        return self._columns[column_key(aggregate.column, None if counts else aggregate.dtype)]

    @cached_property
    def counted(self) -> dict[int, DType]:
        """The columns of which values are counted, by place, with their types."""
        return {self.column(aggregate): aggregate.dtype for aggregate in self.by_value}

    @cached_property
    def _layout(self) -> tuple[Fields, dict[str, int], int]:
        from falaj.features import kernels_tiles as kernels

        ops = {
            "count": kernels.COUNT, "sum": kernels.SUM, "min": kernels.MIN,
            "max": kernels.MAX, "moments": kernels.MOMENTS,
        }  # fmt: skip
        places: dict[str, int] = {}
        op, at, column, real, width = [], [], [], [], 0
        for aggregate in self.aggregates:
            where = self.column(aggregate)
            kinds = [(slot.name, slot.partial.name) for slot in slots_of(aggregate)]
            if aggregate.function is Function.LAST:
                kinds = [(_last_name(aggregate), "last")]
            for name, kind in kinds:
                if name in places:
                    continue
                places[name] = width
                op.append(ops.get(kind, kernels.LAST))
                at.append(width)
                column.append(where)
                real.append(where >= 0 and aggregate.dtype is DType.FLOAT64)
                width += 3 if kind in ("moments", "last") else 1
        fields = Fields(
            np.array(op, np.int64), np.array(at, np.int64), np.array(column, np.int64),
            np.array(real, np.bool_),
        )  # fmt: skip
        return fields, places, width

    @property
    def fields(self) -> Fields:
        """The slots of a tile."""
        return self._layout[0]

    @property
    def width(self) -> int:
        """The fields of a tile."""
        return self._layout[2]

    @property
    def words(self) -> int:
        """The fields of a chunk."""
        return self.n_tiles * self.width

    def empty(self, n_tiles: int) -> Ints:
        """The fields of tiles that hold nothing."""
        from falaj.features import kernels_tiles as kernels

        ints = np.zeros(n_tiles * self.width, np.int64)
        f = self.fields
        if len(ints):
            kernels.fill_empty(ints, ints.view(np.float64), self.width, f.op, f.at, f.real)
        return ints

    def program(self, aggregate: Aggregate) -> tuple[int, int, int, int]:
        """How an aggregate is finished: what it is, the field of its count, the first field of
        its value, and 1 if it is float64; see ``kernels_tiles.read_windows``."""
        from falaj.features import kernels_tiles as kernels

        places, function = self._layout[1], aggregate.function
        real = int(aggregate.output is DType.FLOAT64)
        if function is Function.LAST:
            return kernels.LAST, 0, places[_last_name(aggregate)], real
        at = {slot.partial.name: places[slot.name] for slot in slots_of(aggregate)}
        kind, partial = {
            Function.COUNT: (kernels.COUNT, "count"), Function.SUM: (kernels.SUM, "sum"),
            Function.MEAN: (kernels.MEAN, "sum"), Function.STD: (kernels.MOMENTS, "moments"),
            Function.MIN: (kernels.MIN, "min"), Function.MAX: (kernels.MAX, "max"),
        }[function]  # fmt: skip
        return kind, at["count"], at[partial], real


def _last_name(aggregate: Aggregate) -> str:
    return f"last:{column_key(aggregate.column or '', aggregate.dtype)}"
