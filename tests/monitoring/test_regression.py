from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from falaj.monitoring.regression import realised_numbers


def test_figures_are_those_of_scikit_learns_documentation() -> None:
    """https://scikit-learn.org/stable/modules/model_evaluation.html: 0.5 and the root of 0.375."""
    found = realised_numbers(np.array([3, -0.5, 2, 7]), np.array([2.5, 0.0, 2, 8]), 0.95)
    assert found["mae"].estimate == 0.5
    assert found["rmse"].estimate == pytest.approx(0.375**0.5)
    assert found["bias"].estimate == 0.25


def test_bands_are_scipys_normal_intervals_of_means() -> None:
    random = np.random.default_rng(3)
    labels = random.gamma(2.0, 30.0, 5_000)
    scores = labels + random.standard_t(6, 5_000) * 8
    found = realised_numbers(labels, scores, 0.9)
    assert found["mae"].estimate == pytest.approx(metrics.mean_absolute_error(labels, scores))
    assert found["rmse"].estimate == pytest.approx(metrics.root_mean_squared_error(labels, scores))
    for name, values, root in (
        ("mae", abs(scores - labels), False),
        ("rmse", (scores - labels) ** 2, True),
        ("bias", scores - labels, False),
    ):
        low, high = stats.norm.interval(0.9, values.mean(), stats.sem(values))
        wanted = (low**0.5, high**0.5) if root else (low, high)
        assert (found[name].low, found[name].high) == pytest.approx(wanted)


def test_the_bands_hold_the_true_figures_as_often_as_they_say() -> None:
    random = np.random.default_rng(4)
    held = {"mae": 0, "rmse": 0, "bias": 0}
    true = {"mae": (2 / np.pi) ** 0.5, "rmse": 1.0, "bias": 0.0}
    for _ in range(1_000):
        found = realised_numbers(np.zeros(300), random.standard_normal(300), 0.9)
        for name, band in found.items():
            held[name] += band.low <= true[name] <= band.high
    assert all(870 <= times <= 930 for times in held.values()), held


def test_one_row_is_never_sure() -> None:
    found = realised_numbers(np.array([3.0]), np.array([5.0]), 0.95)
    assert (found["rmse"].low, found["rmse"].high) == (0.0, float("inf"))
    assert (found["bias"].low, found["bias"].high) == (float("-inf"), float("inf"))
