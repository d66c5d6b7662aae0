"""Shares of partitions by a Kafka consumer group: who is gone loses them after a while."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from falaj.ingest.adapters.kafka_clients import KafkaPlace, Trouble


class KafkaShare:
    """A ``Share``: a member of a consumer group that reads nothing.

    Its group only says which partitions are whose; they are read by ``KafkaLog.read`` from
    the positions that the caller knows. A thread gives the group signs of life, also while
    the process works on something long. When processes come and go all partitions are taken
    back for a moment and dealt anew, over all topics in turn.

    Args:
        place: the cluster.
        trouble: hears what the client complains of.
        group: its name in the cluster.
        topics: their names in the cluster, and what the caller calls them.
        session_seconds: without a sign of life for so long, others take over.
    """

    def __init__(
        self,
        place: KafkaPlace,
        trouble: Trouble,
        group: str,
        topics: Mapping[str, str],
        *,
        session_seconds: float,
    ) -> None:
        self._topics = dict(topics)
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._consumer = Consumer(
            place.client(
                **{
                    "group.id": group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "latest",
                    "partition.assignment.strategy": "roundrobin",
                    "session.timeout.ms": int(session_seconds * 1000),
                    "heartbeat.interval.ms": max(int(session_seconds * 1000 / 5), 100),
                    "topic.metadata.refresh.interval.ms": 30_000,
                    "error_cb": trouble.heard,
                }
            )
        )
        self._consumer.subscribe(
            list(self._topics), on_assign=self._given, on_revoke=self._taken, on_lost=self._taken
        )
        self._thread = threading.Thread(target=self._live, name="falaj-share", daemon=True)
        self._thread.start()

    def held(self) -> Collection[tuple[str, int]]:
        """What this process may work on now."""
        with self._lock:
            return sorted(self._held)

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._held.clear()
        self._consumer.close()

    def _live(self) -> None:
        while not self._ended.is_set():
            self._consumer.poll(0.1)

    def _given(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        given = [TopicPartition(one.topic, one.partition, OFFSET_END) for one in partitions]
        consumer.assign(given)
        consumer.pause(given)  # they are read by others
        with self._lock:
            self._held = {(self._topics[one.topic], one.partition) for one in partitions}

    def _taken(self, consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        with self._lock:
            self._held.clear()
        consumer.unassign()
