"""The event log on Kafka: topics that others may write to and read, too.

Records are appended by an idempotent producer and acknowledged by all in-sync replicas.
They are read from the offset that the caller names: how far a stream was applied stands
with its effects, not in Kafka. Kafka's consumer groups only tell which process works on
which partition.

What a record is stands in its headers: ``content-type`` its media type (a stranger's
message without one is a row as JSON), ``falaj-mark`` what its producer repeats it by,
``falaj-sealed`` under which data key the value is encrypted (a stranger's is in clear).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are its public words
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from falaj.ingest.adapters.kafka_clients import KafkaPlace, Trouble
from falaj.ingest.adapters.kafka_sealing import SEALED_HEADER, Opens, RecordSeal
from falaj.ingest.adapters.kafka_shares import KafkaShare
from falaj.ingest.ports import JSON, Record
from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, LimitExceeded, Unavailable
from falaj.trust.ports import KeyService

MEDIA_HEADER, MARK_HEADER = "content-type", "falaj-mark"
LONGEST_RECORD = 16 << 20
"""Bytes of a payload; Kafka's own limit is 1 MB, topics that are made here have this one."""
_HEAD_BYTES = 64 << 10
"""What a record takes beside its payload, at most."""
_SHORT_BYTES = 64 << 10
"""Payloads so short are sent without asking for the topic's limit."""
_NOT_TOLD = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNSUPPORTED_FEATURE)
"""Why a cluster may keep its topics' limits to itself."""
_MOST_READERS = 64
_MOST_AT_ONCE = 500
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,200}")


class KafkaLog:
    """An ``EventLog`` on a Kafka cluster. Safe from many threads.

    Args:
        place: the cluster.
        keys: seal what is appended; without them records lie at the brokers in clear, for
            others to read. What is sealed is opened in either case, if they are given.
        clear: append in clear though there are keys.
        seconds: for the cluster to answer, and to acknowledge a record.
        session_seconds: after so long without a sign of life, the partitions of a process
            are given to others.

    After a fork the child opens its own. Nothing is connected before the first question.
    ``release`` does nothing: how long Kafka keeps records is the topic's own setting, and
    others may read them.
    """

    def __init__(
        self,
        place: KafkaPlace,
        *,
        keys: KeyService | None = None,
        clear: bool = False,
        seconds: float = 15.0,
        session_seconds: float = 10.0,
    ) -> None:
        self.place = place
        self._seal = RecordSeal(keys) if keys is not None else None
        self._clear = clear
        self._seconds, self._session_seconds = seconds, session_seconds
        self._trouble = Trouble(place)
        self._lock = threading.RLock()
        self._counts: dict[str, int] = {}
        self._longest: dict[str, int] = {}
        self._readers: dict[tuple[str, int], _Reader] = {}
        self._appender: _Appender | None = None
        self._asking: Consumer | None = None
        self._closed = False

    def append(
        self,
        topic: str,
        payloads: Sequence[bytes],
        *,
        media: str,
        partition: int = 0,
        mark: str | None = None,
    ) -> int:
        """Add records, acknowledged by all in-sync replicas; see ``EventLog.append``."""
        self._check_partition(topic, partition)
        longest = max(map(len, payloads), default=0)
        if longest > _SHORT_BYTES and longest > min(LONGEST_RECORD, self._limit(topic)):
            raise LimitExceeded(
                f"A record of {longest} bytes is too long for the topic {topic!r}.",
                hint="Push fewer rows at once, or raise the topic's max.message.bytes.",
            )
        headers = [(MEDIA_HEADER, media.encode())]
        if mark is not None:
            headers.append((MARK_HEADER, mark.encode()))
        if not payloads:
            return self.end(topic, partition) - 1
        if self._seal is not None and not self._clear:
            wrapped, payloads = self._seal.seal(topic, partition, media, mark, payloads)
            headers.append((SEALED_HEADER, wrapped))
        return self._appending().append(self._name(topic), partition, payloads, headers)

    def _appending(self) -> _Appender:
        with self._lock:
            self._check_open()
            broken = self._appender if self._appender and self._appender.broken.is_set() else None
            if self._appender is None or broken is not None:
                self._appender = _Appender(self.place, self._trouble, self._seconds)
            appender = self._appender
        if broken is not None:
            broken.close()
        return appender

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int = 16 << 20,
        wait_seconds: float = 0.0,
    ) -> list[Record]:
        """Records from an offset on; see ``EventLog.read``.

        Raises:
            Corrupt: the partition ends before this offset: the topic was made anew, or the
                cluster has lost records.
        """
        self._check_partition(topic, partition)
        reader = self._reader(topic, partition)
        with reader.lock:
            if offset != reader.position:
                begin, end = self._ends(topic, partition)
                if offset > end:
                    raise Corrupt(
                        f"The topic {topic!r} ends at {end} in partition {partition}, but was "
                        f"read up to {offset}.",
                        hint="It was made anew or lost records: restore it, or use a new stream.",
                    )
                reader.go_to(max(offset, begin))
            return reader.read(
                max_bytes, wait_seconds, lambda: self._ends(topic, partition)[1], self._seconds
            )

    def begin(self, topic: str, partition: int) -> int:
        """The least offset that is still kept: the low watermark."""
        self._check_partition(topic, partition)
        return self._ends(topic, partition)[0]

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next record will have: the high watermark."""
        self._check_partition(topic, partition)
        return self._ends(topic, partition)[1]

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; it is made with one if it is not there."""
        found = self._counted(topic)
        if not found:
            self.ensure(topic, 1)
            found = self._counted(topic)
        return found

    def ensure(self, topic: str, partitions: int) -> None:
        """Make a topic with that many partitions if it is not there."""
        if self._counted(topic):
            return
        admin = AdminClient(self.place.client(error_cb=self._trouble.heard))
        settings = {
            "max.message.bytes": str(LONGEST_RECORD + _HEAD_BYTES),
            "message.timestamp.type": "LogAppendTime",
        }
        wanted = NewTopic(self._name(topic), partitions, self.place.replication, config=settings)
        try:
            asked = admin.create_topics([wanted], request_timeout=self._seconds)
            asked[self._name(topic)].result(self._seconds + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                admin.poll(0)
                raise self._trouble.told(error.args[0], topic) from error
        until = monotonic() + self._seconds
        while not self._counted(topic):  # brokers learn of it one after the other
            if monotonic() > until:
                raise Unavailable(
                    f"The topic {topic!r} was made, but is not there yet.", hint="Repeat it."
                )
            sleep(0.02)

    def share(self, group: str, topics: Sequence[str]) -> KafkaShare:
        """Take part in the work of a group, as a member of a Kafka consumer group."""
        for topic in topics:
            self.partitions(topic)
        self._check_open()
        return KafkaShare(
            self.place, self._trouble, self._name(f"falaj.{group}"),
            {self._name(one): one for one in topics},
            session_seconds=self._session_seconds,
        )  # fmt: skip

    def release(self, topic: str, partition: int, before: int) -> None:
        """Nothing: Kafka keeps records as long as the topic's settings say."""

    def close(self) -> None:
        """Close all clients."""
        with self._lock:
            self._closed = True
            readers, self._readers = list(self._readers.values()), {}
            appender, self._appender = self._appender, None
            asking, self._asking = self._asking, None
        for reader in readers:
            reader.close()
        if appender is not None:
            appender.close()
        if asking is not None:
            asking.close()

    def weaknesses(self) -> list[tuple[str, str]]:
        """What of this cluster weakens a promise of the port, and what to do."""
        with self._lock:
            try:
                found = self._asker().list_topics(timeout=self._seconds)
            except KafkaException as error:
                raise self._told(error) from error
        weak = []
        shown = f"The Kafka cluster {self.place.shown}"
        if not self.place.tls and not self.place.is_this_machine:
            weak.append((f"{shown} is asked in clear text.", "Use kafkas:// and TLS."))
        if len(found.brokers) < 2:
            weak.append(
                (
                    f"{shown} is one broker: a record is acknowledged before it is on stable "
                    "storage, and is lost if the machine fails.",
                    "Run three brokers, with min.insync.replicas=2 and a replication of 3.",
                )
            )
        return weak

    def _name(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} is no name of a topic or group.",
                hint="Use letters, digits, dots, dashes and underscores.",
            )
        return self.place.prefix + name

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The event log is closed.", hint="Open it again.")

    def _asker(self) -> Consumer:
        self._check_open()
        if self._asking is None:
            self._asking = Consumer(_reading(self.place, self._trouble))
        return self._asking

    def _told(self, error: KafkaException, topic: str = "") -> Exception:
        if self._asking is not None:
            self._asking.poll(0)  # lets it tell what its trouble is
        return self._trouble.told(error.args[0], topic)

    def _counted(self, topic: str) -> int:
        """How many partitions a topic has, 0 if it is not there."""
        name = self._name(topic)
        if topic in self._counts:
            return self._counts[topic]
        with self._lock:
            try:
                found = self._asker().list_topics(name, timeout=self._seconds).topics.get(name)
            except KafkaException as error:
                raise self._told(error, topic) from error
        if found is None or not found.partitions:
            why: KafkaError | None = found.error if found is not None else None
            if why is not None and why.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise self._trouble.told(why, topic)
            return 0
        self._counts[topic] = len(found.partitions)
        return self._counts[topic]

    def _check_partition(self, topic: str, partition: int) -> None:
        if 0 <= partition < self.partitions(topic):
            return
        self._counts.pop(topic, None)  # partitions may have been added
        if not 0 <= partition < self.partitions(topic):
            raise InvalidInput(
                f"The topic {topic!r} has no partition {partition}.",
                hint=f"It has {self.partitions(topic)}.",
            )

    def _limit(self, topic: str) -> int:
        """The longest payload that the topic takes, as far as the cluster tells."""
        if topic not in self._longest:
            admin = AdminClient(self.place.client(error_cb=self._trouble.heard))
            asked = ConfigResource(ResourceType.TOPIC, self._name(topic))
            try:
                (answer,) = admin.describe_configs([asked], request_timeout=self._seconds).values()
                found = answer.result(self._seconds + 5).get("max.message.bytes")
            except KafkaException as error:
                if error.args[0].code() not in _NOT_TOLD:
                    raise self._trouble.told(error.args[0], topic) from error
                found = None  # then the brokers tell when they refuse a record
            known = int(found.value) - _HEAD_BYTES if found is not None else LONGEST_RECORD
            self._longest[topic] = max(known, 1)
        return self._longest[topic]

    def _ends(self, topic: str, partition: int) -> tuple[int, int]:
        place = TopicPartition(self._name(topic), partition)
        with self._lock:
            try:
                found = self._asker().get_watermark_offsets(place, timeout=self._seconds)
            except KafkaException as error:
                raise self._told(error, topic) from error
        if found is None:
            raise Unavailable(
                f"The Kafka cluster {self.place.shown} did not tell where {topic!r} ends.",
                hint="Repeat it.",
            )
        begin, end = found
        return begin, end

    def _reader(self, topic: str, partition: int) -> _Reader:
        key, unused = (topic, partition), []
        with self._lock:
            self._check_open()
            reader = self._readers.pop(key, None)
            if reader is None:
                while len(self._readers) >= _MOST_READERS:
                    unused.append(self._readers.pop(next(iter(self._readers))))
                opens = Opens(self._seal, topic, partition)
                reader = _Reader(self.place, self._trouble, self._name(topic), partition, opens)
            self._readers[key] = reader  # at the end: the least used stands first
        for one in unused:
            one.close()
        return reader


class _Appender:
    """The producer of a process, and the thread that hears what became of its records."""

    def __init__(self, place: KafkaPlace, trouble: Trouble, seconds: float) -> None:
        self._trouble = trouble
        self._seconds = seconds
        self._producer = Producer(
            place.client(
                **{
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 0,
                    "delivery.timeout.ms": int(seconds * 1000),
                    "message.max.bytes": LONGEST_RECORD + _HEAD_BYTES,
                    "queue.buffering.max.kbytes": 256 << 10,
                    "compression.type": "lz4",
                    "error_cb": trouble.heard,
                }
            )
        )
        self.broken = threading.Event()
        """Set when the brokers have forgotten this producer: another one has to go on."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hear, name="falaj-kafka", daemon=True)
        self._thread.start()

    def append(
        self,
        topic: str,
        partition: int,
        payloads: Sequence[bytes],
        headers: Sequence[tuple[str, bytes]],
    ) -> int:
        """Send records, and wait until all are acknowledged; returns the last one's offset."""
        done = _Delivery(len(payloads))
        until = monotonic() + self._seconds
        for payload in payloads:
            while True:
                try:
                    self._producer.produce(
                        topic, payload, partition=partition, headers=list(headers),
                        on_delivery=done.heard,
                    )  # fmt: skip
                    break
                except BufferError:  # others fill the queue; it empties, or times out
                    if monotonic() > until:
                        raise Unavailable(
                            "Too many records wait to be sent to Kafka.",
                            hint="Repeat it; whether these were added is not known.",
                        ) from None
                    sleep(0.002)
                except KafkaException as error:
                    raise self._failed(error.args[0], topic) from error
        if not done.ended.wait(self._seconds + 10):
            raise Unavailable(
                f"Kafka did not acknowledge records of {topic!r} in {self._seconds:.0f} s.",
                hint="Repeat it; whether they were added is not known.",
            )
        if done.error is not None:
            raise self._failed(done.error, topic)
        return done.offset

    def _failed(self, error: KafkaError, topic: str) -> FalajError:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self.broken.set()
            return Unavailable(
                f"The brokers no longer know this producer of {topic!r}: {error.str()}.",
                hint="Repeat it; whether these records were added is not known.",
            )
        return self._trouble.told(error, topic)

    def close(self) -> None:
        """Send what waits, and end."""
        if not self.broken.is_set():
            self._producer.flush(self._seconds)
        self._ended.set()
        self._thread.join()

    def _hear(self) -> None:
        while not self._ended.is_set():
            try:
                self._producer.poll(0.2)
            except KafkaException:  # a fatal error; the records' own reports tell it, too
                self.broken.set()
                self._ended.wait(0.05)


class _Delivery:
    """What became of the records of one ``append``."""

    def __init__(self, n_records: int) -> None:
        self._left = n_records
        self.offset = -1
        self.error: KafkaError | None = None
        self.ended = threading.Event()

    def heard(self, error: KafkaError | None, message: Message) -> None:
        """One record was acknowledged, or was not."""
        if error is not None:
            self.error = self.error or error
        else:
            self.offset = max(self.offset, message.offset() or 0)
        self._left -= 1
        if not self._left:
            self.ended.set()


class _Reader:
    """One partition, read from wherever the caller says; for one thread at a time."""

    def __init__(
        self, place: KafkaPlace, trouble: Trouble, topic: str, partition: int, opens: Opens
    ) -> None:
        self.lock = threading.Lock()
        self._trouble = trouble
        self._opens = opens
        self._topic, self._partition = topic, partition
        self._consumer = Consumer(_reading(place, trouble))
        self.position = -1
        """The offset that is read next."""
        self._end = -1
        """Where the end was when it was last reached, past marks of transactions."""
        self._left: list[Message] = []

    def go_to(self, offset: int) -> None:
        """Read from an offset on; cheap where the last read ended."""
        self._left = []
        self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
        self.position, self._end = offset, -1

    def read(
        self, max_bytes: int, wait_seconds: float, end: Callable[[], int], seconds: float
    ) -> list[Record]:
        """Records up to a size.

        Args:
            max_bytes: of payloads, after which no further record is begun.
            wait_seconds: for the first record.
            end: asks where the partition ends now.
            seconds: for a record that is there to come.
        """
        began = monotonic()
        found: list[Record] = []
        size = 0
        while size < max_bytes:
            waited = monotonic() - began
            message = self._next(0.0 if found else min(0.2, max(0.0, wait_seconds - waited)))
            if message is not None:
                found.append(self._record(message))
                size += len(found[-1].payload)
                self.position = found[-1].offset + 1
            elif found:
                break
            elif waited >= wait_seconds:
                if max(self.position, self._end) >= end():
                    break
                if waited > wait_seconds + seconds:
                    raise Unavailable(
                        f"Kafka does not give the records of {self._topic!r}.", hint="Repeat it."
                    )
                wait_seconds = waited + 0.01
        return found

    def _next(self, wait: float) -> Message | None:
        if not self._left:
            first = self._consumer.poll(wait)
            if first is None:
                return None
            # ``consume`` waits until it has so many: what is there already has to do.
            self._left = [first, *self._consumer.consume(_MOST_AT_ONCE, 0.0)][::-1]
        message = self._left.pop()
        error = message.error()
        if error is None:
            return message
        if error.code() == KafkaError._PARTITION_EOF:
            self._end = message.offset() or 0
            return None
        self.position = -1
        raise self._trouble.told(error, self._topic)

    def _record(self, message: Message) -> Record:
        headers: dict[str, Any] = dict(message.headers() or ())
        said, marked = headers.get(MEDIA_HEADER), headers.get(MARK_HEADER)
        media = _bytes(said).decode(errors="replace") if said else JSON
        mark = None if marked is None else _bytes(marked).decode(errors="replace")
        wrapped, payload = headers.get(SEALED_HEADER), _bytes(message.value())
        if wrapped is not None:
            media, payload = self._opens(media, mark, _bytes(wrapped), payload)
        _, at_ms = message.timestamp()
        return Record(
            partition=self._partition,
            offset=int(message.offset() or 0),
            payload=payload,
            media=media,
            appended_at=max(at_ms, 0) * 1000,
            mark=mark,
        )

    def close(self) -> None:
        """Give the connections back."""
        with self.lock:
            self._consumer.close()


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _reading(place: KafkaPlace, trouble: Trouble) -> dict[str, Any]:
    return place.client(
        **{
            "group.id": f"{place.prefix}falaj.readers",  # takes no part in a group; needs a name
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "fetch.message.max.bytes": LONGEST_RECORD + _HEAD_BYTES,
            "queued.max.messages.kbytes": 64 << 10,
            "error_cb": trouble.heard,
        }
    )
