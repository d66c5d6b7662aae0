"""Does the model, or a feature, know the answer already?

Three signs, all measured on rows that the model has not seen:

- the model's own AUC is beyond what the task allows (asked at the wrong time);
- a single feature, by itself, tells the label too well (of numbers: whether it lies above the
  median; of classes: one of them);
- among rows whose *count* feature is 1 another feature gives the label away: the window
  behind both then holds exactly one event, the row itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from falaj.training.metrics import Vector, auc

MOST_ROWS = 20_000
_LEAST_FIRST_EVENTS = 100
_LEAST_OF_EACH = 10
_N_BINS = 64


@dataclass(frozen=True)
class FeaturePower:
    """How well one feature tells the label by itself: an AUC from 0.5 to 1."""

    feature: str
    auc: float


@dataclass(frozen=True)
class OwnRow:
    """A feature that gives the label away where a count is 1."""

    count: str
    feature: str
    auc: float
    n_rows: int


def sampled(n_rows: int, *, seed: int = 7) -> npt.NDArray[np.int64]:
    """The places of at most 20,000 rows, drawn without order, given in order."""
    if n_rows <= MOST_ROWS:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, MOST_ROWS, replace=False))


def feature_power(
    names: tuple[str, ...], matrix: npt.NDArray[np.float32], labels: Vector
) -> list[FeaturePower]:
    """Each feature's power, the greatest first."""
    found = [
        FeaturePower(name, power(matrix[:, place], labels)) for place, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: (-one.auc, one.feature))


def strongest_of(found: Iterable[list[FeaturePower]]) -> list[FeaturePower]:
    """Of each feature the greatest power over several labels, the greatest first."""
    best: dict[str, float] = {}
    for powers in found:
        for one in powers:
            best[one.feature] = max(best.get(one.feature, 0.0), one.auc)
    together = [FeaturePower(feature, reached) for feature, reached in best.items()]
    return sorted(together, key=lambda one: (-one.auc, one.feature))


def power(values: npt.NDArray[np.float32], labels: Vector) -> float:
    """The AUC of one feature by itself, whichever way it points, also if it is not monotone.

    The greater of its plain AUC (missing values below or above all others) and the AUC on
    one half of the rows of the label's rate by bin, as learned on the other half.
    """
    return max(_monotone(values, labels), _binned(values, labels))


def own_rows(
    names: tuple[str, ...],
    matrix: npt.NDArray[np.float32],
    labels: Vector,
    limit: float,
    *,
    words: Collection[str] = (),
) -> list[OwnRow]:
    """Pairs of a count and a feature of which the count's 1 gives the label away.

    Args:
        words: the inputs that are places of words, and so can count nothing.
    """
    found = []
    for place, name in enumerate(names):
        if name in words or not _counts(matrix[:, place]):
            continue
        first = matrix[:, place] == 1
        y = labels[first]
        if y.size < _LEAST_FIRST_EVENTS or min(y.sum(), y.size - y.sum()) < _LEAST_OF_EACH:
            continue
        for other, feature in enumerate(names):
            if other == place:
                continue
            reached = _monotone(matrix[first, other], y)
            if reached >= limit:
                found.append(OwnRow(name, feature, reached, int(y.size)))
    return sorted(found, key=lambda one: (-one.auc, one.count, one.feature))


def _counts(values: npt.NDArray[np.float32]) -> bool:
    """True if the values could count events: whole, not negative, more than 0 and 1."""
    known = values[~np.isnan(values)]
    return bool(
        known.size
        and (known >= 0).all()
        and known.max() > 1
        and np.isfinite(known).all()
        and (known == np.round(known)).all()
    )


def _monotone(values: npt.NDArray[np.float32], labels: Vector) -> float:
    values = values.astype(np.float64)
    missing = np.isnan(values)
    reached = []
    for stand_in in (-np.inf, np.inf) if missing.any() else (0.0,):
        area = auc(labels, np.where(missing, stand_in, values))
        reached.append(max(area, 1 - area))
    return max(reached)


def _binned(values: npt.NDArray[np.float32], labels: Vector) -> float:
    values = values.astype(np.float64)
    learn, judge = slice(0, None, 2), slice(1, None, 2)
    if not 0 < labels[judge].sum() < labels[judge].size:
        return 0.5
    known = values[learn][np.isfinite(values[learn])]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _N_BINS + 1))) if known.size else known
    bins = np.where(np.isnan(values), edges.size + 1, np.searchsorted(edges, values, side="left"))
    n_bins = edges.size + 2
    ones = np.bincount(bins[learn], weights=labels[learn], minlength=n_bins)
    counts = np.bincount(bins[learn], minlength=n_bins)
    prior = labels[learn].mean()
    rates = (ones + prior) / (counts + 1)
    return auc(labels[judge], rates[bins[judge]])
