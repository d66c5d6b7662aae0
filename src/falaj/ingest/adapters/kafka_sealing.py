"""Records of the event log on Kafka, sealed: what lies at the brokers says nothing.

A record's value is ``nonce (12) | AES-256-GCM``, under a data key that an appender takes
anew every ten minutes. The wrapped data key stands in the header ``falaj-sealed``, so that
a reader needs nothing but the key service. Topic, partition, media type and mark are
authenticated; the offset is not, since the broker gives it: whoever rules the brokers can
drop, repeat or reorder records, but neither read nor change one.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import Corrupt
from falaj.kernel.telemetry import logger
from falaj.trust.ports import KeyService, WrappedKey

SEALED_HEADER = "falaj-sealed"
UNOPENED = "application/vnd.falaj.unopened"
"""The media type of a record that cannot be opened: no stream takes it as a row."""
_NONCE_BYTES = 12
_KEY_SECONDS = 600.0
_MOST_RECORDS = 2**24
_MOST_KEPT = 1000


@dataclass
class _Writing:
    cipher: AESGCM
    wrapped: bytes
    until: float
    left: int


class RecordSeal:
    """Seals and opens the records of one log. Safe from many threads.

    Args:
        keys: wraps and unwraps data keys.
        now: monotonic seconds.
    """

    def __init__(self, keys: KeyService, *, now: Callable[[], float] = monotonic) -> None:
        self._keys = keys
        self._now = now
        self._lock = threading.Lock()
        self._writing: dict[str, _Writing] = {}
        self._reading: OrderedDict[tuple[str, bytes], tuple[float, AESGCM]] = OrderedDict()

    def seal(
        self, topic: str, partition: int, media: str, mark: str | None, payloads: Sequence[bytes]
    ) -> tuple[bytes, list[bytes]]:
        """What the header says, and the values of the records.

        Args:
            topic, partition, media, mark: authenticated with each of them.
        """
        with self._lock:
            writing = self._writing.get(topic)
            if writing is None or self._now() >= writing.until or writing.left < len(payloads):
                data_key = AESGCM.generate_key(256)
                wrapped = self._keys.wrap(data_key, context=_context(topic))
                until = self._now() + _KEY_SECONDS
                cipher = AESGCM(data_key)
                writing = _Writing(cipher, wrapped.to_text().encode(), until, _MOST_RECORDS)
                self._writing[topic] = writing
            writing.left -= len(payloads)
        about = _about(topic, partition, media, mark)
        sealed = []
        for payload in payloads:
            nonce = os.urandom(_NONCE_BYTES)
            sealed.append(nonce + writing.cipher.encrypt(nonce, payload, about))
        return writing.wrapped, sealed

    def opened(
        self,
        topic: str,
        partition: int,
        media: str,
        mark: str | None,
        wrapped: bytes,
        value: bytes,
    ) -> bytes:
        """The payload of a record.

        Raises:
            Corrupt: it was changed, moved, or sealed by somebody else.
            Unavailable: the key service does not answer.
        """
        cipher = self._cipher(topic, wrapped)
        about = _about(topic, partition, media, mark)
        try:
            return cipher.decrypt(value[:_NONCE_BYTES], value[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            raise Corrupt(
                f"A record of the topic {topic!r} is not what was written.",
                hint="Find out who may write to the topic; `falaj features streams` counts it.",
            ) from None

    def _cipher(self, topic: str, wrapped: bytes) -> AESGCM:
        name = topic, wrapped
        with self._lock:
            found = self._reading.get(name)
            if found is not None and self._now() < found[0]:
                return found[1]
        key = WrappedKey.parse(wrapped.decode("ascii", errors="replace"))
        data_key = self._keys.unwrap(key, context=_context(topic))
        if len(data_key) != 32:
            raise Corrupt("A record's data key is of another kind.", hint="See who writes there.")
        cipher = AESGCM(data_key)
        with self._lock:
            self._reading[name] = self._now() + _KEY_SECONDS, cipher
            while len(self._reading) > _MOST_KEPT:
                self._reading.popitem(last=False)
        return cipher


class Opens:
    """Opens the sealed records of a partition."""

    def __init__(self, seal: RecordSeal | None, topic: str, partition: int) -> None:
        self._seal = seal
        self._topic, self._partition = topic, partition

    def __call__(
        self, media: str, mark: str | None, wrapped: bytes, value: bytes
    ) -> tuple[str, bytes]:
        """Media type and payload of a record.

        One that does not open is passed on as such: whoever may write to the topic could
        otherwise stop its stream with a single record.
        """
        if self._seal is None:
            return UNOPENED, value
        try:
            payload = self._seal.opened(self._topic, self._partition, media, mark, wrapped, value)
        except Corrupt as error:
            where = f"{self._topic}/{self._partition}"
            logger(__name__).error("record not opened", topic=where, error=str(error))
            return UNOPENED, value
        return media, payload


def _context(topic: str) -> str:
    return f"event log on kafka {topic}"


def _about(topic: str, partition: int, media: str, mark: str | None) -> bytes:
    parts = (topic, str(partition), media, "" if mark is None else f"mark {mark}")
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
