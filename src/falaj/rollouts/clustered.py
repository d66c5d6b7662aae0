"""By how much events that come from the same units tell less than as many independent ones.

Units are assigned, requests are counted: those of one unit are correlated (a client that tries
again, or one that fails whichever variant answers it). Events by *buckets* of units are sums over
clusters, and these are independent if units are.

Of a look t let the champion have c requests and o events, the challenger v and e, of them n₀, y₀
and n₁, y₁ in a bucket b. If the challenger has just 1 + τ times as many events as the champion
(τ is what is tolerated), an event falls on it with the chance p = (1 + τ)v / ((1 + τ)v + c), and
ρ = (e + o) / ((1 + τ)v + c) is the champion's rate. The excess of the challenger's events over
what p has them, S = Σ_t e - p(e + o), is the sum over buckets of

    W_b = Σ_t (1 - q)(y₁ - ρ(1 + τ)n₁) - q(y₀ - ρn₀)

with q = p, and Σ_b W_b² estimates its variance under the null, whatever the correlation inside of
units, and across looks and variants. It is the variance of a ratio of sums over clusters by the
delta method (Deng, Knoblich and Lu, KDD 2018, formula 4) with the residuals taken about the null;
over looks, the robust variance of the score in the proportional hazards model (Lin and Wei,
Journal of the American Statistical Association 84, 1989). About the null, since about its own rate
a variant with one unit has no spread at all and would be certain of it.

A unit with most of the requests pulls p to its own side, and with p its W_b would vanish. So q is
what p is if every bucket has the same traffic: the challenger's part of a bucket's requests, on
average over buckets, at the odds of 1 + τ. Where all units ask alike, q is p but for chance.

A few large units that never fail and all meet the champion (of three, with a tenth of the units on
the challenger, that is the rule) leave too small a W_b on the side on which they happened to fall.
So the variance is at least the one over assignments, of all units as they are:

    Σ_b (Σ_t √(q(1 - q)) (y₁ - ρ(1 + τ)n₁ + y₀ - ρn₀))²

in which a bucket that fails with the champion is left with its W_b: it can hide harm, but shows
none. Both have the same mean.

Independent events would give Σ_t (1 - p)²e + p²o. The quotient is the *design effect*, by which
events are divided before an exact method reads them (Rao and Scott, Biometrics 48, 1992): with k
units that fail m times each it is m, so that k events are read. It is taken for at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from falaj.serving.unitcounts import UNIT_BUCKETS

Floats = NDArray[np.float64]
_DIGITS = 6


_USUAL = 0.75
"""The part of the buckets with the lowest rates, that the usual rate is taken of."""
_TIMES, _DEVIATIONS, _LEAST = 3.0, 4.0, 4.0


def outlying(events: ArrayLike, requests: ArrayLike) -> NDArray[np.bool_]:
    """The buckets that have far more events than is usual, whichever variant had them.

    Those beyond 3 times what the usual rate expects, and 4 events and 4 standard deviations more.
    Of independent events hardly any bucket of a million has so many.

    Args:
        events, requests: of both sides together so far, [unit buckets].
    """
    y, n = (np.asarray(one, dtype=np.float64) for one in (events, requests))
    return np.asarray(y > _limits(n, _usual(y, n)))


def capped(
    events: ArrayLike, requests: ArrayLike, all_events: ArrayLike, all_requests: ArrayLike
) -> Floats:
    """The part of each bucket's events in one look that is read: up to where it stands out.

    A look in which one bucket has thousands of events would else stay in the sums for ever. The
    part is the same for both variants, so it favours none. What is usual is taken from all looks,
    or from this one where that is more: in an outage nobody stands out.

    Args:
        events, requests: of both sides together in the look, [unit buckets].
        all_events, all_requests: the same so far, this look included.
    """
    y, n, all_y, all_n = (
        np.asarray(one, dtype=np.float64) for one in (events, requests, all_events, all_requests)
    )
    limits = _limits(n, max(_usual(y, n), _usual(all_y, all_n)))
    return np.asarray(np.minimum(1.0, limits / np.maximum(y, 1.0)))


def _usual(y: Floats, n: Floats) -> float:
    """The mean rate of events of the buckets with the lowest rates."""
    rates = np.sort(y / np.maximum(n, 1.0))
    seen = np.count_nonzero(n)
    return float(rates[len(rates) - seen :][: math.ceil(_USUAL * seen)].mean()) if seen else 0.0


def _limits(n: Floats, rate: float) -> Floats:
    """How many events of so many requests do not stand out yet, by bucket."""
    expected = n * rate
    return np.asarray(_TIMES * expected + _DEVIATIONS * np.sqrt(expected) + _LEAST)


@dataclass
class Clusters:
    """The excess of each bucket of units so far, of one comparison or of many at once.

    Attributes:
        tolerated: relative; how many more events are no harm.
        excess: float64 [..., unit buckets], W_b.
        design: float64 [..., unit buckets], the same with the spread of an assignment for a
            weight, whichever variant was met.
        independent: float64 [...], the variance of its sum if all events were independent.
    """

    tolerated: float
    excess: Floats
    design: Floats
    independent: Floats

    @classmethod
    def empty(cls, tolerated: float, shape: tuple[int, ...] = ()) -> Clusters:
        """Before anything was seen; ``shape`` as of the arrays that ``add`` is given."""
        excess = np.zeros((*shape, UNIT_BUCKETS))
        return cls(tolerated, excess, excess, np.zeros(shape))

    def add(
        self, events: ArrayLike, others: ArrayLike, requests: ArrayLike, other_requests: ArrayLike
    ) -> None:
        """Take what happened between two looks, each [..., unit buckets].

        Args:
            events, others: of the challenger, and of the champion.
            requests, other_requests: of each, those with an event among them. Where either
                had none, nothing is compared.
        """
        y1, y0, n1, n0 = (np.asarray(one, dtype=np.float64) for one in
                          (events, others, requests, other_requests))  # fmt: skip
        e, o, v, c = (one.sum(axis=-1, keepdims=True) for one in (y1, y0, n1, n0))
        both = (v > 0) & (c > 0)
        expected = (1 + self.tolerated) * v
        whole = np.where(both, expected + c, 1.0)
        p, rate = expected / whole, (e + o) / whole
        q = _share(n1, n0, self.tolerated)
        mine, other = y1 - rate * (1 + self.tolerated) * n1, y0 - rate * n0
        excess = (1 - q) * mine - q * other
        self.excess = self.excess + np.where(both, excess, 0.0)
        design = np.sqrt(q * (1 - q)) * (mine + other)
        self.design = self.design + np.where(both, design, 0.0)
        independent = np.where(both, (1 - p) ** 2 * e + p**2 * o, 0.0)
        self.independent = self.independent + independent[..., 0]

    def design_effect(self) -> Floats:
        """How many events are worth one independent one, [...]; at least 1."""
        # What fails with the champion shows no harm, so there nothing has to be made up for.
        design = np.where((self.excess < 0) & (self.design > 0), self.excess, self.design)
        variance = np.maximum((self.excess**2).sum(axis=-1), (design**2).sum(axis=-1))
        known = self.independent > 0
        effect = variance / np.where(known, self.independent, 1.0)
        return np.asarray(np.where(known, np.maximum(effect, 1.0), 1.0))

    def told(self) -> dict[str, Any]:
        """Of one comparison, as JSON."""
        kept = {"excess": self.excess, "design": self.design}
        rounded = {name: np.round(one, _DIGITS).tolist() for name, one in kept.items()}
        return {**rounded, "independent": float(self.independent)}

    @classmethod
    def read(cls, tolerated: float, told: Mapping[str, Any] | None) -> Clusters:
        """Of what ``told`` gave; None: before anything was seen."""
        if told is None:
            return cls.empty(tolerated)
        excess = np.array(told["excess"])
        design = np.array(told.get("design", told["excess"]))
        return cls(tolerated, excess, design, np.array(told["independent"]))


def _share(requests: Floats, others: Floats, tolerated: float) -> Floats:
    """The chance that an event meets the challenger, by the share of the units, [..., 1].

    Of each bucket with requests the challenger's part counts alike, so that a unit with most
    of the requests does not move it.
    """
    all_ = requests + others
    seen = all_ > 0
    part = np.where(seen, requests / np.where(seen, all_, 1.0), 0.0)
    mean = part.sum(axis=-1, keepdims=True) / np.maximum(seen.sum(axis=-1, keepdims=True), 1)
    odds = (1 + tolerated) * mean
    return np.asarray(odds / np.where(odds > 0, odds + 1 - mean, 1.0))
