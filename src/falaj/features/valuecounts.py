"""How often each value occurs, tile by tile: for distinct, topk and quantile, exactly.

Beside the tiles of fixed width a chunk has, where a view needs it, one row that tells for
each tile and column which values occurred and how often. Floats stand by their bits, with
one zero and one NaN.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from falaj.features.columns import Ints
from falaj.features.hops import Kept
from falaj.features.model import Aggregate, Function
from falaj.features.types import DType

Value = int | str
Counts = dict[tuple[int, int], dict[Value, int]]
"""By (column, tile): how often each value occurs."""
_NAN = struct.unpack("<q", struct.pack("<d", math.nan))[0]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, int, dict[Value, int]]]).decode


def unpacked(row: bytes | None) -> Counts:
    """What a row tells; None tells nothing."""
    return {} if row is None else {(c, t): values for c, t, values in _decode(row)}


def packed(counts: Counts) -> bytes:
    """The row that tells the counts."""
    return _encode([(column, tile, values) for (column, tile), values in counts.items()])


def keys_of(events: Kept, column: int, dtype: DType) -> list[Value | None]:
    """The value of each event in the form in which it is counted, None for null."""
    found: list[Value | None]
    if dtype is DType.STRING:
        found = events.texts[column].tolist()
    else:
        bits = events.bits[column]
        if dtype is DType.FLOAT64:
            numbers = bits.view(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
            bits = np.where(np.isnan(numbers), _NAN, numbers.view(np.int64))
        found = bits.tolist()
    valid = events.valid[column]
    if not valid.all():
        for i in np.flatnonzero(~valid).tolist():
            found[i] = None
    return found


def counted(into: Counts, column: int, tiles: Iterable[int], values: Iterable[Any]) -> None:
    """Count the values of events of one column in their tiles; None is not counted."""
    for tile, value in zip(tiles, values, strict=True):
        if value is not None:
            own = into.setdefault((column, tile), {})
            own[value] = own.get(value, 0) + 1


def within(counts: Iterable[Counts], column: int, first: int, last: int) -> dict[Value, int]:
    """The counts of one column over the tiles from first to last."""
    found: dict[Value, int] = {}
    for some in counts:
        for (own, tile), values in some.items():
            if own == column and first <= tile <= last:
                for value, n in values.items():
                    found[value] = found.get(value, 0) + n
    return found


def answer(aggregate: Aggregate, counts: Mapping[Value, int]) -> Any:
    """The value of an aggregate from counts, None where there is none."""
    if aggregate.function is Function.DISTINCT:
        return len(counts)
    if not counts:
        return None
    values = [(_shown(aggregate.dtype, value), n) for value, n in counts.items()]
    if aggregate.function is Function.TOPK:
        values.sort(key=lambda item: (-item[1], _rank(item[0])))
        return [value for value, _ in values[: aggregate.k]]
    values.sort(key=lambda item: _rank(item[0]))
    needed, so_far = math.ceil((aggregate.q or 1.0) * sum(n for _, n in values)), 0
    for value, n in values:
        so_far += n
        if so_far >= needed:
            return float(value)
    raise AssertionError("the counts of a quantile add up")


def _shown(dtype: DType, value: Any) -> Any:
    if dtype is DType.FLOAT64:
        return struct.unpack("<d", struct.pack("<q", value))[0]
    return bool(value) if dtype is DType.BOOL else value


def _rank(value: Any) -> tuple[bool, Any]:
    """NaN is the greatest."""
    nan = isinstance(value, float) and math.isnan(value)
    return nan, 0.0 if nan else value


def tiles_of(event_time: Ints, hop_us: int) -> Ints:
    """The number of the tile that each event belongs to: ``k h < event_time <= (k+1) h``."""
    return (event_time - 1) // hop_us
