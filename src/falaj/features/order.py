"""The first 24 bytes of every stored row: its order.

They compare as (event_time, recorded_at, log position) do, byte by byte: a store replaces
a row only by one whose order is not less, and needs to know nothing else of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_SHIFT = 1 << 63
_ORDER = struct.Struct(">QQQ")
ORDER_BYTES = _ORDER.size


def order_of(event_time: int, recorded_at: int, position: int = 0) -> bytes:
    """The order of a row: two instants in UTC microseconds, and a position in the log."""
    return _ORDER.pack(event_time + _SHIFT, recorded_at + _SHIFT, position)


def times_of(row: bytes) -> tuple[int, int]:
    """(event_time, recorded_at) of a stored row, UTC microseconds."""
    event_time, recorded_at, _ = _ORDER.unpack_from(row)
    return event_time - _SHIFT, recorded_at - _SHIFT


def orders(event_time: Sequence[int], recorded_at: Sequence[int]) -> list[bytes]:
    """The orders of n rows, at position 0."""
    pack = _ORDER.pack
    return [
        pack(event + _SHIFT, record + _SHIFT, 0)
        for event, record in zip(event_time, recorded_at, strict=True)
    ]
