"""An authenticator of our own: makes passkeys and signs with them, honestly or not.

It answers as a browser would hand its answers on (``PublicKeyCredential.toJSON``). Each thing
that an attacker could do otherwise is an argument.
"""

from __future__ import annotations

import hashlib
import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

PRESENT, VERIFIED, MAY_BE_COPIED, COPIED, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40


@dataclass
class Credential:
    """One passkey in an authenticator."""

    id: bytes
    rp_id: str
    user_handle: bytes
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Authenticator:
    """A phone, a computer or a key in somebody's hand.

    Args:
        origin: the page that asks, as the browser sees it.
        verifies: True if it checks who uses it.
        counts: True if it counts signatures; copies of a passkey do not.
        ed25519: True for keys on Curve25519 instead of P-256.
    """

    origin: str
    verifies: bool = True
    counts: bool = True
    ed25519: bool = False
    counter: int = 0
    credentials: list[Credential] = field(default_factory=list)

    def create(self, options: Mapping[str, Any], **otherwise: Any) -> dict[str, Any]:
        """A new passkey, for ``navigator.credentials.create`` (see ``_told`` for lies)."""
        known = {one["id"] for one in options.get("excludeCredentials", ())}
        if known & {_text(one.id) for one in self.credentials}:
            raise ValueError("this authenticator has a passkey of this account already")
        key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        if self.ed25519:
            key = ed25519.Ed25519PrivateKey.generate()
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        made = Credential(
            os.urandom(32), options["rp"]["id"], from_text(options["user"]["id"]), key
        )
        self.credentials.append(made)
        attested = bytes(16) + len(made.id).to_bytes(2, "big") + made.id + cbor2.dumps(_cose(key))
        client, data = self._told("webauthn.create", options, made, attested, **otherwise)
        statement = {"fmt": otherwise.get("fmt", "none"), "attStmt": {}, "authData": data}
        response = {
            "clientDataJSON": _text(client),
            "attestationObject": _text(cbor2.dumps(statement)),
            "transports": ["internal"],
        }
        return _public(made, response)

    def get(
        self, options: Mapping[str, Any], *, of: Credential | None = None, **otherwise: Any
    ) -> dict[str, Any]:
        """The signature of a passkey, for ``navigator.credentials.get``."""
        used = of or self._chosen(options)
        client, data = self._told("webauthn.get", options, used, b"", **otherwise)
        signed = data + hashlib.sha256(client).digest()
        if isinstance(used.key, ed25519.Ed25519PrivateKey):
            signature = used.key.sign(signed)
        else:
            signature = used.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        response = {
            "clientDataJSON": _text(client),
            "authenticatorData": _text(data),
            "signature": _text(signature),
            "userHandle": _text(otherwise.get("user_handle", used.user_handle)),
        }
        return _public(used, response)

    def _chosen(self, options: Mapping[str, Any]) -> Credential:
        allowed = {one["id"] for one in options.get("allowCredentials", ())}
        here = [one for one in self.credentials if one.rp_id == options["rpId"]]
        return next(one for one in here if not allowed or _text(one.id) in allowed)

    def _told(
        self,
        kind: str,
        options: Mapping[str, Any],
        used: Credential,
        attested: bytes,
        *,
        challenge: str | None = None,
        origin: str | None = None,
        rp_id: str | None = None,
        counter: int | None = None,
        **_other: Any,
    ) -> tuple[bytes, bytes]:
        """Client data and authenticator data; what is given replaces the truth."""
        client = {
            "type": _other.get("type", kind),
            "challenge": challenge or options["challenge"],
            "origin": origin or self.origin,
            "crossOrigin": False,
        }
        if counter is None:
            self.counter += 1
            counter = self.counter if self.counts else 0
        flags = PRESENT | (VERIFIED if self.verifies else 0) | (ATTESTED if attested else 0)
        flags |= 0 if self.counts else MAY_BE_COPIED | COPIED
        party = hashlib.sha256((rp_id or used.rp_id).encode()).digest()
        data = party + bytes([flags]) + counter.to_bytes(4, "big") + attested
        return json.dumps(client).encode(), data


def from_text(text: str) -> bytes:
    """The bytes of base64url without padding."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _public(credential: Credential, response: dict[str, Any]) -> dict[str, Any]:
    told = _text(credential.id)
    return {
        "id": told,
        "rawId": told,
        "type": "public-key",
        "response": response,
        "clientExtensionResults": {},
        "authenticatorAttachment": "platform",
    }


def _cose(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> dict[int, Any]:
    """A public key as COSE (RFC 9053): type, algorithm, curve, coordinates."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {1: 1, 3: -8, -1: 6, -2: key.public_key().public_bytes_raw()}
    numbers = key.public_key().public_numbers()
    return {
        1: 2,
        3: -7,
        -1: 1,
        -2: numbers.x.to_bytes(32, "big"),
        -3: numbers.y.to_bytes(32, "big"),
    }
