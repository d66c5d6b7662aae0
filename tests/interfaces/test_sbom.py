"""The bill of materials of Falaj names each pin of its lock."""

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from falaj.interfaces.sbom import bill, main, pins
from falaj.kernel.errors import InvalidInput
from falaj.training.distributions import installed

LOCK = Path(__file__).parents[2] / "requirements.lock"


@pytest.fixture(scope="module")
def document():
    return bill(pins(LOCK.read_text()), installed())


def test_each_pin_of_the_lock_is_a_component_with_its_hashes(document):
    told = {(one["name"], one["version"]): one for one in document["components"]}
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith((" ", "#"))]
    assert len(told) == len(lines) > 100
    for line in lines:
        name, _, rest = line.partition("==")
        assert (name, rest.split()[0]) in told
    n_hashes = LOCK.read_text().count("--hash=sha256:")
    assert n_hashes == sum(
        len(one["externalReferences"][0]["hashes"]) for one in document["components"]
    )


def test_the_bill_is_valid_against_the_schema_of_cyclonedx(document):
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert found is None


def test_what_the_plain_package_needs_is_required_and_the_rest_is_optional(document):
    scopes = {one["name"]: one["scope"] for one in document["components"]}
    assert {scopes[name] for name in ("cryptography", "cffi", "numpy", "packaging")} == {"required"}
    assert {scopes[name] for name in ("pytest", "mypy", "ray", "deltalake")} == {"optional"}


def test_almost_every_component_tells_a_licence(document):
    silent = [one["name"] for one in document["components"] if "licenses" not in one]
    assert len(silent) < 0.1 * len(document["components"]), silent


def test_the_graph_names_only_components(document):
    known = {one["bom-ref"] for one in document["components"]}
    asked = {ref for one in document["dependencies"] for ref in one["dependsOn"]}
    assert asked <= known
    assert asked


def test_a_line_that_is_no_pin_is_named():
    with pytest.raises(InvalidInput, match="Line 2"):
        pins("numpy==2.4.6\nhttps://example.org/x.whl\n")


def test_a_pin_for_some_machines_tells_for_which():
    (found,) = pins("deprecated==1.3.1 ; python_full_version < '3.12' \\\n")
    assert (found.name, found.marker) == ("deprecated", "python_full_version < '3.12'")


def test_the_command_prints_the_bill(capsys):
    assert main([str(LOCK)]) == 0
    assert json.loads(capsys.readouterr().out)["bomFormat"] == "CycloneDX"
    assert main([]) == 2
