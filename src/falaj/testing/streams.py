"""For tests of the event log and of streams: keys that every process knows."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.errors import Corrupt
from falaj.trust.ports import WrappedKey


class TestKeys:
    """What the event log uses of a ``KeyService``: wraps under a key that follows from a name."""

    __test__ = False

    def __init__(self, name: str = "test") -> None:
        self._cipher = AESGCM(hashlib.sha256(name.encode()).digest())

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """Encrypt a data key."""
        nonce = os.urandom(12)
        return WrappedKey("test", nonce + self._cipher.encrypt(nonce, data_key, context.encode()))

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """The data key again; raises Corrupt under another context."""
        try:
            return self._cipher.decrypt(wrapped.value[:12], wrapped.value[12:], context.encode())
        except (InvalidTag, ValueError):
            raise Corrupt("The data key was wrapped for something else.") from None
