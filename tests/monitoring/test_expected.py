from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.expected import (
    FIGURES,
    Curve,
    Groups,
    Vector,
    estimated,
    expected,
    figures,
    miscalibrated,
    told,
)

EDGES = np.linspace(0, 1, 65)[1:-1]
TRUE = Curve(np.zeros(1), np.zeros(1), False, np.zeros(1), np.array([1e9]), np.array([5e8]))
"""Scores that come true, by a reference without end."""


def drawn(n: int, *, seed: int, shape: float = 1.5, power: float = 1.0) -> tuple[Vector, Vector]:
    random = np.random.default_rng(seed)
    scores = random.beta(shape, 3, n)
    return scores, (random.random(n) < scores**power).astype(np.float64)


def realised(labels: Vector, scores: Vector) -> dict[str, float]:
    said = scores >= 0.5
    return {
        "accuracy": metrics.accuracy_score(labels, said),
        "precision": metrics.precision_score(labels, said),
        "recall": metrics.recall_score(labels, said),
        "f1": metrics.f1_score(labels, said),
        "auc": metrics.roc_auc_score(labels, scores),
        "average_precision": metrics.average_precision_score(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "positive_rate": float(labels.mean()),
    }


def counted(scores: Vector, weights: Vector | None = None) -> Vector:
    places = np.searchsorted(EDGES, scores, side="left")
    return np.bincount(places, weights=weights, minlength=64).astype(np.float64)


def test_two_rows_have_the_figures_that_one_writes_down() -> None:
    groups = Groups.of_rows(TRUE, np.array([0.2, 0.8]), 0.5)
    found = expected(groups)
    assert found["accuracy"] == pytest.approx((0.8 + 0.8) / 2)
    assert found["precision"] == pytest.approx(0.8)
    assert found["recall"] == pytest.approx(0.8 / 1.0)
    assert found["f1"] == pytest.approx(0.8)
    # Pairs in order: 0.8 of the one against 0.8 that the other is none; half of those with itself.
    assert found["auc"] == pytest.approx(0.8 * 0.8 + 0.8 * 0.2 / 2 + 0.2 * 0.8 / 2)
    assert found["average_precision"] == pytest.approx(0.8 * 0.8 + 0.2 * 0.5)
    assert found["brier"] == pytest.approx(0.2 * 0.64 + 0.8 * 0.04)
    assert found["positive_rate"] == pytest.approx(0.5)


def test_labels_that_are_known_give_the_figures_of_scikit_learn() -> None:
    scores, labels = drawn(3_000, seed=3)
    order = np.argsort(scores)
    found = figures(Groups.of_rows(TRUE, scores, 0.5), labels[order])
    for name, value in realised(labels, scores).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_a_figure_without_rows_to_tell_it_from_is_not_defined() -> None:
    found = expected(Groups.of_rows(TRUE, np.array([0.1, 0.2]), 0.5))
    assert np.isnan(found["precision"])
    assert found["recall"] == 0
    _, low, high = estimated(TRUE, Groups.of_rows(TRUE, np.array([0.1, 0.2]), 0.5), 0.95)[
        "precision"
    ]
    assert np.isnan(low)
    assert np.isnan(high)


@settings(max_examples=12, deadline=None)
@given(shape=st.floats(0.5, 4), seed=st.integers(0, 10_000))
def test_calibrated_scores_tell_the_realised_performance(shape: float, seed: int) -> None:
    scores, labels = drawn(5_000, seed=seed, shape=shape)
    groups = Groups.of_rows(TRUE, scores, 0.5)
    came = figures(groups, labels[np.argsort(scores)])
    for name, (estimate, low, high) in estimated(TRUE, groups, 0.95).items():
        assert abs(came[name] - estimate) <= 5 * max((high - low) / 3.92, 1e-6), name


def test_the_band_holds_the_realised_figure_as_often_as_it_says() -> None:
    held = dict.fromkeys(FIGURES, 0)
    n = 150
    for seed in range(n):
        curve = Curve.of_rows(*drawn(1_500, seed=seed, power=1.4))
        scores, labels = drawn(1_500, seed=10_000 + seed, shape=2.0, power=1.4)
        groups = Groups.of_rows(curve, scores, 0.5)
        found = estimated(curve, groups, 0.9)
        for name, value in figures(groups, labels[np.argsort(scores)]).items():
            held[name] += found[name][1] <= value <= found[name][2]
    assert {name: share for name, share in held.items() if not 0.82 <= share / n <= 0.98} == {}


@pytest.mark.parametrize("n", [500, 5_000])
@pytest.mark.parametrize("power", [0.6, 2.0])
def test_bands_of_recalibrated_scores_hold_in_nine_cases_of_ten_or_more(
    n: int, power: float
) -> None:
    """A curve looks better on the rows that it was fitted on than on any others."""
    held = {name: list[bool]() for name in FIGURES}
    for seed in range(200):
        curve = Curve.of_rows(*drawn(500, seed=seed, power=power))
        scores, labels = drawn(n, seed=10_000 + seed, power=power)
        groups = Groups.of_rows(curve, scores, 0.5)
        came = figures(groups, labels[np.argsort(scores)])
        for name, (_, low, high) in estimated(curve, groups, 0.95).items():
            held[name].append(bool(low <= came[name] <= high))
    found = {name: float(np.mean(kept)) for name, kept in held.items()}
    assert {name: share for name, share in found.items() if share < 0.9} == {}


def test_a_curve_tells_figures_of_its_own_rows_that_are_better_than_they_came() -> None:
    scores, labels = drawn(2_000, seed=3, power=2.0)
    off = Curve.of_rows(scores, labels).optimism(0.5)
    groups = Groups.of_rows(Curve.of_rows(scores, labels), scores, 0.5)
    came = realised(labels, scores)
    for name, value in expected(groups).items():
        assert off[name] == pytest.approx(value - came[name], abs=1e-6), name
    assert min(off["auc"], off["average_precision"]) > 0 > max(off["log_loss"], off["brier"])
    assert set(TRUE.optimism(0.5).values()) == {0.0}


def test_of_a_large_reference_the_optimism_is_told_from_fewer_groups() -> None:
    scores, labels = drawn(60_000, seed=4, power=2.0)
    curve = Curve.of_rows(scores, labels)
    assert curve.kept is not None
    assert len(curve.kept.n) == 4_096
    groups, came = Groups.of_rows(curve, scores, 0.5), realised(labels, scores)
    off = curve.optimism(0.5)
    for name, value in expected(groups).items():
        assert off[name] == pytest.approx(value - came[name], abs=2e-4), name


def test_the_curve_is_the_isotonic_regression_of_scikit_learn() -> None:
    scores, labels = drawn(4_000, seed=5, power=2.0)
    scores = np.round(scores, 2)  # many rows of one score
    curve = Curve.of_rows(scores, labels)
    assert curve.needed
    others = np.linspace(-0.2, 1.2, 777)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    np.testing.assert_allclose(curve.applied(others), oracle.predict(others), atol=1e-6)


def test_scores_that_come_true_are_left_alone() -> None:
    assert not Curve.of_bins(
        counted(s := drawn(50_000, seed=8)[0], s) / np.maximum(counted(s), 1),
        counted(s),
        counted(s, drawn(50_000, seed=8)[1]),
    ).needed


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_counts_tell_nearly_what_all_rows_tell(power: float) -> None:
    scores, labels = drawn(40_000, seed=1, power=power)
    later, _ = drawn(40_000, seed=2, shape=2.0)
    exact_curve = Curve.of_rows(scores, labels)
    exact = expected(Groups.of_rows(exact_curve, later, 0.5))
    n = counted(scores)
    curve = Curve.of_bins(counted(scores, scores) / np.maximum(n, 1), n, counted(scores, labels))
    groups = Groups.of_bins(curve, EDGES, counted(later), counted(later, later), 0.5)
    for name, value in expected(groups).items():
        assert value == pytest.approx(exact[name], abs=0.005), name


def test_a_threshold_inside_a_bin_cuts_it() -> None:
    groups = Groups.of_bins(
        TRUE, np.array([0.5]), np.array([10.0, 10.0]), np.array([2.5, 7.5]), 0.75
    )
    assert groups.above.tolist() == [0.0, 0.5]


def test_a_reference_that_says_too_little_is_refused() -> None:
    few = np.linspace(0, 1, 10)
    with pytest.raises(InvalidInput, match="10 labelled rows"):
        Curve.of_rows(few, (few > 0.5).astype(float))
    many = np.linspace(0, 1, 100)
    with pytest.raises(InvalidInput, match="with 0 of label 1"):
        Curve.of_rows(many, np.zeros(100))
    with pytest.raises(InvalidInput, match="neither 0 nor 1"):
        Curve.of_rows(many, many)


def test_rows_without_a_score_or_a_label_are_no_part_of_a_reference() -> None:
    scores, labels = drawn(200, seed=4)
    dirty = np.concatenate([scores, [np.nan, np.inf, 0.5]])
    known = np.concatenate([labels, [1.0, 0.0, np.nan]])
    np.testing.assert_array_equal(
        Curve.of_rows(dirty, known).rates, Curve.of_rows(scores, labels).rates
    )


def test_the_calibration_test_is_the_chi_squared_of_its_bins() -> None:
    from scipy.stats import chi2

    means, n, ones = np.array([0.2, 0.6]), np.array([100.0, 50.0]), np.array([26.0, 24.0])
    statistic = 36 / 20 + 36 / 80 + 36 / 30 + 36 / 20
    assert miscalibrated(means, n, ones) == pytest.approx(chi2.sf(statistic, 2))
    assert miscalibrated(np.array([0.5]), np.array([4.0]), np.array([4.0])) == 1.0


def test_the_calibration_test_finds_nothing_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    found = 0
    means, n = np.linspace(0.05, 0.95, 10), np.full(10, 200.0)
    for _ in range(400):
        found += miscalibrated(means, n, random.binomial(200, means).astype(float)) < 0.05
    assert 0.02 <= found / 400 <= 0.085


def calm(n: int, rate: float) -> Groups:
    """So many rows of scores around a rate."""
    return Groups.of_rows(TRUE, np.linspace(0.5, 1.5, n) * rate, 0.5)


@pytest.mark.parametrize("n", [1, 19])
def test_of_fewer_than_twenty_rows_nothing_is_told(n: int) -> None:
    names, why = told(calm(n, 0.5))
    assert (names, why) == (
        frozenset(), f"{n} rows are too few: at least 20 tell something.",
    )  # fmt: skip


@pytest.mark.parametrize(("rate", "label"), [(0.02, 1), (0.98 / 1.5, 0)])
def test_shares_of_a_class_of_which_few_rows_are_expected_are_not_told(
    rate: float, label: int
) -> None:
    n = 100 if label else 14
    scores = np.full(n, rate) if label else np.full(n, 0.98)
    groups = Groups.of_rows(TRUE, np.concatenate((scores, np.full(10, 0.98 - 0.96 * label))), 0.5)
    names, why = told(groups)
    assert names == frozenset(FIGURES) - {"recall", "auc", "average_precision"}
    assert f"rows of label {label} are expected, too few" in why


def test_twenty_rows_of_both_classes_are_told_in_full() -> None:
    assert told(calm(20, 0.5)) == (frozenset(FIGURES), "")


def test_bands_hold_down_to_the_floor() -> None:
    random = np.random.default_rng(3)
    curve = Curve.of_rows(*drawn(5_000, seed=4))
    held: list[bool] = []
    while len(held) < 250:
        scores = np.sort(random.beta(1.5, 3, 20) * 0.9)
        groups = Groups.of_rows(curve, scores, 0.5)
        labels = (random.random(20) < scores).astype(np.float64)
        if "average_precision" in told(groups)[0] and labels.any():
            _, low, high = estimated(curve, groups, 0.95)["average_precision"]
            held.append(low <= metrics.average_precision_score(labels, scores) <= high)
    assert np.mean(held) >= 0.85  # of the hardest figure
