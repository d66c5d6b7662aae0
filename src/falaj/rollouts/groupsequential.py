"""Group sequential designs: when to look, and how far apart variants must be at each look.

A test that is looked at K times with the bounds below has the error that it states over all
looks together. Statistics are standardised (z values); ``information`` is the share of the
planned sample that is there at a look, from above 0 to 1. Under no difference the score
``z sqrt(t)`` is a Brownian motion at time t, with a difference one that drifts; the chance to
cross a bound is found by integrating its density from look to look.

Sources: Armitage, McPherson and Rowe (J. R. Statist. Soc. A 132, 1969) for the recursion;
Lan and DeMets (Biometrika 70, 1983) for spending; Pocock (Biometrika 64, 1977) and O'Brien
and Fleming (Biometrics 35, 1979) for their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.model import Spending

Vector = NDArray[np.float64]
_NODES_A_WIDTH = 5
"""Nodes of the integration for each standard deviation of a step."""
_FEWEST_NODES, _MOST_NODES = 64, 1_536
_LARGEST_Z = 10.0


@dataclass(frozen=True)
class Design:
    """A two-sided test with looks.

    Attributes:
        information: the share of the planned sample at each look, growing.
        bounds: the z value at each look whose absolute value ends the test.
        alpha: the error over all looks, both sides together.
    """

    information: tuple[float, ...]
    bounds: tuple[float, ...]
    alpha: float

    def crossing(self, drift: float = 0.0) -> tuple[float, ...]:
        """The chance that the test ends at each look, on either side.

        Args:
            drift: the expected z value at the end of the planned sample.
        """
        chances = _Walk(drift=drift)
        return tuple(
            chances.step(time, bound)
            for time, bound in zip(self.information, self.bounds, strict=True)
        )

    def power(self, drift: float) -> float:
        """The chance that the test ends by crossing a bound at any look."""
        return sum(self.crossing(drift))

    def expected_information(self, drift: float) -> float:
        """The share of the planned sample that is used on average."""
        chances = self.crossing(drift)
        ended = sum(p * t for p, t in zip(chances, self.information, strict=True))
        return ended + (1 - sum(chances)) * self.information[-1]


def spent(spending: Spending, alpha: float, information: float) -> float:
    """How much of the error may be spent by the time that a share of the sample is there.

    Both sides together, each with half of it: ``obrien_fleming`` 4 - 4 Φ(z(1 - α/4) / √t),
    ``pocock`` α ln(1 + (e - 1) t).
    """
    from scipy.special import ndtr, ndtri

    time = min(information, 1.0)
    if time <= 0:
        return 0.0
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * time)
    return float(4 * ndtr(-ndtri(1 - alpha / 4) / math.sqrt(time)))


def spending_design(
    information: Sequence[float], *, alpha: float = 0.05, spending: Spending = "obrien_fleming"
) -> Design:
    """The design that spends its error by a function; looks may come when they like.

    Raises:
        InvalidInput: the information does not grow from above 0 to at most 1.
    """
    times = _checked(information, alpha)
    walk, bounds, before = _Walk(), [], 0.0
    for time in times:
        until = spent(spending, alpha, time)
        bound = walk.bound(time, max(until - before, 0.0))
        walk.step(time, bound)
        bounds.append(bound)
        before = until
    return Design(times, tuple(bounds), alpha)


@lru_cache(maxsize=1024)
def next_bound(
    times: tuple[float, ...], alpha: float, spending: Spending, *, ends: bool = False
) -> float:
    """The bound of the last of some looks, as ``spending_design`` has it.

    What the looks before it did is kept, so a test that goes on computes one look at a time.

    Args:
        ends: the test ends with this look, at less information than was planned: all that is
            left of the error is spent at it.
    """
    _checked(times, alpha)
    return _walked(times, alpha, spending, ends)[1]


def pocock_design(looks: int, *, alpha: float = 0.05) -> Design:
    """Pocock's own design: equal looks, the same bound at each."""
    return _constant(looks, alpha, lambda constant, _time: constant)


def obrien_fleming_design(looks: int, *, alpha: float = 0.05) -> Design:
    """O'Brien and Fleming's own design: equal looks, bounds that fall as 1/√t."""
    return _constant(looks, alpha, lambda constant, time: constant / math.sqrt(time))


def fixed_power(drift: float, alpha: float = 0.05) -> float:
    """The power of the test that is looked at once, at the end."""
    from scipy.special import ndtr, ndtri

    z = ndtri(1 - alpha / 2)
    return float(ndtr(drift - z) + ndtr(-drift - z))


def _constant(looks: int, alpha: float, shape: Callable[[float, float], float]) -> Design:
    from scipy.optimize import brentq

    times = _checked([look / looks for look in range(1, looks + 1)], alpha)

    def excess(constant: float) -> float:
        bounds = tuple(shape(constant, time) for time in times)
        return sum(Design(times, bounds, alpha).crossing()) - alpha

    constant = float(brentq(excess, 0.5, _LARGEST_Z, xtol=1e-9))
    return Design(times, tuple(shape(constant, time) for time in times), alpha)


def _checked(information: Sequence[float], alpha: float) -> tuple[float, ...]:
    times = tuple(float(time) for time in information)
    grows = all(early < late for early, late in pairwise(times))
    if not times or times[0] <= 0 or times[-1] > 1 + 1e-12 or not grows:
        raise InvalidInput(
            f"The looks {list(times)[:10]} are no growing shares of a sample.",
            hint="Give shares above 0 and at most 1, each larger than the one before.",
        )
    if not 0 < alpha < 1:
        raise InvalidInput(f"An error of {alpha} is not between 0 and 1.", hint="Use 0.05.")
    return times


class _Walk:
    """The density of the score among tests that have not ended, from look to look."""

    def __init__(self, drift: float = 0.0) -> None:
        self._drift = drift
        self._time = 0.0
        self._at: Vector = np.zeros(1)
        self._mass: Vector = np.ones(1)
        """The density times the weights of the integration, at ``_at``."""

    def bound(self, time: float, chance: float) -> float:
        """The z value that is crossed at this look with a chance."""
        from scipy.optimize import brentq

        if self._exit(time, _LARGEST_Z) >= chance:
            return _LARGEST_Z
        return float(brentq(lambda z: self._exit(time, z) - chance, 0.0, _LARGEST_Z, xtol=1e-10))

    def step(self, time: float, bound: float) -> float:
        """Go to a look with its bound; returns the chance that it is crossed there."""
        crossed = self._exit(time, bound)
        width, edge = math.sqrt(time - self._time), bound * math.sqrt(time)
        n = math.ceil(_NODES_A_WIDTH * 2 * edge / width)
        n = -(-n // _FEWEST_NODES) * _FEWEST_NODES  # few sizes, so that each is made once
        nodes, weights = _legendre(min(n, _MOST_NODES))
        at = nodes * edge
        mean = self._at + self._drift * (time - self._time)
        away = (at[:, None] - mean[None, :]) / width
        density = np.exp(-0.5 * away**2) @ self._mass / (width * math.sqrt(2 * math.pi))
        self._time, self._at, self._mass = time, at, density * weights * edge
        return crossed

    def _exit(self, time: float, bound: float) -> float:
        from scipy.special import ndtr

        width, edge = math.sqrt(time - self._time), bound * math.sqrt(time)
        mean = self._at + self._drift * (time - self._time)
        out = ndtr((mean - edge) / width) + ndtr((-edge - mean) / width)
        return float(out @ self._mass)


@lru_cache(maxsize=256)
def _walked(
    times: tuple[float, ...], alpha: float, spending: Spending, ends: bool = False
) -> tuple[_Walk, float]:
    """The walk behind the last of some looks, and that look's bound."""
    walk, before = _Walk(), 0.0
    if len(times) > 1:
        walk = copy(_walked(times[:-1], alpha, spending)[0])  # a step makes new arrays
        before = spent(spending, alpha, times[-2])
    until = alpha if ends else spent(spending, alpha, times[-1])
    bound = walk.bound(times[-1], max(until - before, 0.0))
    walk.step(times[-1], bound)
    return walk, bound


@cache
def _legendre(n: int) -> tuple[Vector, Vector]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return np.asarray(nodes, dtype=np.float64), np.asarray(weights, dtype=np.float64)
