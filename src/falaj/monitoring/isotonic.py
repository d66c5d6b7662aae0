"""Isotonic regression of labels on scores, fitted again and again without some of the rows.

Between two neighbouring rows the fit can only rise if the first has the smaller label: the
largest convex function below the running sum of the labels, whose slope it is (Robertson, Wright
and Dykstra, Order Restricted Statistical Inference, 1988, chapter 1), has no corner where that
sum bends downwards. That holds whichever other rows are left out, so that rows between which it
cannot rise are joined once, and each fit is of what remains, for labels 0 and 1 a fifth or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A growing function of scores.

    Attributes:
        scores, rates: its knots, growing; between them it is a straight line, beyond flat.
        starts: the smallest score of each stretch in which it is constant.
        n, ones: rows and labels 1 of each stretch.
    """

    scores: Vector
    rates: Vector
    starts: Vector
    n: Vector
    ones: Vector


class Rising:
    """Labelled rows (or groups of rows of one score) to which growing functions are fitted.

    Args:
        scores: growing.
        n, ones: how many rows each stands for, and how many labels 1 they have.
    """

    def __init__(self, scores: Vector, n: Vector, ones: Vector) -> None:
        self._scores, self._n, self._ones = scores, n, ones
        self._firsts = _firsts(scores, n, ones)
        self._joined_n = np.add.reduceat(n, self._firsts)
        self._joined_ones = np.add.reduceat(ones, self._firsts)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Of each row, with which others it is joined."""
        lengths = np.diff(np.append(self._firsts, len(self._n)))
        return np.repeat(np.arange(len(lengths)), lengths)

    def fit(self, left_out: NDArray[np.bool_] | None = None) -> Fit:
        """The growing function that is nearest to the labels, by least squares.

        Args:
            left_out: of the shape of the scores; True where a row does not count. One is False.
        """
        from scipy.optimize import isotonic_regression

        firsts, n, ones = self._firsts, self._joined_n, self._joined_ones
        if left_out is not None:
            out = np.flatnonzero(left_out)
            places = self._places[out]
            n = n - np.bincount(places, weights=self._n[out], minlength=len(n))
            ones = ones - np.bincount(places, weights=self._ones[out], minlength=len(n))
            there = n > 0
            firsts, n, ones = firsts[there], n[there], ones[there]
        stretches = isotonic_regression(ones / n, weights=n).blocks[:-1].astype(np.int64)
        n, ones = np.add.reduceat(n, stretches), np.add.reduceat(ones, stretches)
        first = firsts[stretches]
        last = np.append(first[1:], len(self._scores)) - 1
        if left_out is not None:
            while (missing := left_out[first]).any():
                first = first + missing
            while (missing := left_out[last]).any():
                last = last - missing
        low, high = self._scores[first], self._scores[last]
        knots, rates = np.ravel([low, high], "F"), np.repeat(np.clip(ones / n, 0.0, 1.0), 2)
        new = np.append(True, knots[1:] != knots[:-1])
        return Fit(knots[new], rates[new], low, n, ones)


def _firsts(scores: Vector, n: Vector, ones: Vector) -> NDArray[np.int64]:
    """Where rows begin that differ from those before in any growing function, at most.

    Not where the score is the same, nor where all labels before are 1 or all after are 0.
    """
    firsts = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    if len(firsts) < len(scores):
        n, ones = np.add.reduceat(n, firsts), np.add.reduceat(ones, firsts)
    return np.asarray(firsts[np.append(True, (ones[:-1] < n[:-1]) & (ones[1:] > 0))])
