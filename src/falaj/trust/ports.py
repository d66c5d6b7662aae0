"""What trust stands on: a keeper of keys, what is wrapped by them, and a witness outside."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from falaj.kernel.errors import Corrupt

WRAPPING = "wrapping"
"""The purpose of the keys that wrap data keys; every other purpose names a signing key."""


class UnknownKey(Corrupt):
    """Something was wrapped or signed with a key that the key service does not hold."""

    code = "unknown-key"


class KeyState(StrEnum):
    """Whether a version of a key makes new things, or only reads old ones."""

    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key, without its secret part."""

    id: str
    purpose: str
    version: int
    """Counts from 1 for each purpose."""
    algorithm: str
    created_at: datetime
    state: KeyState


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key under a key-encryption key; safe to store beside what it encrypts."""

    key_id: str
    """The version of the key-encryption key that unwraps it."""
    value: bytes

    def to_text(self) -> str:
        """``key_id.base64url``, for a text column."""
        return f"{self.key_id}.{base64.urlsafe_b64encode(self.value).decode()}"

    @classmethod
    def parse(cls, text: str) -> WrappedKey:
        """Read ``to_text`` back; raises Corrupt if it is not of that form."""
        key_id, dot, value = text.partition(".")
        try:
            decoded = base64.b64decode(value, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            dot = ""
        if not dot or not key_id or not value:
            raise Corrupt(
                "A wrapped key is not of the form key_id.base64.",
                hint="Restore the record that holds it from a backup.",
            ) from None
        return cls(key_id, decoded)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature, and which version of which kind of key made it."""

    key_id: str
    algorithm: str
    value: bytes


class KeyService(Protocol):
    """Holds keys that never leave it; wraps, derives and signs with them.

    Guarantees of every adapter:

    - What one process wrapped or signed, every process of the platform unwraps or
      verifies, also after any number of rotations and restarts.
    - ``context`` is authenticated: a data key wrapped under one context is not unwrapped
      under another.
    - ``derive`` is stable: it gives the same bytes for a purpose for ever, whatever is
      rotated; different purposes give unrelated bytes.
    - Purposes are separate: a signature for one purpose never verifies for another.
    - Safe to call from many threads.
    """

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """Encrypt a data key (16 to 64 bytes) under the active key-encryption key."""
        ...

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """The data key again.

        Raises:
            UnknownKey: it was wrapped with a key that is not held here.
            Corrupt: it was changed, or wrapped under another context.
        """
        ...

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """A stable secret of 16 to 64 bytes for a purpose."""
        ...

    def sign(self, purpose: str, message: bytes) -> Signature:
        """Sign with the purpose's active key, which is made at first use.

        The key is one of Ed25519, or of ECDSA over P-256 with SHA-256 (the signature in
        DER) if the purpose ends in ``.p256``.
        """
        ...

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """Check a signature made for this purpose, by whichever version.

        Raises:
            UnknownKey: no version of this purpose's key has that id.
            Corrupt: the message or the signature was changed.
        """
        ...

    def public_key(self, purpose: str) -> bytes:
        """The purpose's active public key.

        32 raw bytes of Ed25519, or a SubjectPublicKeyInfo in DER of P-256.
        """
        ...

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """All versions' public keys by key id, oldest first; for those who verify."""
        ...

    def rotate(self, purpose: str) -> KeyVersion:
        """Make a new active version for ``WRAPPING`` or a signing purpose.

        Older versions stay for unwrapping and verification.
        """
        ...

    def versions(self) -> Sequence[KeyVersion]:
        """Every version of every key, by purpose and version."""
        ...

    def discard(self, key_id: str) -> None:
        """Destroy an old version of the wrapping key, for good.

        Whatever still stands on it can never be opened again: whoever calls has made sure
        that nothing does.

        Raises:
            UnknownKey: there is no such version of the wrapping key.
            Conflict: it is the active one, or this key service destroys the oldest first.
        """
        ...


class Rewrappable(Protocol):
    """A store whose items each hold a wrapped data key: blobs, files, sealed columns.

    An item is named by a text that stays the same for as long as the item is there.
    Readers and writers of the store may go on meanwhile: they find an item as it was, or
    as it is afterwards, and what it says never changes.
    """

    name: str
    """As an operator reads it: ``blobs``, ``event log``."""

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """Each item with the id of the key version that it stands on, sorted by name.

        Args:
            after: begin behind the item of that name.

        An item that is released meanwhile may be left out; one whose header cannot be
        read stands on ``""``.
        """
        ...

    def rewrap(self, item: str) -> bool:
        """Put an item's data key under the active key version; False if it is gone.

        Whole or not at all, also when the process is killed; a repeat does no harm.

        Raises:
            Corrupt: the item is not what was written.
            UnknownKey: it stands on a version that is not held.
        """
        ...

    def reseal(self, item: str) -> bool:
        """As ``rewrap``, with a new data key: the item is encrypted anew."""
        ...


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a witness keeps of a checkpoint: enough to hold the log to it."""

    size: int
    """How many records the checkpoint covers."""
    statement: bytes
    """The signed text."""
    signature: Signature


class Witness(Protocol):
    """Remembers audit checkpoints outside of the reach of whoever can change the log.

    ``keep`` returns when the sighting is durable; keeping the same one again does
    nothing. ``latest`` is the greatest ever kept, or None. A witness never forgets.

    Raises:
        Unavailable: it does not answer, or cannot write.
        Corrupt: what it holds cannot be read.
    """

    def keep(self, sighting: Sighting) -> None: ...

    def latest(self) -> Sighting | None: ...
