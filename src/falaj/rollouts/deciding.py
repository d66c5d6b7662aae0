"""Whether a challenger is better, not worse, worse, or no different: the success metric.

``always_valid`` looks at a confidence sequence, as often as one likes; the planned sample only
says where it is narrowest and when to give up. ``group_sequential`` looks a planned number of
times, at shares of a planned sample, and spends its error by a function (Lan and DeMets): it
needs fewer units, and says nothing between its looks.

Of several challengers each gets an equal part of the error (Bonferroni), which holds however
they depend on each other and whenever each of them ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.effects import Effect
from falaj.rollouts.groupsequential import next_bound
from falaj.rollouts.model import Success, SuccessReading
from falaj.rollouts.planning import plan
from falaj.rollouts.sequences import mean_sequence

Verdict = Literal["better", "not_worse", "worse", "no_difference"]
LEAST_UNITS = 100
"""That a comparison must be worth before it is asked anything."""
_PLANNED_FROM = 400
"""Units that a comparison must be worth before a sample is planned by its spread."""
_MOST_PLANNED = 10**12


@dataclass
class Progress:
    """What is remembered of one challenger between looks.

    Attributes:
        planned: units (as a comparison is worth them) of the planned sample; 0 while unknown.
        times: the shares of it at the looks that counted.
        decided: how it ended.
    """

    planned: float = 0.0
    times: list[float] = field(default_factory=list)
    decided: Verdict | None = None

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {"planned": self.planned, "times": self.times, "decided": self.decided}

    @classmethod
    def read(cls, told: dict[str, Any] | None) -> Progress:
        """Of what ``told`` gave."""
        return cls(**told) if told else cls()


def decide(
    success: Success,
    challenger: str,
    effect: Effect | None,
    progress: Progress,
    *,
    error: float,
    better: str,
    units: tuple[float, float],
    worth_of_unit: float = 1.0,
    counted: float | None = None,
) -> SuccessReading:
    """One look at a challenger's success metric; ``progress`` is moved on.

    Args:
        effect: of the challenger against the champion; its units are those it is worth.
        error: this challenger's part, both sides together.
        better: ``higher`` or ``lower``.
        units: of champion and challenger, to be told.
        worth_of_unit: how many units in two equal sides one unit of the rollout's traffic is
            worth to this comparison, by those of its shares at which it is worth most.
        counted: units of all variants so far, which ``most_units`` is a number of; None where
            the comparison is not one of units.

    What was decided stays decided.
    """
    reading = SuccessReading(
        metric=success.metric,
        challenger=challenger,
        n_champion=units[0],
        n_challenger=units[1],
        estimate=None,
        low=None,
        high=None,
        decided=progress.decided,
    )
    if effect is None or effect.units < LEAST_UNITS or effect.variance <= 0 or not effect.control:
        reading.why = reading.why or f"the comparison is worth fewer than {LEAST_UNITS} units"
        return reading
    sign = 1.0 if better == "higher" else -1.0
    # Relative to the size of the champion's figure: of a loss, less of it is better.
    sign *= math.copysign(1.0, effect.control)
    reading.estimate = sign * (effect.variant / effect.control - 1)
    if not progress.planned and (success.most_units or effect.units >= _PLANNED_FROM):
        spread = effect.variance / effect.control**2 * effect.units
        progress.planned = planned_units(success, spread, error, worth_of_unit)
    ask = _always_valid if success.method == "always_valid" else _group_sequential
    ends = effect.units >= progress.planned > 0
    if success.most_units and counted is not None:
        ends = counted >= success.most_units
    verdict = ask(success, reading, effect, sign, progress, error, ends=ends)
    progress.decided = progress.decided or verdict
    reading.decided = progress.decided
    return reading


def planned_units(
    success: Success, spread: float, error: float, worth_of_unit: float = 1.0
) -> float:
    """Units (as a comparison is worth them) of the planned sample.

    ``most_units`` if it is declared, by what each is worth at most; else what finds ``effect``
    with the declared power.

    Args:
        spread: the variance of the relative effect, times the units that it was worth.
    """
    if success.most_units:
        return success.most_units * worth_of_unit
    looks = success.looks if success.method == "group_sequential" else 1
    # A comparison worth n units has the variance ``spread / n`` = 4 σ² / n.
    found = plan(
        difference=success.effect,
        standard_deviation=max(math.sqrt(spread) / 2, 1e-9),
        alpha=error,
        power=success.power,
        looks=looks,
        spending=success.spending,
    )
    if success.method == "group_sequential":
        return float(min(found.units, _MOST_PLANNED))
    return float(min(found.units * sequence_price(error, success.power), _MOST_PLANNED))


@lru_cache(maxsize=64)
def sequence_price(error: float, power: float) -> float:
    """How many times the units of a test with one look a confidence sequence needs, at most,
    for the same power: the square of the ratio of the drifts that they need."""
    from scipy.special import ndtri

    radius = mean_sequence(0.0, 1.0, 1.0, alpha=error, tuned_for=1.0).high
    fixed = ndtri(1 - error / 2) + ndtri(power)
    return float(((radius + ndtri(power)) / fixed) ** 2)


def _always_valid(
    success: Success,
    reading: SuccessReading,
    effect: Effect,
    sign: float,
    progress: Progress,
    error: float,
    *,
    ends: bool,
) -> Verdict | None:
    # It is narrowest at half of the planned sample: differences as planned end there.
    tuned = (progress.planned or 20_000.0) / 2
    radius = mean_sequence(0.0, 1.0, effect.units, alpha=error, tuned_for=tuned).high
    reading.low, reading.high = relative_interval(effect, radius, sign)
    verdict = _verdict(success, reading.low, reading.high)
    return "no_difference" if verdict is None and ends else verdict


def _group_sequential(
    success: Success,
    reading: SuccessReading,
    effect: Effect,
    sign: float,
    progress: Progress,
    error: float,
    *,
    ends: bool,
) -> Verdict | None:
    if not progress.planned:
        reading.why = "the sample is not planned yet: its spread is not known"
        return None
    time = min(effect.units / progress.planned, 1.0)
    last = progress.times[-1] if progress.times else 0.0
    if last >= 1.0 or progress.decided:
        return None
    if ends and time <= last:
        return "no_difference"
    due = math.floor(last * success.looks + 1e-9) + 1
    if not ends and time < due / success.looks - 1e-9:
        reading.why = f"the next look is at {due / success.looks:.1%} of the planned sample"
        return None
    progress.times.append(time)
    bound = next_bound(tuple(progress.times), error, success.spending, ends=ends)
    reading.low, reading.high = relative_interval(effect, bound, sign)
    verdict = _verdict(success, reading.low, reading.high)
    return "no_difference" if verdict is None and (ends or time >= 1.0) else verdict


def relative_interval(effect: Effect, radius: float, sign: float = 1.0) -> tuple[float, float]:
    """The relative differences that lie within a number of standard errors.

    All r with (b - (1 + r) a)² ≤ k² (V_b + (1 + r)² V_a): an interval for a quotient that holds
    for small a as well, and leaves 0 out exactly when the plain difference does (Fieller, J. R.
    Statist. Soc. B 16, 1954). Unbounded while a itself cannot be told from 0.

    Args:
        radius: k.
        sign: 1, or -1 where less is better.
    """
    a, b = effect.control, effect.variant
    square = radius**2
    leading = a * a - square * effect.control_variance
    if leading <= 0:
        return -math.inf, math.inf
    constant = b * b - square * effect.variant_variance
    root = math.sqrt(max((a * b) ** 2 - leading * constant, 0.0))
    low, high = (a * b - root) / leading - 1, (a * b + root) / leading - 1
    return (low, high) if sign > 0 else (-high, -low)


def _verdict(success: Success, low: float, high: float) -> Verdict | None:
    if low > 0:
        return "better"
    if success.non_inferiority is not None and low > -success.non_inferiority:
        return "not_worse"
    return "worse" if high < 0 else None


def error_of_each(error: float, n: int) -> float:
    """The part of an error that each of several challengers may spend."""
    if n < 1:
        raise InvalidInput("There is no challenger.", hint="Declare one.")
    return error / n
