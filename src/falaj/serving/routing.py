"""The routing table: which release of an endpoint serves, for all workers of a machine.

It is an LMDB environment beside one memory-mapped page of two counters. Workers compare
the first counter, the *generation*, on every request (a read of eight shared bytes); the
second counts announcements. A switch has two phases:

1. *announce*: the release is named as the next one; every worker builds and warms its
   plan beside the one that serves, and says so (or says why it cannot);
2. *flip*: the active release is written and the generation goes up by one; every request
   that begins after the flip is served by the new plan.

So a release that some worker cannot load never serves, and after the flip no answer is
stale, even from a worker that was suspended in between.

Beside the active release of an endpoint stands its *split*: what part of the units meets each
challenger of a rollout at present. It changes in one step, which raises the generation too;
the next request of every worker sees it, and nothing is built or loaded for it.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgspec
from pydantic import ValidationError

from falaj.kernel.clock import Clock, SystemClock, from_microseconds, microseconds
from falaj.kernel.errors import LimitExceeded, NotFound, Unavailable
from falaj.kernel.telemetry import logger
from falaj.lake.disk import reserved
from falaj.serving.errors import RoutingDamaged
from falaj.serving.model import Release, WorkerStatus
from falaj.serving.splits import Split

_GENERATION = b"generation"
_ANNOUNCEMENTS = b"announcements"
_ACTIVE = b"active/"
_NEXT = b"next/"
_RELEASE = b"release/"
_SPLIT = b"split/"
_MAP_BYTES = 256 << 20
_MOST_READERS = 512
_LOCK_BYTES = 8192 + 64 * _MOST_READERS
"""More than LMDB's lock file takes for its head and its readers."""
_PAGE = 4096
ALIVE_SECONDS = 5.0
"""A worker that has not reported for so long is taken for dead."""


class _Report(msgspec.Struct):
    pid: int
    seen_us: int
    generation: int
    prepared: dict[str, str]


class RoutingTable:
    """The routing table in a directory; open it once in each process.

    Any number of processes may share the directory. Reads never wait for writers.

    Args:
        directory: made if it is missing.
        clock: tells when a worker last reported.

    Raises:
        Unavailable: the directory cannot be used.
    """

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("table", "workers"):
                (directory / name).mkdir(exist_ok=True, mode=0o700)
                reserved(directory / name / "lock.mdb", _LOCK_BYTES)
            self._table = lmdb.open(
                str(directory / "table"), map_size=_MAP_BYTES, max_readers=_MOST_READERS
            )
            # Reports are about living workers only: they need not survive the machine.
            self._reports = lmdb.open(
                str(directory / "workers"),
                map_size=_MAP_BYTES // 16,
                sync=False,
                max_readers=_MOST_READERS,
            )
            self._page = _mapped(directory / "generation")
        except (OSError, lmdb.Error) as error:
            raise Unavailable(
                f"The routing table in {directory} cannot be opened: {error}.",
                hint="Check that the folder may be written and that its disk has space.",
            ) from error
        self.words = memoryview(self._page).cast("Q")
        """Shared counters: [0] the generation, [1] the announcements."""
        self.mend()

    def close(self) -> None:
        """Give the shared memory back."""
        self.words.release()
        self._page.close()
        self._table.close()
        self._reports.close()

    def mend(self) -> None:
        """Bring the shared counters up to the table, if a writer died between the two."""
        with self._reading() as transaction:
            for word, key in enumerate((_GENERATION, _ANNOUNCEMENTS)):
                stored = int.from_bytes(transaction.get(key) or b"", "little")
                self.words[word] = max(self.words[word], stored)

    # -- releases -------------------------------------------------------------------

    def write(self, release: Release) -> None:
        """Keep a release document; a document, once written, never changes."""
        with self._writing() as transaction:
            transaction.put(
                _RELEASE + release.id.encode(),
                release.model_dump_json().encode(),
                overwrite=False,
            )

    def release(self, release_id: str) -> Release:
        """A release document; raises NotFound or RoutingDamaged."""
        with self._reading() as transaction:
            document = transaction.get(_RELEASE + release_id.encode())
        if document is None:
            raise NotFound(
                f"There is no release {release_id!r} in the routing table.",
                hint="`falaj endpoints releases NAME` lists them.",
            )
        try:
            return Release.model_validate_json(document)
        except ValidationError as error:
            raise RoutingDamaged(
                f"The routing table's document of {release_id!r} cannot be read.",
                hint="Deploy the endpoint again; the table is rebuilt from the database.",
            ) from error

    def active(self) -> tuple[int, dict[str, str]]:
        """The generation, and the active release id of each endpoint, as one snapshot."""
        with self._reading() as transaction:
            generation = int.from_bytes(transaction.get(_GENERATION) or b"", "little")
            return generation, dict(_texts(transaction, _ACTIVE))

    def served(self) -> tuple[int, dict[str, str], dict[str, Split]]:
        """As ``active``, with the split of each endpoint that has one, as one snapshot.

        A split that is about another release than the active one, or that cannot be read, is
        left out: then the champion serves.
        """
        with self._reading() as transaction:
            generation = int.from_bytes(transaction.get(_GENERATION) or b"", "little")
            routes = dict(_texts(transaction, _ACTIVE))
            written = dict(_texts(transaction, _SPLIT))
        return generation, routes, _splits(written, routes)

    def announced(self) -> tuple[int, dict[str, str]]:
        """The count of announcements, and the release announced for each endpoint."""
        with self._reading() as transaction:
            count = int.from_bytes(transaction.get(_ANNOUNCEMENTS) or b"", "little")
            return count, dict(_texts(transaction, _NEXT))

    def announce(self, endpoint: str, release_id: str) -> None:
        """Name the next release of an endpoint, so that workers prepare it."""
        with self._writing() as transaction:
            transaction.put(_NEXT + endpoint.encode(), release_id.encode())
            count = _raised(transaction, _ANNOUNCEMENTS)
        self._show(1, count)

    def withdraw(self, endpoint: str) -> None:
        """Forget what was announced for an endpoint."""
        with self._writing() as transaction:
            transaction.delete(_NEXT + endpoint.encode())
            count = _raised(transaction, _ANNOUNCEMENTS)
        self._show(1, count)

    def flip(self, endpoint: str, release_id: str | None) -> int:
        """Make a release the active one (None: the endpoint serves no more).

        Returns:
            the new generation; every request that begins later is served by it.
        """
        with self._writing() as transaction:
            key = _ACTIVE + endpoint.encode()
            if release_id is None:
                transaction.delete(key)
            else:
                transaction.put(key, release_id.encode())
            split = transaction.get(_SPLIT + endpoint.encode())
            if split is not None and _release_of(split) != release_id:
                transaction.delete(_SPLIT + endpoint.encode())
            announced = transaction.get(_NEXT + endpoint.encode())
            if announced is not None and announced.decode() == release_id:
                transaction.delete(_NEXT + endpoint.encode())
            generation = _raised(transaction, _GENERATION)
        self._show(0, generation)
        return generation

    def split(self, endpoint: str, split: Split | None) -> int:
        """Divide the units of an endpoint anew (None: all meet the champion).

        Returns:
            the new generation; every request that begins later is divided so.
        """
        with self._writing() as transaction:
            key = _SPLIT + endpoint.encode()
            if split is None:
                transaction.delete(key)
            else:
                transaction.put(key, split.model_dump_json().encode())
            generation = _raised(transaction, _GENERATION)
        self._show(0, generation)
        return generation

    # -- workers --------------------------------------------------------------------

    def report(self, worker: str, *, generation: int, prepared: dict[str, str]) -> None:
        """Say that a worker lives, what it serves and what it has prepared."""
        record = _Report(os.getpid(), microseconds(self._clock.now()), generation, prepared)
        with self._reports.begin(write=True) as transaction:
            transaction.put(worker.encode(), msgspec.json.encode(record))

    def leave(self, worker: str) -> None:
        """Say that a worker has ended."""
        with self._reports.begin(write=True) as transaction:
            transaction.delete(worker.encode())

    def workers(self, *, alive_seconds: float = ALIVE_SECONDS) -> list[WorkerStatus]:
        """The workers that have reported lately and whose process exists."""
        now = microseconds(self._clock.now())
        found = []
        with self._reports.begin() as transaction:
            for key, value in transaction.cursor():
                record = msgspec.json.decode(value, type=_Report)
                if now - record.seen_us <= alive_seconds * 1e6 and _runs(record.pid):
                    found.append(
                        WorkerStatus(
                            id=bytes(key).decode(),
                            pid=record.pid,
                            seen_at=from_microseconds(record.seen_us),
                            generation=record.generation,
                            prepared=record.prepared,
                        )
                    )
        return found

    # -- inside ---------------------------------------------------------------------

    def _show(self, word: int, value: int) -> None:
        with self._lock:
            self.words[word] = max(self.words[word], value)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._table.begin() as transaction:
            yield transaction

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        try:
            with self._table.begin(write=True) as transaction:
                yield transaction
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise LimitExceeded(
                f"The routing table is full: {error}.",
                hint="Free disk space, or retire endpoints that serve no more.",
            ) from error


def _mapped(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < _PAGE:
            os.ftruncate(descriptor, _PAGE)
        return mmap.mmap(descriptor, _PAGE)
    finally:
        os.close(descriptor)


def _raised(transaction: Any, key: bytes) -> int:
    value = int.from_bytes(transaction.get(key) or b"", "little") + 1
    transaction.put(key, value.to_bytes(8, "little"))
    return value


def _splits(written: dict[str, str], routes: dict[str, str]) -> dict[str, Split]:
    found = {}
    for endpoint, document in written.items():
        try:
            split = Split.model_validate_json(document)
        except ValidationError:
            logger(__name__).error("split not readable: the champion serves", endpoint=endpoint)
            continue
        if split.release == routes.get(endpoint):
            found[endpoint] = split
    return found


def _release_of(document: bytes) -> str | None:
    """The release that a split is about; None if it cannot be read."""
    try:
        return Split.model_validate_json(document).release
    except ValidationError:
        return None


def _texts(transaction: Any, prefix: bytes) -> Iterator[tuple[str, str]]:
    cursor = transaction.cursor()
    if not cursor.set_range(prefix):
        return
    for key, value in cursor:
        if not key.startswith(prefix):
            return
        yield key[len(prefix) :].decode(), value.decode()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
