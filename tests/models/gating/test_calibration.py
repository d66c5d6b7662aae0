"""The calibration error's interval holds the truth, and noise alone fails nobody."""

import numpy as np
import pytest

from falaj.models.gating.calibration import calibration_gate, error_interval, spiegelhalter
from falaj.models.gating.rules import CalibrationRule
from falaj.models.model import Outcome
from falaj.training.metrics import calibration_error


def drawn(seed, n, shift=0.0):
    """Scores, and labels whose probability is the score moved by ``shift``."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.1, 0.8, n)
    return (random.random(n) < scores + shift).astype(float), scores


def test_the_plain_error_of_a_perfect_model_is_not_zero_and_its_interval_is_honest():
    labels, scores = drawn(1, 600)
    found = error_interval(labels, scores)
    assert found.estimate == calibration_error(labels, scores) > 0.02
    assert found.low == 0.0


def covered(rounds, n, shift):
    """How often the interval holds the true error, which is the shift in every bin."""
    hits = 0
    for seed in range(rounds):
        found = error_interval(*drawn(seed, n, shift))
        hits += found.low <= abs(shift) <= found.high
    return hits / rounds


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.15])
def test_the_interval_holds_the_truth_at_least_as_often_as_it_says(shift):
    assert covered(60, 800, shift) >= 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("shift", [0.0, 0.01, 0.03, 0.15])
@pytest.mark.parametrize("n", [200, 800, 5000])
def test_the_interval_holds_the_truth_at_every_size(shift, n):
    assert covered(600, n, shift) >= 0.95 - 3 * (0.95 * 0.05 / 600) ** 0.5


def test_a_model_that_says_too_little_is_surely_above_the_limit(made):
    found = calibration_gate(0.05)(made.examined(function=lambda m: np.full(len(m), 0.2)))
    assert found.outcome is Outcome.FAILED
    assert found.evidence["interval"]["low"] > 0.05
    assert abs(found.evidence["spiegelhalter_z"]) > 5


def test_few_rows_fail_nobody_but_where_certainty_is_asked_for(made):
    version = made.examined(made.rows(600))
    assert calibration_gate(0.02)(version).outcome is Outcome.PASSED
    strict = CalibrationRule(limit=0.02, require="surely_within")
    found = calibration_gate(strict)(version)
    assert found.outcome is Outcome.FAILED
    assert "asked surely under 0.02" in found.message


def test_spiegelhalters_z_is_normal_for_true_probabilities():
    stats = pytest.importorskip("scipy.stats")
    found = [spiegelhalter(*drawn(seed, 500)) for seed in range(200)]
    assert stats.kstest(found, "norm").pvalue > 0.01
    assert spiegelhalter(np.array([0.0, 1.0]), np.array([0.5, 1.0])) is None
