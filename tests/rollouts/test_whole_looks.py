"""A look measures all that it can, whatever part of it tells nothing or fails."""

import pytest

from falaj.rollouts.model import Guardrail
from tests.rollouts.test_judging import converted, half, minute

BOTH = (Guardrail(metric="error_rate"), Guardrail(metric="converted"))


def harmed(ground):
    """A challenger that fails, and whose units convert half as often."""
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.1}), minute(1))
    rollout = ground.rollout(how="canary", guardrails=BOTH)
    ground.look(rollout, 0)
    ground.counted = {"champion": {"requests": 900}, "new": {"requests": 0, "failed": 100}}
    return rollout


@pytest.mark.parametrize("dismissed", ["error_rate", "error_rate/new"])
def test_a_dismissed_breach_of_errors_keeps_nothing_else_from_being_measured(ground, dismissed):
    look = ground.look(harmed(ground), 2, dismissed=[dismissed])
    assert {one.metric for one in look.breached} == {"error_rate", "converted"}
    assert sum(look.units.values()) == 4_000


def test_a_breach_of_errors_that_nobody_dismissed_still_waits_for_nothing(ground):
    look = ground.look(harmed(ground), 2, dismissed=["latency", "error_rate/other"])
    assert [one.metric for one in look.breached] == ["error_rate"]
    assert look.units == {}


def test_errors_of_a_shadow_end_no_look_because_they_end_no_shadow(ground):
    ground.predicted(["a"], ["new"], minute(1))
    rollout = ground.rollout(how="shadow", guardrails=BOTH[:1])
    ground.look(rollout, 0)
    ground.counted = {
        "champion": {"requests": 900},
        "new": {"requests": 0, "failed": 100, "shadow": True},
    }
    look = ground.look(rollout, 2)
    assert look.breached
    assert look.units["new"] == 1
