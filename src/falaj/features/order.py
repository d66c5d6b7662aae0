"""The first 24 bytes of every stored row: its order.

They compare as (event_time, recorded_at, log position) do, byte by byte: a store replaces
a row only by one whose order is not less, and needs to know nothing else of it.
"""

from __future__ import annotations

import struct

import numpy as np

from falaj.features.columns import Ints

_SHIFT = 1 << 63
_ORDER = struct.Struct(">QQQ")
_TIMES = struct.Struct(">QQ")
ORDER_BYTES = _ORDER.size
ORDER_WORDS = ORDER_BYTES // 8
LEAST = -_SHIFT
"""Before every instant."""


def order_of(event_time: int, recorded_at: int, position: int = 0) -> bytes:
    """The order of a row: two instants in UTC microseconds, and a position in the log."""
    return _ORDER.pack(event_time + _SHIFT, recorded_at + _SHIFT, position)


def times_of(row: bytes) -> tuple[int, int]:
    """(event_time, recorded_at) of a stored row, UTC microseconds."""
    event_time, recorded_at = _TIMES.unpack_from(row)
    return event_time - _SHIFT, recorded_at - _SHIFT


def words_of(instants: Ints) -> Ints:
    """Instants as words of orders (as little-endian int64)."""
    return (instants ^ np.int64(LEAST)).byteswap()


def instants_of(words: Ints) -> Ints:
    """Words of orders (as little-endian int64) as instants, UTC microseconds."""
    return words.byteswap() ^ np.int64(LEAST)
