"""Signatures of bundles, in the OpenSSF model-signing format.

The names and SHA-256 digests of a bundle's files, in the order of names, are the resources
of an in-toto statement, which is signed in a DSSE envelope. It carries two signatures of
this installation: ECDSA over P-256, which the official verifier of the format takes (it
looks at the first signature alone), and Ed25519, which we ask for as well. Written beside
the files, the envelope is a Sigstore bundle, ``model.sig``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from falaj.kernel.errors import Corrupt
from falaj.models.model import Signer
from falaj.trust.ports import Signature as KeySignature
from falaj.trust.ports import UnknownKey
from falaj.trust.signatures import ECDSA_P256, ED25519

if TYPE_CHECKING:
    from falaj.trust.ports import KeyService

PURPOSE, P256_PURPOSE = "models", "models.p256"
PURPOSES: Mapping[str, str] = {ECDSA_P256: P256_PURPOSE, ED25519: PURPOSE}
"""The purpose of the keys of each algorithm that bundles are signed with, in this order."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SIGSTORE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "model.sig"
"""The name of the Sigstore bundle beside the files; no file of a bundle is named so."""
_ED25519_BYTES = 32


class SignatureEntry(BaseModel):
    """One signature of an envelope."""

    model_config = ConfigDict(extra="forbid")
    keyid: str
    algorithm: str
    sig: str


class Envelope(BaseModel):
    """A signed payload: DSSE, and of each signature its algorithm."""

    model_config = ConfigDict(extra="forbid")
    payloadType: str  # noqa: N815 - the format's own name
    payload: str
    signatures: tuple[SignatureEntry, ...]


class BadStatement(ValueError):
    """A statement cannot be read, or is not in canonical form."""


@dataclass(frozen=True)
class Statement:
    """What is signed of a bundle: the digests of its files by name, and its model's name."""

    subject: str
    digests: Mapping[str, str]
    ignored: tuple[str, ...] = (SIGNATURE,)
    """Names that are not looked at; none in bundles that bear an Ed25519 signature alone."""

    @property
    def payload(self) -> bytes:
        """The in-toto statement of model-signing 1.0, as canonical JSON."""
        names = sorted(self.digests)
        document = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.subject, "digest": {"sha256": root(self.digests)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": list(self.ignored),
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": self.digests[name]}
                    for name in names
                ],
            },
        }
        return canonical(document)

    @property
    def algorithms(self) -> frozenset[str]:
        """The algorithms of the signatures that such a statement needs.

        Bundles of before P-256 keys were there ignore no name and have one signature: so
        nobody can take a signature away from a newer one.
        """
        return frozenset(PURPOSES) if self.ignored else frozenset({ED25519})

    @classmethod
    def read(cls, payload: bytes) -> Statement:
        """A statement of either form; raises BadStatement unless it is canonical."""
        try:
            document: Any = json.loads(payload)
            serialization = document["predicate"]["serialization"]
            found = cls(
                subject=str(document["subject"][0]["name"]),
                digests={
                    str(resource["name"]): str(resource["digest"])
                    for resource in document["predicate"]["resources"]
                },
                ignored=tuple(str(name) for name in serialization["ignore_paths"]),
            )
            again = found.payload
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise BadStatement("its statement cannot be read") from error
        if again != payload or found.ignored not in ((), (SIGNATURE,)):
            raise BadStatement("its statement is not in canonical form")
        return found


def canonical(document: Any) -> bytes:
    """JSON with sorted names and no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def root(digests: Mapping[str, str]) -> str:
    """SHA-256 over the digests in the order of names, as model-signing computes it."""
    return sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests)))


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: type and payload with their lengths, so that neither can be shifted."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


class Signing:
    """Signs payloads as this installation, and verifies what it signed.

    Args:
        keys: holds the keys of the purposes ``models`` and ``models.p256``.
    """

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    def signed(self, payload: bytes, algorithms: tuple[str, ...] = tuple(PURPOSES)) -> Envelope:
        """An envelope with a signature of each algorithm."""
        message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
        made = [self._keys.sign(PURPOSES[algorithm], message) for algorithm in algorithms]
        return Envelope(
            payloadType=PAYLOAD_TYPE,
            payload=base64.b64encode(payload).decode(),
            signatures=tuple(
                SignatureEntry(
                    keyid=signature.key_id,
                    algorithm=signature.algorithm,
                    sig=base64.b64encode(signature.value).decode(),
                )
                for signature in made
            ),
        )

    def verified(self, envelope: Envelope) -> bytes:
        """The payload, every signature of which verifies.

        Raises:
            UnknownKey: a signer is none of this installation's keys.
            Corrupt: a signature does not fit, or there is none.
        """
        try:
            payload = base64.b64decode(envelope.payload, validate=True)
            signatures = [
                KeySignature(
                    key_id=entry.keyid,
                    algorithm=entry.algorithm,
                    value=base64.b64decode(entry.sig, validate=True),
                )
                for entry in envelope.signatures
            ]
        except binascii.Error:
            raise _unsigned("it is not in base64") from None
        algorithms = [signature.algorithm for signature in signatures]
        if envelope.payloadType != PAYLOAD_TYPE or not signatures:
            raise _unsigned("it is not signed")
        if len(set(algorithms)) != len(algorithms) or not PURPOSES.keys() >= set(algorithms):
            raise _unsigned("its signatures are not one of each algorithm that is used here")
        message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
        for signature in signatures:
            self._keys.verify(PURPOSES[signature.algorithm], message, signature)
        return payload

    def sigstore_bundle(self, envelope: Envelope) -> bytes:
        """The P-256 signature of an envelope as a Sigstore bundle, JSON.

        Raises:
            UnknownKey: its key is not held here any more, or it has no such signature.
        """
        entry = next((one for one in envelope.signatures if one.algorithm == ECDSA_P256), None)
        keys = self._keys.public_keys(P256_PURPOSE)
        if entry is None or entry.keyid not in keys:
            raise UnknownKey(
                "It bears no P-256 signature of this installation.",
                hint="It was packaged by an older version; package the model again.",
            )
        return canonical(
            {
                "mediaType": SIGSTORE_BUNDLE,
                "verificationMaterial": {
                    "publicKey": {"hint": hint(keys[entry.keyid])},
                    "tlogEntries": [],
                },
                "dsseEnvelope": {
                    "payload": envelope.payload,
                    "payloadType": envelope.payloadType,
                    "signatures": [{"sig": entry.sig, "keyid": entry.keyid}],
                },
            }
        )

    def verified_sigstore(self, data: bytes) -> tuple[bytes, str]:
        """Payload and key of a Sigstore bundle that a P-256 key of this installation signed.

        Raises:
            UnknownKey, Corrupt: as for ``verified``.
        """
        try:
            document: Any = json.loads(data)
            inner = document["dsseEnvelope"]
            (signature,) = inner["signatures"]
            envelope = Envelope(
                payloadType=inner["payloadType"],
                payload=inner["payload"],
                signatures=(
                    SignatureEntry(
                        keyid=signature["keyid"], algorithm=ECDSA_P256, sig=signature["sig"]
                    ),
                ),
            )
            told = str(document["verificationMaterial"]["publicKey"]["hint"])
            kind = document["mediaType"]
        except (ValueError, KeyError, TypeError, ValidationError, RecursionError):
            raise _unsigned("it is no Sigstore bundle") from None
        payload, key_id = self.verified(envelope), envelope.signatures[0].keyid
        if kind != SIGSTORE_BUNDLE or told != hint(self._keys.public_keys(P256_PURPOSE)[key_id]):
            raise _unsigned("it tells another key than it was signed with")
        return payload, key_id

    def first_hint(self) -> str:
        """The name of this installation's first P-256 key, which stays however keys rotate."""
        self._keys.public_key(P256_PURPOSE)  # makes it if there is none
        return hint(next(iter(self._keys.public_keys(P256_PURPOSE).values())))

    def replaced(self, key_id: str) -> bool:
        """True if bundles may bear signatures of this key; it signs no more from now on."""
        for purpose in PURPOSES.values():
            held = list(self._keys.public_keys(purpose))
            if key_id in held:
                if key_id == held[-1]:
                    self._keys.rotate(purpose)
                return True
        return False

    def signers(self) -> list[Signer]:
        """The keys of this installation: P-256, then Ed25519, each the newest first."""
        return [
            Signer(key=key_id, algorithm=algorithm, public_key=pem(key).decode(), hint=hint(key))
            for algorithm, purpose in PURPOSES.items()
            for key_id, key in reversed([*self._keys.public_keys(purpose).items()])
        ]


def pem(public_key: bytes) -> bytes:
    """A public key (SPKI in DER, or 32 raw bytes of Ed25519) as PEM."""
    raw = len(public_key) == _ED25519_BYTES
    key = Ed25519PublicKey.from_public_bytes(public_key) if raw else load_der_public_key(public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hint(public_key: bytes) -> str:
    """By what model-signing names a public key: the SHA-256 of its PEM, in hex."""
    return sha256(pem(public_key))


def _unsigned(reason: str) -> Corrupt:
    return Corrupt(f"The signature cannot be trusted: {reason}.", hint="Do not use what it is of.")
