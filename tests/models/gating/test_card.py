"""The card must be complete: what is missing is named, part by part."""

from types import SimpleNamespace

from falaj.models.gating.card import card_gate
from falaj.models.gating.rules import CardRule
from falaj.models.model import GateResult, ModelPolicy, Outcome

POLICY = ModelPolicy(
    name="late",
    feature_service="delays",
    label="y",
    intended_use="Warns travellers of departures that are likely late.",
    limitations="It says nothing of flights that are cancelled.",
    owner="team:ops",
)
MEASURED = GateResult(
    gate="metric:auc",
    outcome=Outcome.PASSED,
    message="told",
    evidence={"interval": {"estimate": 0.8, "low": 0.7, "high": 0.9}},
)


def whole(made, **more):
    """A version of which all is known."""
    return made.examined(attestation=SimpleNamespace(), earlier=[MEASURED], **more)


def test_a_complete_card_passes(made):
    found = card_gate(CardRule(), POLICY)(whole(made))
    assert found.outcome is Outcome.PASSED, found.message


def test_each_part_that_is_missing_is_named_with_why(made):
    bare = ModelPolicy(name="late", feature_service="delays", label="y", intended_use="Use it.")
    found = card_gate(CardRule(), bare)(made.examined(manifest={"training_set_hash": ""}))
    assert found.outcome is Outcome.FAILED
    assert set(found.evidence["missing"]) == {
        "intended_use", "limitations", "owner", "data", "metrics", "origin",
    }  # fmt: skip
    assert "intended use: 2 words, asked ≥ 5" in found.message


def test_who_made_the_version_is_its_owner_where_the_policy_names_none(made):
    nobody = POLICY.model_copy(update={"owner": None})
    rule = CardRule(needs=("owner",))
    assert card_gate(rule, nobody)(whole(made, owner="user:amina")).outcome is Outcome.PASSED
    assert card_gate(rule, nobody)(whole(made)).outcome is Outcome.FAILED


def test_slices_and_groups_may_be_asked_for(made):
    rule = CardRule(needs=("slices", "fairness", "description"))
    found = card_gate(rule, POLICY)(whole(made))
    assert set(found.evidence["missing"]) == {"slices", "fairness", "description"}
