"""The bill of materials is CycloneDX 1.6, and names what a model is made of."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from falaj.kernel.errors import Corrupt
from falaj.models.attestation import of_bringing
from falaj.models.mlbom import BOM, bill, distributions, read, with_vulnerabilities
from falaj.models.model import Brought
from falaj.models.signing import sha256
from falaj.models.vulnerabilities import Finding, Severity
from falaj.testing.smallbundles import FILES, SMALL
from falaj.training.distributions import Distribution, installed

LIBRARIES = (
    Distribution("numpy", "2.4.6", "BSD-3-Clause AND MIT", True),
    Distribution("old-one", "1.0", "BSD License", False),
    Distribution("silent", "0.1", "unknown", False),
)
DIGESTS = {name: sha256(data) for name, data in FILES.items()}


def problems(document):
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


@pytest.mark.parametrize(
    "manifest",
    [
        SMALL,
        SMALL.model_copy(update={"training_set_hash": "sha256:" + "a" * 64}),
        SMALL.model_copy(
            update={
                "run": "", "training_set": "", "metrics": {},
                "brought": Brought(file="m.onnx", sha256="b" * 64, by="user:amina"),
            }
        ),
    ],
)  # fmt: skip
def test_a_bill_is_valid_against_the_schema_of_cyclonedx(manifest):
    assert problems(read(bill(manifest, DIGESTS, installed()))) is None


def test_a_bill_with_vulnerabilities_is_valid_too():
    document = read(bill(SMALL, DIGESTS, LIBRARIES))
    known = [
        Finding("pkg:pypi/numpy@2.4.6", "GHSA-1", ("CVE-1",), severity, "Reads too far.")
        for severity in Severity
    ]
    assert problems(with_vulnerabilities(document, known)) is None


def test_a_document_that_is_no_bill_is_found_by_the_schema():
    document = read(bill(SMALL, DIGESTS, LIBRARIES))
    document["components"][0]["type"] = "something"
    assert problems(document) is not None


def test_a_bill_names_the_model_its_files_its_rows_and_every_distribution():
    document = read(bill(SMALL, DIGESTS, LIBRARIES))
    model = document["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": DIGESTS["model.onnx"]}]
    assert {one["name"] for one in model["components"]} == set(DIGESTS)
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "training-set"}]
    assert document["dependencies"][0]["dependsOn"] == [
        "training-set", *(one.purl for one in LIBRARIES)
    ]  # fmt: skip


def test_the_distributions_of_a_bill_are_read_back_with_their_licences():
    assert distributions(read(bill(SMALL, DIGESTS, LIBRARIES))) == list(LIBRARIES)


def test_an_attested_bundle_holds_a_bill_under_the_same_signature(tmp_path, kept_in):
    parts = kept_in(tmp_path)
    manifest = SMALL.model_copy(
        update={"brought": Brought(file="m", sha256="b" * 64, by="user:amina")}
    )
    made = of_bringing(parts.bundles.builder, manifest)
    bundle = parts.bundles.open_bundle(parts.bundles.keep(manifest, FILES, made))
    assert BOM in bundle.attestation.digests
    named = {one.name for one in distributions(read(bundle.files[BOM]))}
    assert {"falaj", "numpy", "onnxruntime", "cryptography"} <= named


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"bomFormat": "SPDX"}'])
def test_what_is_no_bill_is_refused(data):
    with pytest.raises(Corrupt):
        read(data)
