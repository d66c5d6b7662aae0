"""DeLong against the definition, and the intervals' honesty."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from falaj.models.intervals import auc_difference, auc_interval, metric_difference
from falaj.training.metrics import SingleClass, auc

examples = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=40
)


def drawn(rows):
    return tuple(np.array(column, float) for column in zip(*rows, strict=True))


def naive(labels, one, other):
    """Variance of the difference by DeLong's definition, pair by pair."""
    ones, zeros = labels == 1, labels == 0

    def placed(scores):
        wins = (scores[ones][:, None] > scores[zeros][None, :]) + 0.5 * (
            scores[ones][:, None] == scores[zeros][None, :]
        )
        return wins.mean(axis=1), wins.mean(axis=0)

    (a1, a0), (b1, b0) = placed(one), placed(other)
    return np.var(a1 - b1, ddof=1) / ones.sum() + np.var(a0 - b0, ddof=1) / zeros.sum()


@settings(deadline=None)
@given(examples)
def test_the_fast_variance_is_that_of_the_definition(rows):
    labels, one, other = drawn(rows)
    assume(2 <= labels.sum() <= labels.size - 2)
    found = auc_difference(labels, one, other, confidence=0.95)
    assert found.estimate == pytest.approx(auc(labels, one) - auc(labels, other))
    half = 1.959963984540054 * naive(labels, one, other) ** 0.5
    assert found.high - found.estimate == pytest.approx(half, abs=1e-9)


@settings(deadline=None)
@given(examples)
def test_an_interval_holds_its_estimate_and_stays_within_zero_and_one(rows):
    labels, one, _ = drawn(rows)
    assume(0 < labels.sum() < labels.size)
    found = auc_interval(labels, one)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_a_perfect_order_of_few_rows_is_not_certain():
    found = auc_interval(np.array([0.0, 0, 1, 1]), np.array([1.0, 2, 3, 4]))
    assert found.estimate == 1.0
    assert found.low < 0.7


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(4)
    truth = 0.7602  # of normals one standard deviation apart
    covered = 0
    for _ in range(200):
        labels = (np.arange(300) < 100).astype(float)
        scores = random.normal(size=300) + labels
        found = auc_interval(labels, scores)
        covered += found.low <= truth <= found.high
    assert 180 <= covered <= 198


def test_differences_of_losses_count_in_the_good_direction():
    random = np.random.default_rng(3)
    p = random.random(800)
    labels = (random.random(800) < p).astype(float)
    worse = np.clip(p + random.normal(size=800) * 0.3, 0.01, 0.99)
    for metric in ("log_loss", "brier", "auc", "calibration_error"):
        found = metric_difference(metric, labels, p, worse)
        assert found.estimate > 0
        assert found == metric_difference(metric, labels, p, worse)
        assert found.low <= found.estimate <= found.high


def test_one_class_has_no_interval():
    with pytest.raises(SingleClass):
        auc_interval(np.ones(3), np.arange(3.0))
