"""Figures of predictions whose labels are known, each with its confidence band.

Shares of rows (accuracy, precision, recall) have Wilson's score interval (J. Am. Stat. Assoc. 22,
1927). F1 is 2q/(1 + q) of the share q = TP/(TP + FP + FN), which grows with q, so that its band
is that of q carried over. The average precision has the interval of its logit with the number
of positives (Boyd, Eng and Page, ECML 2013); the AUC DeLong's; log loss and Brier score that of
a mean. All take rows as independent.
"""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist

import numpy as np

from falaj.models.intervals import auc_interval
from falaj.monitoring.expected import Vector
from falaj.monitoring.model import Band
from falaj.training.metrics import SingleClass

_LEAST_PROBABILITY = 1e-15


def realised(
    labels: Vector, scores: Vector, threshold: float, confidence: float
) -> dict[str, Band | None]:
    """All figures by name; None where one is not defined.

    Args:
        labels: 0 and 1, at least one.
        scores: of the same rows, finite.
        threshold: a score from here on predicts label 1.
    """
    said, true = scores >= threshold, labels == 1
    hits = int((said & true).sum())
    n, n_said, n_true = len(labels), int(said.sum()), int(true.sum())
    p = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    right = hits + n - n_said - n_true + hits
    return {
        "accuracy": share_band(right, n, confidence),
        "precision": share_band(hits, n_said, confidence),
        "recall": share_band(hits, n_true, confidence),
        "f1": _f1(hits, n_said + n_true - hits, confidence),
        "auc": _auc(labels, scores, confidence),
        "average_precision": _average_precision(labels, scores, n_true, confidence),
        "log_loss": mean_band(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)), confidence),
        "brier": mean_band((scores - labels) ** 2, confidence),
        "positive_rate": share_band(n_true, n, confidence),
    }


def share_band(k: float, n: float, confidence: float) -> Band | None:
    """The share k/n with Wilson's score interval; None of no rows."""
    if n <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, z2 = k / n, z * z / n
    middle = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * (share * (1 - share) / n + z2 / (4 * n)) ** 0.5
    return Band(
        estimate=share,
        low=max(0.0, min(share, middle - half)),
        high=min(1.0, max(share, middle + half)),
    )


def mean_band(losses: Vector, confidence: float) -> Band:
    """The mean of losses with its normal confidence band; one row has the widest band."""
    mean = float(losses.mean())
    if len(losses) < 2:
        return Band(estimate=mean, low=0.0, high=float("inf"))
    error = float(losses.std(ddof=1)) / len(losses) ** 0.5
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Band(estimate=mean, low=max(0.0, mean - half), high=mean + half)


def _f1(hits: int, any_positive: int, confidence: float) -> Band | None:
    q = share_band(hits, any_positive, confidence)
    if q is None:
        return None
    low, estimate, high = (2 * one / (1 + one) for one in (q.low, q.estimate, q.high))
    return Band(estimate=estimate, low=low, high=high)


def _auc(labels: Vector, scores: Vector, confidence: float) -> Band | None:
    try:
        found = auc_interval(labels, scores, confidence=confidence)
    except SingleClass:
        return None
    return Band(estimate=found.estimate, low=found.low, high=found.high)


def _average_precision(
    labels: Vector, scores: Vector, n_true: int, confidence: float
) -> Band | None:
    if not n_true:
        return None
    order = np.argsort(scores, kind="stable")
    s, y = scores[order], labels[order]
    firsts = np.flatnonzero(np.concatenate(([True], s[1:] != s[:-1])))
    ones = np.add.reduceat(y, firsts)
    # As scikit-learn: rows of one score are taken together, at the precision behind them.
    hits = np.cumsum(ones[::-1])
    said = len(s) - firsts[::-1]
    estimate = float((ones[::-1] * hits / said).sum() / n_true)
    if not 0 < estimate < 1 or n_true < 2:
        return Band(estimate=estimate, low=0.0, high=1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = log(estimate / (1 - estimate))
    error = 1 / (n_true * estimate * (1 - estimate)) ** 0.5
    half = min(z * error, 100.0)  # beyond that it is all of [0, 1] anyhow
    low, high = (1 / (1 + exp(-(centre + side * half))) for side in (-1, 1))
    return Band(estimate=estimate, low=low, high=high)
