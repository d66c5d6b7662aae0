"""How good predicted numbers and probabilities of several classes are, with their errors.

Each metric is told with its influence function: what each row adds to the error of the
estimate. The variance of an estimate from n rows is the mean square of that over n, and the
difference of two models on the same rows has the difference of their influences (the delta
method; van der Vaart, Asymptotic Statistics, 1998, chapter 20). Rows are taken as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.training.metrics import SingleClass, binary_metrics
from falaj.training.metrics import log_loss as binary_log_loss
from falaj.training.targets import Target

Vector = npt.NDArray[np.float64]
_LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Estimate:
    """A metric of rows.

    ``influence`` has one value a row, with the mean 0.
    """

    value: float
    influence: Vector

    @property
    def error(self) -> float:
        """Its standard error."""
        n = self.influence.size
        if n < 2:  # one row says nothing of its spread
            return abs(self.value) or 1.0
        return float(np.sqrt(np.sum(self.influence**2) / (n - 1) / n))


Measure = Callable[[Vector, Vector], Estimate]
"""Of labels [n], and scores [n] or [n, classes]."""


def _mean(values: Vector) -> Estimate:
    mean = float(values.mean())
    return Estimate(mean, values - mean)


def rmse(labels: Vector, scores: Vector) -> Estimate:
    """The root of the mean squared error, in the label's unit."""
    square = _mean((scores - labels) ** 2)
    root = float(np.sqrt(square.value))
    return Estimate(root, square.influence / (2 * root) if root else square.influence)


def mae(labels: Vector, scores: Vector) -> Estimate:
    """The mean absolute error, in the label's unit."""
    return _mean(np.abs(scores - labels))


def r2(labels: Vector, scores: Vector) -> Estimate:
    """The share of the label's variance that is explained; below 0 it is worse than the mean.

    Raises:
        SingleClass: all labels are the same.
    """
    error, spread = (scores - labels) ** 2, (labels - labels.mean()) ** 2
    total = float(spread.mean())
    if total == 0:
        raise SingleClass(
            f"All {labels.size} labels are {labels[0]:g}: there is no variance to explain.",
            hint="Check the label column and the boundaries of the split.",
        )
    share = float(error.mean()) / total
    return Estimate(1 - share, -(error - share * spread) / total)


def accuracy(labels: Vector, scores: Vector) -> Estimate:
    """The share of rows whose most probable class is theirs."""
    return _mean((scores.argmax(axis=1) == labels).astype(np.float64))


def balanced_accuracy(labels: Vector, scores: Vector) -> Estimate:
    """The mean over the classes that there are of the share of their rows that is right."""
    right = (scores.argmax(axis=1) == labels).astype(np.float64)
    present, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recalls = np.bincount(place, weights=right) / counts
    weight = labels.size / (len(present) * counts[place])
    return Estimate(float(recalls.mean()), weight * (right - recalls[place]))


def log_loss(labels: Vector, scores: Vector) -> Estimate:
    """The mean negative log of what the row's class was given, in nats."""
    given = scores[np.arange(labels.size), labels.astype(np.int64)]
    return _mean(-np.log(np.clip(given, _LEAST_PROBABILITY, None)))


def brier(labels: Vector, scores: Vector) -> Estimate:
    """The mean squared distance of the probabilities from the class, summed over the classes."""
    truth = np.zeros_like(scores)
    truth[np.arange(labels.size), labels.astype(np.int64)] = 1.0
    return _mean(((scores - truth) ** 2).sum(axis=1))


REGRESSION: Mapping[str, Measure] = MappingProxyType({"rmse": rmse, "mae": mae, "r2": r2})
CLASSES: Mapping[str, Measure] = MappingProxyType(
    {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "log_loss": log_loss,
        "brier": brier,
    }
)


def checked(target: Target, labels: Any, scores: Any) -> tuple[Vector, Vector]:
    """Labels and scores of a task other than binary as float64.

    Raises:
        InvalidInput: they are empty, do not fit each other, or a value is not of the task.
    """
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    wanted = (y.size, len(target.classes)) if target.classes else (y.size,)
    if y.ndim != 1 or s.shape != wanted:
        raise InvalidInput(
            f"Labels of shape {y.shape} do not fit scores of shape {s.shape}.",
            hint=f"For {y.size} labels give scores of shape {wanted}.",
        )
    if y.size == 0:
        raise InvalidInput(
            "There are no rows to measure.", hint="Check the boundaries of the split."
        )
    known = np.isin(y, np.arange(len(target.classes))) if target.classes else np.isfinite(y)
    if not known.all():
        raise InvalidInput(
            f"A label is {y[~known][0]:g}, which is not of the task {target.task!r}.",
            hint="Give labels of the task, without missing values.",
        )
    if not np.isfinite(s).all():
        raise InvalidInput("A score is not a finite number.", hint="Check the model's output.")
    return y, s


def measured(target: Target, metric: str, labels: Any, scores: Any) -> Estimate:
    """A metric of a task other than binary, with its error.

    Raises:
        InvalidInput: the task has no such metric, or as of ``checked``.
    """
    measures = CLASSES if target.classes else REGRESSION
    if metric not in measures:
        raise InvalidInput(
            f"{metric!r} is no metric of the task {target.task!r}.",
            hint=f"It has: {', '.join(measures)}.",
        )
    return measures[metric](*checked(target, labels, scores))


def loss_of(target: Target, labels: Any, scores: Any) -> float:
    """What early stopping watches: the log loss, of numbers the root of the mean square."""
    if target.task == "binary":
        return binary_log_loss(labels, scores)
    return measured(target, "log_loss" if target.classes else "rmse", labels, scores).value


def metrics_of(target: Target, labels: Any, scores: Any) -> dict[str, float]:
    """All metrics of a task by name, and the number of rows.

    Of numbers also ``bias``, the mean of prediction less label; ``r2`` is left out where
    all labels are the same.

    Raises:
        InvalidInput: as of ``checked``, and of ``metrics.binary_metrics``.
    """
    if target.task == "binary":
        return binary_metrics(labels, scores)
    y, s = checked(target, labels, scores)
    measures = dict(CLASSES if target.classes else REGRESSION)
    if not target.classes and y.min() == y.max():
        del measures["r2"]
    found = {name: measure(y, s).value for name, measure in measures.items()}
    if not target.classes:
        found["bias"] = float((s - y).mean())
    return {**found, "n_rows": float(y.size)}
