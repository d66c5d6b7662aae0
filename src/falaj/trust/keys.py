"""A set of keys with versions, and the cryptography done with them.

- Wrapping: AES-256-GCM with a random 96-bit nonce (NIST SP 800-38D allows 2^32 of them a
  key; a rotation starts anew). The key's id and the context are authenticated.
- Derivation: HKDF-SHA256 (RFC 5869) from a root secret that is never rotated.
- Signing: Ed25519 (RFC 8032), a key of its own for each purpose; ECDSA over P-256 with
  SHA-256 (FIPS 186-5) for purposes that end in ``.p256``, where others verify who know no
  Ed25519. The message is signed as it is, so that other software (JWT, in-toto) verifies
  it without knowing of Falaj.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Conflict, Corrupt, InvalidInput
from falaj.kernel.ids import new_id
from falaj.trust.ports import WRAPPING, KeyState, KeyVersion, Signature, UnknownKey, WrappedKey
from falaj.trust.signatures import (
    new_secret,
    public_of,
    signature_by,
    signing_algorithm,
    verify_signature,
)

AES = "AES-256-GCM"
KEY_BYTES = 32
NONCE_BYTES = 12
_PURPOSE = re.compile(r"[a-z][a-z0-9._-]{0,99}")
_WRAP_LABEL = b"falaj wrap v1\0"
_DERIVE_LABEL = b"falaj derive v1\0"


@dataclass(frozen=True, slots=True)
class Key:
    """One version of a key with its secret; never shown, never serialised in clear."""

    id: str
    purpose: str
    version: int
    created_at: datetime
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.id}, {self.purpose} v{self.version})"

    @property
    def algorithm(self) -> str:
        """What it is for: wrapping or signing."""
        return AES if self.purpose == WRAPPING else signing_algorithm(self.purpose)


@dataclass(frozen=True)
class Keyset:
    """Immutable: a change gives a new set, so that many threads may read one."""

    root: bytes
    """The secret that derived secrets come from."""
    keys: tuple[Key, ...]

    def __repr__(self) -> str:
        return f"Keyset({len(self.keys)} keys)"

    @classmethod
    def fresh(cls, now: datetime) -> Keyset:
        """A new root secret and a first wrapping key."""
        return cls(os.urandom(KEY_BYTES), ()).rotated(WRAPPING, now)

    def active(self, purpose: str) -> Key | None:
        """The newest version for a purpose, if there is any."""
        return self._newest.get(purpose)

    def held(self, key_id: str, purpose: str) -> Key:
        """The version of that id and purpose; raises UnknownKey."""
        key = self._by_id.get(key_id)
        if key is not None and key.purpose == purpose:
            return key
        raise UnknownKey(
            f"No {purpose} key {key_id[:80]!r} is held here.",
            hint="Use the keyring that this data was made with, or restore it from a backup.",
        )

    def rotated(self, purpose: str, now: datetime) -> Keyset:
        """The set with a new active version for a purpose."""
        newest = self.active(checked_purpose(purpose))
        secret = (
            os.urandom(KEY_BYTES) if purpose == WRAPPING else new_secret(signing_algorithm(purpose))
        )
        version = newest.version + 1 if newest else 1
        return replace(self, keys=(*self.keys, Key(new_id("key"), purpose, version, now, secret)))

    def without(self, key_id: str) -> Keyset:
        """The set without an old version of the wrapping key; see ``KeyService.discard``."""
        key = self.held(key_id, WRAPPING)
        if key is self.active(WRAPPING):
            raise still_active(key_id)
        return replace(self, keys=tuple(other for other in self.keys if other is not key))

    @cached_property
    def _by_id(self) -> dict[str, Key]:
        return {key.id: key for key in self.keys}

    @cached_property
    def _newest(self) -> dict[str, Key]:
        return {key.purpose: key for key in sorted(self.keys, key=_by_version)}

    @cached_property
    def _public(self) -> dict[str, bytes]:
        return {
            key.id: public_of(key.algorithm, key.secret)
            for key in self.keys
            if key.purpose != WRAPPING
        }

    def versions(self) -> list[KeyVersion]:
        """All versions without their secrets, by purpose and version."""
        return [
            KeyVersion(
                key.id,
                key.purpose,
                key.version,
                key.algorithm,
                key.created_at,
                KeyState.ACTIVE if self._newest[key.purpose] is key else KeyState.RETIRED,
            )
            for key in sorted(self.keys, key=lambda key: (key.purpose, key.version))
        ]

    # What is done with the keys.

    def wrap(self, data_key: bytes, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        if not 16 <= len(data_key) <= 64:
            raise InvalidInput(f"A data key has 16 to 64 bytes, not {len(data_key)}.")
        key = self.active(WRAPPING)
        if key is None:
            raise UnknownKey("This keyring has no wrapping key.", hint="Rotate `wrapping`.")
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key.secret).encrypt(nonce, data_key, _wrap_context(key.id, context))
        return WrappedKey(key.id, nonce + sealed)

    def unwrap(self, wrapped: WrappedKey, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        key = self.held(wrapped.key_id, WRAPPING)
        nonce, sealed = wrapped.value[:NONCE_BYTES], wrapped.value[NONCE_BYTES:]
        try:
            return AESGCM(key.secret).decrypt(nonce, sealed, _wrap_context(key.id, context))
        except (InvalidTag, ValueError):
            raise Corrupt(
                f"A data key for {context[:200]!r} was changed, or belongs to something else.",
                hint="Restore what it opens from a backup; see `falaj audit search`.",
            ) from None

    def derive(self, purpose: str, n_bytes: int) -> bytes:
        """See ``KeyService.derive``."""
        if not 16 <= n_bytes <= 64:
            raise InvalidInput(f"A derived secret has 16 to 64 bytes, not {n_bytes}.")
        info = _DERIVE_LABEL + n_bytes.to_bytes(2, "big") + checked_purpose(purpose).encode()
        return HKDF(SHA256(), n_bytes, salt=None, info=info).derive(self.root)

    def sign(self, key: Key, message: bytes) -> Signature:
        """Sign with one of this set's keys."""
        value = signature_by(key.algorithm, key.secret, message)
        return Signature(key.id, key.algorithm, value)

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``."""
        key = self.held(signature.key_id, purpose)
        checked_algorithm(purpose, signature)
        verify_signature(self._public[key.id], message, signature)

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """Public keys of a signing purpose by id, oldest first."""
        held = sorted((key for key in self.keys if key.purpose == purpose), key=_by_version)
        return {key.id: self._public[key.id] for key in held}

    # As a document, to be sealed.

    def to_document(self) -> dict[str, Any]:
        """JSON-ready, secrets included: for sealing only."""
        return {
            "root": _to_text(self.root),
            "keys": [
                {
                    "id": key.id,
                    "purpose": key.purpose,
                    "version": key.version,
                    "created_at": microseconds(key.created_at),
                    "secret": _to_text(key.secret),
                }
                for key in self.keys
            ],
        }

    @classmethod
    def from_document(cls, document: Any) -> Keyset:
        """Read ``to_document`` back.

        Raises:
            ValueError: it is not such a document.
        """
        try:
            keys = tuple(
                Key(
                    str(item["id"]),
                    checked_purpose(str(item["purpose"])),
                    int(item["version"]),
                    from_microseconds(int(item["created_at"])),
                    _from_text(item["secret"]),
                )
                for item in document["keys"]
            )
            return cls(_from_text(document["root"]), keys)
        except (KeyError, TypeError, binascii.Error, OverflowError, InvalidInput) as error:
            raise ValueError(f"not a set of keys: {error}") from None


def checked_purpose(purpose: str) -> str:
    """The purpose itself; raises InvalidInput unless it is a plain lower-case name."""
    if not _PURPOSE.fullmatch(purpose):
        raise InvalidInput(
            f"{purpose[:100]!r} is not the name of a purpose.",
            hint="Use lower-case letters, digits, dot, dash and underscore, at most 100.",
        )
    return purpose


def checked_signing_purpose(purpose: str) -> str:
    """As ``checked_purpose``, and not the purpose of wrapping."""
    if purpose == WRAPPING:
        raise InvalidInput("The wrapping keys do not sign.", hint="Name another purpose.")
    return checked_purpose(purpose)


def checked_algorithm(purpose: str, signature: Signature) -> None:
    """Raises Corrupt unless a signature claims the algorithm of its purpose's keys."""
    algorithm = signing_algorithm(purpose)
    if signature.algorithm != algorithm:
        raise Corrupt(
            f"The signature says {signature.algorithm[:40]!r}, but the key is of {algorithm}.",
            hint="Somebody changed it, or another program made it.",
        )


def still_active(key_id: str) -> Conflict:
    """The refusal to destroy a version that new things are wrapped with."""
    return Conflict(
        f"The key {key_id[:80]!r} is the active one.",
        hint="Run `falaj keys rotate wrapping` first, and let the rewrapping end.",
    )


def _wrap_context(key_id: str, context: str) -> bytes:
    return _WRAP_LABEL + key_id.encode() + b"\0" + context.encode()


def _by_version(key: Key) -> int:
    return key.version


def _to_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _from_text(value: Any) -> bytes:
    decoded = base64.b64decode(value, validate=True)
    if len(decoded) != KEY_BYTES:
        raise ValueError(f"a secret of {len(decoded)} bytes instead of {KEY_BYTES}")
    return decoded
