"""Gates of models that predict numbers or several classes."""

import numpy as np
import pytest
from pydantic import ValidationError

from falaj.models.gating.explainability import permuted
from falaj.models.gating.inputs import contract_gate
from falaj.models.gating.leakage import leakage_gate
from falaj.models.gating.quality import champion_gate, metric_gate
from falaj.models.gating.rules import (
    CalibrationRule,
    ChampionRule,
    FairnessRule,
    LeakageRule,
    MetricRule,
    RobustnessRule,
    SliceRule,
)
from falaj.models.gating.slices import Slices
from falaj.models.intervals import metric_difference
from falaj.models.model import ModelPolicy, Outcome, Signature
from falaj.training.targets import Target

NUMBER = Target(task="regression")
WORDS = Target(task="classes", classes=("a", "b", "c"))
NAMED = {"name": "m", "feature_service": "delays", "label": "y"}


def of_numbers(made, function=lambda m: 1.5 * m[:, 0], *, noise=1.0, **more):
    """A version that predicts a number which follows ``x``."""
    rows = made.rows()
    x = np.asarray(rows["x"])
    y = 1.5 * x + np.random.default_rng(5).normal(size=len(x)) * noise
    return of(made, made.rows(y=y), NUMBER, function, **more)


def of_words(made, function=lambda m: shares(m[:, 0]), **more):
    """A version that tells which of three classes, by where ``x`` lies."""
    x = np.asarray(made.rows()["x"])
    noise = np.random.default_rng(5).normal(size=len(x)) * 0.5
    y = np.array(WORDS.classes)[np.digitize(x + noise, (-0.7, 0.7))].tolist()
    return of(made, made.rows(y=y), WORDS, function, **more)


def shares(x):
    """Three probabilities."""
    raw = np.exp(2 * np.column_stack((-x - 0.7, np.zeros_like(x), x - 0.7)))
    return raw / raw.sum(axis=1, keepdims=True)


def of(made, rows, target, function, **more):
    signature = Signature(encoding=made.encoding, label="y", target=target)
    return made.examined(rows, function, manifest={"signature": signature}, **more)


@pytest.mark.parametrize(
    ("metric", "good", "bad"), [("rmse", 1.2, 0.8), ("mae", 1.0, 0.6), ("r2", 0.5, 0.9)]
)
def test_a_floor_of_numbers_holds_what_is_good_and_stops_what_is_not(made, metric, good, bad):
    version = of_numbers(made)
    assert metric_gate(MetricRule(metric=metric, limit=good))(version).outcome is Outcome.PASSED
    found = metric_gate(MetricRule(metric=metric, limit=bad))(version)
    assert found.outcome is Outcome.FAILED
    interval = found.evidence["interval"]
    assert interval["low"] < found.evidence["value"] < interval["high"]


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [("accuracy", 0.6, 0.95), ("balanced_accuracy", 0.6, 0.95), ("log_loss", 0.8, 0.1),
     ("brier", 0.5, 0.05)],
)  # fmt: skip
def test_a_floor_of_classes_holds_what_is_good_and_stops_what_is_not(made, metric, good, bad):
    version = of_words(made)
    assert metric_gate(MetricRule(metric=metric, limit=good))(version).outcome is Outcome.PASSED
    assert metric_gate(MetricRule(metric=metric, limit=bad))(version).outcome is Outcome.FAILED


def champion(made, version, function):
    """The version beside one that answers as a function does."""
    from dataclasses import replace

    rival = of(made, version.whole, version.target, function)
    return replace(version, champion=rival.bundle, champion_scorer=rival.scorer, champion_version=1)


def test_a_worse_model_of_numbers_does_not_replace_the_champion(made):
    version = of_numbers(made, lambda m: 0.5 * m[:, 0])
    found = champion_gate(ChampionRule(metric="rmse"))(
        champion(made, version, lambda m: 1.5 * m[:, 0])
    )
    assert found.outcome is Outcome.FAILED
    assert found.evidence["difference"]["high"] < 0


def test_a_better_model_of_classes_replaces_the_champion(made):
    found = champion_gate(ChampionRule(metric="log_loss", require="better"))(
        champion(made, of_words(made), lambda m: np.full((len(m), 3), 1 / 3))
    )
    assert found.outcome is Outcome.PASSED
    assert found.evidence["difference"]["low"] > 0


def test_a_champion_that_predicts_something_else_cannot_be_compared(made):
    from dataclasses import replace

    version, other = of_numbers(made), of_words(made)
    found = champion_gate(ChampionRule(metric="rmse"))(
        replace(version, champion=other.bundle, champion_scorer=other.scorer, champion_version=1)
    )
    assert found.outcome is Outcome.FAILED
    assert "predicts something else" in found.message


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
def test_two_equally_good_models_are_called_different_as_seldom_as_is_said(metric):
    random, alarms = np.random.default_rng(3), 0
    for _ in range(400):
        y = random.gamma(2.0, 5.0, 300)
        common = random.normal(size=300)
        one, other = (y + 2 * common + random.normal(size=300) for _ in range(2))
        found = metric_difference(metric, y, one, other, target=NUMBER)
        alarms += not found.low <= 0 <= found.high
    assert 0.02 < alarms / 400 < 0.09


def test_the_worst_slice_of_numbers_is_found(made):
    rows = made.rows()
    words, x = np.array(rows["w"].to_pylist()), np.asarray(rows["x"])
    noise = np.random.default_rng(5).normal(size=len(x))
    version = of(
        made, made.rows(y=1.5 * x + np.where(words == "b", 4.0, 1.0) * noise), NUMBER,
        lambda m: 1.5 * m[:, 0],
    )  # fmt: skip
    rule = SliceRule(columns=("w",), metric="rmse", limit=1.5, least_rows=50)
    ((_, gate),) = Slices(rule).gates()
    found = gate(version)
    assert found.outcome is Outcome.FAILED
    assert found.evidence["surely_under"] == ["b"]


def test_a_feature_that_knows_the_number_is_found(made):
    rows = made.rows()
    x = np.asarray(rows["x"])
    y = 1.5 * x + np.random.default_rng(5).normal(size=len(x)) * 3
    honest = of(made, made.rows(y=y), NUMBER, lambda m: 1.5 * m[:, 0])
    leaking = of(made, made.rows(y=y, n=y + 0.01), NUMBER, lambda m: m[:, 1])
    rule = LeakageRule()
    assert leakage_gate(rule)(honest).outcome is Outcome.PASSED
    found = leakage_gate(rule)(leaking)
    assert found.outcome is Outcome.FAILED
    assert "n alone" in found.message
    assert "model_auc" not in found.evidence


def test_a_feature_that_knows_one_of_the_classes_is_found(made):
    version = of_words(made)
    y = np.array(version.whole["y"].to_pylist())
    leaking = of(
        made, made.rows(y=y.tolist(), n=(y == "c").astype(float)), WORDS, lambda m: shares(m[:, 0])
    )
    found = leakage_gate(LeakageRule())(leaking)
    assert found.outcome is Outcome.FAILED
    assert "n alone" in found.message


def test_shuffling_tells_what_a_model_of_numbers_rests_on(made):
    found = permuted(of_numbers(made))
    assert found["x"] > 0.5
    assert found["n"] == found["w"] == 0.0


def test_the_task_is_a_part_of_the_contract(made):
    version = of_words(made)
    assert contract_gate("y", "others", WORDS)(version).outcome is Outcome.FAILED
    found = contract_gate("y", version.bundle.manifest.feature_service, WORDS)(version)
    assert found.outcome is Outcome.PASSED
    other = contract_gate("y", version.bundle.manifest.feature_service, NUMBER)(version)
    assert other.outcome is Outcome.FAILED
    assert other.evidence["found"]["task"] == "classes"


def test_a_policy_of_another_task_has_rules_that_suit_it():
    numbers = ModelPolicy(**NAMED, task="regression")
    assert (numbers.champion, numbers.calibration) == (ChampionRule(metric="rmse"), None)
    words = ModelPolicy(**NAMED, task="classes", classes=WORDS.classes)
    assert (words.champion, words.target) == (ChampionRule(metric="log_loss"), WORDS)
    assert ModelPolicy(**NAMED, task="regression", champion=None).champion is None
    assert ModelPolicy.model_validate(numbers.model_dump()) == numbers


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"task": "regression", "floors": (MetricRule(metric="auc", limit=0.5),)}, "'auc' is no"),
        ({"floors": (MetricRule(metric="rmse", limit=1.0),)}, "'rmse' is no metric"),
        ({"task": "regression", "champion": ChampionRule()}, "'auc' is no metric"),
        ({"task": "regression", "calibration": CalibrationRule()}, "`calibration` is of labels"),
        ({"task": "regression", "fairness": (FairnessRule(column="w"),)}, "`fairness` is of"),
        ({"task": "regression", "robustness": RobustnessRule()}, "`robustness` is of labels"),
        ({"task": "classes"}, "needs 2 to 100"),
        ({"classes": ("a", "b")}, "are of the task"),
        ({"task": "regression", "slices": (SliceRule(columns=("w",), limit=0.5),)}, "'auc' is no"),
    ],
)
def test_a_rule_of_another_task_is_refused(given, why):
    with pytest.raises(ValidationError, match=why):
        ModelPolicy(**NAMED, **given)


@pytest.mark.parametrize(
    ("metric", "limit"), [("auc", 1.5), ("auc", -0.1), ("rmse", -1.0), ("r2", 1.1), ("mae", -0.5)]
)
def test_a_limit_that_the_metric_cannot_have_is_refused(metric, limit):
    with pytest.raises(ValidationError, match=f"{metric} can be"):
        SliceRule(columns=("w",), metric=metric, limit=limit)
