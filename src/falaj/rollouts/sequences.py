"""Confidence sequences: intervals that hold at every look at once, however often one looks.

``mean_sequence`` is for means of whatever has a variance (a difference of conversions, of
revenue, of a ratio): the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas (Annals of Statistics 52, 2024, theorem 2.2; the one-sided one is theirs as well).
It is valid once both sides have some hundred units, as a t-test is.

``EventTest`` is for counts of events (errors, conversions): exact at any number, the
likelihood-ratio mixture of Robbins (Annals of Mathematical Statistics 41, 1970) for the share
of the events that falls on one variant, as Lindon and Malek use it (Anytime-valid inference
for multinomial count data, NeurIPS 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from falaj.kernel.errors import InvalidInput

_SMALLEST = 1e-290
_MOST_TERMS = 100_000
_EXACT = 1e-12

Side = Literal["both", "below", "above"]


@dataclass(frozen=True)
class Bounds:
    """An estimate, and where the truth lies: at every look at once, but for the stated error."""

    estimate: float
    low: float
    high: float


def tightest(units: float, alpha: float, side: Side = "both") -> float:
    """The tuning ρ with which a sequence is narrowest after a number of units.

    √((-W₋₁(-α² / e) - 1) / n), with 2α in the place of α for one side.
    """
    from scipy.special import lambertw

    error = alpha if side == "both" else min(2 * alpha, 0.999)
    root = float(lambertw(-(error**2) / math.e, -1).real)
    return math.sqrt((-root - 1) / units)


def mean_sequence(
    estimate: float,
    variance: float,
    units: float,
    *,
    alpha: float = 0.05,
    side: Side = "both",
    tuned_for: float = 10_000,
) -> Bounds:
    """Where a mean (or a difference of means) lies, valid at every look at once.

    Args:
        estimate: at this look.
        variance: of the estimate (it falls as 1 / units). Units that are all alike, which give
            0, tell nothing of how others vary: no side has a bound then, and the truth may lie
            anywhere.
        units: how many units it is made of, in all variants.
        alpha: the chance that the truth is ever outside.
        side: ``below`` gives a lower bound alone, ``above`` an upper one; the error of both
            sides is then spent on one.
        tuned_for: the number of units at which the interval is narrowest; chosen beforehand.

    Raises:
        InvalidInput: alpha is not between 0 and 1, the variance is negative or no number, or there
            is no unit.
    """
    if not 0 < alpha < 1 or units <= 0 or not variance >= 0:
        raise InvalidInput(
            f"No sequence can be made of {units} units with variance {variance} and error {alpha}.",
            hint="Give a positive number of units, and an error such as 0.05.",
        )
    if variance == 0:
        return Bounds(estimate, -math.inf, math.inf)
    squared = units * tightest(tuned_for, alpha, side) ** 2
    if side == "both":
        inside = math.log(math.sqrt(squared + 1) / alpha)
    else:
        inside = math.log1p(math.sqrt(squared + 1) / (2 * alpha))
    half = math.sqrt(variance * 2 * (squared + 1) / squared * inside)
    return Bounds(
        estimate,
        -math.inf if side == "above" else estimate - half,
        math.inf if side == "below" else estimate + half,
    )


@dataclass(frozen=True)
class EventTest:
    """Whether one variant has more events than its traffic explains; exact at every look.

    Each event (an error, a conversion) falls on the variant with the chance ``share``, if the
    variants are alike and units are assigned at random. ``looks`` may come after each event.
    Evidence grows when more fall on it. The value is an e-value: under no excess it is at
    least 1/α, ever, with a chance of at most α.

    Attributes:
        share: of the traffic that the variant gets.
        tolerated: how many times as many events are still no harm (1.1: a tenth more).
        expected: how many events the test is tuned for.
    """

    share: float
    tolerated: float = 1.0
    expected: float = 200.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.tolerated <= 0 or self.expected <= 0:
            raise InvalidInput(
                f"A share of {self.share} with {self.tolerated} times the events tolerated is"
                " nothing to test.",
                hint="Give a share between 0 and 1, and positive numbers.",
            )

    @property
    def null(self) -> float:
        """The largest share of the events that is no harm."""
        odds = self.share / (1 - self.share) * self.tolerated
        return odds / (1 + odds)

    def log_evidence(self, events: int, others: int) -> float:
        """The natural logarithm of the e-value.

        A mixture of likelihood ratios over all shares above the null: half of it near the
        null (as wide as ``expected`` events tell), half spread evenly, for a variant that is
        dead. For each share the ratio is a supermartingale under every share at or below the
        null, and so is the mixture.

        Args:
            events: that fell on the variant.
            others: that fell on all others.
        """
        near = self._ratio(*self._near(), events, others)
        even = self._ratio(1.0, 1.0, events, others)
        larger = max(near, even)
        return larger + math.log(0.5 * math.exp(near - larger) + 0.5 * math.exp(even - larger))

    def harmful(self, events: int, others: int, *, alpha: float = 0.05) -> bool:
        """True if the excess is shown with an error of ``alpha`` over all looks."""
        return self.log_evidence(events, others) >= -math.log(alpha)

    def _near(self) -> tuple[float, float]:
        p, weight = self.null, max(self.expected / 4, 2.0)
        return max(p * weight, 1.0), max((1 - p) * weight, 1.0)

    def _ratio(self, a: float, b: float, events: int, others: int) -> float:
        """Of the mixture by a Beta(a, b) density that is cut off below the null."""
        from scipy.special import betaln

        p = self.null
        whole = float(betaln(a + events, b + others) - betaln(a, b))
        cut = _log_above(a + events, b + others, p) - _log_above(a, b, p)
        return whole + cut - events * math.log(p) - others * math.log1p(-p)


def _log_above(a: float, b: float, p: float) -> float:
    """ln P(X > p) of a Beta(a, b), however far out."""
    from scipy.special import betaincc, betaln

    above = float(betaincc(a, b, p))
    if above > _SMALLEST:
        return math.log(above)
    # P(X > p) = I(1-p; b, a) = (1-p)^b p^a / (b B(b, a)) / (1 + d1/(1 + d2/(1 + …))), which
    # converges fast this far out (NIST Digital Library of Mathematical Functions, 8.17.22).
    front = b * math.log1p(-p) + a * math.log(p) - math.log(b) - float(betaln(a, b))
    return front - math.log(_fraction(1 - p, b, a))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + …)) of the incomplete beta function, by Lentz's method."""
    value = upper = 1.0
    lower = 0.0
    for n in range(1, _MOST_TERMS):
        m, odd = divmod(n, 2)
        if odd:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / (1 + d * lower)
        upper = 1 + d / upper
        value *= upper * lower
        if abs(upper * lower - 1) < _EXACT:
            break
    return value
