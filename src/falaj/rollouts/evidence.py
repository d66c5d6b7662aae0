"""Evidence of harm that may be looked at at any time, as e-values on fixed grids of harm.

An *e-value* is a figure whose mean is at most 1 while there is no harm, at every look; that it
ever reaches 1/α then has a chance of at most α (Ville 1939; Ramdas, Grünwald, Vovk and Shafer,
Statistical Science 38, 2023). Each one here is a weighted mean of likelihood ratios, one for
each size of harm on a grid. A mean with any fixed weights is an e-value; these lie where harm
is likely to be found: 3 to 50 per cent.

``EventCurve`` is exact, for counted events. ``mean_evidence`` is for anything with a mean and a
variance, and is valid as a t-test is, once there are some hundred units. Both take arrays as
well as numbers, so simulations run the very functions that decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_RATIOS = np.log1p(
    np.array([0.01, 0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 20.0, 100.0, 1_000.0])
)
"""By how much (the logarithm) more events fall on a challenger than are tolerated."""
_RATIO_WEIGHTS = np.array([2, 3, 4, 8, 8, 8, 8, 8, 10, 10, 10, 10, 6, 5], dtype=np.float64)
_RATIO_WEIGHTS /= _RATIO_WEIGHTS.sum()
_NULLS = np.log1p(np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0]))
"""Beyond what is tolerated: for how much worse a challenger surely is at least."""
_HARMS = np.array([0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.14, 0.2, 0.3, 0.45, 0.7, 1.0, 2.0])
"""Relative harm beyond what is tolerated."""
_HARM_WEIGHTS = np.array([1, 2, 4, 6, 10, 14, 16, 14, 10, 8, 6, 4, 3, 2], dtype=np.float64)
_HARM_WEIGHTS /= _HARM_WEIGHTS.sum()


def threshold(error: float) -> float:
    """The logarithm of the e-value that shows harm with an error over all looks."""
    return -math.log(error)


@dataclass
class EventCurve:
    """Whether more events fall on a challenger than its traffic explains; exact at every look.

    Of the events of a stretch of time each falls on the challenger with the chance
    v r / (v r + c), where v and c is the traffic of challenger and champion in that stretch and
    r how many times as many events the challenger has for the same traffic. Stretches may have
    any shares: their likelihoods multiply. That r is at most ``1 + tolerated`` is the null.

    Attributes:
        tolerated: relative; how many more events are no harm.
        logs: float64 [..., nulls, alternatives], the logarithms of the likelihood ratios.
    """

    tolerated: float
    logs: Floats

    @classmethod
    def empty(cls, tolerated: float, shape: tuple[int, ...] = (), *, nulls: int = 0) -> EventCurve:
        """Before anything was seen.

        Args:
            shape: of the arrays that ``add`` will be given; () for numbers.
            nulls: of how many nulls from the tolerated one on evidence is kept; 0 for all.
        """
        return cls(tolerated, np.zeros((*shape, nulls or len(_NULLS), len(_RATIOS))))

    def add(
        self, events: ArrayLike, others: ArrayLike, traffic: ArrayLike, other_traffic: ArrayLike
    ) -> None:
        """Take a stretch of time to the evidence.

        Args:
            events, others: that fell on the challenger, and on the champion.
            traffic, other_traffic: requests of each, those with an event among them. Where
                either had none, nothing can be compared and nothing is learned.
        """
        e, o, v, c = (np.asarray(one, dtype=np.float64) for one in
                      (events, others, traffic, other_traffic))  # fmt: skip
        both = (v > 0) & (c > 0)
        odds = np.log(np.where(both, v, 1.0) / np.where(both, c, 1.0)) + math.log1p(self.tolerated)
        null = odds[..., None, None] + _NULLS[: self.logs.shape[-2], None]
        other = null + _RATIOS
        # ln p = -ln(1 + exp(-odds)) and ln(1 - p) = -ln(1 + exp(odds)).
        more = np.logaddexp(0.0, -null) - np.logaddexp(0.0, -other)
        fewer = np.logaddexp(0.0, null) - np.logaddexp(0.0, other)
        gained = e[..., None, None] * more + o[..., None, None] * fewer
        self.logs = self.logs + np.where(both[..., None, None], gained, 0.0)

    def log_evidence(self) -> Floats:
        """The logarithms of the e-values of each null, [..., nulls]; the tolerated one first."""
        return _mixed(self.logs, _RATIO_WEIGHTS)

    def worse_by(self, error: float) -> float | None:
        """How many times as many events the challenger surely has at least, less 1.

        None if not even more than is tolerated is shown. For numbers only.
        """
        shown = self.log_evidence() >= threshold(error)
        if not shown[0]:
            return None
        last = len(shown) if shown.all() else int(np.argmin(shown))
        return float(np.exp(_NULLS[last - 1]) * (1 + self.tolerated) - 1)


def mean_evidence(excess: ArrayLike, variance: ArrayLike, scale: ArrayLike) -> Floats:
    """The logarithm of an e-value that a mean lies above 0.

    A mixture of exp(θ x / V - θ² / 2V) over θ = (size of harm) times the scale, for the
    estimate x with variance V: under a mean of at most 0 a supermartingale, as far as the
    estimate is normal.

    Args:
        excess: the estimate of the harm beyond what is tolerated.
        variance: of that estimate; where it is 0 there is no evidence.
        scale: what harm is relative to, above 0: the champion's figure.
    """
    x, v, s = (np.asarray(one, dtype=np.float64)[..., None] for one in (excess, variance, scale))
    told = v > 0
    theta = _HARMS * s
    logs = np.where(told, (theta * x - theta**2 / 2) / np.where(told, v, 1.0), 0.0)
    return _mixed(logs, _HARM_WEIGHTS)


def _mixed(logs: Floats, weights: Floats) -> Floats:
    largest = logs.max(axis=-1, keepdims=True)
    mixed: Any = np.log((np.exp(logs - largest) * weights).sum(axis=-1)) + largest[..., 0]
    return np.asarray(mixed, dtype=np.float64)
