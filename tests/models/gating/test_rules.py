"""Policies keep their fingerprints while the rules grow."""

import pytest

from falaj.catalog.definitions import Definition
from falaj.models.gating.rules import (
    CalibrationRule,
    ChampionRule,
    FairnessRule,
    LatencyRule,
    LeakageRule,
    MetricRule,
    ParentRule,
    SliceRule,
    SupplyChainRule,
)
from falaj.models.model import ModelPolicy

NAMED = {"feature_service": "delays", "label": "late"}
BEFORE = [
    (
        ModelPolicy(name="late", **NAMED),
        "3b0452fe4527a0326251947591ec0f5c8fcf8e2e6134779133aefb5ac18415d0",
    ),
    (
        ModelPolicy(
            name="flight-delay",
            feature_service="delay_features",
            label="late",
            floors=(MetricRule(metric="auc", limit=0.75), MetricRule(metric="brier", limit=0.25)),
            champion=ChampionRule(margin=0.005),
            slices=(SliceRule(columns=("carrier", "origin"), limit=0.65, least_rows=500),),
            latency=LatencyRule(p50_ms=1.0, p99_ms=10.0),
            largest_megabytes=20,
            leakage=LeakageRule(feature_auc=0.85),
        ),
        "1af44d1c993ba82ed8426255720a75094a60b75983892cb8849fffa9ef36e3e1",
    ),
    (
        ModelPolicy(
            name="bare",
            feature_service="f",
            label="y",
            champion=None,
            calibration=None,
            latency=None,
            leakage=None,
            largest_megabytes=None,
            parent=ParentRule(auc_loss=0.1),
            supply_chain=SupplyChainRule(attested=False),
        ),
        "127604c824c039c665c56d4a0f4a70ffe37c2679c099341bf3c3ebf7e5188bfd",
    ),
]


@pytest.mark.parametrize(
    ("policy", "fingerprint"), BEFORE, ids=lambda one: getattr(one, "name", "")
)
def test_a_policy_of_before_the_new_rules_keeps_its_fingerprint(policy, fingerprint):
    assert policy.fingerprint == fingerprint


@pytest.mark.parametrize(
    "more",
    [
        {"fairness": (FairnessRule(column="carrier"),)},
        {"calibration": CalibrationRule(require="surely_within")},
        {"slices": (SliceRule(columns=("a",), limit=0.5, correction="none"),)},
        {"leakage": LeakageRule(duplicates=None)},
        {"floors": (MetricRule(limit=0.7, require="surely_within"),)},
    ],
)
def test_a_document_tells_all_that_was_declared(more):
    policy = ModelPolicy(name="late", **NAMED, **more)
    told = {name: value for name, value in policy.document().items() if name != "kind"}
    assert ModelPolicy.model_validate(told) == policy
    assert policy.fingerprint != BEFORE[0][1]


def test_a_rule_with_a_default_that_came_later_has_the_document_of_before():
    rule = LeakageRule(duplicates=0.01, time_travel=True)
    assert ModelPolicy(name="late", **NAMED, leakage=rule).fingerprint == BEFORE[0][1]
    whole = Definition.document(ModelPolicy(name="late", **NAMED, leakage=rule))
    assert whole["leakage"]["duplicates"] == 0.01
