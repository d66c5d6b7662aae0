"""Intervals of metrics, and of their differences on the same rows.

The AUC: DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), computed from midranks as in
Sun and Xu (IEEE Signal Processing Letters 21, 2014), O(n log n). Log loss and Brier score are
means over rows, and so is their difference on the same rows: the normal interval of a mean. The
calibration error's difference: percentiles of a seeded paired bootstrap (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 13). Metrics of numbers and of several classes:
by their influence functions (``training.rowmetrics``). All take the rows as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from falaj.training.metrics import (
    FUNCTIONS,
    HIGHER_IS_BETTER,
    LOSSES,
    SingleClass,
    Vector,
    checked,
    midranks,
)
from falaj.training.rowmetrics import Estimate, measured
from falaj.training.targets import BINARY, Target

_RESAMPLES = 400
BOUNDS = {
    "auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "balanced_accuracy": (0.0, 1.0),
    "r2": (-math.inf, 1.0),
}  # fmt: skip
"""What a metric can be; the others are 0 or more."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    p_value: float | None = None
    """Of a difference: how often chance alone gives one as great, on either side."""

    def evidence(self) -> dict[str, float]:
        """As JSON."""
        told = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return told if self.p_value is None else {**told, "p_value": self.p_value}


def auc_interval(labels: Vector, scores: Vector, *, confidence: float = 0.95) -> Interval:
    """The AUC with its DeLong interval, kept within 0 and 1.

    Raises SingleClass without both classes. A variance of 0 (all pairs in order) is
    replaced by that of one pair out of order, so that few rows never look certain.
    """
    estimate, error = auc_error(labels, scores)
    half = _quantile(confidence) * error
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half))


def auc_error(labels: Vector, scores: Vector) -> tuple[float, float]:
    """The AUC and its standard error, as ``auc_interval`` takes them."""
    aucs, covariance, pairs = _delong(labels, [scores])
    variance = max(float(covariance[0, 0]), _least_variance(pairs, labels))
    return float(aucs[0]), variance**0.5


def auc_difference(
    labels: Vector, scores: Vector, others: Vector, *, confidence: float = 0.95
) -> Interval:
    """AUC(scores) - AUC(others) on the same rows, with its DeLong interval."""
    aucs, covariance, _ = _delong(labels, [scores, others])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return normal_interval(
        float(aucs[0] - aucs[1]), max(float(variance), 0.0) ** 0.5, confidence=confidence
    )


def normal_interval(estimate: float, error: float, *, confidence: float = 0.95) -> Interval:
    """An estimate of a difference and its standard error, with a two-sided p-value."""
    half = _quantile(confidence) * error
    if error > 0:
        p_value = 2 * NormalDist().cdf(-abs(estimate) / error)
    else:
        p_value = 1.0 if estimate == 0 else 0.0
    return Interval(estimate, estimate - half, estimate + half, p_value)


def metric_error(
    metric: str, labels: Vector, scores: Vector, *, target: Target = BINARY
) -> tuple[float, float]:
    """A metric with its standard error: auc, log_loss or brier; of other tasks any."""
    if target.task != "binary":
        found = measured(target, metric, labels, scores)
        return found.value, found.error
    if metric == "auc":
        return auc_error(labels, scores)
    losses = LOSSES[metric](*checked(labels, scores))
    return float(losses.mean()), _error_of_mean(losses)


def metric_interval(
    metric: str,
    labels: Vector,
    scores: Vector,
    *,
    confidence: float = 0.95,
    target: Target = BINARY,
) -> Interval:
    """A metric with its interval: auc, log_loss or brier; of other tasks any.

    The calibration error is biased upwards and has an interval of its own (``gating``).
    """
    if metric == "auc" and target.task == "binary":
        return auc_interval(labels, scores, confidence=confidence)
    estimate, error = metric_error(metric, labels, scores, target=target)
    half = _quantile(confidence) * error
    least, most = BOUNDS.get(metric, (0.0, math.inf))
    return Interval(estimate, max(least, estimate - half), min(most, estimate + half))


def metric_difference(
    metric: str,
    labels: Vector,
    scores: Vector,
    others: Vector,
    *,
    confidence: float = 0.95,
    seed: int = 7,
    target: Target = BINARY,
) -> Interval:
    """How much better ``scores`` are than ``others``, in the metric's good direction.

    The AUC by DeLong; log loss and Brier score by the mean of the rows' differences; the
    calibration error by the percentiles of a paired bootstrap (400 resamples). The metrics of
    other tasks by the difference of their influences.
    """
    if target.task != "binary":
        ours = measured(target, metric, labels, scores)
        theirs = measured(target, metric, labels, others)
        good = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
        apart = Estimate(ours.value - theirs.value, ours.influence - theirs.influence)
        return normal_interval(good * apart.value, apart.error, confidence=confidence)
    if metric == "auc":
        return auc_difference(labels, scores, others, confidence=confidence)
    y, s = checked(labels, scores)
    _, o = checked(labels, others)
    if metric in LOSSES:
        gained = LOSSES[metric](y, o) - LOSSES[metric](y, s)
        return normal_interval(float(gained.mean()), _error_of_mean(gained), confidence=confidence)
    function = FUNCTIONS[metric]
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    random = np.random.default_rng(seed)
    drawn = np.empty(_RESAMPLES)
    for place in range(_RESAMPLES):
        rows = random.integers(0, y.size, y.size)
        drawn[place] = sign * (function(y[rows], s[rows]) - function(y[rows], o[rows]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (_RESAMPLES + 1))
    return Interval(sign * (function(y, s) - function(y, o)), float(low), float(high), p_value)


def _error_of_mean(values: Vector) -> float:
    if values.size < 2:
        return float(np.abs(values).max(initial=1.0))  # one row says nothing of its spread
    return float(values.std(ddof=1) / values.size**0.5)


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _least_variance(pairs: float, labels: Vector) -> float:
    rarest = min(float(labels.sum()), labels.size - float(labels.sum()))
    return 1.0 / (pairs * max(rarest, 1.0))


def _delong(labels: Vector, scores: list[Vector]) -> tuple[Vector, Vector, float]:
    """AUCs, their covariance matrix and the number of pairs."""
    ones = np.asarray(labels) == 1
    m, n = int(ones.sum()), int((~ones).sum())
    if m == 0 or n == 0:
        raise SingleClass("An AUC needs both classes.", hint="Check the label and the rows.")
    aucs = np.empty(len(scores))
    by_one = np.empty((len(scores), m))
    by_zero = np.empty((len(scores), n))
    for place, given in enumerate(scores):
        s = np.asarray(given, dtype=np.float64)
        everywhere = midranks(s)
        by_one[place] = (everywhere[ones] - midranks(s[ones])) / n
        by_zero[place] = 1 - (everywhere[~ones] - midranks(s[~ones])) / m
        aucs[place] = by_one[place].mean()
    return aucs, _covariance(by_one) / m + _covariance(by_zero) / n, float(m * n)


def _covariance(rows: Vector) -> Vector:
    """Of one or two AUCs' placements. One row has no spread to measure: what lies between 0 and 1
    varies by at most 0.25, and two of them differ the most when they go against each other."""
    if rows.shape[1] < 2:
        return 0.5 * np.eye(rows.shape[0]) - 0.25
    return np.atleast_2d(np.cov(rows))
