"""What a variant changes: differences of means and of ratios, with and without a covariate.

Everything is computed from sums that merge by addition, so that they can be kept for each
minute and variant and be added up for any window, without the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

from falaj.kernel.errors import InvalidInput


@dataclass(frozen=True)
class Sums:
    """Sums over the units of one variant.

    ``y`` is the metric; of a ratio metric (clicks a view) it is the numerator and ``d`` the
    denominator, each summed over the unit first. ``x`` is a covariate from before the rollout.
    """

    n: float = 0.0
    y: float = 0.0
    yy: float = 0.0
    d: float = 0.0
    dd: float = 0.0
    yd: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, y: float, *, d: float = 0.0, x: float = 0.0) -> Self:
        """Of one unit."""
        return cls(1.0, y, y * y, d, d * d, y * d, x, x * x, x * y)

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def mean(self) -> float:
        """Of the metric over units."""
        return self.y / self.n

    def ratio(self) -> float:
        """Of the metric's sum to the denominator's."""
        return self.y / self.d

    def covariance(self, first: str, second: str) -> float:
        """Of two of ``y``, ``d`` and ``x`` over units; 0 with fewer than two units."""
        if self.n < 2:
            return 0.0
        both = first + second
        product = getattr(self, both if hasattr(self, both) else both[::-1])
        centred = product - getattr(self, first) * getattr(self, second) / self.n
        return float(centred / (self.n - 1))


@dataclass(frozen=True)
class Effect:
    """What the control and the variant are estimated at, with the variances of both estimates."""

    control: float
    variant: float
    control_variance: float
    variant_variance: float
    units: float
    """In both together."""

    @property
    def difference(self) -> float:
        """Variant minus control."""
        return self.variant - self.control

    @property
    def variance(self) -> float:
        """Of the difference."""
        return self.control_variance + self.variant_variance

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 without any spread."""
        return self.difference / math.sqrt(self.variance) if self.variance > 0 else 0.0

    def relative(self) -> tuple[float, float]:
        """The difference as a share of the control's estimate, with its variance.

        By the delta method for two independent estimates: the variance of a/b is
        (s_a² + (a/b)² s_b²) / b².

        Raises:
            InvalidInput: the control's estimate is 0.
        """
        if not self.control:
            raise InvalidInput(
                "The control's value is 0: no share of it can be told.",
                hint="Look at the absolute difference.",
            )
        quotient = self.variant / self.control
        spread = self.variant_variance + quotient**2 * self.control_variance
        return quotient - 1, spread / self.control**2


def mean_effect(control: Sums, variant: Sums) -> Effect:
    """The difference of means; variances are those of each side (Welch)."""
    _enough(control, variant)
    of_control = control.covariance("y", "y") / control.n
    of_variant = variant.covariance("y", "y") / variant.n
    units = control.n + variant.n
    return Effect(control.mean(), variant.mean(), of_control, of_variant, units)


def ratio_effect(control: Sums, variant: Sums) -> Effect:
    """The difference of ratios of sums, where units are assigned and parts of units counted.

    The delta method: Deng, Knoblich and Lu (KDD 2018), formula 4.
    """
    _enough(control, variant)
    if not control.d or not variant.d:
        raise InvalidInput(
            "A ratio's denominator is 0 in one variant.", hint="Wait for more traffic."
        )
    units = control.n + variant.n
    return Effect(
        control.ratio(), variant.ratio(), _ratio_variance(control), _ratio_variance(variant), units
    )


def adjusted_effect(control: Sums, variant: Sums) -> Effect:
    """The difference of means, less what a covariate from before explains (CUPED).

    θ = cov(y, x) / var(x) over both variants together; each mean is moved by θ times how far
    its covariate lies from that of all. The covariate must not know of the rollout: it is
    measured before a unit first met it. Deng, Xu, Kohavi and Walker (WSDM 2013).
    """
    _enough(control, variant)
    # Pooled within the variants: what the variants themselves do must not become part of θ.
    weights = control.n - 1, variant.n - 1
    both = (control, variant)
    xx = sum(w * one.covariance("x", "x") for w, one in zip(weights, both, strict=True))
    xy = sum(w * one.covariance("x", "y") for w, one in zip(weights, both, strict=True))
    theta = xy / xx if xx > 0 else 0.0
    middle = (control.x + variant.x) / (control.n + variant.n)

    def moved(side: Sums) -> float:
        return side.mean() - theta * (side.x / side.n - middle)

    def variance(side: Sums) -> float:
        left = (
            side.covariance("y", "y")
            - 2 * theta * side.covariance("x", "y")
            + theta**2 * side.covariance("x", "x")
        )
        return max(left, 0.0) / side.n

    units = control.n + variant.n
    return Effect(moved(control), moved(variant), variance(control), variance(variant), units)


def _ratio_variance(side: Sums) -> float:
    ratio, denominator = side.ratio(), side.d / side.n
    spread = (
        side.covariance("y", "y")
        - 2 * ratio * side.covariance("y", "d")
        + ratio**2 * side.covariance("d", "d")
    )
    return max(spread, 0.0) / (side.n * denominator**2)


def _enough(control: Sums, variant: Sums) -> None:
    if control.n < 2 or variant.n < 2:
        raise InvalidInput(
            f"{control.n:g} and {variant.n:g} units are too few to compare.",
            hint="Wait until each variant has two units.",
        )
