"""Intervals of proportions and of their differences, and tests of many at once.

Wilson: J. Am. Stat. Assoc. 22 (1927). Differences of independent proportions: Newcombe, Stat. Med.
17 (1998) 873-890, method 10. Holm: Scand. J. Stat. 6 (1979) 65-70.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

from falaj.models.intervals import Interval


def quantile(confidence: float) -> float:
    """How many standard errors a two-sided normal interval reaches to each side."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval; without any trial it may be anything."""
    if n <= 0:
        return Interval(0.0, 0.0, 1.0)
    z2 = quantile(confidence) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def newcombe(
    successes: float, n: float, others: float, n_others: float, *, confidence: float = 0.95
) -> Interval:
    """The difference of two independent proportions, with Newcombe's hybrid score interval."""
    one = wilson(successes, n, confidence=confidence)
    two = wilson(others, n_others, confidence=confidence)
    apart = one.estimate - two.estimate
    below = ((one.estimate - one.low) ** 2 + (two.high - two.estimate) ** 2) ** 0.5
    above = ((one.high - one.estimate) ** 2 + (two.estimate - two.low) ** 2) ** 0.5
    return Interval(apart, max(-1.0, apart - below), min(1.0, apart + above))


def distance(difference: Interval) -> Interval:
    """How far apart two things are, whichever is greater, from the interval of a difference."""
    low = max(0.0, difference.low, -difference.high)
    return Interval(abs(difference.estimate), low, max(abs(difference.low), abs(difference.high)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method, in the order given.

    Those under alpha may be rejected together: the probability that any of them is rejected
    wrongly is at most alpha, however the tests depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted
