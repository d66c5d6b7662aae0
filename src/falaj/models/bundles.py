"""Bundles: a model with all that is needed to serve and to judge it, encrypted and signed.

A bundle is a small set of files. Their names and SHA-256 digests, in the order of names,
are the resources of an in-toto statement, which is signed in a DSSE envelope: the shape of
the OpenSSF model-signing format, so that its signers and verifiers can take over. The
files and the envelope are kept encrypted; the envelope's digest names the bundle.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.models.model import FileEntry, Manifest, ModelFormat, Statistics
from falaj.trust.ports import Signature as KeySignature

if TYPE_CHECKING:
    from falaj.lake.blobs import SealedBlobs
    from falaj.trust.ports import KeyService

PURPOSE = "models"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MANIFEST, MODEL, CARD, STATISTICS, NATIVE = (
    "manifest.json",
    "model.onnx",
    "card.md",
    "statistics.json",
    "native.bin",
)
_NEEDED = (CARD, MANIFEST, STATISTICS)


class _SignatureEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keyid: str
    algorithm: str
    sig: str


class _Envelope(BaseModel):
    """DSSE, and beside the signed payload where each file is kept."""

    model_config = ConfigDict(extra="forbid")
    payloadType: str  # noqa: N815 - the format's own name
    payload: str
    signatures: tuple[_SignatureEntry, ...]
    blobs: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: every byte is what was signed."""

    digest: str
    manifest: Manifest
    statistics: Statistics
    entries: tuple[FileEntry, ...]
    files: Mapping[str, bytes]
    key_id: str

    @property
    def model(self) -> bytes:
        """The model, in the manifest's format."""
        return self.files[self.manifest.model_format.file]

    @property
    def onnx(self) -> bytes:
        """The model as ONNX; raises InvalidInput if it is of another format."""
        if self.manifest.model_format is not ModelFormat.ONNX:
            raise InvalidInput(
                f"The model is {self.manifest.model_format}, not ONNX.",
                hint="Name a version whose model is ONNX.",
            )
        return self.files[MODEL]

    @property
    def native(self) -> tuple[str, bytes] | None:
        """Format and bytes of the model from which this one was converted, if they are kept."""
        data = self.files.get(NATIVE)
        return (
            None if data is None else (self.manifest.native_format or self.manifest.trainer, data)
        )

    @property
    def card(self) -> str:
        """The card as it was packaged, Markdown."""
        return self.files[CARD].decode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


class Bundles:
    """Keeps and opens bundles."""

    def __init__(self, blobs: SealedBlobs, keys: KeyService) -> None:
        self._blobs = blobs
        self._keys = keys

    def keep(self, manifest: Manifest, files: Mapping[str, bytes]) -> str:
        """Sign and keep a bundle; returns its digest, ``sha256:…``.

        Args:
            manifest: becomes ``manifest.json``.
            files: the model (``model.onnx``, or as its format is named), ``card.md``,
                ``statistics.json`` and any others by name.
        """
        contents = {**files, MANIFEST: manifest.model_dump_json(indent=1).encode()}
        needed = (*_NEEDED, manifest.model_format.file)
        missing = [name for name in needed if name not in contents]
        if missing:
            raise ValueError(f"a bundle needs {', '.join(missing)}")
        payload = _statement(
            manifest.model, {name: _sha256(data) for name, data in contents.items()}
        )
        signature = self._keys.sign(PURPOSE, pre_authentication_encoding(PAYLOAD_TYPE, payload))
        envelope = _Envelope(
            payloadType=PAYLOAD_TYPE,
            payload=base64.b64encode(payload).decode(),
            signatures=(
                _SignatureEntry(
                    keyid=signature.key_id,
                    algorithm=signature.algorithm,
                    sig=base64.b64encode(signature.value).decode(),
                ),
            ),
            blobs={name: self._blobs.keep(contents[name]) for name in sorted(contents)},
        )
        return self._blobs.keep(envelope.model_dump_json().encode())

    def open_bundle(self, digest: str) -> Bundle:
        """Fetch and verify a bundle.

        Raises:
            NotFound: there is no such bundle.
            Corrupt: the signature or any byte of it is not what was signed.
        """
        try:
            envelope = _Envelope.model_validate_json(self._blobs.fetch(digest))
            payload = base64.b64decode(envelope.payload, validate=True)
            signatures = [
                KeySignature(
                    key_id=entry.keyid,
                    algorithm=entry.algorithm,
                    value=base64.b64decode(entry.sig, validate=True),
                )
                for entry in envelope.signatures
            ]
        except (ValidationError, binascii.Error) as error:
            raise _corrupt(digest, "it is not a bundle") from error
        if envelope.payloadType != PAYLOAD_TYPE or not signatures:
            raise _corrupt(digest, "it is not signed")
        message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
        for signature in signatures:
            self._keys.verify(PURPOSE, message, signature)
        digests = _resources(digest, payload)
        if set(digests) != set(envelope.blobs) or not digests.keys() >= set(_NEEDED):
            raise _corrupt(digest, "its files are not those that were signed")
        files = {name: self._file(digest, name, envelope.blobs[name], digests) for name in digests}
        try:
            manifest = Manifest.model_validate_json(files[MANIFEST])
            statistics = Statistics.model_validate_json(files[STATISTICS])
        except ValidationError as error:
            raise _corrupt(digest, "its manifest cannot be read") from error
        if manifest.model_format.file not in files:
            raise _corrupt(digest, "it has no model")
        entries = tuple(
            FileEntry(name=name, sha256=digests[name], size=len(data), blob=envelope.blobs[name])
            for name, data in files.items()
        )
        return Bundle(digest, manifest, statistics, entries, files, signatures[0].key_id)

    def _file(self, digest: str, name: str, blob: str, digests: Mapping[str, str]) -> bytes:
        try:
            data = self._blobs.fetch(blob)
        except NotFound as error:
            raise _corrupt(digest, f"its file {name!r} is missing") from error
        if _sha256(data) != digests[name]:
            raise _corrupt(digest, f"its file {name!r} is not the one that was signed")
        return data


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: type and payload with their lengths, so that neither can be shifted."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _statement(subject: str, digests: Mapping[str, str]) -> bytes:
    """The in-toto statement of model-signing 1.0, as canonical JSON."""
    names = sorted(digests)
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": subject, "digest": {"sha256": _root(digests)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names
            ],
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _resources(digest: str, payload: bytes) -> dict[str, str]:
    """The signed files and their digests, checked to be the whole statement."""
    try:
        document: Any = json.loads(payload)
        subject = str(document["subject"][0]["name"])
        digests = {
            str(resource["name"]): str(resource["digest"])
            for resource in document["predicate"]["resources"]
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _corrupt(digest, "its statement cannot be read") from error
    if _statement(subject, digests) != payload:
        raise _corrupt(digest, "its statement is not in canonical form")
    return digests


def _root(digests: Mapping[str, str]) -> str:
    """SHA-256 over the digests in the order of names, as model-signing computes it."""
    return _sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests)))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _corrupt(digest: str, reason: str) -> Corrupt:
    return Corrupt(
        f"The bundle {digest[:19]}… cannot be trusted: {reason}.",
        hint="Do not serve it; train or package the model again, and find out who changed it.",
        bundle=digest,
    )
