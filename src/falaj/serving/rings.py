"""A ring in shared memory: what a worker leaves there outlives the worker.

One process writes records, another takes them, without a lock between them: each moves a
counter of its own. A record counts from the moment in which the writer's counter has passed
it, so a writer that is killed in the middle leaves nothing half written behind.

The reader says which records it is about to write out (``planned``) before it does so. When
it is killed, the next reader takes exactly those again, under the same name; so whoever
keeps them by name keeps each once.

Rings lie in a folder of the machine's memory (``/dev/shm``), never on a disk: they hold rows
in clear. A lock on its file tells whether a ring's writer still lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from falaj.kernel.errors import Unavailable
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger

MEMORY = Path("/dev/shm")  # noqa: S108 - memory, in a folder of ours that nobody else may enter
READER, HOME, MISSING = "reader", "home", "missing"
"""Files beside the rings: the lock of who reads them, whose they are, and since when that home
is not there (see ``leftrings``)."""
_SUFFIX = ".ring"
_HEAD_BYTES = 4_096
_MAGIC = 0x46414C414A524E31  # "FALAJRN1"
_MAGIC_AT, _CAPACITY, _WRITTEN, _TAKEN, _PLANNED, _ROWS_IN, _ROWS_OUT = range(7)
_PREFIX = 8
_SKIP = 0xFFFFFFFF
"""In the place of a length: nothing more stands before the ring's end."""


def ring_folder(home: Path) -> Path:
    """Where the rings of a platform lie on this machine; made if it is missing.

    Args:
        home: of the platform; each has a folder of its own.

    Raises:
        Unavailable: there is no shared memory, or the folder belongs to somebody else.
    """
    folder = folder_of(home)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        ours = private(folder)
        if ours:
            _name(folder, str(home.resolve()))
    except OSError as error:
        raise Unavailable(
            f"There is no shared memory in {MEMORY}: {error.strerror}.",
            hint="The prediction log is written by the workers themselves.",
        ) from error
    if not ours:
        raise Unavailable(
            f"The folder {folder} is not ours alone.",
            hint="Find out who made it, and remove it.",
        )
    return folder


def folder_of(home: Path) -> Path:
    """Where the rings of a platform lie; it may be missing."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    return MEMORY / f"falaj-{os.getuid()}-{name}"


def private(folder: Path) -> bool:
    """True if a folder is ours, and nobody else may enter it."""
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return ours and not found.st_mode & 0o077


def _name(folder: Path, home: str) -> None:
    """Write down whose the folder is: when that home is gone, it may go too."""
    (folder / MISSING).unlink(missing_ok=True)
    named = folder / HOME
    if named.exists():
        return
    begun = folder / f"{HOME}-{os.getpid()}"
    handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, home.encode())
    finally:
        os.close(handle)
    begun.rename(named)


class Ring:
    """The writer's end; belongs to one thread.

    Args:
        folder: of ``ring_folder``.
        capacity: bytes that may wait for the reader.

    Raises:
        Unavailable: the memory cannot be had; it is set aside now, not when it is touched.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        capacity = -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
        self.path = folder / f"{new_id('segment').partition('_')[2]}{_SUFFIX}"
        begun = self.path.with_suffix(".begun")
        try:
            self._file = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.posix_fallocate(self._file, 0, _HEAD_BYTES + capacity)
            self._map = mmap.mmap(self._file, _HEAD_BYTES + capacity)
        except OSError as error:
            begun.unlink(missing_ok=True)
            raise Unavailable(
                f"No shared memory of {capacity} bytes for the prediction log: {error.strerror}.",
                hint="Give the machine (or the container) more /dev/shm, or set "
                "inference.log_bytes to less.",
            ) from error
        self._words = memoryview(self._map)[:_HEAD_BYTES].cast("Q")
        self._data = memoryview(self._map)[_HEAD_BYTES:]
        self._capacity = capacity
        self._written = 0
        self._words[_CAPACITY] = capacity
        self._words[_MAGIC_AT] = _MAGIC
        begun.rename(self.path)

    def put(self, record: bytes, n_rows: int) -> bool:
        """Add a record; False if there is no room until the reader has taken more."""
        size = len(record)
        need = (_PREFIX + size + 7) & ~7
        written, capacity = self._written, self._capacity
        at = written % capacity
        skipped = capacity - at if at + need > capacity else 0
        if written + skipped + need - self._words[_TAKEN] > capacity:
            return False
        data = self._data
        if skipped:
            data[at : at + 4] = _SKIP.to_bytes(4, "little")
            written += skipped
            at = 0
        data[at : at + 4] = size.to_bytes(4, "little")
        data[at + 4 : at + 8] = n_rows.to_bytes(4, "little")
        data[at + _PREFIX : at + _PREFIX + size] = record
        self._words[_ROWS_IN] += n_rows
        self._written = written = written + need
        self._words[_WRITTEN] = written  # from here on the record is there
        return True

    @property
    def n_waiting(self) -> int:
        """Rows that the reader has not taken yet."""
        return int(self._words[_ROWS_IN] - self._words[_ROWS_OUT])

    def close(self) -> None:
        """Say that nothing more comes; the reader removes the ring when it is empty."""
        self._words.release()
        self._data.release()
        self._map.close()
        os.close(self._file)


@dataclass(frozen=True)
class Taken:
    """Records that a reader is about to write out."""

    name: str
    """The same for the same records, however often they are taken."""
    records: Sequence[bytes]
    n_rows: int
    end: int


class RingReader:
    """The reader's end of one ring; one reader at a time (see ``readers_lock``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, os.fstat(self._file).st_size)
        self._words = memoryview(self._map)[:_HEAD_BYTES].cast("Q")
        self._data = memoryview(self._map)[_HEAD_BYTES:]
        if self._words[_MAGIC_AT] != _MAGIC:
            raise ValueError(f"{path} is no ring")
        self._capacity = int(self._words[_CAPACITY])

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return int(self._words[_ROWS_IN] - self._words[_ROWS_OUT])

    @property
    def pressed(self) -> bool:
        """True if more than a quarter of the room is taken."""
        return self._words[_WRITTEN] - self._words[_TAKEN] > self._capacity // 4

    @property
    def written(self) -> int:
        """Bytes that were ever written; ``taken`` are those that were ever taken."""
        return int(self._words[_WRITTEN])

    @property
    def taken(self) -> int:
        """Bytes that need not be taken again."""
        return int(self._words[_TAKEN])

    @property
    def empty(self) -> bool:
        """True if nothing waits."""
        return self._words[_WRITTEN] == self._words[_TAKEN]

    @property
    def crowded(self) -> bool:
        """True if more than three quarters of the room are taken."""
        return self._words[_WRITTEN] - self._words[_TAKEN] > self._capacity // 4 * 3

    def take(
        self, most_bytes: int = 8 << 20, *, pause: Callable[[], object] = lambda: None
    ) -> Taken | None:
        """The records to write out next; call ``done`` when they are kept.

        Those of an unfinished round, if there is one, are taken again just as they were.

        Args:
            most_bytes: of them together, but for one that is larger.
            pause: called behind each few hundred records.
        """
        words = self._words
        start, planned, written = int(words[_TAKEN]), int(words[_PLANNED]), int(words[_WRITTEN])
        end = planned if planned > start else written
        if end == start:
            return None
        records: list[bytes] = []
        n_rows, at = 0, start
        while at < end:
            if planned <= start and records and at - start >= most_bytes:
                break
            place = at % self._capacity
            size = int.from_bytes(self._data[place : place + 4], "little")
            if size == _SKIP:
                at += self._capacity - place
                continue
            n_rows += int.from_bytes(self._data[place + 4 : place + 8], "little")
            if len(records) & 255 == 255:
                pause()
            records.append(bytes(self._data[place + _PREFIX : place + _PREFIX + size]))
            at += (_PREFIX + size + 7) & ~7
        words[_PLANNED] = at
        return Taken(f"{self.path.stem}-{start:016x}-{at:016x}", records, n_rows, at)

    def done(self, taken: Taken) -> None:
        """Give the room of what was kept back to the writer."""
        self._words[_ROWS_OUT] += taken.n_rows
        self._words[_TAKEN] = taken.end

    @property
    def orphaned(self) -> bool:
        """True if the writer is gone: nothing more will come."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return True

    def remove(self) -> None:
        """Remove an empty ring whose writer is gone."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        self._words.release()
        self._data.release()
        self._map.close()
        os.close(self._file)


class Rings:
    """All rings of a folder, for the one process that reads them.

    Raises:
        Unavailable: another process reads them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, RingReader] = {}
        self._lock = os.open(folder / READER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Unavailable(
                "Another process writes the prediction log of this platform.",
                hint="One `falaj up` with inference workers may run on a machine.",
            ) from None

    def current(self) -> list[RingReader]:
        """The readers of the rings that are there now, the oldest first."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path not in self._open:
                try:
                    self._open[path] = RingReader(path)
                except (OSError, ValueError) as error:
                    logger(__name__).error("ring not readable", ring=path.name, error=str(error))
        return list(self._open.values())

    def tidy(self) -> int:
        """Remove the empty rings of writers that are gone; the number of those that live."""
        for path, reader in list(self._open.items()):
            # Asked in this order, nothing can come between the two answers.
            if reader.orphaned and reader.empty:
                del self._open[path]
                reader.remove()
        for begun in self._folder.glob("*.begun"):
            _remove_if_left(begun)
        return len(self._open)

    def close(self) -> None:
        """Let another process read."""
        for reader in self._open.values():
            reader.close()
        self._open.clear()
        os.close(self._lock)


def _remove_if_left(begun: Path) -> None:
    """Remove a file whose maker died before it was a ring."""
    with suppress(OSError):
        handle = os.open(begun, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_size:
                begun.unlink()
        finally:
            os.close(handle)
