"""The head row of an entity in a window view: where it stands, and what came too soon.

A head is its order (event time and recording of the newest event), the *horizon*, the
number of events that are later than the horizon, those events (event time, recording, and
for each source column whether it is there and its bits), and the texts of string columns.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from falaj.features.columns import NUMPY, Array, Ints
from falaj.features.entitykeys import sliced
from falaj.features.hops import EVER, Kept
from falaj.features.order import ORDER_WORDS, instants_of, order_of, words_of
from falaj.features.types import DType, Type
from falaj.features.views import Events, column_key

_WORDS = ORDER_WORDS + 2
_BYTES = 8 * _WORDS
_NONE = order_of(EVER, EVER) + struct.pack("<qq", EVER, 0)
_LOW = 0xFFFFFFFF
_N_EVENTS = struct.Struct("<q")


_NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Heads:
    """The heads of n entities.

    ``newest`` (n, 2) event time and recording of the newest event, ``horizon`` (n,), all
    UTC microseconds, ``EVER`` where there is none; ``owner`` (k,) ascending: whose each of
    the k waiting events is.
    """

    newest: Ints
    horizon: Ints
    owner: Ints
    events: Kept


class HeadCodec:
    """Packs and unpacks heads.

    Args:
        columns: the source columns of the view with their types.
    """

    def __init__(self, columns: Sequence[tuple[str, Type | None]]) -> None:
        self._columns = list(columns)
        self._texts = [i for i, (_, dtype) in enumerate(columns) if dtype is DType.STRING]
        self._width = 2 + 2 * len(columns)
        shape = len(columns), 0
        self._no_events = Kept(
            np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(shape, np.int64),
            np.zeros(shape, np.bool_), {i: np.zeros(0, np.object_) for i in self._texts},
        )  # fmt: skip

    def kept(self, events: Events) -> Kept:
        """A view's events in the form in which they are kept."""
        n = len(events)
        bits = np.zeros((len(self._columns), n), np.int64)
        valid = np.ones((len(self._columns), n), np.bool_)
        texts: dict[int, Array] = {}
        for i, (name, dtype) in enumerate(self._columns):
            if dtype is DType.STRING:
                array = events.columns[column_key(name, dtype)]
                texts[i] = np.array([*array.to_pylist(), None], np.object_)[:-1]
                valid[i] = array.is_valid().to_numpy(zero_copy_only=False)
                continue
            values = events.values(name, dtype if isinstance(dtype, DType) else None)
            valid[i] = values.valid
            if dtype is not None:
                into = bits[i].view(np.float64) if dtype is DType.FLOAT64 else bits[i]
                into[:] = values.values
        recorded = events.event_time if events.recorded_at is None else events.recorded_at
        return Kept(events.event_time, recorded, bits, valid, texts)

    def unpacked(self, rows: Sequence[bytes | None]) -> Heads:
        """The heads that rows tell; None is an entity that is not there yet."""
        fixed = b"".join([_NONE if row is None else row[:_BYTES] for row in rows])
        words = np.frombuffer(fixed, np.int64).reshape(-1, _WORDS)
        newest = np.stack([instants_of(words[:, 0]), instants_of(words[:, 1])], axis=1)
        counts = words[:, -1]
        if not counts.any():
            return Heads(newest, words[:, ORDER_WORDS].copy(), _NOBODY, self._no_events)
        some = np.flatnonzero(counts).tolist()
        size = 8 * self._width
        raw = []
        for i in some:
            row = rows[i] or b""
            raw.append(row[_BYTES : _BYTES + size * int(counts[i])])
        matrix = np.frombuffer(b"".join(raw), np.int64).reshape(-1, self._width)
        bits = matrix[:, 3::2].T.copy()
        texts: dict[int, Array] = {}
        for column in self._texts:
            found, at = [], 0
            for i in some:
                row, n = rows[i] or b"", int(counts[i])
                tail = row[_BYTES + size * n :]
                for place in bits[column, at : at + n].tolist():
                    start = place & _LOW
                    found.append(tail[start : start + (place >> 32)].decode())
                at += n
            texts[column] = np.array([*found, None], np.object_)[:-1]
        for column in self._texts:
            bits[column] = 0
        events = Kept(
            matrix[:, 0].copy(), matrix[:, 1].copy(), bits,
            np.ascontiguousarray(matrix[:, 2::2].T) != 0, texts,
        )  # fmt: skip
        owner = np.repeat(np.arange(len(rows)), counts)
        return Heads(newest, words[:, ORDER_WORDS].copy(), owner, events)

    def without_texts(self, rows: Sequence[bytes | None]) -> list[bytes | None]:
        """The rows without what is behind their events."""
        size = 8 * self._width
        return [
            row if row is None or len(row) < _BYTES
            else row[: _BYTES + size * max(0, _N_EVENTS.unpack_from(row, _BYTES - 8)[0])]
            for row in rows
        ]  # fmt: skip

    def packed(self, heads: Heads) -> list[bytes]:
        """The rows that tell the heads."""
        n = len(heads.horizon)
        counts = np.bincount(heads.owner, minlength=n)
        words = np.zeros((n, _WORDS), np.int64)
        words[:, 0], words[:, 1] = words_of(heads.newest[:, 0]), words_of(heads.newest[:, 1])
        words[:, ORDER_WORDS], words[:, -1] = heads.horizon, counts
        rows = sliced(words)
        if not len(heads.owner):
            return rows
        events = heads.events
        matrix = np.empty((len(events), self._width), np.int64)
        matrix[:, 0], matrix[:, 1] = events.event_time, events.recorded_at
        matrix[:, 2::2], matrix[:, 3::2] = events.valid.T, events.bits.T
        ends = np.cumsum(counts)
        for i in np.flatnonzero(counts).tolist():
            own = matrix[ends[i] - counts[i] : ends[i]]
            rows[i] += self._told(own, events, int(ends[i] - counts[i]))
        return rows

    def _told(self, own: Ints, events: Kept, first: int) -> bytes:
        tail = b""
        for column in self._texts:
            for k in range(len(own)):
                text = events.texts[column][first + k]
                encoded = b"" if text is None else text.encode()
                own[k, 3 + 2 * column] = len(tail) | len(encoded) << 32
                tail += encoded
        return own.tobytes() + tail


def python_value(dtype: DType, bits: int) -> int | float | bool:
    """A number as its bits tell it."""
    if dtype is DType.FLOAT64:
        found: float = struct.unpack("<d", struct.pack("<q", bits))[0]
        return found
    return bool(bits) if NUMPY[dtype] is np.bool_ else bits
