"""Sealing bytes: encrypted so that no bit of them can be read, changed, cut or reordered.

The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár ("Online authenticated
encryption and its nonce-reuse misuse-resistance", CRYPTO 2015) over AES-256-GCM: the
plaintext is cut into frames of 1 MiB, and the nonce of each is ``prefix (7 bytes) ||
counter (4, big-endian) || 1 if it is the last one else 0``. Each blob has a data key of
its own, wrapped by the key service. A sealed blob is::

    magic "FLJ1" | frame bytes (u32) | prefix (7) | n (u16) | key id | m (u16) | wrapped key
    frame 0 + tag (16) | frame 1 + tag | … | last frame (0 to `frame bytes`) + tag

Every tag also covers the fixed part of the header and the context. The wrapped key
stands on its own tag, so that a rotation of key-encryption keys rewrites the header and
not the frames (``rewrapped``).
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.trust.ports import KeyService, WrappedKey

FRAME_BYTES = 2**20
TAG_BYTES = 16
_MAGIC = b"FLJ1"
_FIXED = struct.Struct(">4sI7s")
_LENGTH = struct.Struct(">H")
_SMALLEST_FRAME, _LARGEST_FRAME = 64, 16 * 2**20
_MOST_FRAMES = 2**32
_LONGEST_FIELD = 4096


_Piece: TypeAlias = bytes | memoryview
_Read: TypeAlias = Callable[[], _Piece]


class Source(Protocol):
    """Anything that gives bytes: a file, a socket's file, ``io.BytesIO``."""

    def read(self, size: int, /) -> bytes: ...


class Target(Protocol):
    """Anything that takes bytes."""

    def write(self, data: bytes | memoryview, /) -> object: ...


def seal_bytes(data: bytes, keys: KeyService, *, context: str) -> bytes:
    """The sealed form of ``data``; opens only with the same keys under the same context.

    ``context`` names what the bytes are (``"blob sha256:…"``): it is authenticated, not
    stored.
    """
    target = io.BytesIO()
    _seal(_slices(data, FRAME_BYTES), target, keys, context, FRAME_BYTES)
    return target.getvalue()


def open_bytes(sealed: bytes, keys: KeyService, *, context: str) -> bytes:
    """What was sealed; raises Corrupt if a bit of it or the context is another."""
    head = io.BytesIO(sealed)
    header = _Header.read(head)
    target = io.BytesIO()
    body = memoryview(sealed)[head.tell() :]
    _open(_slices(body, header.frame_bytes + TAG_BYTES), target, keys, context, header)
    return target.getvalue()


def seal_stream(
    source: Source,
    target: Target,
    keys: KeyService,
    *,
    context: str,
    frame_bytes: int = FRAME_BYTES,
) -> int:
    """Seal all of ``source`` into ``target`` in constant memory; returns the bytes read.

    Raises:
        InvalidInput: frames of that size are not supported.
    """
    if not _SMALLEST_FRAME <= frame_bytes <= _LARGEST_FRAME:
        raise InvalidInput(
            f"A frame has {_SMALLEST_FRAME} to {_LARGEST_FRAME} bytes, not {frame_bytes}."
        )
    return _seal(_reads(source, frame_bytes), target, keys, context, frame_bytes)


def open_stream(source: Source, target: Target, keys: KeyService, *, context: str) -> int:
    """Open what ``seal_stream`` made; returns the bytes written.

    Every frame that reaches ``target`` is authentic, but only the end shows that none is
    missing: whoever calls throws the target away when this raises.

    Raises:
        Corrupt: it was changed, cut, reordered, extended, or sealed for another context.
        UnknownKey: it was sealed under a key that the key service does not hold.
    """
    header = _Header.read(source)
    read = _reads(source, header.frame_bytes + TAG_BYTES)
    return _open(read, target, keys, context, header)


def open_pieces(source: Source, keys: KeyService, *, context: str) -> Iterator[memoryview]:
    """The frames of what ``seal_stream`` made, one by one; raises as ``open_stream`` does.

    Each is authentic and valid until the next one is asked for; that none is missing
    shows only when the iterator ends without an error.
    """
    header = _Header.read(source)
    read = _reads(source, header.frame_bytes + TAG_BYTES)
    return _opened(read, keys, context, header)


def open_from(
    source: Source,
    at: Callable[[int], Source],
    keys: KeyService,
    *,
    context: str,
    start: int,
) -> Iterator[memoryview]:
    """The bytes from number ``start`` on of what ``seal_stream`` made, in pieces.

    Args:
        source: the sealed blob from its beginning; only its header is read.
        at: gives the sealed blob from one of its bytes on.
        start: at most the number of bytes in clear.

    Each piece is authentic and in its place, and valid until the next one is asked for; that
    none is missing shows when the iterator ends. Raises as ``open_stream`` does.
    """
    header = _Header.read(source)
    number, skipped = divmod(start, header.frame_bytes)
    size = header.frame_bytes + TAG_BYTES
    if number and start % header.frame_bytes == 0:  # the last frame may be a full one
        number, skipped = number - 1, header.frame_bytes
    rest = at(len(header.encoded()) + number * size)
    for frame in _opened(_reads(rest, size), keys, context, header, number):
        if skipped < len(frame):
            yield frame[skipped:]
        skipped = 0


class SealingWriter:
    """Seals what is written to it, as ``seal_stream`` seals what it reads.

    ``close`` writes the last frame: without it, what was made does not open. Not safe from
    many threads.
    """

    def __init__(self, target: Target, keys: KeyService, *, context: str) -> None:
        self._target = target
        data_key = AESGCM.generate_key(256)
        wrapped = keys.wrap(data_key, context=_wrapping(context))
        self._header = _Header(FRAME_BYTES, os.urandom(7), wrapped)
        self._cipher = AESGCM(data_key)
        self._associated = self._header.associated(context)
        self._waiting = bytearray()
        self._number = 0
        target.write(self._header.encoded())

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take bytes; whole frames go on to the target."""
        rest = memoryview(data)
        while len(self._waiting) + len(rest) > FRAME_BYTES:  # ``close`` writes the last frame
            if not self._waiting:
                self._sealed(rest[:FRAME_BYTES], last=False)
                rest = rest[FRAME_BYTES:]
                continue
            missing = FRAME_BYTES - len(self._waiting)
            self._waiting += rest[:missing]
            rest = rest[missing:]
            self._sealed(self._waiting, last=False)
            self._waiting = bytearray()
        self._waiting += rest
        return len(data)

    def close(self) -> None:
        """Write what is left as the last frame."""
        self._sealed(self._waiting, last=True)
        self._waiting = bytearray()

    def _sealed(self, frame: bytearray | memoryview, *, last: bool) -> None:
        if self._number >= _MOST_FRAMES:
            raise InvalidInput("A sealed blob has at most 4,294,967,296 frames.")
        nonce = self._header.nonce(self._number, last)
        self._target.write(self._cipher.encrypt(nonce, frame, self._associated))
        self._number += 1


def sealed_under(source: Source) -> WrappedKey:
    """The wrapped data key of a sealed blob, to tell which key version it stands on."""
    return _Header.read(source).wrapped


def rewrapped(source: Source, target: Target, keys: KeyService, *, context: str) -> None:
    """Copy a sealed blob with its data key under the active key-encryption key.

    The frames are copied as they are. Raises as ``open_stream`` does for its header.
    """
    header = _Header.read(source)
    data_key = _data_key(header, keys, context)
    wrapped = keys.wrap(data_key, context=_wrapping(context))
    target.write(_Header(header.frame_bytes, header.prefix, wrapped).encoded())
    while chunk := source.read(FRAME_BYTES):
        target.write(chunk)


def resealed(source: Source, target: Target, keys: KeyService, *, context: str) -> None:
    """Copy a sealed blob under a new data key, in constant memory; no clear byte leaves it.

    Raises as ``open_stream`` does: then the target is thrown away.
    """
    header = _Header.read(source)
    read = _reads(source, header.frame_bytes + TAG_BYTES)
    frames = _opened(read, keys, context, header)
    _seal(lambda: bytes(next(frames, b"")), target, keys, context, header.frame_bytes)


@dataclass(frozen=True, slots=True)
class _Header:
    frame_bytes: int
    prefix: bytes
    wrapped: WrappedKey

    def encoded(self) -> bytes:
        key_id = self.wrapped.key_id.encode()
        return b"".join(
            (
                _FIXED.pack(_MAGIC, self.frame_bytes, self.prefix),
                _LENGTH.pack(len(key_id)),
                key_id,
                _LENGTH.pack(len(self.wrapped.value)),
                self.wrapped.value,
            )
        )

    @classmethod
    def read(cls, source: Source) -> _Header:
        fixed = _exactly(source, _FIXED.size)
        magic, frame_bytes, prefix = _FIXED.unpack(fixed)
        if magic != _MAGIC:
            raise _damaged("it does not begin as sealed data does")
        if not _SMALLEST_FRAME <= frame_bytes <= _LARGEST_FRAME:
            raise _damaged(f"it claims frames of {frame_bytes} bytes")
        key_id, value = _field(source), _field(source)
        try:
            return cls(frame_bytes, prefix, WrappedKey(key_id.decode("ascii"), value))
        except UnicodeDecodeError:
            raise _damaged("its key id is not text") from None

    def associated(self, context: str) -> bytes:
        fixed = _FIXED.pack(_MAGIC, self.frame_bytes, self.prefix)
        return hashlib.sha256(fixed + context.encode()).digest()

    def nonce(self, number: int, last: bool) -> bytes:
        return self.prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")


def _seal(read: _Read, target: Target, keys: KeyService, context: str, frame_bytes: int) -> int:
    data_key = AESGCM.generate_key(256)
    header = _Header(frame_bytes, os.urandom(7), keys.wrap(data_key, context=_wrapping(context)))
    target.write(header.encoded())
    cipher, associated = AESGCM(data_key), header.associated(context)
    total = 0
    room = bytearray(0)
    for number, last, frame in _frames(read, frame_bytes):
        size = len(frame) + TAG_BYTES
        if len(room) < size:
            room = bytearray(size)
        view = memoryview(room)[:size]
        cipher.encrypt_into(header.nonce(number, last), frame, associated, view)
        target.write(view)
        total += len(frame)
    return total


def _open(read: _Read, target: Target, keys: KeyService, context: str, header: _Header) -> int:
    total = 0
    for view in _opened(read, keys, context, header):
        target.write(view)
        total += len(view)
    return total


def _opened(
    read: _Read, keys: KeyService, context: str, header: _Header, first: int = 0
) -> Iterator[memoryview]:
    """The frames in clear; each is valid until the next one is asked for."""
    cipher = AESGCM(_data_key(header, keys, context))
    associated = header.associated(context)
    room = bytearray(0)
    for number, last, frame in _frames(read, header.frame_bytes + TAG_BYTES, first):
        size = len(frame) - TAG_BYTES
        if size < 0:
            raise _damaged(f"it ends inside frame {number}")
        if len(room) < size:
            room = bytearray(size)
        view = memoryview(room)[:size]
        try:
            cipher.decrypt_into(header.nonce(number, last), frame, associated, view)
        except InvalidTag:
            raise _damaged(f"frame {number} is not what was written") from None
        yield view


def _frames(read: _Read, size: int, first: int = 0) -> Iterator[tuple[int, bool, _Piece]]:
    """Cut a source into (number, is last, bytes); an empty source has one empty frame.

    A frame is valid until the next one is asked for.
    """
    frame = read()
    number = first
    while True:
        following = read() if len(frame) == size else b""
        last = not following
        yield number, last, frame
        if last:
            return
        frame = following
        number += 1
        if number == _MOST_FRAMES:
            raise InvalidInput("A sealed blob has at most 4,294,967,296 frames.")


def _slices(data: _Piece, size: int) -> _Read:
    view = memoryview(data)
    place = 0

    def read() -> _Piece:
        nonlocal place
        piece = view[place : place + size]
        place += size
        return piece

    return read


def _reads(source: Source, size: int) -> _Read:
    """Reads of exactly ``size`` bytes (less only at the end), into two buffers in turn."""
    into: Callable[[memoryview], int | None] | None = getattr(source, "readinto", None)
    if into is None:
        return lambda: _read_by_copy(source, size)
    buffers = [bytearray(size), bytearray(size)]

    def read() -> _Piece:
        buffers.reverse()
        view = memoryview(buffers[0])
        filled = 0
        while filled < size and (count := into(view[filled:])):
            filled += count
        return view[:filled]

    return read


def _read_by_copy(source: Source, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _data_key(header: _Header, keys: KeyService, context: str) -> bytes:
    data_key = keys.unwrap(header.wrapped, context=_wrapping(context))
    if len(data_key) != 32:
        raise _damaged("its data key is of another kind")
    return data_key


def _wrapping(context: str) -> str:
    return f"sealed {context}"


def _field(source: Source) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if not 0 < length <= _LONGEST_FIELD:
        raise _damaged("its header makes no sense")
    return _exactly(source, length)


def _exactly(source: Source, n_bytes: int) -> bytes:
    found = _read_by_copy(source, n_bytes)
    if len(found) != n_bytes:
        raise _damaged("it ends inside its header")
    return found


def _damaged(what: str) -> Corrupt:
    return Corrupt(
        f"Sealed data cannot be opened: {what}.",
        hint="It was changed, cut or belongs elsewhere; restore it from a backup.",
    )
