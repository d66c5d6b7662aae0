"""Guardrails of declared metrics: whether a challenger is worse than is tolerated.

All of it is one-sided and valid at every look. Proportions, means and ratios go by
``evidence.mean_evidence``, events and quantiles by the exact ``evidence.EventCurve``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from falaj.rollouts.effects import Sums
from falaj.rollouts.evidence import EventCurve, mean_evidence, threshold
from falaj.rollouts.model import Guardrail, GuardrailReading, Metric, MetricKind
from falaj.rollouts.pooled import Pooled, comparison, pooled

LEAST_UNITS = 100
"""Of each side, before anything that relies on normality is asked."""
LEAST_EXPECTED = 10.0
"""Units of the rarer outcome that a proportion's challenger should have by then."""
LEAST_CLUSTERS = 20
MOST_GROUPS = 30
"""That are compared with each other for fairness."""
_BISECTIONS = 40


def mean_harm(
    champion: ArrayLike,
    challenger: ArrayLike,
    champion_variance: ArrayLike,
    challenger_variance: ArrayLike,
    *,
    tolerated: float,
    better: str,
) -> NDArray[np.float64]:
    """The logarithm of the e-value that a challenger is worse than is tolerated.

    Args:
        champion, challenger: the figure of each side.
        champion_variance, challenger_variance: of these figures.
        tolerated: relative to the champion's figure.
        better: ``higher`` or ``lower``.
    """
    a, b = np.asarray(champion, dtype=np.float64), np.asarray(challenger, dtype=np.float64)
    sign = 1.0 if better == "higher" else -1.0
    size = np.abs(a)
    excess = sign * (a - b) - tolerated * size
    # a - τ|a| (or -a - τ|a|) has the slope 1 ∓ τ in a.
    slope = 1.0 - sign * np.sign(a) * tolerated
    variance = slope**2 * np.asarray(champion_variance) + np.asarray(challenger_variance)
    return mean_evidence(excess, variance, np.maximum(size, 1e-300))


def proportion_variance(
    champion: ArrayLike, challenger: ArrayLike, units: ArrayLike, *, tolerated: float, better: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The variance of a challenger's proportion if it is just tolerated, or its own if larger.

    A challenger that by chance has no conversion yet has no spread of its own, and would seem
    certain.

    Returns:
        the variance, and whether the challenger has enough units for it to mean anything.
    """
    a, b, n = (np.asarray(one, dtype=np.float64) for one in (champion, challenger, units))
    null = np.clip(a * (1 - tolerated if better == "higher" else 1 + tolerated), 0.0, 1.0)
    spread = np.maximum(null * (1 - null), b * (1 - b))
    enough = (n >= LEAST_UNITS) & (n * np.minimum(null, 1 - null) >= LEAST_EXPECTED)
    return spread / np.maximum(n, 1.0), enough


def judged_means(
    guardrail: Guardrail,
    metric: Metric,
    challenger: str,
    both: Pooled | None,
    error: float,
    *,
    clustered: bool = False,
) -> GuardrailReading:
    """The guardrail of a proportion, a mean or a ratio."""
    reading = blank(guardrail, challenger, error)
    if both is None:
        return reading
    one, other = both.champion, both.challenger
    reading.n_champion, reading.n_challenger = one.units, other.units
    reading.champion, reading.challenger_value = one.value, other.value
    variance = max(other.variance, other.spread)
    least = LEAST_CLUSTERS if clustered else LEAST_UNITS
    enough = one.units >= least and other.units >= least
    if metric.measures is MetricKind.PROPORTION and not clustered:
        under, told = proportion_variance(
            one.value, other.value, other.units, tolerated=guardrail.tolerated, better=metric.better
        )
        # By stretches the variance is a little more than by all units: never take less.
        variance, enough = max(float(under), other.variance), enough and bool(told)
    if not enough:
        reading.why = f"fewer than {least} units, or {LEAST_EXPECTED:g} of the rarer outcome"
        return reading

    def shown(tolerated: float) -> bool:
        found = mean_harm(
            one.value,
            other.value,
            one.variance,
            variance,
            tolerated=tolerated,
            better=metric.better,
        )
        return bool(found >= threshold(error))

    reading.judged = True
    if shown(guardrail.tolerated):
        low, high = guardrail.tolerated, guardrail.tolerated + 10.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if shown(middle) else (low, middle)
        breach(reading, low)
    return reading


def judged_events(
    guardrail: Guardrail,
    challenger: str,
    stretches: list[tuple[float, float, float, float, float, float]],
    error: float,
    *,
    better: str = "lower",
) -> GuardrailReading:
    """The guardrail of counted units, exactly.

    Where events are wished for, it is the champion's that are too many: it must not have more
    than 1 / (1 - tolerated) times the challenger's.

    Args:
        stretches: of constant shares: units with an event and all units of the challenger, the
            same of the champion, and the shares of challenger and champion.
        better: ``lower`` or ``higher``.
    """
    reading = blank(guardrail, challenger, error)
    higher = better == "higher"
    tolerated = guardrail.tolerated
    if higher:
        tolerated = 1 / (1 - min(tolerated, 0.999)) - 1
    curve = EventCurve.empty(tolerated)
    totals = np.zeros(4)
    for events, units, others, other_units, share, other_share in stretches:
        if higher:
            curve.add(others, events, other_share, share)
        else:
            curve.add(events, others, share, other_share)
        reading.judged |= min(units, other_units, share, other_share) > 0
        totals += (events, units, others, other_units)
    events, units, others, other_units = totals.tolist()
    reading.n_challenger, reading.n_champion = units, other_units
    reading.challenger_value = events / units if units else None
    reading.champion = others / other_units if other_units else None
    worse_by = curve.worse_by(error)
    if worse_by is not None:
        breach(reading, 1 - 1 / (1 + worse_by) if higher else worse_by)
    return reading


def judged_fairness(
    guardrail: Guardrail,
    metric: Metric,
    challenger: str,
    groups: Mapping[str, tuple[Mapping[int, Sums], Mapping[int, Sums]]],
    error: float,
    order: list[str],
) -> GuardrailReading:
    """Whether two groups lie further apart with the challenger than with the champion.

    For each pair of groups g and h that (challenger's g - h) - |champion's g - h| is more than
    what is tolerated, in the metric's unit. How many groups will come nobody knows: the k-th
    that has units enough spends 1 / (k (k - 1)) of the error, which sums to 1 over all k ≥ 2,
    equally over its ordered pairs with those before it. The figures that are told are the
    widest gaps of champion and challenger.

    Args:
        groups: by group, the sums of champion and challenger by stretch.
        order: the groups in the order in which they had enough units at the looks before; it is
            moved on. Only the first ``MOST_GROUPS`` are compared.
    """
    reading = blank(guardrail, challenger, error)
    compare = comparison(metric.measures)
    told = {name: pooled(*both, compare) for name, both in groups.items()}
    known = {
        name: both
        for name, both in told.items()
        if both is not None and min(both.champion.units, both.challenger.units) >= LEAST_UNITS
    }
    order += sorted(known.keys() - set(order))[: max(MOST_GROUPS - len(order), 0)]
    known = {name: known[name] for name in order if name in known}
    if len(known) < 2:
        reading.why = f"fewer than two groups with {LEAST_UNITS} units on each side"
        return reading
    reading.judged = True
    reading.n_champion = sum(one.champion.units for one in known.values())
    reading.n_challenger = sum(one.challenger.units for one in known.values())
    figures = [one.champion.value for one in known.values()]
    tried = [one.challenger.value for one in known.values()]
    reading.champion = max(figures) - min(figures)
    reading.challenger_value = max(tried) - min(tried)
    level = sum(map(abs, figures)) / len(figures)
    for high, low in permutations(known, 2):
        k = max(order.index(high), order.index(low)) + 1
        part = error / (k * (k - 1)) / (2 * (k - 1))
        a, b = known[high], known[low]
        before = a.champion.value - b.champion.value
        after = a.challenger.value - b.challenger.value
        variance = sum(
            max(side.variance, side.spread)
            for both in (a, b)
            for side in (both.champion, both.challenger)
        )
        found = gap_harm(before, after, variance, level, tolerated=guardrail.tolerated)
        if found >= threshold(part):
            breach(reading, 0.0)
            reading.worse_by = None
            reading.why = (
                f"{high!r} and {low!r} lie {after:.4g} apart, with the champion {before:.4g}"
            )
    return reading


def gap_harm(
    before: ArrayLike, after: ArrayLike, variance: ArrayLike, level: ArrayLike, *, tolerated: float
) -> NDArray[np.float64]:
    """The logarithm of the e-value that one group lies further above another than is tolerated.

    Args:
        before, after: by how much it lies above with the champion, and with the challenger.
        variance: of after - before.
        level: the usual size of the metric, that harm is relative to.
    """
    excess = np.asarray(after) - np.abs(before) - tolerated
    return mean_evidence(excess, variance, np.maximum(level, 1e-300))


def blank(guardrail: Guardrail, challenger: str, error: float) -> GuardrailReading:
    """A reading without data."""
    return GuardrailReading(
        metric=guardrail.metric,
        challenger=challenger,
        n_champion=0,
        n_challenger=0,
        champion=None,
        challenger_value=None,
        worse_by=None,
        error=error,
    )


def breach(reading: GuardrailReading, worse_by: float) -> None:
    """Note that harm is shown."""
    reading.breached, reading.worse_by = True, worse_by
    reading.why = (
        f"worse than the champion by at least {worse_by:.1%}, with an error of"
        f" {reading.error:.4g} over all looks"
    )
