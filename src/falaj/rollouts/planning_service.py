"""How many units a rollout needs, and how long it will run, before it is declared."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import InvalidInput
from falaj.rollouts.model import Spending

Chance = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SamplePlan(BaseModel):
    """What a comparison of one challenger with the champion needs."""

    units: int
    """In both together, if no look ends it early."""
    expected_units: int | None
    """On average, if the difference is the planned one; None for ``always_valid``, where
    Falaj does not compute it."""
    fixed_units: int
    """That a test with a single look at the end would need."""
    difference: float
    """That is found with the power, in the metric's unit."""
    power: float
    days: float | None
    """Until ``units`` are there."""
    expected_days: float | None


class PlanningService(Service):
    """How many units a rollout needs, and for how long it runs."""

    name: ClassVar[str] = "planning"

    @action(get="/planning/samples")
    def sample(
        self,
        *,
        effect: Positive,
        rate: Chance | None = None,
        mean: float | None = None,
        deviation: Positive | None = None,
        share: Chance = 0.5,
        error: Chance = 0.05,
        power: Chance = 0.9,
        method: Literal["always_valid", "group_sequential"] = "group_sequential",
        looks: Annotated[int, Field(ge=1, le=200)] = 5,
        spending: Spending = "obrien_fleming",
        units_a_day: Positive | None = None,
    ) -> SamplePlan:
        """Plan how many units a comparison needs, and for how many days it runs.

        Args:
            effect: the smallest relative difference that shall be found (0.05: five per cent).
            rate: of a conversion, with the champion; or give a mean and a deviation.
            mean, deviation: of another metric over units, with the champion.
            share: of the compared units that the challenger gets.
            error: of calling variants different that are not, both sides together.
            power: the chance to find the difference.
            method: how it will be decided; see `Success`.
            looks, spending: of a group sequential design.
            units_a_day: new units of both together.
        """
        from falaj.rollouts.deciding import sequence_price
        from falaj.rollouts.planning import plan

        if (rate is None) == (mean is None or deviation is None):
            raise InvalidInput(
                "A plan needs either a rate, or a mean and a deviation.",
                hint="Give --rate for a conversion; --mean and --deviation for anything else.",
            )
        middle = rate if rate is not None else mean or 0.0
        spread = (middle * (1 - middle)) ** 0.5 if rate is not None else deviation or 0.0
        sequential = method == "group_sequential"
        found = plan(
            difference=effect * abs(middle),
            standard_deviation=spread,
            share=share,
            alpha=error,
            power=power,
            looks=looks if sequential else 1,
            spending=spending,
        )
        units, expected = found.units, found.expected_units if sequential else None
        if not sequential:
            units = round(found.fixed_units * sequence_price(error, power))
        return SamplePlan(
            units=units,
            expected_units=expected,
            fixed_units=found.fixed_units,
            difference=effect * abs(middle),
            power=power,
            days=None if units_a_day is None else units / units_a_day,
            expected_days=None
            if units_a_day is None or expected is None
            else expected / units_a_day,
        )
