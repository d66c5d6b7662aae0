"""Calibration: turns a model's scores into probabilities that come true as often as they say.

Platt's method fits p = sigmoid(slope · logit(s) + offset) by maximum likelihood with his
smoothed targets (Platt 1999, "Probabilistic outputs for support vector machines").
Isotonic regression (Zadrozny and Elkan 2002) fits the best monotone function; here on bins of
equal count, so that no bin says more than its rows do, and joined by straight lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from falaj.kernel.errors import InvalidInput
from falaj.training.metrics import checked
from falaj.training.options import CalibrationMethod

if TYPE_CHECKING:
    Vector = npt.NDArray[np.float64]

FEWEST_ROWS = 50
_ROWS_PER_BIN, _MOST_BINS = 25, 100
LEAST = 1e-7
"""How near to 0 and 1 a score is read."""
_STEPS, _ENOUGH = 100, 1e-12
_LEAST_GAP = 1e-6
"""Between knots: the model's float32 must tell them apart."""


class Calibration(BaseModel):
    """A monotone function of a score; see ``fitted`` for how it is made."""

    model_config = ConfigDict(frozen=True)

    method: CalibrationMethod
    slope: float = 1.0
    offset: float = 0.0
    """Of Platt's method."""
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    """Of the isotonic method: the knots, both growing. Beyond the ends it is flat."""

    def applied(self, scores: Any) -> Vector:
        """The probabilities of these scores, float64 and of the same shape."""
        s = np.asarray(scores, dtype=np.float64)
        if self.method is CalibrationMethod.PLATT:
            return _sigmoid(self.slope * _logit(s) + self.offset)
        return np.interp(s, self.scores, self.probabilities)


def fitted(method: CalibrationMethod, labels: Any, scores: Any) -> Calibration:
    """The calibration of scores on rows with known labels.

    Raises:
        InvalidInput: there are fewer than 50 rows, or only one class; or (Platt) the scores
            fall where the label rises, so that no growing function fits.
    """
    y, s = checked(labels, scores)
    if y.size < FEWEST_ROWS or not 0 < y.sum() < y.size:
        raise InvalidInput(
            f"{y.size} rows with {int(y.sum())} of label 1 are too few to calibrate on.",
            hint=f"At least {FEWEST_ROWS} rows of both classes are needed: give the validation"
            " part more rows, or train without calibration.",
        )
    return _platt(y, s) if method == CalibrationMethod.PLATT else _isotonic(y, s)


def _platt(y: Vector, s: Vector) -> Calibration:
    """Newton's method on the two parameters; the loss is convex."""
    n_ones = y.sum()
    targets = np.where(y == 1, (n_ones + 1) / (n_ones + 2), 1 / (y.size - n_ones + 2))
    x = np.column_stack([_logit(s), np.ones_like(s)])
    weights = np.array([1.0, 0.0])
    loss = _cross_entropy(targets, x @ weights)
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - targets)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step, scale = np.linalg.solve(hessian, gradient), 1.0
        while _cross_entropy(targets, x @ (weights - scale * step)) > loss and scale > 1e-10:
            scale /= 2
        weights = weights - scale * step
        new = _cross_entropy(targets, x @ weights)
        if loss - new < _ENOUGH * y.size:
            break
        loss = new
    if not weights[0] > 0:
        raise InvalidInput(
            "The scores fall where the label rises: there is nothing to calibrate.",
            hint="The model has learned nothing that holds on these rows; look at its data.",
        )
    return Calibration(
        method=CalibrationMethod.PLATT, slope=float(weights[0]), offset=float(weights[1])
    )


def _isotonic(y: Vector, s: Vector) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(s, kind="stable")
    n_bins = max(2, min(_MOST_BINS, y.size // _ROWS_PER_BIN))
    bins = np.array_split(order, n_bins)
    centres = np.array([s[one].mean() for one in bins])
    rates = np.array([y[one].mean() for one in bins])
    counts = np.array([float(one.size) for one in bins])
    values = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(
        centres, rates, sample_weight=counts
    )
    kept = [0]
    for place in range(1, n_bins):
        if centres[place] - centres[kept[-1]] > _LEAST_GAP:
            kept.append(place)
    return Calibration(
        method=CalibrationMethod.ISOTONIC,
        scores=tuple(float(centres[place]) for place in kept),
        probabilities=tuple(float(values[place]) for place in kept),
    )


def _cross_entropy(targets: Vector, logits: Vector) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - targets * logits))


def _logit(s: Vector) -> Vector:
    p = np.clip(s, LEAST, 1 - LEAST)
    found: Vector = np.log(p) - np.log1p(-p)
    return found


def _sigmoid(z: Vector) -> Vector:
    found: Vector = np.exp(-np.logaddexp(0.0, -z))
    return found
