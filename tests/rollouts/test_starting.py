from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from falaj.kernel.errors import Conflict, Forbidden, NotFound
from falaj.operations.histories import entries
from falaj.operations.model import ChangeState
from falaj.rollouts.model import (
    Challenger,
    Guardrail,
    Metric,
    RolloutKind,
    RolloutState,
    Success,
)
from falaj.rollouts.starting import RolloutUnderway

TWO = (Challenger(name="two", version=2, share=0.5),)
AB: dict[str, Any] = {
    "how": RolloutKind.AB, "stages": (), "success": Success(metric="error_rate"),
}  # fmt: skip


def test_a_start_waits_for_another_person(trial: Any) -> None:
    rollout = trial.declared()
    with trial.call() as call:
        change = trial.starting.ask(call, rollout.name, "It looks better offline.")
    assert change.state is ChangeState.WAITING
    assert trial.traffic.shares == {}
    with pytest.raises(Forbidden), trial.call() as call:
        trial.changes.approve(call, change.id, "I like it.")


def test_an_approved_start_serves_the_shares_of_the_first_stage(trial: Any) -> None:
    run = trial.started()
    assert run.state is RolloutState.RUNNING
    assert trial.traffic.shares == pytest.approx({"champion": 0.9, "two": 0.1})
    assert run.release == trial.traffic.release
    with trial.database.reading() as connection:
        first = entries(connection, run.id)[0]
    assert (first.what, first.by) == ("started", "user:omar")


def test_a_rollout_begins_when_its_workers_have_loaded_it(trial: Any, monkeypatch: Any) -> None:
    began, asked = trial.traffic.begin_rollout, trial.clock.now()

    def slowly(*given: Any) -> Any:
        trial.clock.move(timedelta(seconds=3))
        return began(*given)

    monkeypatch.setattr(trial.traffic, "begin_rollout", slowly)
    run = trial.started()
    loaded = asked + timedelta(seconds=3)
    assert (run.started_at, run.shares_since, run.stage_since) == (loaded, loaded, loaded)


def test_what_was_approved_begins_and_not_what_was_declared_since(trial: Any) -> None:
    rollout = trial.declared()
    with trial.call() as call:
        change = trial.starting.ask(call, rollout.name, "It looks better offline.")
    bold = rollout.model_copy(update={"challengers": (Challenger(name="bold", version=9),)})
    with trial.call() as call:
        trial.definitions.apply(call, [bold])
    with trial.call("user:omar") as call:
        trial.changes.approve(call, change.id, "Good.")
    assert set(trial.run().shares) == {"champion", "two"}


def test_an_endpoint_has_one_rollout_at_a_time(trial: Any) -> None:
    trial.started()
    trial.declared(name="another", **AB)
    with (
        pytest.raises(RolloutUnderway, match="'try-two'"),
        trial.call() as call,
    ):
        trial.starting.ask(call, "another", "Why not.")


def test_of_two_starts_that_wait_the_second_is_refused_when_it_is_approved(trial: Any) -> None:
    waiting = []
    for name in ("try-two", "another"):
        trial.declared(name=name)
        with trial.call() as call:
            waiting.append(trial.starting.ask(call, name, "Try it.").id)
    with trial.call("user:omar") as call:
        trial.changes.approve(call, waiting[0], "Good.")
    with pytest.raises(RolloutUnderway), trial.call("user:omar") as call:
        trial.changes.approve(call, waiting[1], "Good.")
    with trial.database.reading() as connection:
        assert trial.changes.get(connection, waiting[1]).state is ChangeState.WAITING


def test_an_endpoint_that_serves_nothing_has_no_champion(trial: Any) -> None:
    trial.traffic.release = None
    trial.declared()
    with pytest.raises(Conflict, match="no champion"), trial.call() as call:
        trial.starting.ask(call, "try-two", "Try it.")


def test_a_rollout_that_is_not_declared_cannot_be_started(trial: Any) -> None:
    with pytest.raises(NotFound), trial.call() as call:
        trial.starting.ask(call, "nothing", "Try it.")


def test_rollouts_of_one_layer_get_stretches_that_do_not_meet(trial: Any) -> None:
    first = trial.started(layer="checkout", layer_share=0.6)
    trial.declared(name="another", endpoint="early", layer="checkout", layer_share=0.5)
    with pytest.raises(RolloutUnderway, match=r"no room for 50%"), trial.call() as call:
        trial.starting.ask(call, "another", "Try it.")
    second = trial.started(name="another", endpoint="early", layer="checkout", layer_share=0.4)
    assert (first.low, first.high) == (0.0, 0.6)
    assert (trial.run("another").low, trial.run("another").high) == (0.6, 1.0)
    assert second.state is RolloutState.RUNNING


def test_beside_a_shadow_the_champion_answers_everybody(trial: Any) -> None:
    run = trial.started(how=RolloutKind.SHADOW, stages=(), longest=timedelta(hours=1))
    assert run.shares == {"champion": 1.0, "two": 0.5}


def _measured(trial: Any) -> None:
    with trial.call() as call:
        trial.definitions.apply(call, [Metric(name="bought", sql="SELECT 1", tables=())])
    trial.declared(guardrails=(Guardrail(metric="bought"),))


def test_who_may_not_read_what_it_is_measured_by_cannot_start_it(trial: Any) -> None:
    _measured(trial)
    trial.may_read = False
    with pytest.raises(Forbidden), trial.call() as call:
        trial.starting.ask(call, "try-two", "Try it.")


def test_a_metric_that_changed_since_the_start_was_asked_for_stops_the_start(trial: Any) -> None:
    _measured(trial)
    with trial.call() as call:
        change = trial.starting.ask(call, "try-two", "Try it.")
    with trial.call() as call:
        trial.definitions.apply(call, [Metric(name="bought", sql="SELECT 2", tables=())])
    with pytest.raises(Conflict, match="metric"), trial.call("user:omar") as call:
        trial.changes.approve(call, change.id, "Good.")


def test_a_metric_cannot_change_while_a_rollout_is_measured_by_it(trial: Any) -> None:
    _measured(trial)
    with trial.call() as call:
        change = trial.starting.ask(call, "try-two", "Try it.")
    with trial.call("user:omar") as call:
        trial.changes.approve(call, change.id, "Good.")
    other = Metric(name="bought", sql="SELECT 2", tables=())
    with pytest.raises(Conflict, match="is measured by"), trial.call() as call:
        trial.definitions.apply(call, [other])
    with trial.call() as call:
        trial.steering.stop(call, "try-two", "Enough.")
    trial.engine.run_once()
    with trial.call() as call:
        trial.definitions.apply(call, [other])
