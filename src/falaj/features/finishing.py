"""From the suffix of one tile, and the events behind it, to the value of an aggregate.

The same arithmetic as in ``partials``, on single numbers: a read has no time for arrays.
A tile's fields are laid out as ``Hop.fields`` says; a head event is (event_time,
recorded_at, then for each column whether it is there and its value).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from falaj.features.hops import EVER, Hop
from falaj.features.model import Aggregate, Function
from falaj.features.types import DType
from falaj.features.views import column_key

Tile = tuple[Any, ...]
Fold = Callable[[Tile | None, Sequence[Tile]], Tile | None]


def field_places(hop: Hop) -> dict[str, int]:
    """Where the first field of each slot stands in a tile."""
    at: dict[str, int] = {}
    for i, (name, _) in enumerate(hop.fields):
        at.setdefault(name, i)
    return at


def finisher(aggregate: Aggregate, at: Mapping[str, int]) -> Callable[[Any], Any]:
    """Finishes one aggregate from the unpacked suffix of a tile (None: no tile)."""
    function = aggregate.function
    where = {slot.partial.name: at[slot.name] for slot in Hop.slots_of(aggregate)}
    if function is Function.LAST:
        i = where["last"]
        return lambda s: None if s is None or s[i] == EVER else plain(aggregate, s[i + 2])
    n = where["count"]
    if function is Function.COUNT:
        return lambda s: 0 if s is None else s[n]
    if function is Function.STD:
        k = where["moments"]
        return lambda s: None if s is None or not s[n] else (s[k + 2] / s[k]) ** 0.5
    i = where["sum" if function in (Function.SUM, Function.MEAN) else function.value]
    if function is Function.MEAN:
        return lambda s: None if s is None or not s[n] else s[i] / s[n]
    return lambda s: None if s is None or not s[n] else s[i]


def plain(aggregate: Aggregate, value: Any) -> Any:
    """A last value as its column has it: a bool is kept as a number."""
    return bool(value) if aggregate.dtype is DType.BOOL else value


def folder(hop: Hop, aggregate: Aggregate, columns: Mapping[str, int]) -> Fold:
    """Adds head events to a tile, as far as one aggregate reads it.

    Args:
        hop: lays out the tile.
        aggregate: which fields to bring up to date.
        columns: where each source column stands in a head event.
    """
    at = field_places(hop)
    width = len(hop.fields)
    where = {slot.partial.name: at[slot.name] for slot in Hop.slots_of(aggregate)}
    counts = aggregate.function is Function.COUNT
    column = (
        None
        if aggregate.column is None
        else columns[column_key(aggregate.column, None if counts else aggregate.dtype)]
    )

    def fold(tile: Tile | None, events: Sequence[Tile]) -> Tile | None:
        if column is not None:
            events = [event for event in events if event[column]]
        if not events:
            return tile
        fields = [None] * width if tile is None else list(tile)
        values = [event[column + 1] for event in events] if column is not None else []
        empty = tile is None or ("count" in where and not tile[where["count"]])
        if "count" in where:
            fields[where["count"]] = (0 if tile is None else tile[where["count"]]) + len(events)
        if "sum" in where:
            fields[where["sum"]] = sum(values, 0.0 if tile is None else tile[where["sum"]])
        for name, best in (("min", min), ("max", max)):
            if name in where:
                own = values if empty else [fields[where[name]], *values]
                nan = any(value != value for value in own)  # noqa: PLR0124  (true of NaN alone)
                fields[where[name]] = math.nan if nan else best(own)
        if "moments" in where:
            i = where["moments"]
            fields[i : i + 3] = _moments(
                (0.0, 0.0, 0.0) if tile is None else tile[i : i + 3], values
            )
        if "last" in where and column is not None:
            i = where["last"]
            last = (EVER, EVER, 0) if tile is None else tile[i : i + 3]
            for event in events:
                if event[:2] >= last[:2]:
                    last = (event[0], event[1], event[column + 1])
            fields[i : i + 3] = last
        return tuple(fields)

    return fold


def _moments(state: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Count, mean and squared deviations with more values (Welford 1962)."""
    n, mean, squares = state
    for value in values:
        n += 1.0
        delta = value - mean
        if n == 1.0:
            mean, squares = float(value), value * 0.0
        else:
            mean += delta / n
            squares += delta * delta * ((n - 1.0) / n) + value * 0.0
    return n, mean, squares
