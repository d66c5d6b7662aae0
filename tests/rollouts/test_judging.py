"""What a look measures of units and concludes, and what it waits for."""

import pytest
from tests.rollouts.units import converted, half, minute

from falaj.rollouts.model import Challenger, Guardrail, Success
from falaj.testing.clientsimulations import cells_of


def test_without_traffic_nothing_is_breached_and_nothing_decided(ground):
    ground.metric("converted")
    rollout = ground.rollout(
        guardrails=(Guardrail(metric="error_rate"), Guardrail(metric="converted")),
    )
    for minutes in (0, 1, 600):
        look = ground.look(rollout, minutes)
        assert (look.breached, look.success, look.mismatch) == ([], [], False)
        assert look.units == {"champion": 0, "new": 0}


def test_a_challenger_that_converts_better_is_found_better(ground):
    ground.metric("converted")
    units, variants = half(6_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.10, "new": 0.15}), minute(5))
    look = ground.look(ground.rollout(success=Success(metric="converted", effect=0.3)))
    [reading] = look.success
    assert reading.decided == "better"
    assert 0 < reading.low < reading.estimate < reading.high
    assert reading.n_champion + reading.n_challenger == 6_000
    assert look.units["new"] == variants.count("new")


def test_and_what_was_decided_stays_decided(ground):
    test_a_challenger_that_converts_better_is_found_better(ground)
    units = [f"later{k}" for k in range(6_000)]
    ground.predicted(units, ["champion", "new"] * 3_000, minute(70))
    ground.happened(units, [1.0, 0.0] * 3_000, minute(75))
    rollout = ground.rollout(success=Success(metric="converted", effect=0.3))
    assert ground.look(rollout, 80).success[0].decided == "better"


def test_a_challenger_that_converts_worse_breaches_its_guardrail(ground):
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.1}), minute(5))
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    [reading] = ground.look(rollout).guardrails
    assert reading.breached
    assert reading.error == 0.05
    assert 0 < reading.worse_by < 0.5
    assert "worse than the champion by at least" in reading.why


def test_and_breaches_nothing_if_so_much_is_tolerated(ground):
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.15}), minute(5))
    rollout = ground.rollout(
        how="canary", guardrails=(Guardrail(metric="converted", tolerated=0.3),)
    )
    assert not ground.look(rollout).breached


def test_the_error_is_shared_over_all_guardrails_and_challengers(ground):
    ground.metric("converted")
    ground.predicted(["a", "b"], ["champion", "new"], minute(1))
    ground.happened(["a", "b"], [0, 1], minute(1))
    rollout = ground.rollout(
        how="canary",
        challengers=tuple(Challenger(name=n, version=2, share=0.25) for n in ("new", "other")),
        guardrails=tuple(Guardrail(metric=m) for m in ("error_rate", "latency", "converted")),
        guardrail_error=0.06,
        success=Success(metric="converted"),
    )
    readings = ground.look(rollout, shares={"champion": 0.5, "new": 0.25, "other": 0.25}).guardrails
    assert [one.error for one in readings] == pytest.approx([0.01] * 6)
    assert {one.challenger for one in readings} == {"new", "other"}


def test_errors_that_tell_enough_wait_for_no_declared_metric(ground):
    ground.metric("converted", sql="SELECT nothing FROM nowhere")
    rollout = ground.rollout(
        how="canary", guardrails=(Guardrail(metric="error_rate"), Guardrail(metric="converted"))
    )
    ground.look(rollout, 0)
    ground.predicted(["a"], ["new"], minute(1))
    ground.happened(["a"], [1], minute(1))
    ground.counted = {"champion": cells_of(90), "new": cells_of(0, 20)}
    assert [one.metric for one in ground.look(rollout, 2).breached] == ["error_rate"]


def test_a_slow_metric_rests_and_what_it_said_is_told_meanwhile(ground, monkeypatch):
    ground.metric("converted")
    now = [0.0]

    def clock():
        now[0] += 2.0  # each look seems to take two seconds
        return now[0]

    monkeypatch.setattr("falaj.rollouts.judging.monotonic", clock)
    ground.judge._rests_from = 1.0
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    ground.predicted(["a"], ["new"], minute(1))
    assert ground.look(rollout, 2).units["new"] == 1
    ground.predicted(["b"], ["new"], minute(2))
    again = ground.look(rollout, 3)
    assert again.units["new"] == 1
    assert [one.metric for one in again.guardrails] == ["converted"]
    now[0] += 100
    assert ground.look(rollout, 4).units["new"] == 2
