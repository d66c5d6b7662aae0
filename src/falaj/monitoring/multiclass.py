"""Figures of predictions of several classes: realised, and expected before labels arrive.

A row predicts its likeliest class. Each figure here is, as far as it matters for its band, a mean
over rows of a *loss* L that hangs on the class that came: 1 where it is the predicted one
(accuracy), minus the logarithm of its probability (log loss), or its influence on the mean of the
classes' F1 (the delta method on the confusion matrix, as for the macro F1 of Takahashi et al.,
Applied Intelligence 52, 2022). So one formula gives all bands.

What is expected is told from probabilities that were set right on a labelled reference: each
class by an isotonic regression of its own, one against the rest, and all of them of a row
divided by their sum (confidence-based performance estimation, as NannyML does it for classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.expected import DRAWS, Curve
from falaj.monitoring.model import Band
from falaj.monitoring.realised import mean_band, share_band

Matrix = NDArray[np.float64]
Classes = NDArray[np.int64]
_LEAST_PROBABILITY = 1e-15
_FEWEST = 20


def realised_classes(labels: Classes, shares: Matrix, confidence: float) -> dict[str, Band]:
    """``accuracy``, ``macro_f1`` and ``log_loss``.

    Args:
        labels: the places of the classes that came, of shape (rows,), at least one row.
        shares: the probabilities of the classes, of shape (rows, classes); a row sums to 1.
    """
    said, rows, k = shares.argmax(axis=1), np.arange(len(labels)), shares.shape[1]
    counts = np.bincount(said * k + labels, minlength=k * k).reshape(k, k).astype(np.float64)
    estimate, influence = _macro_f1(said, np.eye(k)[labels])
    spread = float(influence[rows, labels].std(ddof=1)) if len(rows) > 1 else float("inf")
    square = (_z(confidence) * spread) ** 2 / len(rows)
    below, above = _of_few(counts, confidence)
    low, high = estimate - (square + below) ** 0.5, estimate + (square + above) ** 0.5
    if spread == 0:
        # No row differs from another: at most as sure as so many of which all, or none, are right.
        alike = _known(share_band(estimate * len(rows), len(rows), confidence))
        low, high = min(low, alike.low), max(high, alike.high)
    right = int(counts.trace())
    return {
        "accuracy": _known(share_band(right, len(labels), confidence)),
        "macro_f1": Band(estimate=estimate, low=max(0.0, low), high=min(1.0, high)),
        "log_loss": mean_band(_log_losses(shares)[rows, labels], confidence),
    }


@dataclass(frozen=True)
class ClassCurves:
    """How often each probability of each class came true on a labelled reference.

    Attributes:
        curves: one for each class.
        n: rows of the reference.
        figures: realised on it.
    """

    curves: tuple[Curve, ...]
    n: int
    figures: Mapping[str, float]

    @property
    def needed(self) -> bool:
        """True if the probabilities of some class did not come true as they are."""
        return any(one.needed for one in self.curves)

    @classmethod
    def of_rows(cls, shares: Matrix, labels: Classes, names: tuple[str, ...] = ()) -> ClassCurves:
        """Learn from labelled rows.

        Raises:
            InvalidInput: they are fewer than 20, or one of the classes never came.
        """
        n = len(labels)
        for place in range(shares.shape[1]):
            ones = int((labels == place).sum())
            if n < _FEWEST or not 0 < ones < n:
                told = repr(names[place]) if names else str(place)
                raise InvalidInput(
                    f"A reference of {n} labelled rows with {ones} of the class {told} says too "
                    "little.",
                    hint=f"At least {_FEWEST} rows are needed, and some of every class.",
                )
        curves = tuple(
            Curve.of_rows(shares[:, place], (labels == place).astype(np.float64))
            for place in range(shares.shape[1])
        )
        found = realised_classes(labels, shares, 0.95)
        return cls(curves, n, {name: band.estimate for name, band in found.items()})

    def applied(self, shares: Matrix) -> Matrix:
        """The probabilities set right, of the same shape; a row sums to 1."""
        return _normalised(self._told(shares), shares)

    def _told(self, shares: Matrix) -> Matrix:
        """How often each class came at its probability, not divided by their sum."""
        return np.column_stack(
            [curve.applied(shares[:, place]) for place, curve in enumerate(self.curves)]
        )

    def expected(self, shares: Matrix, confidence: float) -> dict[str, Band]:
        """The figures to be expected of rows without labels.

        While what the reference tells still holds, the realised figures lie in the bands in
        about the given share of cases: they hold what chance adds to the labels, and what a
        finite reference leaves open.
        """
        told = self._told(shares)
        said, q = shares.argmax(axis=1), _normalised(told, shares)
        right = np.zeros_like(q)
        right[np.arange(len(q)), said] = 1.0
        macro, influence = _macro_f1(said, q)
        logs = _log_losses(shares)
        # The log loss of a class hangs on its own probability alone, of which is known how often
        # it comes true: to divide by the row's sum would only take that away.
        log_loss = float((told * logs).sum(axis=1).mean())
        found = {}
        for name, losses, estimate, most in (
            ("accuracy", right, float((q * right).sum(axis=1).mean()), 1.0),
            ("macro_f1", influence, macro, 1.0),
            ("log_loss", logs, log_loss, float("inf")),
        ):
            half = _z(confidence) * self._error(shares, q, losses)
            low, high = max(0.0, estimate - half), min(most, estimate + half)
            found[name] = Band(estimate=estimate, low=low, high=high)
        return found

    def _error(self, shares: Matrix, q: Matrix, losses: Matrix) -> float:
        """The standard error of a mean of losses whose classes are drawn with chances q."""
        n = len(q)
        centred = losses - (q * losses).sum(axis=1, keepdims=True)
        chance = float((q * centred**2).sum()) / n**2
        drawn = np.zeros(DRAWS)
        for place, curve in enumerate(self.curves):
            # Of a stretch of the curve all rows are off together: sum what it does to the mean.
            stretches = curve.stretches(shares[:, place])
            weights = np.bincount(stretches, weights=centred[:, place], minlength=len(curve.n))
            drawn += curve.drawn_off @ (weights / n)
        return float(np.sqrt(chance + drawn.var(ddof=1)))


def _normalised(told: Matrix, otherwise: Matrix) -> Matrix:
    sums = told.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums > 0, told / sums, otherwise)


def _macro_f1(said: Classes, came: Matrix) -> tuple[float, Matrix]:
    """The mean of the classes' F1, and the influence on it of each class that a row may be.

    Args:
        said: the place of the class that each row predicts.
        came: the chance of each class, (rows, classes); 0 and 1 if it is known.
    """
    n, k = came.shape
    hits = np.bincount(said, weights=came[np.arange(n), said], minlength=k) / n
    ends = came.sum(axis=0) / n + np.bincount(said, minlength=k) / n
    there = ends > 0
    f1 = np.divide(2 * hits, ends, out=np.zeros(k), where=there)
    scale = np.divide(1.0, ends, out=np.zeros(k), where=there) / there.sum()
    # A row that is c and was said to be j adds to what both of these have, and to the hits if
    # they are one: d(2 h / e) = (2 dh - F1 de) / e.
    influence = np.tile(-f1 * scale, (n, 1)) - (f1 * scale)[said][:, None]
    influence[np.arange(n), said] += 2 * scale[said]
    return float(f1[there].mean()), influence


def _log_losses(shares: Matrix) -> Matrix:
    return np.asarray(-np.log(np.clip(shares, _LEAST_PROBABILITY, 1.0)))


def _of_few(counts: Matrix, confidence: float) -> tuple[float, float]:
    """What the influence leaves out of the macro F1's band where a class has few rows.

    F1 is 2q/(1 + q) of the share q of hits among the rows that are or were said to be the class,
    so that it has Wilson's band carried over. One row that was found, or missed, does not make
    its class's F1 a sure 1 or 0: where that band is wider than the class's normal one, the
    difference is added, squared and on each side for itself (as in Zou and Donner, Statistics in
    Medicine 27, 2008).

    Args:
        counts: rows by the class that they were said to be and that they are.

    Returns:
        what to add to the square of the band's half below, and above.
    """
    rows = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    below = above = 0.0
    for hits, n in zip(counts.diagonal().tolist(), rows.tolist(), strict=True):
        band = share_band(hits, n, confidence)
        if band is None:
            continue
        low, f1, high = (2 * q / (1 + q) for q in (band.low, band.estimate, band.high))
        q = band.estimate
        normal = (_z(confidence) * 2 / (1 + q) ** 2) ** 2 * q * (1 - q) / n
        below += max(0.0, (f1 - low) ** 2 - normal)
        above += max(0.0, (high - f1) ** 2 - normal)
    k = int((rows > 0).sum())
    return below / k**2, above / k**2


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _known(band: Band | None) -> Band:
    assert band is not None  # noqa: S101 - of at least one row
    return band


def class_shares(outputs: Any, classes: tuple[str, ...]) -> Matrix:
    """The outputs of rows as probabilities of classes, NaN where one is not finite.

    Args:
        outputs: an Arrow column of lists.
        classes: their names; any number of them if there are none.

    Raises:
        InvalidInput: rows have one output or different numbers of them, or other ones than
            there are classes, or they are no probabilities.
    """
    values = outputs.combine_chunks() if hasattr(outputs, "combine_chunks") else outputs
    widths = np.unique(np.asarray(values.value_lengths().fill_null(0)))
    if len(widths) != 1 or widths[0] < 2 or (classes and widths[0] != len(classes)):
        told = " or ".join(str(one) for one in widths[:3])
        raise InvalidInput(
            f"These predictions have {told} outputs each, which are not the probabilities of "
            f"{len(classes) or 'several'} classes.",
            hint="Figures of classes are of a model that gives the probability of every class; "
            "ask for one version at a time if they differ.",
        )
    flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    found = flat.reshape(-1, int(widths[0]))
    known = found[np.isfinite(found).all(axis=1)]
    if len(known) and (known.min() < -1e-6 or abs(known.sum(axis=1) - 1).max() > 1e-3):
        raise InvalidInput(
            "The outputs of some of these predictions are no probabilities of classes: one is "
            "negative, or they do not add up to 1.",
            hint='For numbers say that the task is "regression".',
        )
    return found
