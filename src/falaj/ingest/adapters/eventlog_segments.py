"""The event log on local disk: topics of partitions of encrypted segments.

Nothing has to be started. All processes of a machine append and read; see
``segment_partition`` for how they keep out of each other's way, and ``segment_files`` for
the bytes.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from falaj.ingest.adapters.segment_files import SEGMENT, segment_path, standing_on
from falaj.ingest.adapters.segment_partition import Limits, Partition
from falaj.ingest.adapters.segment_shares import FileShare
from falaj.ingest.ports import Record, Share
from falaj.kernel.clock import Clock, SystemClock, microseconds
from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.lake.disk import disk_error, sync_folder
from falaj.trust.ports import KeyService

_TOPIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MOST_PARTITIONS = 256
_LEFT_SECONDS = 3600.0
"""A copy that was begun so long ago belongs to a process that was killed."""


class SegmentLog:
    """An ``EventLog`` in a folder. Safe from many threads and processes.

    Args:
        folder: made if it is not there; readable by its owner only.
        keys: wraps the data key of each segment.
        limits: when segments roll, and how much may wait.
        clock: stamps records.

    Fulfils ``Rewrappable`` as well.
    """

    name = "event log"

    def __init__(
        self,
        folder: Path,
        keys: KeyService,
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.folder = folder
        self._keys = keys
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], Partition] = {}
        self._counts: dict[str, int] = {}
        self._pid = os.getpid()

    def append(
        self,
        topic: str,
        payloads: Sequence[bytes],
        *,
        media: str,
        partition: int = 0,
        mark: str | None = None,
    ) -> int:
        """See ``EventLog.append``."""
        return self._partition(topic, partition).append(payloads, media, mark)

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int = 16 << 20,
        wait_seconds: float = 0.0,
    ) -> list[Record]:
        """See ``EventLog.read``."""
        return self._partition(topic, partition).read(offset, max_bytes, wait_seconds)

    def begin(self, topic: str, partition: int) -> int:
        """See ``EventLog.begin``."""
        return self._partition(topic, partition).begin

    def end(self, topic: str, partition: int) -> int:
        """See ``EventLog.end``."""
        return self._partition(topic, partition).end

    def partitions(self, topic: str) -> int:
        """See ``EventLog.partitions``."""
        found = self._counts.get(topic)
        if found is None:
            self.ensure(topic, 1)
            found = self._counts[topic] = int((self._topic(topic) / "partitions").read_text())
        return found

    def ensure(self, topic: str, partitions: int) -> None:
        """See ``EventLog.ensure``."""
        if not 1 <= partitions <= MOST_PARTITIONS:
            raise InvalidInput(
                f"A topic has 1 to {MOST_PARTITIONS} partitions, not {partitions}.",
                hint="More partitions only help more worker processes.",
            )
        folder = self._topic(topic)
        if topic in self._counts or (folder / "partitions").exists():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            begun = folder / f"partitions.{token_hex(8)}"
            try:
                handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w") as file:
                    file.write(f"{partitions}\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.link(begun, folder / "partitions")
            except FileExistsError:
                pass  # another process was faster: its number stands
            finally:
                begun.unlink(missing_ok=True)
            sync_folder(folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise disk_error(error, f"the event log {folder}") from error

    def share(self, group: str, topics: Sequence[str]) -> Share:
        """See ``EventLog.share``."""
        _checked(group)
        folder = self.folder / ".groups" / group
        return FileShare(folder, {topic: self.partitions(topic) for topic in topics})

    def release(self, topic: str, partition: int, before: int) -> None:
        """See ``EventLog.release``."""
        self._partition(topic, partition).release(before)

    # As something to be rewrapped.

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``; an item is ``topic/partition/offset``."""
        if not after:
            self._swept()
        for item in sorted(self._files()):
            if item > after:
                topic, number, base = item.split("/")
                path = segment_path(self._topic(topic) / number, int(base))
                try:
                    yield item, standing_on(path)
                except FileNotFoundError:
                    continue  # released meanwhile
                except Corrupt:
                    yield item, ""

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        topic, number, base = item.split("/")
        return self._partition(topic, int(number)).rewrap(int(base), reseal=False)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        topic, number, base = item.split("/")
        return self._partition(topic, int(number)).rewrap(int(base), reseal=True)

    def _swept(self) -> None:
        """Remove the copies that killed processes have left."""
        oldest = time.time() - _LEFT_SECONDS
        for path in self.folder.glob("*/*/*.begun"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _files(self) -> Iterator[str]:
        for path in self.folder.glob(f"*/*/*{SEGMENT}"):
            topic, number = path.parts[-3:-1]
            if _TOPIC.fullmatch(topic) and number.isdecimal():
                yield f"{topic}/{number}/{path.name.removesuffix(SEGMENT)}"

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for partition in self._open.values():
                partition.close()
            self._open.clear()

    def _partition(self, topic: str, number: int) -> Partition:
        found = self._open.get((topic, number))
        if found is not None and self._pid == os.getpid():
            return found
        n = self.partitions(topic)
        if not 0 <= number < n:
            raise InvalidInput(
                f"The topic {topic!r} has {n} partitions; there is no {number}.",
                hint="Partitions are counted from 0.",
            )
        with self._lock:
            if self._pid != os.getpid():  # a forked child opens its own files and locks
                self._open.clear()
                self._pid = os.getpid()
            if (topic, number) not in self._open:
                self._open[topic, number] = Partition(
                    self._topic(topic) / str(number),
                    number,
                    f"log {topic}/{number}",
                    self._keys,
                    self._limits,
                    self._now,
                )
            return self._open[topic, number]

    @property
    def _now(self) -> Callable[[], int]:
        return lambda: microseconds(self._clock.now())

    def _topic(self, topic: str) -> Path:
        return self.folder / _checked(topic)


def _checked(name: str) -> str:
    if not _TOPIC.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} cannot be the name of a topic.",
            hint="Use letters, digits, dots, dashes and underscores, at most 200.",
        )
    return name
