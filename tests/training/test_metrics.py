"""Metrics against brute force and against laws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.training.metrics import (
    SingleClass,
    auc,
    binary_metrics,
    brier,
    calibration_error,
    calibration_table,
    log_loss,
    midranks,
)

examples = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])),
    min_size=1,
    max_size=60,
)


def split(rows):
    return np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)


@given(examples)
def test_the_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(rows):
    labels, scores = split(rows)
    assume(0 < labels.sum() < labels.size)
    ones, zeros = scores[labels == 1], scores[labels == 0]
    pairs = [(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]
    assert auc(labels, scores) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(examples)
def test_turning_labels_and_scores_round_leaves_the_auc_as_it_is(rows):
    labels, scores = split(rows)
    assume(0 < labels.sum() < labels.size)
    assert auc(1 - labels, -scores) == pytest.approx(auc(labels, scores), abs=1e-12)


@given(examples)
def test_the_auc_does_not_change_under_a_growing_function_of_the_scores(rows):
    labels, scores = split(rows)
    assume(0 < labels.sum() < labels.size)
    assert auc(labels, np.exp(3 * scores)) == pytest.approx(auc(labels, scores), abs=1e-12)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_midranks_sum_to_what_plain_ranks_sum_to(values):
    n = len(values)
    assert midranks(np.array(values, float)).sum() == pytest.approx(n * (n + 1) / 2)


def test_known_values_of_log_loss_and_brier():
    assert log_loss([1, 0], [0.8, 0.4]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)


def test_a_certain_and_wrong_score_costs_much_but_not_infinitely_much():
    assert 30 < log_loss([1], [0.0]) < 40


def test_scores_that_are_the_true_rates_are_calibrated_and_shifted_ones_are_not():
    rng = np.random.default_rng(1)
    p = rng.random(50_000)
    labels = (rng.random(50_000) < p).astype(float)
    assert calibration_error(labels, p) < 0.01
    assert calibration_error(labels, np.clip(p + 0.2, 0, 1)) > 0.15


@given(examples)
def test_the_bins_of_a_calibration_table_hold_every_row_once(rows):
    labels, scores = split(rows)
    table = calibration_table(labels, scores)
    assert sum(bin_["n"] for bin_ in table) == labels.size
    assert [bin_["predicted"] for bin_ in table] == sorted(bin_["predicted"] for bin_ in table)


def test_all_figures_come_by_name_with_their_counts():
    figures = binary_metrics([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.2])
    assert figures["auc"] == 1.0
    assert figures["n_rows"] == 4
    assert figures["positive_rate"] == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "told"),
    [
        ([], [], "no rows"),
        ([0, 2], [0.1, 0.2], "neither 0 nor 1"),
        ([0, 1], [0.1], "do not fit"),
        ([0, 1], [0.1, float("nan")], "not a number"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused_with_the_reason(labels, scores, told):
    with pytest.raises(InvalidInput, match=told):
        auc(labels, scores)


def test_labels_of_a_single_class_have_no_auc():
    with pytest.raises(SingleClass, match="both classes"):
        auc([1, 1], [0.2, 0.3])
