"""Effects over stretches of time with different shares, pooled so that trends cannot deceive.

If a share grows while the metric moves (a canary that is widened in the evening), sums over
the whole time compare a challenger's evening with a champion's day. So champion and challenger
are compared within each stretch of constant shares, and the comparisons are averaged, each
with the units that it would be worth if both sides were equal: 4 n m / (n + m).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from falaj.rollouts.effects import Effect, Sums, adjusted_effect, mean_effect, ratio_effect
from falaj.rollouts.model import MetricKind

Compare = Callable[[Sums, Sums], Effect]
_LEAST = 2


@dataclass(frozen=True)
class Side:
    """One side of a pooled comparison.

    Attributes:
        units: with a value.
        value: the metric's figure, averaged over the stretches.
        variance: of ``value``, from this side's own spread.
        spread: what that variance would be with the spread of the other side.
    """

    units: float
    value: float
    variance: float
    spread: float


@dataclass(frozen=True)
class Pooled:
    """A champion and a challenger, compared within stretches of constant shares.

    Attributes:
        worth: as many units in two equal sides tell as much: the clock of sequential tests.
    """

    champion: Side
    challenger: Side
    worth: float

    @property
    def effect(self) -> Effect:
        """As one effect; its units are those that it is worth."""
        return Effect(
            self.champion.value,
            self.challenger.value,
            self.champion.variance,
            self.challenger.variance,
            self.worth,
        )


def comparison(kind: MetricKind, *, adjusted: bool = False) -> Compare:
    """How sums of a kind of metric are compared; ``adjusted`` by a covariate (CUPED)."""
    if kind is MetricKind.RATIO:
        return ratio_effect
    return adjusted_effect if adjusted else mean_effect


def pooled(
    champion: Mapping[int, Sums], challenger: Mapping[int, Sums], compare: Compare
) -> Pooled | None:
    """The comparison over all stretches in which both sides have two units; None without any."""
    worth = a = b = va = vb = sa = sb = 0.0
    n_champion = n_challenger = 0.0
    for period in sorted(champion.keys() & challenger.keys()):
        one, other = champion[period], challenger[period]
        if one.n < _LEAST or other.n < _LEAST:
            continue
        if compare is ratio_effect and not (one.d and other.d):
            continue
        effect = compare(one, other)
        weight = 4 * one.n * other.n / (one.n + other.n)
        worth += weight
        a, b = a + weight * effect.control, b + weight * effect.variant
        va += weight**2 * effect.control_variance
        vb += weight**2 * effect.variant_variance
        sa += weight**2 * effect.variant_variance * other.n / one.n
        sb += weight**2 * effect.control_variance * one.n / other.n
        n_champion, n_challenger = n_champion + one.n, n_challenger + other.n
    if not worth:
        return None
    square = worth**2
    return Pooled(
        Side(n_champion, a / worth, va / square, sa / square),
        Side(n_challenger, b / worth, vb / square, sb / square),
        worth,
    )


def clusters(cells: Mapping[tuple[str, int], Sums], kind: MetricKind) -> Sums:
    """Clusters (a segment in a period) as units: sums over their means, or ratios of sums."""
    total = Sums()
    for sums in cells.values():
        if sums.n and (kind is not MetricKind.RATIO or sums.d):
            total += Sums.of(sums.ratio() if kind is MetricKind.RATIO else sums.mean())
    return total


__all__ = ["Pooled", "Side", "clusters", "comparison", "pooled"]
