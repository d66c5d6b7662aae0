"""Attestations: signed, about exactly the files of their bundle, readable by others."""

import base64
import json

import pytest

from falaj.kernel.errors import Corrupt
from falaj.models.attestation import ATTESTATION, Attestation, Builder, of_bringing
from falaj.models.bundles import MODEL
from falaj.models.model import Brought
from falaj.models.signing import Statement, sha256
from falaj.testing.smallbundles import FILES, SMALL
from falaj.trust.ports import UnknownKey

BROUGHT = SMALL.model_copy(
    update={"run": "", "brought": Brought(file="late.txt", sha256="a" * 64, by="user:amina")}
)


@pytest.fixture
def parts(tmp_path, kept_in):
    return kept_in(tmp_path)


def attested(parts, files=FILES):
    made = of_bringing(parts.bundles.builder, BROUGHT)
    return parts.bundles.keep(BROUGHT, files, made)


def kept_with(parts, attestation):
    """A bundle, well signed, with an attestation that came from somewhere."""
    files = {**FILES, "manifest.json": BROUGHT.model_dump_json(indent=1).encode()}
    files[ATTESTATION] = attestation
    payload = Statement("late", {name: sha256(data) for name, data in files.items()}).payload
    envelope = parts.bundles.signing.signed(payload).model_dump()
    envelope["blobs"] = {name: parts.blobs.keep(data) for name, data in files.items()}
    return parts.blobs.keep(json.dumps(envelope).encode())


def test_an_attestation_names_every_file_the_builder_and_what_the_model_was_made_of(parts):
    bundle = parts.bundles.open_bundle(attested(parts))
    told = bundle.attestation
    assert set(told.digests) == set(bundle.files) - {ATTESTATION}
    assert told.predicate.details.builder.id.startswith("urn:falaj:installation:")
    file = told.predicate.dependency("file")
    assert file.digest == {"sha256": "a" * 64}
    assert told.predicate.definition.internal["asked_by"] == "user:amina"


def test_an_attestation_is_slsa_provenance_in_a_sigstore_bundle(parts):
    data = parts.bundles.open_bundle(attested(parts)).files[ATTESTATION]
    statement = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(statement["predicate"]) == {"buildDefinition", "runDetails"}
    assert statement["predicate"]["buildDefinition"]["buildType"].startswith("urn:")


def test_the_builder_is_the_same_after_the_keys_were_rotated(parts):
    before = parts.bundles.builder
    parts.keys.rotate("models.p256")
    assert parts.bundles.builder == before


def test_the_same_model_packaged_again_is_the_same_bundle(parts):
    assert attested(parts) == attested(parts)


def test_the_attestation_of_another_model_is_refused(parts):
    other = parts.bundles.open_bundle(attested(parts, {**FILES, MODEL: b"another model"}))
    with pytest.raises(Corrupt, match="about other files"):
        parts.bundles.open_bundle(kept_with(parts, other.files[ATTESTATION]))


def test_an_attestation_that_somebody_else_signed_is_refused(parts, tmp_path, kept_in):
    (tmp_path / "stranger").mkdir()
    stranger = kept_in(tmp_path / "stranger")
    theirs = stranger.bundles.open_bundle(attested(stranger)).files[ATTESTATION]
    with pytest.raises(UnknownKey):
        parts.bundles.open_bundle(kept_with(parts, theirs))


@pytest.mark.parametrize("change", [b"user:omar", b"user:amin"])
def test_an_attestation_with_a_changed_byte_is_refused(parts, change):
    data = json.loads(parts.bundles.open_bundle(attested(parts)).files[ATTESTATION])
    payload = base64.b64decode(data["dsseEnvelope"]["payload"])
    changed = payload.replace(b"user:amina", change)
    data["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
    with pytest.raises(Corrupt):
        parts.bundles.open_bundle(kept_with(parts, json.dumps(data).encode()))


def test_a_statement_of_another_predicate_is_no_attestation(parts):
    payload = Statement("late", {"a": "0" * 64}).payload
    envelope = parts.bundles.signing.signed(payload)
    with pytest.raises(Corrupt, match="no SLSA provenance"):
        parts.bundles.open_bundle(kept_with(parts, parts.bundles.signing.sigstore_bundle(envelope)))


def test_an_attestation_is_read_back_as_it_was_made():
    made = of_bringing(Builder(id="urn:falaj:installation:0"), BROUGHT)
    told = Attestation.of({"b": "1" * 64, "a": "0" * 64}, made)
    assert Attestation.read(told.payload()) == told
