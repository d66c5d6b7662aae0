"""What ingest needs of the world: a log of events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
"""The media types of payloads: an Arrow IPC stream of rows, or one row as a JSON object."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log.

    ``offset`` grows by one with each record of a partition in the embedded log; in every
    log it grows. ``appended_at`` is in UTC microseconds. ``mark`` is what the producer gave
    to recognise a repetition, or None.
    """

    partition: int
    offset: int
    payload: bytes
    media: str
    appended_at: int
    mark: str | None = None


class Share(Protocol):
    """This process's share of the partitions of some topics, within a group."""

    def held(self) -> Collection[tuple[str, int]]:
        """The (topic, partition) pairs that this process may work on now.

        It changes as processes come and go. A partition is held by one process at a time,
        but one that was too slow may learn late that it has lost it: effects must be
        guarded by positions all the same.
        """
        ...

    def close(self) -> None:
        """Give the share back, so that others take it over at once."""
        ...


class EventLog(Protocol):
    """Ordered, durable records of bytes, by topic and partition.

    Guarantees of every adapter:

    - When ``append`` returns, the record is on stable storage (embedded) or acknowledged by
      all in-sync replicas (Kafka); ``kill -9`` of any process loses none of those.
    - Within a partition records are read in the order of their offsets, each offset names
      the same record for ever, and no record is read in part.
    - A torn last record (a process died while writing it) is never read, and was never
      acknowledged.
    - Records are encrypted on disk (embedded) and in transit (TLS to Kafka).
    """

    def append(
        self,
        topic: str,
        payloads: Sequence[bytes],
        *,
        media: str,
        partition: int = 0,
        mark: str | None = None,
    ) -> int:
        """Add records; returns the offset of the last of them.

        Raises:
            LimitExceeded: a record is too long, the disk is full, or too much waits to be
                applied (back-pressure); none of them was added.
            Unavailable: the log does not answer; whether they were added is not known.
        """
        ...

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int = 16 << 20,
        wait_seconds: float = 0.0,
    ) -> list[Record]:
        """Records from an offset on, at least one if there is any.

        Args:
            offset: of the first one wanted; before ``begin`` it means ``begin``.
            max_bytes: of payloads, after which no further record is begun.
            wait_seconds: how long to wait for the first record.
        """
        ...

    def begin(self, topic: str, partition: int) -> int:
        """The least offset that is still kept."""
        ...

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next record will have, or more."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; it is made with one if it is not there."""
        ...

    def ensure(self, topic: str, partitions: int) -> None:
        """Make a topic with that many partitions if it is not there."""
        ...

    def share(self, group: str, topics: Sequence[str]) -> Share:
        """Take part in the work of a group."""
        ...

    def release(self, topic: str, partition: int, before: int) -> None:
        """Records before this offset have been applied everywhere and may be forgotten."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...
