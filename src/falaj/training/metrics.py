"""How good are scores of a binary label: AUC, log loss, Brier score, calibration.

Labels are 0 or 1 and scores are probabilities of 1, both one-dimensional and of the same
length. All figures are exact sums in float64; ties in the scores count half for the AUC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput

Vector = npt.NDArray[np.float64]

_LEAST_PROBABILITY = 1e-15


class SingleClass(InvalidInput):
    """All labels are the same, so nothing can be told apart."""

    code = "single-class"


def checked(labels: Any, scores: Any) -> tuple[Vector, Vector]:
    """Labels and scores as float64 vectors.

    Raises:
        InvalidInput: they are empty, of different lengths, a label is neither 0 nor 1, or
            a score is not a number.
    """
    y = np.asarray(labels, dtype=np.float64)
    s = np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise InvalidInput(
            f"Labels of shape {y.shape} do not fit scores of shape {s.shape}.",
            hint="Give one score for each label.",
        )
    if y.size == 0:
        raise InvalidInput(
            "There are no rows to measure.", hint="Check the boundaries of the split."
        )
    if not np.isin(y, (0.0, 1.0)).all():
        raise InvalidInput(
            "A label is neither 0 nor 1.", hint="Give a binary label without missing values."
        )
    if np.isnan(s).any():
        raise InvalidInput("A score is not a number.", hint="Check the model's output.")
    return y, s


def midranks(values: Vector) -> Vector:
    """Ranks from 1; equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ends = np.append(starts[1:], values.size)
    means = (starts + ends + 1) / 2.0
    ranks = np.empty(values.size, dtype=np.float64)
    ranks[order] = np.repeat(means, ends - starts)
    return ranks


def auc(labels: Any, scores: Any) -> float:
    """The probability that a random 1 scores above a random 0 (ties count half).

    Raises:
        SingleClass: there is no 1 or no 0.
    """
    y, s = checked(labels, scores)
    n_ones = float(y.sum())
    n_zeros = y.size - n_ones
    if n_ones == 0 or n_zeros == 0:
        raise SingleClass(
            f"All {y.size} labels are {int(y[0])}: an AUC needs both classes.",
            hint="Check the label column and the boundaries of the split.",
        )
    rank_sum = float(midranks(s)[y == 1.0].sum())
    return (rank_sum - n_ones * (n_ones + 1) / 2) / (n_ones * n_zeros)


def log_loss(labels: Any, scores: Any) -> float:
    """The mean negative log likelihood, in nats; scores are kept 1e-15 away from 0 and 1."""
    return float(np.mean(_log_losses(*checked(labels, scores))))


def brier(labels: Any, scores: Any) -> float:
    """The mean squared distance between score and label."""
    return float(np.mean(_squares(*checked(labels, scores))))


def _log_losses(y: Vector, s: Vector) -> Vector:
    p = np.clip(s, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


def _squares(y: Vector, s: Vector) -> Vector:
    return np.asarray((s - y) ** 2)


def calibration_table(labels: Any, scores: Any, *, n_bins: int = 10) -> list[dict[str, float]]:
    """Rows ordered by score and cut into bins of (nearly) equal count.

    Each bin has ``n``, ``predicted`` (the mean score) and ``observed`` (the rate of 1).
    """
    y, s = checked(labels, scores)
    order = np.argsort(s, kind="stable")
    return [
        {
            "n": float(part.size),
            "predicted": float(s[part].mean()),
            "observed": float(y[part].mean()),
        }
        for part in np.array_split(order, min(n_bins, y.size))
    ]


def calibration_error(labels: Any, scores: Any, *, n_bins: int = 10) -> float:
    """Expected calibration error: the mean distance of predicted and observed over the bins."""
    bins = calibration_table(labels, scores, n_bins=n_bins)
    total = sum(bin_["n"] for bin_ in bins)
    return sum(bin_["n"] * abs(bin_["predicted"] - bin_["observed"]) for bin_ in bins) / total


def binary_metrics(labels: Any, scores: Any) -> dict[str, float]:
    """All figures of this module by name: auc, log_loss, brier, calibration_error and counts."""
    y, s = checked(labels, scores)
    return {
        "auc": auc(y, s),
        "log_loss": log_loss(y, s),
        "brier": brier(y, s),
        "calibration_error": calibration_error(y, s),
        "positive_rate": float(y.mean()),
        "n_rows": float(y.size),
    }


HIGHER_IS_BETTER = {
    "auc": True, "log_loss": False, "brier": False, "calibration_error": False,
    "rmse": False, "mae": False, "r2": True, "accuracy": True, "balanced_accuracy": True,
}  # fmt: skip
"""For each metric that a gate may compare, its good direction; the later ones are of
``rowmetrics``."""

FUNCTIONS = {
    "auc": auc,
    "log_loss": log_loss,
    "brier": brier,
    "calibration_error": calibration_error,
}
"""The metrics by name."""

LOSSES = {"log_loss": _log_losses, "brier": _squares}
"""The metrics that are means over rows, as functions of checked labels and scores."""
