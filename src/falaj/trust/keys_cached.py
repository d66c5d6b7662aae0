"""Unwrapped data keys in bounded memory for a bounded time, before a key service far away.

A read of a blob or a segment needs its data key; asking a server for each costs a round
trip. What is kept is in this process's memory alone, and forgotten after a minute.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from falaj.kernel.clock import monotonic
from falaj.trust.ports import KeyService, KeyVersion, Signature, WrappedKey

_MOST_DERIVED = 1000


class CachedKeys:
    """A ``KeyService`` that asks another one, and remembers what it unwrapped and derived.

    Args:
        keys: the key service that is asked.
        seconds: how long an unwrapped data key is kept; then it is asked for again, so
            that a version that was destroyed, or a revoked token, tells within that time.
        most: how many are kept; the one used longest ago goes first.
        now: monotonic seconds.

    Derived secrets never change and are kept for as long as the process lives.
    """

    def __init__(
        self,
        keys: KeyService,
        *,
        seconds: float,
        most: int,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = keys
        self._seconds = seconds
        self._most = most
        self._now = now
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, bytes, str], tuple[float, bytes]] = OrderedDict()
        self._derived: dict[tuple[str, int], bytes] = {}

    def __repr__(self) -> str:
        return f"CachedKeys({self._keys!r}, {len(self._kept)} kept)"

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``; the data key is not kept: few writers read at once."""
        return self._keys.wrap(data_key, context=context)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        name = wrapped.key_id, wrapped.value, context
        with self._lock:
            found = self._kept.get(name)
            if found is not None and self._now() < found[0]:
                self._kept.move_to_end(name)
                return found[1]
        data_key = self._keys.unwrap(wrapped, context=context)
        if self._seconds:
            with self._lock:
                self._kept[name] = self._now() + self._seconds, data_key
                self._kept.move_to_end(name)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return data_key

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """See ``KeyService.derive``."""
        found = self._derived.get((purpose, n_bytes))
        if found is None:
            found = self._keys.derive(purpose, n_bytes)
            if len(self._derived) < _MOST_DERIVED:
                self._derived[purpose, n_bytes] = found
        return found

    def sign(self, purpose: str, message: bytes) -> Signature:
        """See ``KeyService.sign``."""
        return self._keys.sign(purpose, message)

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``."""
        self._keys.verify(purpose, message, signature)

    def public_key(self, purpose: str) -> bytes:
        """See ``KeyService.public_key``."""
        return self._keys.public_key(purpose)

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """See ``KeyService.public_keys``."""
        return self._keys.public_keys(purpose)

    def rotate(self, purpose: str) -> KeyVersion:
        """See ``KeyService.rotate``."""
        return self._keys.rotate(purpose)

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``."""
        return self._keys.versions()

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``; what was unwrapped with it here is forgotten at once."""
        self._keys.discard(key_id)
        with self._lock:
            for name in [name for name in self._kept if name[0] == key_id]:
                del self._kept[name]
