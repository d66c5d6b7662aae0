"""How many units a rollout needs, and for how long it will run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.groupsequential import fixed_power, spending_design
from falaj.rollouts.model import Spending


@dataclass(frozen=True)
class Plan:
    """What a rollout needs.

    Attributes:
        units: in all variants together, if no look ends it early.
        expected_units: on average, if the difference is the one that was planned for.
        fixed_units: that a test with one look at the end would need.
        power: the chance that the planned difference is found.
        days: until ``units`` are there; None if no traffic was given.
    """

    units: int
    expected_units: int
    fixed_units: int
    power: float
    days: float | None


def plan(
    *,
    difference: float,
    standard_deviation: float,
    share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.9,
    looks: int = 1,
    spending: Spending = "obrien_fleming",
    units_a_day: float | None = None,
) -> Plan:
    """Plan a comparison of one variant with the control, by a two-sided test.

    The variance of the difference is σ² (1/(n s) + 1/(n (1 - s))) for n units of which the
    share s meets the variant; with looks, n grows until the sequential design has the power.

    Args:
        difference: the smallest one that shall be found; for a conversion of 10 % that shall
            be found to be 9 %, 0.01 (and √(p (1 - p)) as the standard deviation).
        standard_deviation: of the metric over units.
        share: of all units that the variant gets.
        looks: equally spaced, the last one included.
        units_a_day: how many new units come.

    Raises:
        InvalidInput: a difference of 0, a share that is none, or a power below the error.
    """
    from scipy.optimize import brentq

    if not difference or standard_deviation <= 0 or not 0 < share < 1 or looks < 1:
        raise InvalidInput(
            "A plan needs a difference that is not 0, a spread above 0, a share between 0 and 1"
            f" and a look; it was given {difference}, {standard_deviation}, {share}, {looks}.",
            hint="State the smallest difference that matters.",
        )
    if not alpha < power < 1:
        raise InvalidInput(
            f"A power of {power} does not lie between the error {alpha} and 1.", hint="Use 0.9."
        )
    design = spending_design(
        [look / looks for look in range(1, looks + 1)], alpha=alpha, spending=spending
    )
    fixed = float(brentq(lambda drift: fixed_power(drift, alpha) - power, 0.01, 20.0))
    drift = float(brentq(lambda drift: design.power(drift) - power, 0.01, 20.0, xtol=1e-4))
    spread = standard_deviation**2 * (1 / share + 1 / (1 - share)) / difference**2
    units = math.ceil(drift**2 * spread)
    return Plan(
        units=units,
        expected_units=math.ceil(units * design.expected_information(drift)),
        fixed_units=math.ceil(fixed**2 * spread),
        power=design.power(drift),
        days=units / units_a_day if units_a_day else None,
    )
