"""A key service of two: a device or a cloud wraps, a keyring sealed by it signs and derives.

Hardware modules and cloud services wrap data keys well, but not all of them sign with
Ed25519, and none derives as we do. There the wrapping keys never leave the device, and the
signing keys stand in a keyring file that only the device opens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from falaj.kernel.errors import InvalidInput
from falaj.trust.keys import checked_purpose
from falaj.trust.ports import WRAPPING, KeyService, KeyVersion, Signature, WrappedKey


class WrappingKeys(Protocol):
    """The part of a ``KeyService`` that wraps; with the same guarantees."""

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey: ...

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes: ...

    def rotate(self) -> KeyVersion: ...

    def versions(self) -> Sequence[KeyVersion]: ...

    def discard(self, key_id: str) -> None: ...


class HybridKeys:
    """The ``KeyService`` of wrapping keys that are elsewhere and a keyring for the rest.

    Args:
        wrapping: wraps and unwraps data keys.
        keyring: signs, verifies and derives. Its own wrapping key wraps nothing.
    """

    def __init__(self, wrapping: WrappingKeys, keyring: KeyService) -> None:
        self._wrapping = wrapping
        self._keyring = keyring

    def __repr__(self) -> str:
        return f"HybridKeys({self._wrapping!r})"

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        if not 16 <= len(data_key) <= 64:
            raise InvalidInput(f"A data key has 16 to 64 bytes, not {len(data_key)}.")
        return self._wrapping.wrap(data_key, context=context)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        return self._wrapping.unwrap(wrapped, context=context)

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """See ``KeyService.derive``."""
        return self._keyring.derive(purpose, n_bytes)

    def sign(self, purpose: str, message: bytes) -> Signature:
        """See ``KeyService.sign``."""
        return self._keyring.sign(purpose, message)

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``."""
        self._keyring.verify(purpose, message, signature)

    def public_key(self, purpose: str) -> bytes:
        """See ``KeyService.public_key``."""
        return self._keyring.public_key(purpose)

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """See ``KeyService.public_keys``."""
        return self._keyring.public_keys(purpose)

    def rotate(self, purpose: str) -> KeyVersion:
        """See ``KeyService.rotate``."""
        if checked_purpose(purpose) == WRAPPING:
            return self._wrapping.rotate()
        return self._keyring.rotate(purpose)

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``."""
        signing = [one for one in self._keyring.versions() if one.purpose != WRAPPING]
        return sorted([*signing, *self._wrapping.versions()], key=_by_purpose)

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``."""
        self._wrapping.discard(key_id)


def _by_purpose(version: KeyVersion) -> tuple[str, int]:
    return version.purpose, version.version
