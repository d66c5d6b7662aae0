"""A platform whose wrapping keys have moved from a keyring file to another key service.

Both are open: what was wrapped before is unwrapped by the keyring, what is wrapped now by the
other one. The job ``keys.rewrap`` carries data keys over, one by one, while everything is in use;
killed at any moment it leaves each item on one of the two, and goes on. What must never change
(derived secrets) or must go on verifying (signing keys) stays with the keyring for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from falaj.trust.keys_hybrid import HybridKeys, WrappingKeys
from falaj.trust.ports import WRAPPING, KeyService, KeyState, KeyVersion, WrappedKey


class WrapsFor:
    """The part of a ``KeyService`` that wraps.

    Args:
        keys: the key service, of whose other keys nothing is used.
    """

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    def __repr__(self) -> str:
        return repr(self._keys)

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        return self._keys.wrap(data_key, context=context)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        return self._keys.unwrap(wrapped, context=context)

    def rotate(self) -> KeyVersion:
        """See ``KeyService.rotate``."""
        return self._keys.rotate(WRAPPING)

    def versions(self) -> Sequence[KeyVersion]:
        """The versions of the wrapping key."""
        return [one for one in self._keys.versions() if one.purpose == WRAPPING]

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``."""
        self._keys.discard(key_id)


class MovedKeys(HybridKeys):
    """The ``KeyService`` of wrapping keys elsewhere and the keyring that wrapped before.

    Args:
        wrapping: wraps from now on.
        keyring: unwraps what it has wrapped; signs, verifies and derives, for good.

    Versions of the keyring's wrapping key are told as retired, numbered 0, -1, … backwards;
    one on which nothing stands any more may be discarded like any other.
    """

    def __init__(self, wrapping: WrappingKeys, keyring: KeyService) -> None:
        super().__init__(wrapping, keyring)
        self._before: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"MovedKeys({self._wrapping!r})"

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        if self._of_keyring(wrapped.key_id):
            return self._keyring.unwrap(wrapped, context=context)
        return self._wrapping.unwrap(wrapped, context=context)

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``; if there is no wrapping key elsewhere, it is made."""
        if not self._wrapping.versions():
            self._wrapping.rotate()
        before = [one for one in self._keyring.versions() if one.purpose == WRAPPING]
        newest = max(one.version for one in before)
        retired = [
            replace(one, version=one.version - newest, state=KeyState.RETIRED) for one in before
        ]
        both = [*retired, *super().versions()]
        return sorted(both, key=lambda one: (one.purpose, one.version))

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``."""
        if not self._of_keyring(key_id):
            self._wrapping.discard(key_id)
            return
        held = [one for one in self._keyring.versions() if one.purpose == WRAPPING]
        if key_id == max(held, key=lambda one: one.version).id:
            self._keyring.rotate(WRAPPING)  # a keyring always has one; this one wraps nothing
        self._keyring.discard(key_id)

    def _of_keyring(self, key_id: str) -> bool:
        """Whether the keyring has wrapped with it; looked up anew until it is known."""
        if key_id not in self._before:
            held = self._keyring.versions()
            self._before = frozenset(one.id for one in held if one.purpose == WRAPPING)
        return key_id in self._before
