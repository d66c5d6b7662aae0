"""A look measures all that it can, whatever part of it tells nothing or fails."""

from itertools import permutations

import numpy as np
import pytest
from tests.rollouts.test_judging import converted, half, minute

from falaj.rollouts.effects import Sums
from falaj.rollouts.guardrails import MOST_GROUPS, judged_fairness
from falaj.rollouts.model import Guardrail, Metric, Success
from falaj.testing.clientsimulations import cells_of

BOTH = (Guardrail(metric="error_rate"), Guardrail(metric="converted"))


def harmed(ground):
    """A challenger that fails, and whose units convert half as often."""
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.1}), minute(1))
    rollout = ground.rollout(how="canary", guardrails=BOTH)
    ground.look(rollout, 0)
    ground.counted = {"champion": cells_of(900), "new": cells_of(0, 100)}
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
    ground.counted = {"champion": cells_of(900), "new": cells_of(0, 100)}
    ground.shadows = {"new"}
    look = ground.look(rollout, 2)
    assert look.breached
    assert look.units["new"] == 1


NOT_ZERO_OR_ONE = "SELECT unit, known_at, value + 7 AS value FROM {}"


@pytest.mark.parametrize("sql", [NOT_ZERO_OR_ONE, "SELECT nothing FROM {}"])
def test_a_metric_that_fails_makes_nobody_forget_what_was_counted(ground, sql):
    rollout = harmed(ground)
    ground.counted = {}
    ground.metric("converted", sql=sql.format(ground.outcomes))
    champion, new = cells_of(), cells_of()
    for k in range(1, 30):
        champion = champion + cells_of(900, 9, first=37 * k)
        new = new + cells_of(90, 4, first=41 * k)  # four times as often
        ground.counted = {"champion": champion, "new": new}
        look = ground.look(rollout, k)
        if look.breached:
            break
        assert "converted" in look.unmeasured
        assert look.guardrails[1].why == "it could not be measured"
    assert [one.metric for one in look.breached] == ["error_rate"]


def test_one_metric_that_fails_hides_no_harm_in_another(ground):
    rollout = harmed(ground)
    ground.metric("broken", sql=NOT_ZERO_OR_ONE.format(ground.outcomes))
    guardrails = (Guardrail(metric="broken"), Guardrail(metric="converted"))
    look = ground.look(rollout.model_copy(update={"guardrails": guardrails}), 2)
    assert [one.metric for one in look.breached] == ["converted"]
    assert "0 or 1" in look.unmeasured


def test_a_slow_metric_rests_also_if_it_fails(ground, monkeypatch):
    rollout = harmed(ground)
    now, tried = [0.0], []

    def failing(*_args, **_more):
        tried.append(1)
        raise KeyError("anybody's code")

    def clock():
        now[0] += 2.0  # each look seems to take two seconds
        return now[0]

    monkeypatch.setattr(ground.judge._metrics, "sums", failing)
    monkeypatch.setattr("falaj.rollouts.judging.monotonic", clock)
    ground.judge._rests_from = 1.0
    for minutes in (1, 2, 3):
        look = ground.look(rollout, minutes, dismissed=["error_rate"])
        assert "anybody's code" in look.unmeasured
    assert len(tried) == 1


def lost(ground):
    """At 50:50 a third of the challenger's units were lost on the way, in the first minute."""
    units = [f"u{k}" for k in range(4_000)]
    ground.metric("converted")
    ground.predicted(units, ["champion"] * 2_400 + ["new"] * 1_600, minute(1))
    return ground.rollout(how="canary", guardrails=BOTH[1:])


def test_after_a_resumed_pause_units_are_counted_against_shares_from_there(ground):
    rollout = lost(ground)
    assert ground.look(rollout, 2).mismatch
    resumed = ground.look(rollout, 11, since=10)
    assert not resumed.mismatch
    more = [f"v{k}" for k in range(4_000)]
    ground.predicted(more, ["champion"] * 2_400 + ["new"] * 1_600, minute(12))
    assert ground.look(rollout, 13, since=10).mismatch  # it happens again


def test_what_a_resting_metric_said_is_not_told_of_later_shares(ground, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 2.0  # each look seems to take two seconds
        return now[0]

    monkeypatch.setattr("falaj.rollouts.judging.monotonic", clock)
    ground.judge._rests_from = 1.0
    rollout = lost(ground)
    assert ground.look(rollout, 2).mismatch
    assert ground.look(rollout, 3).mismatch
    assert not ground.look(rollout, 11, since=10).mismatch


def test_a_canary_that_grows_gets_all_the_units_that_were_planned(ground):
    ground.metric("converted")
    success = Success(metric="converted", most_units=8_000, effect=0.5)
    rollout = ground.rollout(how="canary", guardrails=(), success=success)
    rng = np.random.default_rng(21)
    # At 5 % a unit is worth 0.19; at 50 % as many units are worth five times that.
    for n, share in enumerate([0.05, 0.5, 0.5, 0.5]):
        units = [f"{n}-{k}" for k in range(2_000)]
        met = np.where(rng.random(2_000) < share, "new", "champion").tolist()
        ground.predicted(units, met, minute(10 * n + 1))
        ground.happened(units, converted(met, {"champion": 0.3, "new": 0.3}, n), minute(10 * n + 1))
        look = ground.look(
            rollout, 10 * n + 2, shares={"champion": 1 - share, "new": share}, since=10 * min(n, 1)
        )
        decided = [one.decided for one in look.success]
        assert decided == (["no_difference"] if n == 3 else [None])


def test_groups_that_come_one_by_one_spend_no_more_than_the_error(monkeypatch):
    spent, parts = {}, []
    monkeypatch.setattr("falaj.rollouts.guardrails.threshold", lambda part: parts.append(part) or 9)
    units, order = {0: Sums(n=1_000, y=500, yy=500)}, []
    metric, fair = Metric(name="granted", sql="SELECT 1"), Guardrail(metric="granted", between="g")
    for n in range(2, 33):
        parts.clear()
        # The newest has the name that stands first: what counts is who came first.
        judged_fairness(
            fair, metric, "new", {f"g{50 - k}": (units, units) for k in range(n)}, 0.05, order
        )
        for pair, part in zip(permutations(order, 2), parts, strict=True):
            spent.setdefault(pair, set()).add(part)
    assert len(order) == MOST_GROUPS
    assert {len(each) for each in spent.values()} == {1}  # never another part
    assert 0.04 < sum(part for [part] in spent.values()) <= 0.05


def test_which_groups_came_first_is_remembered(ground):
    ground.metric("granted")
    fair = Guardrail(metric="granted", between="group")
    rollout = ground.rollout(how="canary", guardrails=(fair,))
    for n, group in enumerate(["b", "c", "a"], start=1):  # a stretch's first seconds do not count
        units = [f"{group}{k}" for k in range(400)]
        ground.predicted(units, ["champion", "new"] * 200, minute(n), [{"group": group}] * 400)
        ground.happened(units, [0.0, 1.0] * 200, minute(n))
        ground.look(rollout, n + 1)
    assert ground.memory["groups"] == {"granted/group/new": ["b", "c", "a"]}


@pytest.mark.parametrize("between", [None, "group"])
def test_a_metric_that_is_guarded_twice_in_the_same_way_is_refused(ground, between):
    twice = [Guardrail(metric="granted", between=between, tolerated=t) for t in (0.1, 0.2)]
    with pytest.raises(ValueError, match="guarded twice"):
        ground.rollout(how="canary", guardrails=tuple(twice))
    fair = Guardrail(metric="granted", between="other")
    assert ground.rollout(how="canary", guardrails=(twice[0], fair))
