"""How far the curves of classes are off, told by labelled rows that they did not learn from.

An isotonic regression looks better on the rows it was fitted on than on others, and one that was
fitted for each class against the rest does not hold where that class is the likeliest. So the rows
of the reference that were said to be one class tell, by curves that were fitted without them (in
ten parts), what has to be added to the chances of such rows, and how sure that is: as
prediction-powered inference does (Angelopoulos et al., Science 382, 2023). Where later rows lie
elsewhere than those of the reference that does not cancel what the curves err; how much may be
left is told by curves that were fitted on the reference drawn again, all classes jointly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from falaj.monitoring.expected import Curve, Vector
from falaj.monitoring.isotonic import Rising

Matrix = NDArray[np.float64]
Classes = NDArray[np.int64]
Knots = tuple[Vector, Vector]
_LEAST_PROBABILITY = 1e-15
_FOLDS = 10
_DRAWS = 50
_MOST_DRAWN = 5_000
"""Rows of the reference that are drawn again; of more, the variance is that of so many, scaled."""
_MOST_LOOKED_AT = 2_000
"""Rows of a period by which the drawn curves are compared."""
_LEVELS = 10
_SEED = 7


@dataclass(frozen=True)
class Gaps:
    """What the curves err by on the reference, of rows that were said to be each class.

    Attributes:
        n: rows that were said to be each class, (classes).
        off: how much more often each class came, (classes said, classes); a row sums to 0.
        spread: its covariance from row to row, (classes said, classes, classes).
        came: how often each class came, with Jeffreys' prior, of the shape of ``off``.
        edges: of the greatest probability of a row, between levels of nearly equal numbers.
        n_log, log_off, log_spread: of each level its rows, by how much the log loss was greater,
            and the variance of that from row to row.
        drawn: the knots of each class's curve on each drawn reference.
        means: by them, the mean chances of rows, (draws, classes said, classes).
        logs: by them, the mean log loss, (draws, levels).
        scale: of the drawn variance.
    """

    n: Vector
    off: Matrix
    spread: NDArray[np.float64]
    came: Matrix
    edges: Vector
    n_log: Vector
    log_off: Vector
    log_spread: Vector
    drawn: tuple[tuple[Knots, ...], ...]
    means: NDArray[np.float64]
    logs: Matrix
    scale: float

    @classmethod
    def of_rows(cls, curves: Sequence[Curve], shares: Matrix, labels: Classes) -> Gaps:
        """Learn from the rows that the curves were learned from."""
        k = shares.shape[1]
        said, came, logs = shares.argmax(axis=1), np.eye(k)[labels], log_losses(shares)
        told = _cross_fitted(curves, shares, labels)
        gap = came - normalised(told, shares)
        off, spread = means_by(said, gap, k), np.zeros((k, k, k))
        seen = np.zeros((k, k))
        n = np.bincount(said, minlength=k).astype(np.float64)
        for place in np.flatnonzero(n):
            rows = said == place
            seen[place] = came[rows].sum(axis=0)
            centred = gap[rows] - off[place]
            spread[place] = centred.T @ centred / n[place]
        came_so = (seen + 0.5) / (n[:, None] + 0.5 * k)
        edges = np.quantile(shares.max(axis=1), np.arange(1, _LEVELS) / _LEVELS)
        level = _levels(shares, edges)
        n_log = np.bincount(level, minlength=_LEVELS).astype(np.float64)
        log_gap = ((came - told) * logs).sum(axis=1, keepdims=True)
        log_off = means_by(level, log_gap, _LEVELS)[:, 0]
        squares = (log_gap[:, 0] - log_off[level]) ** 2
        summed = np.bincount(level, weights=squares, minlength=_LEVELS)
        log_spread = (summed + squares.mean()) / (n_log + 1)
        drawn, means, log_means, scale = _drawn(shares, labels, edges)
        return cls(
            n, off, spread, came_so, edges, n_log, log_off, log_spread,
            drawn, means, log_means, scale,
        )  # fmt: skip

    def log_added(self, shares: Matrix) -> float:
        """What has to be added to the log loss that the curves tell of these rows."""
        return float(self.log_off[_levels(shares, self.edges)].mean())

    def errors(self, shares: Matrix, losses: Sequence[Matrix]) -> tuple[list[float], float]:
        """The variance that the reference leaves in means of losses, and in the log loss.

        Args:
            shares: the probabilities of later rows, (rows, classes).
            losses: each (classes said, classes).
        """
        said, k = shares.argmax(axis=1), shares.shape[1]
        weights = np.bincount(said, minlength=k) / len(said)
        log_weights = _counted(shares, self.edges) / len(said)
        if len(shares) > _MOST_LOOKED_AT:
            random = np.random.default_rng(_SEED)
            chosen = random.choice(len(shares), _MOST_LOOKED_AT, replace=False)
            shares, said = shares[chosen], said[chosen]
        means, logs = _told_by(self.drawn, shares, self.edges)
        seen = np.bincount(said, minlength=k) > 0
        moved = (means - self.means) * (weights * seen)[:, None]
        log_moved = (logs - self.logs) * (log_weights * (_counted(shares, self.edges) > 0))
        per_row = weights**2 / np.maximum(self.n, 1)
        found = []
        for loss in losses:
            within = np.einsum("sc,scd,sd->s", loss, self.spread, loss)
            # One row more, as spread as the classes that came: few rows that agree are not sure.
            mean = (self.came * loss).sum(axis=1, keepdims=True)
            one = (self.came * (loss - mean) ** 2).sum(axis=1)
            within = (self.n * within + one) / (self.n + 1)
            shifted = (moved * loss).sum(axis=(1, 2)).var(ddof=1)
            found.append(float((per_row * within).sum() + shifted * self.scale))
        shifted = log_moved.sum(axis=1).var(ddof=1)
        per_log = log_weights**2 / np.maximum(self.n_log, 1)
        return found, float((per_log * self.log_spread).sum() + shifted * self.scale)


def normalised(told: Matrix, otherwise: Matrix) -> Matrix:
    """Rows divided by their sums; of a row of zeros the other one."""
    sums = told.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums > 0, told / sums, otherwise)


def log_losses(shares: Matrix) -> Matrix:
    """Minus the logarithm of each probability."""
    return np.asarray(-np.log(np.clip(shares, _LEAST_PROBABILITY, 1.0)))


def means_by(said: Classes, values: Matrix, k: int) -> Matrix:
    """The mean of the rows that were said to be each of k classes, (k, columns); 0 of none.

    Args:
        values: (rows, columns).
    """
    n = np.maximum(np.bincount(said, minlength=k), 1)
    sums = [np.bincount(said, weights=column, minlength=k) for column in values.T]
    return np.asarray(np.column_stack(sums) / n[:, None])


def _levels(shares: Matrix, edges: Vector) -> Classes:
    return np.asarray(np.searchsorted(edges, shares.max(axis=1)))


def _counted(shares: Matrix, edges: Vector) -> Vector:
    return np.bincount(_levels(shares, edges), minlength=_LEVELS).astype(np.float64)


def _cross_fitted(curves: Sequence[Curve], shares: Matrix, labels: Classes) -> Matrix:
    """How often each class comes at its probability, of each row by curves fitted without it."""
    told = np.clip(shares, 0.0, 1.0)
    folds = np.random.default_rng(_SEED).permutation(len(labels)) % _FOLDS
    for place, curve in enumerate(curves):
        if not curve.needed:
            continue
        order = np.argsort(shares[:, place])
        s, fold = shares[order, place], folds[order]
        rising = Rising(s, np.ones_like(s), (labels[order] == place) * 1.0)
        for one in range(_FOLDS):
            tested = fold == one
            fit = rising.fit(tested)
            told[order[tested], place] = np.interp(s[tested], fit.scores, fit.rates)
    return told


def _drawn(
    shares: Matrix, labels: Classes, edges: Vector
) -> tuple[tuple[tuple[Knots, ...], ...], NDArray[np.float64], Matrix, float]:
    """The curves of references that were drawn again from this one, all classes jointly."""
    random, scale = np.random.default_rng(_SEED), 1.0
    if len(labels) > _MOST_DRAWN:
        chosen = random.choice(len(labels), _MOST_DRAWN, replace=False)
        scale = _MOST_DRAWN / len(labels)
        shares, labels = shares[chosen], labels[chosen]
    n, k = shares.shape
    orders = [np.argsort(shares[:, place]) for place in range(k)]
    drawn = []
    for _ in range(_DRAWS):
        times = np.bincount(random.integers(n, size=n), minlength=n).astype(np.float64)
        knots = []
        for place, order in enumerate(orders):
            kept = order[times[order] > 0]
            weights = times[kept]
            ones = weights * (labels[kept] == place)
            fit = Rising(shares[kept, place], weights, ones).fit()
            knots.append((fit.scores, fit.rates))
        drawn.append(tuple(knots))
    means, logs = _told_by(drawn, shares, edges)
    return tuple(drawn), means, logs, scale


def _told_by(
    drawn: Sequence[tuple[Knots, ...]], shares: Matrix, edges: Vector
) -> tuple[NDArray[np.float64], Matrix]:
    """By each drawn reference, the mean chances of rows by the class that they were said to be,
    and their mean log loss by level."""
    said, logs, k = shares.argmax(axis=1), log_losses(shares), shares.shape[1]
    level = _levels(shares, edges)
    means, log_means = [], []
    for knots in drawn:
        told = np.column_stack([np.interp(shares[:, c], *one) for c, one in enumerate(knots)])
        means.append(means_by(said, normalised(told, shares), k))
        log_means.append(means_by(level, (told * logs).sum(axis=1, keepdims=True), _LEVELS)[:, 0])
    return np.array(means), np.array(log_means)
