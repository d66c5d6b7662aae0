"""A log in memory, for a store that has no durable one.

``Streams`` over it move each push into the lake before they acknowledge it: what was
acknowledged is as durable as the lake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from falaj.ingest.ports import Record


class _Whole:
    """All partitions of some topics: a log in memory has one process."""

    def __init__(self, every: Collection[tuple[str, int]]) -> None:
        self._every = every

    def held(self) -> Collection[tuple[str, int]]:
        """All of them."""
        return self._every

    def close(self) -> None:
        """Nothing is to be given back."""


class MemoryLog:
    """An ``EventLog`` that lives as long as its process. Safe from many threads.

    Args:
        now_us: stamps records, UTC microseconds.

    Offsets begin at the time of its making: they go on behind those of an earlier process.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._lock = threading.Lock()
        self._first = time.time_ns() // 1000
        self._counts: dict[str, int] = {}
        self._records: dict[tuple[str, int], list[Record]] = {}
        self._begins: dict[tuple[str, int], int] = {}

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
        with self._lock:
            kept = self._records.setdefault((topic, partition), [])
            begin = self._begins.get((topic, partition), self._first)
            for payload in payloads:
                offset = begin + len(kept)
                kept.append(Record(partition, offset, payload, media, self._now_us(), mark))
            return begin + len(kept) - 1

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int = 16 << 20,
        wait_seconds: float = 0.0,
    ) -> list[Record]:
        """See ``EventLog.read``; it never waits, for who appends settles what it appended."""
        with self._lock:
            begin = self._begins.get((topic, partition), self._first)
            found, size = [], 0
            for record in self._records.get((topic, partition), [])[max(offset - begin, 0) :]:
                found.append(record)
                size += len(record.payload)
                if size >= max_bytes:
                    break
            return found

    def begin(self, topic: str, partition: int) -> int:
        """See ``EventLog.begin``."""
        return self._begins.get((topic, partition), self._first)

    def end(self, topic: str, partition: int) -> int:
        """See ``EventLog.end``."""
        with self._lock:
            kept = self._records.get((topic, partition), [])
            return self._begins.get((topic, partition), self._first) + len(kept)

    def partitions(self, topic: str) -> int:
        """See ``EventLog.partitions``."""
        return self._counts.setdefault(topic, 1)

    def ensure(self, topic: str, partitions: int) -> None:
        """See ``EventLog.ensure``."""
        self._counts.setdefault(topic, partitions)

    def share(self, group: str, topics: Sequence[str]) -> _Whole:
        """See ``EventLog.share``."""
        return _Whole([(topic, n) for topic in topics for n in range(self.partitions(topic))])

    def release(self, topic: str, partition: int, before: int) -> None:
        """See ``EventLog.release``."""
        with self._lock:
            begin = self._begins.get((topic, partition), self._first)
            kept = self._records.get((topic, partition), [])
            gone = min(max(before - begin, 0), len(kept))
            del kept[:gone]
            self._begins[topic, partition] = begin + gone

    def close(self) -> None:
        """Nothing is open."""
