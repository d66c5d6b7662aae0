"""Bundles: a model with all that is needed to serve and to judge it, encrypted and signed.

A bundle is a small set of files, signed in the OpenSSF model-signing format (see
``signing``). The files and the envelope are kept encrypted; the envelope's digest names
the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import ValidationError

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.models.attestation import ATTESTATION, Attestation, Builder
from falaj.models.isolation import ISOLATION
from falaj.models.mlbom import BOM, bill
from falaj.models.model import FileEntry, Manifest, ModelFormat, Statistics
from falaj.models.signing import SIGNATURE, BadStatement, Envelope, Signing, Statement, sha256
from falaj.training.distributions import installed

if TYPE_CHECKING:
    from falaj.lake.blobs import SealedBlobs
    from falaj.models.attestation import Provenance
    from falaj.trust.ports import KeyService

MANIFEST, MODEL, CARD, STATISTICS, NATIVE = (
    "manifest.json",
    "model.onnx",
    "card.md",
    "statistics.json",
    "native.bin",
)
_NEEDED = (CARD, MANIFEST, STATISTICS)
_OURS = frozenset({SIGNATURE, ATTESTATION, BOM})
ADDED = _OURS | {MANIFEST}
"""Files that ``keep`` adds to those that it is given."""


class _Kept(Envelope):
    """The envelope, and beside it where each file is kept."""

    blobs: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: every byte is what was signed."""

    digest: str
    manifest: Manifest
    statistics: Statistics
    entries: tuple[FileEntry, ...]
    files: Mapping[str, bytes]
    signers: tuple[str, ...]
    """The ids of the keys that signed it."""
    attestation: Attestation | None = None
    """How the model was made; None in a bundle that an older version packaged."""

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
    def isolation(self) -> bytes:
        """The forest that tells rows unlike those of the training; empty if there is none."""
        return self.files.get(ISOLATION, b"")

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
        self.signing = Signing(keys)

    @property
    def builder(self) -> Builder:
        """This installation, as attestations name it: by its first P-256 key."""
        return Builder(
            id=f"urn:falaj:installation:{self.signing.first_hint()}",
            version={"falaj": version("falaj")},
        )

    def keep(
        self, manifest: Manifest, files: Mapping[str, bytes], made: Provenance | None = None
    ) -> str:
        """Sign and keep a bundle; returns its digest, ``sha256:…``.

        Args:
            manifest: becomes ``manifest.json``.
            files: the model (``model.onnx``, or as its format is named), ``card.md``,
                ``statistics.json`` and any others by name.
            made: how the model was made; becomes ``attestation.json``, and brings a bill of
                materials along, ``bom.json``.
        """
        contents = {**files, MANIFEST: manifest.model_dump_json(indent=1).encode()}
        needed = (*_NEEDED, manifest.model_format.file)
        missing = [name for name in needed if name not in contents]
        if missing:
            raise ValueError(f"a bundle needs {', '.join(missing)}")
        if contents.keys() & _OURS:
            raise ValueError(f"no file of a bundle may be named {', '.join(sorted(_OURS))}")
        digests = {name: sha256(data) for name, data in contents.items()}
        if made is not None:
            contents[BOM] = bill(manifest, digests, installed())
            digests[BOM] = sha256(contents[BOM])
            contents[ATTESTATION] = self.signing.sigstore_bundle(
                self.signing.signed(Attestation.of(digests, made).payload())
            )
            digests[ATTESTATION] = sha256(contents[ATTESTATION])
        envelope = self.signing.signed(Statement(manifest.model, digests).payload)
        kept = _Kept(
            **envelope.model_dump(),
            blobs={name: self._blobs.keep(contents[name]) for name in sorted(contents)},
        )
        return self._blobs.keep(kept.model_dump_json().encode())

    def open_bundle(self, digest: str) -> Bundle:
        """Fetch and verify a bundle.

        Raises:
            NotFound: there is no such bundle.
            UnknownKey: it was signed by somebody else.
            Corrupt: a signature or any byte of it is not what was signed.
        """
        envelope, digests = self._signed(digest)
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
        attested, attester = self._attested(digest, files, digests)
        signers = [one.keyid for one in envelope.signatures] + attester
        return Bundle(
            digest, manifest, statistics, entries, files, tuple(dict.fromkeys(signers)), attested
        )

    def _attested(
        self, digest: str, files: Mapping[str, bytes], digests: Mapping[str, str]
    ) -> tuple[Attestation | None, list[str]]:
        """The verified attestation of a bundle and the key that signed it, if it has one."""
        if ATTESTATION not in files:
            return None, []
        payload, key = self.signing.verified_sigstore(files[ATTESTATION])
        found = Attestation.read(payload)
        if found.digests != {name: told for name, told in digests.items() if name != ATTESTATION}:
            raise _corrupt(digest, "its attestation is about other files")
        return found, [key]

    def signers(self, digest: str) -> tuple[str, ...]:
        """The ids of the keys that signed a bundle and its attestation.

        Verifies no file: a bundle whose files are damaged has signers too.
        """
        envelope, digests = self._signed(digest)
        found = [one.keyid for one in envelope.signatures]
        if ATTESTATION in digests:
            data = self._file(digest, ATTESTATION, envelope.blobs[ATTESTATION], digests)
            found.append(self.signing.verified_sigstore(data)[1])
        return tuple(dict.fromkeys(found))

    def signature(self, digest: str) -> bytes:
        """The Sigstore bundle of a bundle's files, ``model.sig``; raises as ``open_bundle``."""
        envelope, _ = self._signed(digest)
        return self.signing.sigstore_bundle(envelope)

    def _signed(self, digest: str) -> tuple[_Kept, Mapping[str, str]]:
        """The verified envelope, and the digests of the files that were signed."""
        try:
            envelope = _Kept.model_validate_json(self._blobs.fetch(digest))
        except ValidationError as error:
            raise _corrupt(digest, "it is not a bundle") from error
        try:
            statement = Statement.read(self.signing.verified(envelope))
        except BadStatement as error:
            raise _corrupt(digest, str(error)) from error
        if {one.algorithm for one in envelope.signatures} != statement.algorithms:
            raise _corrupt(digest, "a signature was taken away from it")
        digests = statement.digests
        if set(digests) != set(envelope.blobs) or not digests.keys() >= set(_NEEDED):
            raise _corrupt(digest, "its files are not those that were signed")
        return envelope, digests

    def _file(self, digest: str, name: str, blob: str, digests: Mapping[str, str]) -> bytes:
        try:
            data = self._blobs.fetch(blob)
        except NotFound as error:
            raise _corrupt(digest, f"its file {name!r} is missing") from error
        # A blob is named by its digest, which has been proven: most need no second look.
        if blob != f"sha256:{digests[name]}" and sha256(data) != digests[name]:
            raise _corrupt(digest, f"its file {name!r} is not the one that was signed")
        return data


def _corrupt(digest: str, reason: str) -> Corrupt:
    return Corrupt(
        f"The bundle {digest[:19]}… cannot be trusted: {reason}.",
        hint="Do not serve it; train or package the model again, and find out who changed it.",
        bundle=digest,
    )
