"""Signatures in the OpenSSF model-signing format: ours are theirs, and old ones still open."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from falaj.kernel.errors import AlreadyExists, Corrupt
from falaj.models.exporting import archive, unpack
from falaj.models.signing import SIGNATURE, BadStatement, Statement, sha256
from falaj.testing.smallbundles import FILES, SMALL, old_bundle
from falaj.trust.ports import UnknownKey

TOOL = Path(__file__).parents[2] / ".venv-peers/model-signing/bin/model_signing"
official = pytest.mark.skipif(
    not TOOL.exists(), reason="the official verifier is not here: `make model-signing` makes it"
)


def exported(bundles, folder):
    """A bundle in a folder, and the public key of its signer in a file."""
    unpack(archive(bundles, bundles.keep(SMALL, FILES)), folder)
    key = folder.with_suffix(".pem")
    key.write_text(bundles.signing.signers()[0].public_key)
    return key


def judged(folder, key, signature=None):
    """What the official tool says of a folder: whether it accepts it, and its words."""
    done = subprocess.run(
        [TOOL, "verify", "key", folder, "--signature", signature or folder / SIGNATURE,
         "--public_key", key],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def parts(tmp_path, kept_in):
    return kept_in(tmp_path)


@official
def test_the_official_tool_accepts_an_exported_bundle(parts, tmp_path):
    key = exported(parts[0], tmp_path / "out")
    accepted, told = judged(tmp_path / "out", key)
    assert accepted, told


def replaced(folder):
    (folder / "model.onnx").write_bytes(b"another model")


def added(folder):
    (folder / "more.bin").write_bytes(b"more")


def removed(folder):
    (folder / "card.md").unlink()


def swapped(folder):
    one, other = folder / "model.onnx", folder / "statistics.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


_IN_ONE_PROCESS = """
import json, sys
from model_signing._cli import main
found = {}
for folder, key in json.loads(sys.argv[1]):
    told = ["verify", "key", folder, "--signature", folder + "/model.sig", "--public_key", key]
    try:
        main(told, standalone_mode=False)
        found[folder] = 0
    except SystemExit as ended:
        found[folder] = ended.code
print(json.dumps(found))
"""


@official
def test_the_official_tool_refuses_a_bundle_whose_files_were_changed(parts, tmp_path):
    asked = []
    for change in (lambda _folder: None, replaced, added, removed, swapped):
        folder = tmp_path / f"out{len(asked)}"
        key = exported(parts[0], folder)
        change(folder)
        asked.append((str(folder), str(key)))
    python = TOOL.with_name("python")
    done = subprocess.run(
        [python, "-c", _IN_ONE_PROCESS, json.dumps(asked)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found.values()) == [0, 1, 1, 1, 1]


@official
def test_the_official_tool_refuses_the_key_of_somebody_else(parts, tmp_path):
    bundles, _, keys = parts
    exported(bundles, tmp_path / "out")
    keys.rotate("models.p256")
    other = tmp_path / "other.pem"
    other.write_text(bundles.signing.signers()[0].public_key)
    assert not judged(tmp_path / "out", other)[0]


def test_the_signature_is_a_sigstore_bundle_with_one_p256_signature(parts):
    bundles, _, _ = parts
    told = json.loads(bundles.signature(bundles.keep(SMALL, FILES)))
    assert told["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    signer, other = bundles.signing.signers()
    assert (signer.algorithm, other.algorithm) == ("ECDSA-P256-SHA256", "Ed25519")
    assert told["verificationMaterial"]["publicKey"]["hint"] == signer.hint
    assert signer.hint == sha256(signer.public_key.encode())
    (signature,) = told["dsseEnvelope"]["signatures"]
    assert signature["keyid"] == signer.key
    statement = json.loads(base64.b64decode(told["dsseEnvelope"]["payload"]))
    assert statement["predicate"]["serialization"]["ignore_paths"] == ["model.sig"]


def test_what_was_signed_as_a_sigstore_bundle_is_read_back(parts):
    bundles, _, _ = parts
    data = bundles.signature(bundles.keep(SMALL, FILES))
    payload, key = bundles.signing.verified_sigstore(data)
    assert Statement.read(payload).subject == "late"
    assert key == bundles.signing.signers()[0].key
    with pytest.raises(Corrupt):
        bundles.signing.verified_sigstore(data.replace(b'"hint":"', b'"hint":"0'))
    with pytest.raises(Corrupt):
        bundles.signing.verified_sigstore(b"[]")


def test_a_bundle_with_an_ed25519_signature_alone_still_opens(parts):
    bundles, _, keys = parts
    opened = bundles.open_bundle(old_bundle(parts))
    assert opened.manifest == SMALL
    assert opened.signers == tuple(keys.public_keys("models"))


def test_a_bundle_with_an_ed25519_signature_alone_cannot_be_exported(parts):
    bundles = parts.bundles
    with pytest.raises(UnknownKey, match="no P-256 signature"):
        archive(bundles, old_bundle(parts))


@pytest.mark.parametrize("left", [0, 1])
def test_a_signature_cannot_be_taken_away_from_a_bundle_that_has_two(parts, left):
    bundles, blobs, _ = parts
    envelope = json.loads(blobs.fetch(bundles.keep(SMALL, FILES)))
    envelope["signatures"] = [envelope["signatures"][left]]
    with pytest.raises(Corrupt, match="taken away"):
        bundles.open_bundle(blobs.keep(json.dumps(envelope).encode()))


def test_a_statement_that_ignores_a_file_of_its_own_is_refused():
    digests = {"a": "0" * 64}
    with pytest.raises(BadStatement):
        Statement.read(Statement("m", digests, ignored=("a",)).payload)
    with pytest.raises(BadStatement):
        Statement.read(Statement("m", digests).payload + b" ")


def test_a_bundle_is_not_unpacked_over_what_is_there(parts, tmp_path):
    bundles, _, _ = parts
    data = archive(bundles, bundles.keep(SMALL, FILES))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(AlreadyExists):
        unpack(data, tmp_path / "out")
