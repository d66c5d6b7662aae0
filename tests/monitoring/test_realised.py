from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from falaj.monitoring.realised import realised, share_band

RANDOM = np.random.default_rng(12)


def test_figures_are_those_of_scikit_learn_ties_and_all() -> None:
    scores = np.round(RANDOM.random(2_000), 1)
    labels = (RANDOM.random(2_000) < scores).astype(float)
    found = realised(labels, scores, 0.3, 0.95)
    said = scores >= 0.3
    for name, oracle in {
        "accuracy": metrics.accuracy_score(labels, said),
        "precision": metrics.precision_score(labels, said),
        "recall": metrics.recall_score(labels, said),
        "f1": metrics.f1_score(labels, said),
        "auc": metrics.roc_auc_score(labels, scores),
        "average_precision": metrics.average_precision_score(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "positive_rate": labels.mean(),
    }.items():
        band = found[name]
        assert band is not None
        assert band.estimate == pytest.approx(oracle), name
        assert band.low <= band.estimate <= band.high


def test_what_is_not_defined_is_left_out() -> None:
    found = realised(np.zeros(5), np.full(5, 0.1), 0.5, 0.95)
    assert {name for name, band in found.items() if band is None} == {
        "precision", "recall", "f1", "auc", "average_precision",
    }  # fmt: skip


def test_one_row_is_never_sure() -> None:
    found = realised(np.ones(1), np.array([0.9]), 0.5, 0.95)
    assert found["accuracy"] is not None
    assert found["accuracy"].low < 0.3
    assert found["average_precision"] is not None
    assert (found["average_precision"].low, found["average_precision"].high) == (0.0, 1.0)


def test_wilsons_interval_is_that_of_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for k, n in ((0, 10), (3, 10), (10, 10), (57, 1_000)):
        band = share_band(k, n, 0.9)
        assert band is not None
        low, high = proportion_confint(k, n, alpha=0.1, method="wilson")
        assert (band.low, band.high) == pytest.approx((low, high), abs=1e-12)
    assert share_band(0, 0, 0.95) is None


def test_bands_hold_the_true_figure_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    # The truth is that of all rows together.
    scores = random.beta(2, 3, 300_000)
    labels = (random.random(len(scores)) < scores).astype(float)
    true = {
        name: band.estimate for name, band in realised(labels, scores, 0.5, 0.9).items() if band
    }
    held = dict.fromkeys(true, 0)
    n = 200
    for place in range(n):
        rows = slice(place * 600, (place + 1) * 600)
        for name, band in realised(labels[rows], scores[rows], 0.5, 0.9).items():
            assert band is not None
            held[name] += band.low <= true[name] <= band.high
    assert {name: k / n for name, k in held.items() if not 0.85 <= k / n <= 0.97} == {}


@given(
    rows=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30),
    threshold=st.floats(0, 1),
)
def test_bands_hold_their_estimate_whatever_the_rows(
    rows: list[tuple[bool, float]], threshold: float
) -> None:
    labels = np.array([float(label) for label, _ in rows])
    scores = np.array([score for _, score in rows])
    for band in realised(labels, scores, threshold, 0.95).values():
        if band is not None:
            assert 0 <= band.low <= band.estimate + 1e-12
            assert band.estimate <= band.high + 1e-12
