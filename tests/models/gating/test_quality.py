"""Floors and champions: on whom the noise falls, and DeLong against published values."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from falaj.models.gating.quality import champion_gate, metric_gate
from falaj.models.gating.rules import ChampionRule, MetricRule
from falaj.models.intervals import auc_difference, auc_error, auc_interval, metric_interval
from falaj.models.model import Outcome

# DeLong, DeLong and Clarke-Pearson (1988) as in SAS/STAT's example "Comparing Receiver Operating
# Characteristic Curves" (PROC LOGISTIC): albumin, total protein, K-G score, and who benefits.
PATIENTS = """3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0
1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1
3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1
3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0
1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0
4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1"""
ALBUMIN, PROTEIN, SCORE, BENEFIT = np.array(PATIENTS.split(), float).reshape(-1, 4).T


@pytest.mark.parametrize(
    ("scores", "area", "error", "low", "high"),
    [(10 - SCORE, 0.7258, 0.1028, 0.5243, 0.9273), (PROTEIN, 0.6478, 0.1000, 0.4518, 0.8439),
     (ALBUMIN, 0.7366, 0.0927, 0.5549, 0.9182)],
)  # fmt: skip
def test_delong_has_the_values_of_the_published_example(scores, area, error, low, high):
    assert auc_error(BENEFIT, scores) == pytest.approx((area, error), abs=6e-5)
    found = auc_interval(BENEFIT, scores)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_a_paired_difference_has_the_values_of_the_published_example():
    found = auc_difference(BENEFIT, PROTEIN, 10 - SCORE)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (-0.0780, -0.2830, 0.1271), abs=6e-5
    )
    assert found.p_value == pytest.approx(0.456, abs=6e-4)


def test_losses_have_the_interval_of_a_mean_that_scipy_has():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    scores = random.random(5000)
    labels = (random.random(5000) < scores).astype(float)
    squares = (scores - labels) ** 2
    theirs = stats.norm.interval(0.95, squares.mean(), stats.sem(squares))
    ours = metric_interval("brier", labels, scores)
    assert (ours.low, ours.high) == pytest.approx(theirs)


def false_alarms(rounds, metric="auc", n=400):
    """How often one of two equally good, correlated models is called better (or worse)."""
    from falaj.models.intervals import metric_difference

    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(rounds):
        labels = (random.random(n) < 0.3).astype(float)
        shared = random.normal(size=n) + labels
        one, other = (1 / (1 + np.exp(-shared - random.normal(size=n) * 0.5)) for _ in range(2))
        alarms += metric_difference(metric, labels, one, other).p_value < 0.05
    return alarms / rounds


def test_equally_good_correlated_models_seldom_differ():
    assert 0.0 < false_alarms(300) < 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("metric", ["auc", "brier", "log_loss"])
def test_the_paired_test_errs_as_often_as_it_says(metric):
    assert abs(false_alarms(4000, metric) - 0.05) < 3 * (0.05 * 0.95 / 4000) ** 0.5 + 0.005


def called_better(rounds, n_ones, n_zeros=500):
    """How often a random model is called better than another that is as random."""
    random = np.random.default_rng(8)
    labels = (np.arange(n_ones + n_zeros) < n_ones).astype(float)
    drawn = (random.random((2, labels.size)) for _ in range(rounds))
    return sum(auc_difference(labels, *scores).low > 0 for scores in drawn) / rounds


@pytest.mark.parametrize("n_ones", [1, 10, 50])
def test_a_random_model_is_seldom_better_than_another_however_few_rows_a_class_has(n_ones):
    assert called_better(600, n_ones) <= 0.055


@pytest.mark.parametrize("flipped", [False, True])
def test_the_only_row_of_a_class_lets_a_difference_vary_as_much_as_it_can(flipped):
    labels = (np.arange(101) == 0).astype(float)
    top, bottom = np.arange(101.0)[::-1], np.arange(101.0)  # the row is the first or the last
    found = auc_difference(1 - labels if flipped else labels, top, bottom)
    assert abs(found.estimate) == pytest.approx(1)
    assert found.high - found.low == pytest.approx(2 * 1.96, rel=1e-3)
    assert found.low < 0 < found.high


def test_a_floor_may_ask_for_certainty_or_forbid_only_what_is_sure(made):
    version = made.examined()
    auc = metric_gate(MetricRule(limit=0.5))(version).evidence["interval"]
    between = (auc["low"] + auc["estimate"]) / 2
    above = (auc["high"] + auc["estimate"]) / 2

    def outcome(limit, require):
        return metric_gate(MetricRule(limit=limit, require=require))(version).outcome

    assert outcome(between, "estimate") is Outcome.PASSED
    assert outcome(between, "surely_within") is Outcome.FAILED
    assert outcome(above, "estimate") is Outcome.FAILED
    assert outcome(above, "not_surely_beyond") is Outcome.PASSED


@pytest.mark.parametrize("metric", ["log_loss", "brier", "calibration_error"])
def test_a_ceiling_turns_the_interval_round(made, metric):
    version = made.examined()
    found = metric_gate(MetricRule(metric=metric, limit=0.5))(version).evidence["interval"]
    inside = (found["estimate"] + found["high"]) / 2

    def outcome(require):
        return metric_gate(MetricRule(metric=metric, limit=inside, require=require))(
            version
        ).outcome

    assert outcome("estimate") is Outcome.PASSED
    assert outcome("surely_within") is Outcome.FAILED


def rivals(made, noise, rows=None):
    """A version before a champion whose scores are its own with noise."""
    version = made.examined(rows)
    random = np.random.default_rng(2)

    def worse(matrix):
        return made.sigmoid(
            1.5 * np.nan_to_num(matrix[:, 0]) + noise * random.normal(size=len(matrix))
        )

    return replace(
        version,
        champion=SimpleNamespace(manifest=version.bundle.manifest),
        champion_scorer=SimpleNamespace(scores=worse),
        champion_set=made.set_of(version.whole),
        champion_version=1,
    )


def test_a_difference_comes_with_its_p_value_and_how_it_was_tested(made):
    found = champion_gate(ChampionRule(require="better"))(rivals(made, 3.0))
    assert found.outcome is Outcome.PASSED
    assert found.evidence["difference"]["p_value"] < 1e-6
    assert found.evidence["method"] == "DeLong, paired"


def test_not_inferior_puts_the_burden_of_proof_on_the_version(made):
    version = rivals(made, 0.15)
    by_nothing = champion_gate(ChampionRule(require="not_inferior"))(version)
    better = champion_gate(ChampionRule(require="better"))(version)
    assert by_nothing.outcome is better.outcome  # a margin of nothing asks to be better
    wide = ChampionRule(require="not_inferior", margin=0.05)
    assert champion_gate(wide)(version).outcome is Outcome.PASSED
    assert champion_gate(ChampionRule())(version).outcome is Outcome.PASSED


def few_of_a_class(made, n, label):
    """Rows of which n test rows have the label, those that the model takes for the surest."""
    rows = made.rows()
    x, test = np.array(rows["x"]), np.array(rows["split"].to_pylist()) == "test"
    inside = np.flatnonzero(test)
    y = np.full(len(x), not label)
    y[inside[np.argsort(-x[inside] if label else x[inside])[:n]]] = label
    return made.rows(y=y)


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("metric", ["auc", "log_loss", "calibration_error"])
@pytest.mark.parametrize("require", ["not_worse", "not_inferior", "better"])
def test_a_champion_is_not_beaten_on_fewer_than_ten_rows_of_a_class(made, label, metric, require):
    rule = ChampionRule(metric=metric, require=require, margin=1.0)
    for n in (1, 9):
        found = champion_gate(rule)(rivals(made, 3.0, few_of_a_class(made, n, label)))
        assert found.outcome is Outcome.FAILED
        assert f"only {n} of the" in found.message
        assert "difference" not in found.evidence
    if metric == "auc":
        found = champion_gate(rule)(rivals(made, 3.0, few_of_a_class(made, 10, label)))
        assert found.outcome is Outcome.PASSED
        assert found.evidence["difference"]["estimate"] > 0
