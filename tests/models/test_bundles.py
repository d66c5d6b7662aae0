"""Bundles: what was signed is what is opened, to the byte."""

import base64
import json

import pytest

from falaj.kernel.errors import Corrupt, NotFound
from falaj.models.bundles import CARD, STATISTICS
from falaj.models.signing import pre_authentication_encoding
from falaj.testing.smallbundles import FILES
from falaj.testing.smallbundles import SMALL as MANIFEST


@pytest.fixture
def parts(tmp_path, kept_in):
    return kept_in(tmp_path)


def forged(kept, digest, **changes):
    """The envelope with changes, kept as a bundle of its own."""
    envelope = json.loads(kept.fetch(digest))
    for name, change in changes.items():
        envelope[name] = change(envelope[name])
    return kept.keep(json.dumps(envelope).encode())


def test_a_kept_bundle_opens_with_everything_in_it(parts):
    bundles, _, keys = parts
    digest = bundles.keep(MANIFEST, FILES)
    opened = bundles.open_bundle(digest)
    assert opened.manifest == MANIFEST
    assert opened.onnx == b"model bytes"
    assert opened.card == "# Späte Flüge"
    assert opened.size == sum(len(data) for data in opened.files.values())
    held = [*keys.public_keys("models.p256"), *keys.public_keys("models")]
    assert list(opened.signers) == held
    assert bundles.keep(MANIFEST, FILES) == digest


def test_nothing_of_a_bundle_lies_in_clear_on_disk(parts, tmp_path):
    bundles, _, _ = parts
    bundles.keep(MANIFEST, FILES)
    kept = [path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert len(kept) == 5
    assert not any(b"model bytes" in data or b"delays" in data for data in kept)


def test_the_statement_is_that_of_model_signing_in_a_dsse_envelope(parts):
    bundles, blobs, keys = parts
    envelope = json.loads(blobs.fetch(bundles.keep(MANIFEST, FILES)))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    names = [one["name"] for one in statement["predicate"]["resources"]]
    assert names == sorted(names) == ["card.md", "manifest.json", "model.onnx", "statistics.json"]
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    payload = base64.b64decode(envelope["payload"])
    Ed25519PublicKey.from_public_bytes(keys.public_key("models")).verify(
        base64.b64decode(envelope["signatures"][1]["sig"]),
        b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload,
    )


def test_the_encoding_that_is_signed_cannot_be_shifted_between_type_and_payload():
    assert pre_authentication_encoding("ab", b"c") != pre_authentication_encoding("a", b"bc")


def other_digest(payload):
    statement = json.loads(base64.b64decode(payload))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    return base64.b64encode(json.dumps(statement).encode()).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": other_digest},
        {"payload": lambda value: value[:-8] + "AAAA" + value[-4:]},
        {"payload": lambda value: "not base64!"},
        {"payloadType": lambda value: "text/plain"},
        {"signatures": lambda value: []},
        {"signatures": lambda value: [{**value[0], "sig": base64.b64encode(bytes(64)).decode()}]},
        {"signatures": lambda value: [{**value[0], "keyid": "key_of_somebody"}]},
        {"blobs": lambda value: {**value, "model.onnx": value["card.md"]}},
        {"blobs": lambda value: {**value, "more.bin": value["card.md"]}},
        {"blobs": lambda value: {k: v for k, v in value.items() if k != "model.onnx"}},
        {"blobs": lambda value: {**value, "model.onnx": "sha256:" + "0" * 64}},
    ],
)
def test_a_forged_envelope_is_refused(parts, changes):
    bundles, blobs, _ = parts
    digest = forged(blobs, bundles.keep(MANIFEST, FILES), **changes)
    with pytest.raises(Corrupt):
        bundles.open_bundle(digest)


def test_every_changed_file_on_disk_is_noticed(parts, tmp_path):
    bundles, _, _ = parts
    digest = bundles.keep(MANIFEST, FILES)
    for path in [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(Corrupt):
            bundles.open_bundle(digest)
        path.write_bytes(data)
    assert bundles.open_bundle(digest).manifest == MANIFEST


def test_a_signature_of_another_purpose_does_not_make_a_bundle(parts):
    bundles, blobs, keys = parts

    def signed_elsewhere(signatures):
        envelope = json.loads(blobs.fetch(digest))
        message = pre_authentication_encoding(
            envelope["payloadType"], base64.b64decode(envelope["payload"])
        )
        signature = keys.sign("audit", message)
        return [
            {
                "keyid": signature.key_id,
                "algorithm": signature.algorithm,
                "sig": base64.b64encode(signature.value).decode(),
            }
        ]

    digest = bundles.keep(MANIFEST, FILES)
    with pytest.raises(Corrupt):
        bundles.open_bundle(forged(blobs, digest, signatures=signed_elsewhere))


def test_what_is_no_bundle_or_not_there_is_said_so(parts):
    bundles, blobs, _ = parts
    with pytest.raises(Corrupt, match="not a bundle"):
        bundles.open_bundle(blobs.keep(b"{}"))
    with pytest.raises(NotFound):
        bundles.open_bundle("sha256:" + "1" * 64)
    with pytest.raises(ValueError, match=r"model\.onnx"):
        bundles.keep(MANIFEST, {CARD: b"", STATISTICS: b"{}"})


def test_a_bundle_whose_statistics_cannot_be_read_is_refused(parts):
    bundles, _, _ = parts
    with pytest.raises(Corrupt, match="manifest"):
        bundles.open_bundle(bundles.keep(MANIFEST, {**FILES, STATISTICS: b"[]"}))


def test_a_bundle_still_opens_after_the_keys_were_rotated(parts):
    bundles, _, keys = parts
    digest = bundles.keep(MANIFEST, FILES)
    keys.rotate("models")
    keys.rotate("wrapping")
    assert bundles.open_bundle(digest).manifest == MANIFEST
