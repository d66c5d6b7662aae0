"""The gate of the supply chain: provenance, licences and vulnerabilities under thresholds."""

import json
from datetime import UTC, datetime

import pytest

from falaj.models.attestation import of_bringing
from falaj.models.gating.supplychain import denied, supply_chain
from falaj.models.model import Brought, ModelPolicy, Outcome, SupplyChainRule
from falaj.models.vulnerabilities import Vulnerabilities
from falaj.testing.smallbundles import FILES, SMALL, old_bundle
from falaj.training.distributions import installed

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def parts(tmp_path, kept_in):
    return kept_in(tmp_path)


@pytest.fixture
def bundle(parts):
    manifest = SMALL.model_copy(
        update={"brought": Brought(file="m", sha256="b" * 64, by="user:amina")}
    )
    made = of_bringing(parts.bundles.builder, manifest)
    return parts.bundles.open_bundle(parts.bundles.keep(manifest, FILES, made))


def advisories(tmp_path, severity="CRITICAL", **more):
    numpy = next(one for one in installed() if one.name == "numpy")
    record = {
        "id": "GHSA-1", "aliases": ["CVE-2026-1"], "modified": "2026-10-01T00:00:00Z",
        "database_specific": {"severity": severity},
        "affected": [
            {"package": {"ecosystem": "PyPI", "name": "NumPy"}, "versions": [numpy.version]}
        ],
        **more,
    }  # fmt: skip
    (tmp_path / "osv.jsonl").write_text(json.dumps(record))
    return Vulnerabilities(tmp_path / "osv.jsonl")


def judged(bundle, known=None, **rule):
    found = supply_chain(SupplyChainRule(**rule), bundle, known, NOW)
    return found.outcome is Outcome.PASSED, found


def test_an_attested_bundle_passes_and_says_that_nothing_was_looked_up(bundle):
    passed, found = judged(bundle)
    assert passed
    assert "not looked for" in found.message
    assert found.evidence["n_distributions"] == len(installed())


def test_a_bundle_that_attests_nothing_fails_unless_that_is_not_asked_for(parts):
    bundle = parts.bundles.open_bundle(old_bundle(parts))
    passed, found = judged(bundle)
    assert not passed
    assert "does not attest" in found.message
    assert judged(bundle, attested=False)[0]


def test_a_vulnerability_above_the_threshold_fails(bundle, tmp_path):
    passed, found = judged(bundle, advisories(tmp_path))
    assert not passed
    assert "GHSA-1 in pkg:pypi/numpy@" in found.message
    assert judged(bundle, advisories(tmp_path), worst_severity="critical")[0]
    assert judged(bundle, advisories(tmp_path, "LOW"))[0]


@pytest.mark.parametrize("name", ["GHSA-1", "CVE-2026-1"])
def test_a_vulnerability_is_let_pass_by_any_of_its_names_with_a_reason(bundle, tmp_path, name):
    passed, found = judged(bundle, advisories(tmp_path), excepted={name: "We call no such code."})
    assert passed
    assert found.evidence["vulnerabilities"]["n_excepted"] == 1
    with pytest.raises(ValueError, match="excepted"):
        SupplyChainRule(excepted={name: ""})


def test_the_age_of_what_is_known_is_told_and_may_be_limited(bundle, tmp_path):
    known = advisories(tmp_path, "LOW")
    assert judged(bundle, known)[1].evidence["vulnerabilities"]["age_days"] == 60
    assert judged(bundle, known, oldest_days=60)[0]
    assert not judged(bundle, known, oldest_days=59)[0]


def test_a_missing_file_of_vulnerabilities_fails_where_it_is_asked_for(bundle):
    assert not judged(bundle, needs_vulnerabilities=True)[0]


def test_a_denied_licence_fails_and_an_exception_lets_it_pass(bundle):
    passed, found = judged(bundle, denied_licences=("MIT",))
    assert not passed
    assert "licences that are denied" in found.message
    named = {one.partition(" ")[0]: "Seen by counsel." for one in found.evidence["denied_licences"]}
    assert judged(bundle, denied_licences=("MIT",), excepted=named)[0]


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("AGPL-3.0-only", True), ("agpl-3.0-or-later", True), ("MIT", False),
        ("MIT OR AGPL-3.0-only", False), ("MIT AND AGPL-3.0-only", True),
        ("AGPL-3.0-only OR AGPL-3.0-or-later", True),
        ("(MIT OR AGPL-3.0-only) AND BSD-3-Clause", True),
        ("AGPL-3.0-only WITH Classpath-exception-2.0", True), ("LGPL-3.0-only", False),
    ],
)  # fmt: skip
def test_a_licence_is_denied_in_each_of_its_alternatives(licence, refused):
    assert denied(licence, ["AGPL-*"]) is refused


def test_a_policy_with_the_usual_rule_keeps_its_fingerprint():
    policy = ModelPolicy(name="late", feature_service="delays", label="late")
    assert "supply_chain" not in policy.document()
    strict = policy.model_copy(update={"supply_chain": SupplyChainRule(worst_severity="low")})
    assert strict.document()["supply_chain"]["worst_severity"] == "low"
