"""How far a stream's partition has been applied online: one row, written with the effects."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import msgspec

from falaj.features.ports import Merge
from falaj.kernel.errors import ErrorKind, FalajError

NEVER = -(1 << 63)
"""A watermark before the first event."""
_MARK = struct.Struct(">qq")
_MARKS = b"\0push\0"


class Overtaken(FalajError):
    """Another process has applied these records meanwhile; nothing was changed."""

    code = "overtaken"
    kind = ErrorKind.CONFLICT
    retryable = True


class Fed(msgspec.Struct, array_like=True, frozen=True):
    """A view that gets every record from an offset on.

    ``storage`` names the view's rows online. A view that was made when the stream had
    records already lacks those before ``since`` until it is materialised.
    """

    storage: bytes
    since: int


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """What has been applied of one partition.

    ``position`` is the offset of the next record; ``watermark_us`` the newest event time
    seen before it (UTC microseconds, ``NEVER`` at first). The counts are of rows since the
    online store was made; ``n_late`` counts an event once for each view that it was late
    for; ``n_erased`` are rows that nobody can open any more. ``appended_at`` is of the last
    record.
    """

    position: int = 0
    watermark_us: int = NEVER
    n_records: int = 0
    n_rows: int = 0
    n_late: int = 0
    n_dead: int = 0
    appended_at: int = 0
    fed: tuple[Fed, ...] = ()
    n_erased: int = 0


_decode = msgspec.msgpack.Decoder(Progress).decode
_encode = msgspec.msgpack.Encoder().encode


def progress_key(table: str, partition: int) -> bytes:
    """The key of a partition's row in the online store."""
    return b"\0stream\0" + struct.pack(">H", partition) + table.encode()


def landed_key(table: str, partition: int) -> bytes:
    """The key of the row that tells how much is in the lake; it may lag behind."""
    return b"\0landed\0" + struct.pack(">H", partition) + table.encode()


def progress_of(row: bytes | None) -> Progress | None:
    """The progress that a row tells; None if there is no row."""
    return None if row is None else _decode(row)


def encoded(progress: Progress) -> bytes:
    """The row that tells a progress."""
    return _encode(progress)


def advance(key: bytes, stored: bytes | None, progress: Progress) -> Merge:
    """The merge that moves a partition on, if its row is still the one that was read.

    Its ``change`` raises Overtaken otherwise, which undoes the whole write.
    """
    after = _encode(progress)

    def change(rows: Sequence[bytes | None]) -> list[bytes | None]:
        if rows[0] != stored:
            raise Overtaken("Another process has applied these events.", hint="Read on.")
        return [after]

    return Merge([key], change)


def mark_key(table: str, partition: int, mark: str) -> bytes:
    """The key of the row that remembers a push by its idempotency key."""
    text = f"push\0{table}\0{partition}\0{mark}".encode()
    return _MARKS + hashlib.blake2b(text, digest_size=24).digest()


def mark_row(offset: int, appended_at: int) -> bytes:
    """The row of a mark: which record it stands for, and since when (UTC microseconds)."""
    return _MARK.pack(offset, appended_at)


def marked(row: bytes) -> tuple[int, int]:
    """The offset and the instant of a mark's row."""
    offset, at = _MARK.unpack(row)
    return offset, at


def marks_prefix() -> bytes:
    """What the keys of all marks begin with."""
    return _MARKS
