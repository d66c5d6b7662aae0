"""Metrics of numbers and of several classes, beside scikit-learn, with errors that come true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from falaj.kernel.errors import InvalidInput
from falaj.training.metrics import SingleClass, binary_metrics
from falaj.training.rowmetrics import CLASSES, REGRESSION, loss_of, measured, metrics_of
from falaj.training.targets import BINARY, Target

NUMBER = Target(task="regression")
WORDS = Target(task="classes", classes=("a", "b", "c"))


def numbers(seed, n=500):
    random = np.random.default_rng(seed)
    labels = random.gamma(2.0, 10.0, n)
    return labels, labels + random.normal(size=n) * (1 + labels / 10)


def words(seed, n=500):
    random = np.random.default_rng(seed)
    labels = random.choice(3, n, p=[0.6, 0.3, 0.1]).astype(float)
    raw = random.gamma(1.0, 1.0, (n, 3)) + 1.5 * np.eye(3)[labels.astype(int)]
    return labels, raw / raw.sum(axis=1, keepdims=True)


def test_numbers_are_measured_as_scikit_learn_does():
    y, s = numbers(1)
    found = metrics_of(NUMBER, y, s)
    assert found["rmse"] == pytest.approx(sklearn.root_mean_squared_error(y, s), rel=1e-12)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(y, s), rel=1e-12)
    assert found["r2"] == pytest.approx(sklearn.r2_score(y, s), rel=1e-12)
    assert found["bias"] == pytest.approx((s - y).mean(), rel=1e-9)
    assert found["n_rows"] == 500


def test_classes_are_measured_as_scikit_learn_does():
    y, s = words(1)
    found = metrics_of(WORDS, y, s)
    said = s.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(y, said), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn.balanced_accuracy_score(y, said), rel=1e-12
    )
    assert found["log_loss"] == pytest.approx(sklearn.log_loss(y, s), rel=1e-12)
    assert found["brier"] == pytest.approx(((s - np.eye(3)[y.astype(int)]) ** 2).sum(1).mean())


def test_labels_of_zero_and_one_are_measured_as_before():
    random = np.random.default_rng(0)
    y, s = (random.random(100) < 0.4).astype(float), random.random(100)
    assert metrics_of(BINARY, y, s) == binary_metrics(y, s)
    assert loss_of(BINARY, y, s) == binary_metrics(y, s)["log_loss"]


def test_early_stopping_watches_the_root_of_the_square_or_the_log_loss():
    assert loss_of(NUMBER, *numbers(2)) == metrics_of(NUMBER, *numbers(2))["rmse"]
    assert loss_of(WORDS, *words(2)) == metrics_of(WORDS, *words(2))["log_loss"]


def test_without_variance_there_is_nothing_to_explain():
    y, s = np.full(5, 2.0), np.arange(5.0)
    assert "r2" not in metrics_of(NUMBER, y, s)
    with pytest.raises(SingleClass, match="All 5 labels are 2"):
        measured(NUMBER, "r2", y, s)


@given(seed=st.integers(0, 10_000), n=st.integers(10, 200))
@settings(max_examples=50, deadline=None)
def test_influences_have_the_mean_zero(seed, n):
    for target, given_, measures in (
        (NUMBER, numbers(seed, n), REGRESSION), (WORDS, words(seed, n), CLASSES),
    ):  # fmt: skip
        for name in measures:
            found = measured(target, name, *given_)
            assert abs(found.influence.mean()) < 1e-9 * max(1.0, np.abs(found.influence).max())


@pytest.mark.parametrize(
    ("target", "metric", "rows"),
    [(NUMBER, name, numbers) for name in REGRESSION] + [(WORDS, name, words) for name in CLASSES],
)
def test_the_error_is_the_spread_of_the_estimate_over_fresh_rows(target, metric, rows):
    found = [measured(target, metric, *rows(seed, 400)) for seed in range(300)]
    spread = np.std([one.value for one in found], ddof=1)
    told = np.mean([one.error for one in found])
    assert told == pytest.approx(spread, rel=0.15)


def test_one_row_is_not_certain_of_itself():
    assert measured(NUMBER, "mae", [1.0], [3.0]).error == 2.0
    assert measured(NUMBER, "mae", [1.0], [1.0]).error == 1.0


@pytest.mark.parametrize(
    ("target", "labels", "scores", "why"),
    [
        (NUMBER, [], [], "no rows"),
        (NUMBER, [1.0, 2.0], [1.0], "do not fit"),
        (NUMBER, [1.0, np.nan], [1.0, 2.0], "A label is nan"),
        (NUMBER, [1.0], [np.inf], "not a finite number"),
        (WORDS, [0.0], [0.2, 0.8], "do not fit"),
        (WORDS, [3.0], [[0.2, 0.3, 0.5]], "A label is 3"),
        (WORDS, [0.5], [[0.2, 0.3, 0.5]], "A label is 0.5"),
        (WORDS, [0.0], [[np.nan, 0.3, 0.5]], "not a finite number"),
    ],
)
def test_what_is_not_of_the_task_is_refused(target, labels, scores, why):
    with pytest.raises(InvalidInput, match=why):
        metrics_of(target, labels, scores)


def test_a_metric_of_another_task_is_refused_with_those_there_are():
    with pytest.raises(InvalidInput, match="'auc' is no metric of the task 'regression'") as caught:
        measured(NUMBER, "auc", *numbers(1))
    assert "rmse" in caught.value.hint
