"""``BaoKeys``: the key service on the transit engine of OpenBao, or of HashiCorp Vault.

Keys are made in the server, are not exportable, and never leave it: it wraps, unwraps,
signs. Under a prefix of the platform's own stand ``<prefix>-wrapping`` (AES-256-GCM),
``<prefix>-<purpose>`` for each signing purpose, and ``<prefix>_derive`` (HMAC), whose first
version alone is used, so that derived secrets never change. A version's id is the name of
its key and its number: ``falaj-wrapping:v3``.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import ComponentRefused, Conflict, Corrupt, InvalidInput
from falaj.trust.adapters.bao_connection import BaoConnection, BaoPlace, Refused
from falaj.trust.keys import (
    AES,
    checked_algorithm,
    checked_purpose,
    checked_signing_purpose,
    still_active,
)
from falaj.trust.ports import WRAPPING, KeyState, KeyVersion, Signature, UnknownKey, WrappedKey
from falaj.trust.signatures import ED25519, signing_algorithm, verify_signature

_DERIVE_LABEL = b"falaj derive v1\0"
_LOOK_SECONDS = 1.0
"""A version that is not known is looked for at most once in so many seconds."""


class BaoKeys:
    """The ``KeyService`` on a transit engine.

    Args:
        place: where it is, and what opens it. Nothing is asked before the first use.
    """

    def __init__(self, place: BaoPlace) -> None:
        self._server = BaoConnection(place)
        self._prefix = place.prefix
        self._lock = threading.Lock()
        self._public: dict[str, bytes] = {}
        self._looked: dict[str, float] = {}
        self._there: set[str] = set()

    def __repr__(self) -> str:
        return f"BaoKeys({self._server.place.address}, {self._prefix})"

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    # The port.

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        if not 16 <= len(data_key) <= 64:
            raise InvalidInput(f"A data key has 16 to 64 bytes, not {len(data_key)}.")
        name = self._name(WRAPPING)
        self._made(WRAPPING)
        document = {"plaintext": _text(data_key), "associated_data": _text(context.encode())}
        answer = self._asked("POST", f"encrypt/{name}", document)
        version, value = _sealed(answer["ciphertext"])
        return WrappedKey(f"{name}:v{version}", value)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        name = self._name(WRAPPING)
        version = self._version(wrapped.key_id, name)
        document = {
            "ciphertext": f"vault:v{version}:{_text(wrapped.value)}",
            "associated_data": _text(context.encode()),
        }
        try:
            answer = self._server.ask("POST", f"decrypt/{name}", document)
        except Refused as refused:
            told = refused.errors
            if "not found" in told or "too old" in told or "too new" in told:
                raise _unknown(wrapped.key_id) from None
            if "authentication failed" in told or "ciphertext" in told:
                raise Corrupt(
                    f"A data key for {context[:200]!r} was changed, or belongs to something else.",
                    hint="Restore what it opens from a backup; see `falaj audit search`.",
                ) from None
            raise self._told(refused) from None
        return base64.b64decode(answer["plaintext"])

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """See ``KeyService.derive``: HMAC-SHA-256 in the server, HKDF-Expand (RFC 5869) here."""
        if not 16 <= n_bytes <= 64:
            raise InvalidInput(f"A derived secret has 16 to 64 bytes, not {n_bytes}.")
        label = _DERIVE_LABEL + checked_purpose(purpose).encode()
        name = f"{self._prefix}_derive"
        # Asking for a key that is there changes nothing.
        self._asked("POST", f"keys/{name}", {"type": "hmac", "key_size": 32})
        document = {"input": _text(label), "key_version": 1}
        answer = self._asked("POST", f"hmac/{name}/sha2-256", document)
        _, secret = _sealed(answer["hmac"])
        info = label + b"\0" + n_bytes.to_bytes(2, "big")
        return HKDFExpand(SHA256(), n_bytes, info=info).derive(secret)

    def sign(self, purpose: str, message: bytes) -> Signature:
        """See ``KeyService.sign``."""
        name = self._name(checked_signing_purpose(purpose))
        self._made(purpose)
        algorithm = signing_algorithm(purpose)
        document: dict[str, Any] = {"input": _text(message)}
        path = f"sign/{name}"
        if algorithm != ED25519:
            document["marshaling_algorithm"] = "asn1"
            path += "/sha2-256"
        version, value = _sealed(self._asked("POST", path, document)["signature"])
        return Signature(f"{name}:v{version}", algorithm, value)

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``: done here, with the public keys that were once asked for."""
        name = self._name(checked_signing_purpose(purpose))
        self._version(signature.key_id, name)
        checked_algorithm(purpose, signature)
        public = self._public.get(signature.key_id)
        if public is None:
            with self._lock:
                looked = self._looked.get(name)
                if looked is not None and monotonic() - looked < _LOOK_SECONDS:
                    raise _unknown(signature.key_id)
            self._versions_of(name)
            public = self._public.get(signature.key_id)
            if public is None:
                # Forged tokens must not become questions to the server.
                with self._lock:
                    self._looked[name] = monotonic()
                raise _unknown(signature.key_id)
        verify_signature(public, message, signature)

    def public_key(self, purpose: str) -> bytes:
        """See ``KeyService.public_key``."""
        return list(self.public_keys(purpose).values())[-1]

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """See ``KeyService.public_keys``."""
        name = self._name(checked_signing_purpose(purpose))
        self._made(purpose)
        found = self._versions_of(name)
        return {f"{name}:v{number}": self._public[f"{name}:v{number}"] for number in sorted(found)}

    def rotate(self, purpose: str) -> KeyVersion:
        """See ``KeyService.rotate``."""
        name = self._name(checked_purpose(purpose))
        first = purpose != WRAPPING and self._known(name) is None
        self._made(purpose)
        if not first:  # of the wrapping key there is a version before anybody asks
            self._asked("POST", f"keys/{name}/rotate")
        return self._versions(purpose, name)[-1]

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``."""
        try:
            names = self._server.ask("LIST", "keys").get("keys", [])
        except Refused as refused:
            if refused.status != 404:  # there is no key at all yet
                raise self._told(refused) from None
            names = []
        start = f"{self._prefix}-"
        purposes = sorted(name.removeprefix(start) for name in names if name.startswith(start))
        return [
            version
            for purpose in purposes
            for version in self._versions(purpose, self._name(purpose))
        ]

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``; the server destroys the oldest version first."""
        name = self._name(WRAPPING)
        number = self._version(key_id, name)
        held = sorted(self._known(name) or {})
        if number not in held:
            raise _unknown(key_id)
        if number == held[-1]:
            raise still_active(key_id)
        if number != held[0]:
            raise Conflict(
                f"Before {key_id} stands {name}:v{held[0]}, which must go first.",
                hint="This key service destroys versions from the oldest on.",
            )
        after = number + 1
        allowed = {"min_decryption_version": after, "min_encryption_version": after}
        self._asked("POST", f"keys/{name}/config", allowed)
        self._asked("POST", f"keys/{name}/trim", {"min_available_version": after})

    # The server's keys.

    def _name(self, purpose: str) -> str:
        if not purpose[-1:].isalnum():
            raise InvalidInput(
                f"{purpose[:100]!r} cannot be the name of a purpose in this key service.",
                hint="Let it end with a letter or a digit.",
            )
        return f"{self._prefix}-{purpose}"

    def _version(self, key_id: str, name: str) -> int:
        held, colon, number = key_id.rpartition(":v")
        if not colon or held != name or not number.isdecimal() or not number.isascii():
            raise _unknown(key_id)
        return int(number)

    def _made(self, purpose: str) -> None:
        """Make a purpose's key unless it is there; asked of the server once in a process."""
        name = self._name(purpose)
        if name in self._there:
            return
        if self._known(name) is None:
            if purpose == WRAPPING:
                kind = "aes256-gcm96"
            else:
                kind = "ed25519" if signing_algorithm(purpose) == ED25519 else "ecdsa-p256"
            document = {"type": kind, "exportable": False, "allow_plaintext_backup": False}
            self._asked("POST", f"keys/{name}", document)
        self._there.add(name)

    def _known(self, name: str) -> dict[int, Any] | None:
        """What the server holds of a key, by version; None if there is no such key."""
        try:
            answer = self._server.ask("GET", f"keys/{name}")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise self._told(refused) from None
        return {int(number): facts for number, facts in answer["keys"].items()}

    def _versions_of(self, name: str) -> dict[int, Any]:
        """As ``_known``, and the public keys are remembered: an id's key never changes."""
        found = self._known(name) or {}
        for number, facts in found.items():
            if isinstance(facts, dict):
                self._public[f"{name}:v{number}"] = _public(facts["public_key"])
        return found

    def _versions(self, purpose: str, name: str) -> list[KeyVersion]:
        found = self._known(name) or {}
        algorithm = AES if purpose == WRAPPING else signing_algorithm(purpose)
        return [
            KeyVersion(
                f"{name}:v{number}",
                purpose,
                number,
                algorithm,
                _instant(found[number]),
                KeyState.ACTIVE if number == max(found) else KeyState.RETIRED,
            )
            for number in sorted(found)
        ]

    def _asked(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return self._server.ask(method, path, document or {})
        except Refused as refused:
            raise self._told(refused) from None

    def _told(self, refused: Refused) -> ComponentRefused:
        place = self._server.place
        return ComponentRefused(
            f"The key service {place.address} refuses: {refused.errors[:200] or refused.status}.",
            hint=f"Is the transit engine mounted at {place.mount!r}? See `falaj doctor`.",
        )


def _unknown(key_id: str) -> UnknownKey:
    return UnknownKey(
        f"The key service does not hold the key {key_id[:80]!r}, or not any more.",
        hint="Use the key service that this data was made with, or restore it from its backup.",
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _sealed(text: str) -> tuple[int, bytes]:
    """Version and bytes of ``vault:v3:base64``."""
    try:
        _, version, value = text.split(":", 2)
        return int(version.removeprefix("v")), base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise Corrupt(
            "The key service gave an answer that is not of its form.",
            hint="Is it an OpenBao or a Vault? See `falaj doctor`.",
        ) from None


def _public(text: str) -> bytes:
    """Raw bytes of Ed25519, or an SPKI in DER."""
    if not text.startswith("-----BEGIN"):
        return base64.b64decode(text)
    return load_pem_public_key(text.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def _instant(facts: Any) -> datetime:
    """When a version was made: unix seconds of AES, RFC 3339 with nanoseconds of the others."""
    if isinstance(facts, dict):
        return datetime.fromisoformat(facts["creation_time"][:19]).replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(facts), UTC)
