"""Sealed bytes of any size, written and read piece by piece in constant memory.

A stream has an id of its own, because the digest of what arrives is known only at its end.
Who keeps a stream remembers its id beside the digest; one that nobody remembers is what a
kill left, and ``sweep`` removes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, NotFound
from falaj.kernel.ids import is_id, new_id
from falaj.lake.ports import BlobStore, BlobWriter
from falaj.trust.ports import KeyService
from falaj.trust.sealing import SealingWriter, open_from, resealed, rewrapped, sealed_under

_MANY = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """A stream that has arrived whole; only code of the platform makes one."""

    stream: str
    digest: str
    """``sha256:`` and the hex digest of the bytes in clear."""
    size: int


class Incoming:
    """A stream that is being written. Used by one thread at a time."""

    def __init__(self, stream: str, target: BlobWriter, keys: KeyService) -> None:
        self.stream = stream
        self.size = 0
        """So many bytes have arrived."""
        self._target = target
        self._sealing = SealingWriter(target, keys, context=_context(stream))
        self._hash = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take bytes.

        Raises:
            LimitExceeded: the disk is full. Unavailable: the store does not answer.
        """
        self._hash.update(data)
        self._sealing.write(data)
        self.size += len(data)
        return len(data)

    def finish(self) -> Kept:
        """Bring all to stable storage; raises as ``write`` does."""
        self._sealing.close()
        self._target.finish()
        return Kept(self.stream, "sha256:" + self._hash.hexdigest(), self.size)

    def abandon(self) -> None:
        """Leave nothing behind; does nothing after ``finish``."""
        self._target.abandon()


class SealedStreams:
    """Streams in a blob store, each encrypted under a data key of its own.

    Args:
        store: where the sealed bytes lie.
        keys: wraps the data keys.
        prefix: of the keys in the store.

    Fulfils ``Rewrappable``; the items are the ids of the streams.
    """

    name = "streams"

    def __init__(self, store: BlobStore, keys: KeyService, *, prefix: str = "streams") -> None:
        self._store = store
        self._keys = keys
        self._prefix = prefix

    def begin(self) -> Incoming:
        """A new stream to be written; the caller calls ``finish`` or ``abandon``.

        Raises:
            LimitExceeded: the disk is full. Unavailable: the store does not answer.
        """
        stream = new_id("stream")
        target = self._store.create(self._key(stream))
        try:
            return Incoming(stream, target, self._keys)
        except BaseException:
            target.abandon()
            raise

    def read(self, stream: str, *, start: int = 0) -> Iterator[memoryview]:
        """The bytes from one of them on, in pieces of up to 1 MiB.

        Args:
            start: at most the number of bytes.

        Each piece is authentic and in its place, and valid until the next one is asked for.
        That none is missing shows when the iterator ends without an error.

        Raises:
            NotFound: there is no such stream. Corrupt: it was changed, cut or exchanged.
        """
        key = self._key(stream)
        opened: list[BinaryIO] = []

        def at(place: int) -> BinaryIO:
            opened.append(self._store.open(key, start=place))
            return opened[-1]

        try:
            with closing(self._store.open(key)) as head:
                context = _context(stream)
                pieces = open_from(head, at, self._keys, context=context, start=start)
                first = next(pieces, None)
            if first is not None:
                yield first
                yield from pieces
        finally:
            for file in opened:
                file.close()

    def fetch(self, kept: Kept) -> bytes:
        """All bytes, proven to be those of the digest.

        Raises:
            NotFound, Corrupt: as ``read``; Corrupt also if they have another digest.
        """
        whole = b"".join(map(bytes, self.read(kept.stream)))
        if "sha256:" + hashlib.sha256(whole).hexdigest() != kept.digest:
            raise Corrupt(
                f"The stream {kept.stream} does not hold {kept.digest}.",
                hint="Restore it from a backup; do not use it.",
            )
        return whole

    def drop(self, stream: str) -> None:
        """Delete a stream; no error if there is none."""
        self._store.delete(self._key(stream))

    def streams(self) -> Iterator[str]:
        """The ids of all streams."""
        for key in self._store.list(self._prefix + "/"):
            yield key.rpartition("/")[2]

    def sweep(self, known: Callable[[list[str]], set[str]], before: datetime) -> int:
        """Delete the streams that nobody knows; returns how many, with unfinished writes.

        Args:
            known: of some ids, those that somebody keeps.
            before: only streams that were begun before this instant, since one that has just
                arrived is not yet kept.
        """
        swept = self._store.sweep(before)
        waiting: list[str] = []
        for stream in self.streams():
            if is_id(stream, "stream") and begun_at(stream) < before:
                waiting.append(stream)
            if len(waiting) == _MANY:
                swept += self._swept(waiting, known)
                waiting = []
        return swept + self._swept(waiting, known)

    def _swept(self, streams: list[str], known: Callable[[list[str]], set[str]]) -> int:
        unknown = set(streams) - known(streams) if streams else set()
        for stream in unknown:
            self.drop(stream)
        return len(unknown)

    # As something to be rewrapped.

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``."""
        for stream in sorted(self.streams()):
            if stream > after:
                try:
                    with closing(self._store.open(self._key(stream))) as source:
                        key_id = sealed_under(source).key_id
                except NotFound:
                    continue  # it was dropped meanwhile
                except Corrupt:
                    key_id = ""
                yield stream, key_id

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        return self._replaced(item, rewrapped)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        return self._replaced(item, resealed)

    def _replaced(self, stream: str, copy: Callable[..., None]) -> bool:
        key = self._key(stream)
        try:
            source = self._store.open(key)
        except NotFound:
            return False
        target = self._store.create(key)
        try:
            with closing(source):
                copy(source, target, self._keys, context=_context(stream))
            if not self._store.exists(key):  # dropped meanwhile: it must not come back
                return False
            target.finish()
        finally:
            target.abandon()
        return True

    def _key(self, stream: str) -> str:
        if not is_id(stream, "stream"):
            raise InvalidInput(f"{stream[:80]!r} is no id of a stream.")
        return f"{self._prefix}/{stream[-2:]}/{stream}"


def begun_at(stream: str) -> datetime:
    """When a stream was begun: its id says it."""
    milliseconds = int(stream.partition("_")[2][:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def abandoned(incoming: Incoming) -> None:
    """Abandon a stream in a place where another error is on its way already."""
    with suppress(FalajError, OSError):
        incoming.abandon()


def _context(stream: str) -> str:
    return f"stream {stream}"
