"""Figures of predictions of several classes: realised, and expected before labels arrive.

A row predicts its likeliest class. Each figure here is, as far as it matters for its band, a mean
over rows of a *loss* L that hangs on the class that came: 1 where it is the predicted one
(accuracy), minus the logarithm of its probability (log loss), or its influence on the mean of the
classes' F1 (the delta method on the confusion matrix, as for the macro F1 of Takahashi et al.,
Applied Intelligence 52, 2022). So one formula gives all bands.

What is expected is told from probabilities that were set right on a labelled reference: each
class by an isotonic regression of its own, one against the rest, and all of them of a row
divided by their sum (confidence-based performance estimation, as NannyML does it for classes).
What these curves err by is told by rows that they were not fitted on; see ``crossfitted``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.crossfitted import (
    Classes,
    Gaps,
    Matrix,
    log_losses,
    means_by,
    normalised,
)
from falaj.monitoring.expected import LEAST_OF_EACH, Curve, Vector, too_few
from falaj.monitoring.model import Band
from falaj.monitoring.realised import mean_band, share_band

_FEWEST = 20
_HARDLY_THERE = 0.01
"""A class whose chance to come is smaller plays no part in what a macro F1 can be told of."""


def realised_classes(labels: Classes, shares: Matrix, confidence: float) -> dict[str, Band]:
    """``accuracy``, ``macro_f1`` and ``log_loss``.

    Args:
        labels: the places of the classes that came, of shape (rows,), at least one row.
        shares: the probabilities of the classes, of shape (rows, classes); a row sums to 1.
    """
    said, rows, k = shares.argmax(axis=1), np.arange(len(labels)), shares.shape[1]
    counts = np.bincount(said * k + labels, minlength=k * k).reshape(k, k).astype(np.float64)
    there = (counts.sum(axis=0) + counts.sum(axis=1) > 0).astype(np.float64)
    estimate, influence = _macro_f1(counts / len(rows), there)
    spread = float(influence[said, labels].std(ddof=1)) if len(rows) > 1 else float("inf")
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
        "log_loss": mean_band(log_losses(shares)[rows, labels], confidence),
    }


@dataclass(frozen=True)
class ClassCurves:
    """How often each probability of each class came true on a labelled reference.

    Attributes:
        curves: one for each class.
        gaps: what they err by on rows that they were not fitted on.
        n: rows of the reference.
        figures: realised on it.
        names: of the classes; their places if empty.
    """

    curves: tuple[Curve, ...]
    gaps: Gaps
    n: int
    figures: Mapping[str, float]
    names: tuple[str, ...] = ()

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
                raise InvalidInput(
                    f"A reference of {n} labelled rows with {ones} of the class "
                    f"{_name(names, place)} says too little.",
                    hint=f"At least {_FEWEST} rows are needed, and some of every class.",
                )
        curves = tuple(
            Curve.of_rows(shares[:, place], (labels == place).astype(np.float64))
            for place in range(shares.shape[1])
        )
        found = realised_classes(labels, shares, 0.95)
        realised = {name: band.estimate for name, band in found.items()}
        return cls(curves, Gaps.of_rows(curves, shares, labels), n, realised, names)

    def applied(self, shares: Matrix) -> Matrix:
        """The probabilities set right, of the same shape; a row sums to 1."""
        return normalised(self._told(shares), shares)

    def _told(self, shares: Matrix) -> Matrix:
        """How often each class came at its probability, not divided by their sum."""
        return np.column_stack(
            [curve.applied(shares[:, place]) for place, curve in enumerate(self.curves)]
        )

    def expected(self, shares: Matrix, confidence: float) -> tuple[dict[str, Band], str]:
        """The figures to be expected of rows without labels, and why not all of them.

        While what the reference tells still holds, the realised figures lie in the bands in
        about the given share of cases: they hold what chance adds to the labels, and what a
        finite reference leaves open. The text is empty if all figures can be told.
        """
        if why := too_few(len(shares)):
            return {}, why
        n, k = shares.shape
        said, told, logs = shares.argmax(axis=1), self._told(shares), log_losses(shares)
        weights = np.bincount(said, minlength=k) / n
        off = self.gaps.off if self.needed else np.zeros((k, k))
        q = normalised(told, shares)
        confusion = means_by(said, q, k) * weights[:, None] + weights[:, None] * off
        confusion = normalised(np.maximum(confusion, 0.0), confusion) * weights[:, None]
        q = normalised(np.clip(q + off[said], 0.0, 1.0), q)
        there, unsure = self._there(said, q, confusion.sum(axis=0) * n)
        macro, influence = _macro_f1(confusion, there)
        # The log loss of a class hangs on its own probability alone, of which is known how often
        # it comes true: to divide by the row's sum would only take that away.
        log_loss = float((told * logs).sum(axis=1).mean())
        log_loss += self.gaps.log_added(shares) if self.needed else 0.0
        losses = (np.eye(k), influence)
        left, log_left = self.gaps.errors(shares, losses)
        found = {}
        for name, rows, estimate, error, most in (
            ("accuracy", losses[0][said], float(confusion.trace()), left[0], 1.0),
            ("macro_f1", losses[1][said], macro, left[1], 1.0),
            ("log_loss", logs, max(0.0, log_loss), log_left, float("inf")),
        ):
            centred = rows - (q * rows).sum(axis=1, keepdims=True)
            chance = float((q * centred**2).sum()) / n**2
            found[name] = _between(estimate, (chance + error) ** 0.5, confidence, most)
        if unsure:
            del found["macro_f1"]
        return found, unsure

    def _there(self, said: Classes, q: Matrix, rows: Vector) -> tuple[Vector, str]:
        """The chance of each class to be among the rows, and why the macro F1 cannot be told.

        Args:
            said: what each row predicts.
            q: the chances of the classes, (rows, classes).
            rows: how many are expected of each class.
        """
        with np.errstate(divide="ignore"):
            there = -np.expm1(np.log1p(-np.minimum(q, 1.0)).sum(axis=0))
        there[np.unique(said)] = 1.0
        few = np.flatnonzero((rows < LEAST_OF_EACH) & (there > _HARDLY_THERE))
        if not len(few):
            return there, ""
        place = min(few, key=lambda one: (rows[one], one))
        return there, (
            f"macro_f1: {rows[place]:.1f} rows of the class {_name(self.names, int(place))} are "
            f"expected, too few: at least {LEAST_OF_EACH:g} tell something."
        )


def _macro_f1(confusion: Matrix, there: Vector) -> tuple[float, Matrix]:
    """The mean of the classes' F1, and the influence on it of a row, by what it was said to be
    and what it is.

    Args:
        confusion: the share of rows by the class that they were said to be and that they are.
        there: the chance of each class to be among the rows, or predicted.
    """
    hits = confusion.diagonal()
    ends = confusion.sum(axis=0) + confusion.sum(axis=1)
    weights = np.where(ends > 0, there, 0.0)
    weights = weights / weights.sum()
    f1 = np.divide(2 * hits, ends, out=np.zeros(len(hits)), where=ends > 0)
    scale = np.divide(weights, ends, out=np.zeros(len(hits)), where=ends > 0)
    # A row that is c and was said to be j adds to what both of these have, and to the hits if
    # they are one: d(2 h / e) = (2 dh - F1 de) / e.
    influence = np.diag(2 * scale) - (f1 * scale)[None, :] - (f1 * scale)[:, None]
    return float(f1 @ weights), influence


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


def _between(estimate: float, error: float, confidence: float, most: float) -> Band:
    """A normal band within [0, most]."""
    half = _z(confidence) * error
    return Band(estimate=estimate, low=max(0.0, estimate - half), high=min(most, estimate + half))


def _name(names: tuple[str, ...], place: int) -> str:
    return repr(names[place]) if names else str(place)


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
