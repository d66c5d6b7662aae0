from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.operations.histories import entries
from falaj.operations.model import ChangeState
from falaj.rollouts.model import RolloutKind, RolloutState, Success
from falaj.rollouts.records import Run, Step


def _told(trial: Any) -> tuple[str, str, str]:
    with trial.database.reading() as connection:
        last = entries(connection, trial.run().id)[-1]
    return last.what, last.by, last.text


def _steered(trial: Any, verb: str, *given: Any, **more: Any) -> Run:
    with trial.call() as call:
        run: Run = getattr(trial.steering, verb)(call, "try-two", *given, **more)
    return run


def test_who_paused_and_resumed_it_and_why_is_on_record(trial: Any) -> None:
    trial.started()
    assert _steered(trial, "pause", "Black Friday.").state is RolloutState.PAUSED
    assert _told(trial) == ("paused", "user:amina", "Black Friday.")
    trial.clock.move(trial.run().rollout.look_every)
    run = _steered(trial, "resume", "It is over.")
    assert (run.state, run.stage_since) == (RolloutState.RUNNING, trial.clock.now())
    assert _told(trial) == ("resumed", "user:amina", "It is over.")


def test_a_stage_is_held_anew_after_a_pause(trial: Any) -> None:
    trial.started()
    _steered(trial, "pause", "Wait.")
    trial.sees(two=1000, champion=9000)
    trial.after(1000)
    _steered(trial, "resume", "Go.")
    assert trial.after(30).stage == 0
    assert trial.after(300).stage == 1


@pytest.mark.parametrize("verb", ["pause", "resume", "stop"])
def test_steering_without_a_reason_is_refused(trial: Any, verb: str) -> None:
    trial.started()
    if verb == "resume":
        _steered(trial, "pause", "Wait.")
    with pytest.raises(InvalidInput, match="reason is empty"):
        _steered(trial, verb, " ")


def test_a_stopped_rollout_serves_the_champion_alone(trial: Any) -> None:
    trial.started()
    _steered(trial, "stop", "We need the capacity.")
    assert trial.traffic.shares == {"champion": 1.0, "two": 0.0}  # before the engine has looked
    run = trial.after(0)
    assert (run.state, run.step, trial.traffic.shares) == (
        RolloutState.STOPPED, Step.NOTHING, {"champion": 1.0},
    )  # fmt: skip


@pytest.mark.parametrize("step", [Step.PROMOTE, Step.AWAIT, Step.KEEP])
def test_a_winner_can_be_stopped_until_it_serves_alone(trial: Any, step: Step) -> None:
    trial.started(how=RolloutKind.AB, stages=(), success=Success(metric="error_rate"))
    trial.sees_success()
    if step is Step.PROMOTE:
        trial.promotions.fails = Conflict("Its gates are to be run again.")
    promotion = trial.after(30).outcome.promotion
    if step is Step.KEEP:
        with trial.call("user:omar") as call:
            trial.changes.approve(call, promotion, "It pays.")
        trial.traffic.fails = Conflict("Its version may not be served.")
        trial.after(1)
        trial.traffic.fails = None
    assert trial.run().step is step
    run = _steered(trial, "stop", "We saw complaints.")
    assert (run.state, run.step) == (RolloutState.STOPPED, Step.RELEASE)
    assert trial.traffic.shares == {"champion": 1.0, "two": 0.0}
    assert trial.after(0).step is Step.NOTHING
    if step is Step.AWAIT:
        with trial.database.reading() as connection:
            change = trial.changes.get(connection, promotion)
        assert (change.state, change.decided_by) == (ChangeState.REJECTED, "user:amina")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_winner_cannot_be_paused(trial: Any, verb: str) -> None:
    trial.started(how=RolloutKind.AB, stages=(), success=Success(metric="error_rate"))
    trial.sees_success()
    trial.after(30)
    with pytest.raises(Conflict, match="has succeeded"):
        _steered(trial, verb, "Wait.")


def test_what_has_ended_cannot_be_steered(trial: Any) -> None:
    trial.started()
    _steered(trial, "stop", "Enough.")
    with pytest.raises(Conflict, match=r"has stopped\. Enough"):
        _steered(trial, "pause", "Wait.")


def test_what_never_ran_cannot_be_steered(trial: Any) -> None:
    trial.declared()
    with pytest.raises(NotFound, match="never run"):
        _steered(trial, "stop", "Enough.")


def test_a_person_may_set_a_stage(trial: Any) -> None:
    trial.started()
    run = _steered(trial, "override", "I have looked at it.", stage=2)
    assert (run.stage, trial.traffic.shares) == (1, {"champion": 0.5, "two": 0.5})
    with pytest.raises(InvalidInput, match="no stage 3"):
        _steered(trial, "override", "On.", stage=3)


def test_a_person_may_set_shares_within_what_was_approved(trial: Any) -> None:
    trial.started()
    _steered(trial, "override", "Slower.", shares={"two": 0.02})
    assert trial.traffic.shares == {"champion": 0.98, "two": 0.02}
    for shares in ({"two": 0.6}, {"three": 0.1}, {"champion": 0.1}, {"two": -0.1}):
        with pytest.raises(InvalidInput, match="not within what was approved"):
            _steered(trial, "override", "All of it!", shares=shares)


def test_a_dismissed_guardrail_rolls_nothing_back_and_others_do(trial: Any) -> None:
    trial.started()
    _steered(trial, "override", "Its clock was wrong.", dismiss="latency/two")
    trial.sees_harm("latency")
    assert trial.after(30).state is RolloutState.RUNNING
    trial.sees_harm("error_rate")
    assert trial.after(30).state is RolloutState.ROLLED_BACK
    with trial.database.reading() as connection:
        said = [one.text for one in entries(connection, trial.run().id)]
    assert "latency/two is dismissed: Its clock was wrong." in said


def test_only_what_there_is_can_be_dismissed(trial: Any) -> None:
    trial.started()
    with pytest.raises(InvalidInput, match="no guardrail"):
        _steered(trial, "override", "Away.", dismiss="revenue")


def test_an_override_sets_one_thing(trial: Any) -> None:
    trial.started()
    for given in ({}, {"stage": 1, "shares": {"two": 0.1}}):
        with pytest.raises(InvalidInput, match="one thing"):
            _steered(trial, "override", "On.", **given)


def test_who_concludes_asks_for_the_promotion_and_another_approves(trial: Any) -> None:
    trial.started(how=RolloutKind.AB, stages=(), success=Success(metric="error_rate"))
    run = _steered(trial, "conclude", "two", "It is good enough for us.")
    assert (run.state, run.step) == (RolloutState.SUCCEEDED, Step.AWAIT)
    with trial.database.reading() as connection:
        change = trial.changes.get(connection, run.outcome.promotion)
    assert (change.requested_by, change.state) == ("user:amina", ChangeState.WAITING)
    with trial.call("user:omar") as call:
        trial.changes.approve(call, change.id, "Good.")
    trial.after(1)
    assert trial.traffic.shares == {"two": 1.0}


def test_harm_takes_back_the_promotion_that_a_person_has_asked_for(trial: Any) -> None:
    trial.started()
    promotion = _steered(trial, "conclude", "two", "Enough.").outcome.promotion
    trial.sees_harm()
    assert trial.after(30).state is RolloutState.ROLLED_BACK
    with trial.database.reading() as connection:
        assert trial.changes.get(connection, promotion).state is ChangeState.REJECTED


def test_only_a_challenger_can_win(trial: Any) -> None:
    trial.started()
    with pytest.raises(InvalidInput, match="no challenger 'three'"):
        _steered(trial, "conclude", "three", "Why not.")


def test_who_measures_is_told_what_was_dismissed(trial: Any) -> None:
    trial.started()
    _steered(trial, "override", "Its clock was wrong.", dismiss="latency/two")
    trial.after(30)
    assert trial.judge.asked[-1].dismissed == ["latency/two"]


def test_who_measures_is_told_of_every_change_of_shares_since_the_start(trial: Any) -> None:
    began = trial.started()
    trial.sees()
    trial.after()
    for share in (0.5, 0.2):
        trial.clock.move(timedelta(seconds=5))
        with trial.call() as call:
            trial.steering.override(call, "try-two", "Is it the share?", shares={"two": share})
    trial.after()
    told = trial.judge.asked[-1].changes
    assert [shares["two"] for _, shares in told] == [0.1, 0.5, 0.2]
    assert [(at - began.started_at).total_seconds() for at, _ in told] == [0, 35, 40]
    with trial.call() as call:
        trial.steering.pause(call, "try-two", "Lunch.")
        trial.clock.move(timedelta(seconds=5))
    with trial.call() as call:
        trial.steering.resume(call, "try-two", "Back.")
    trial.after()
    assert [shares["two"] for _, shares in trial.judge.asked[-1].changes] == [0.1, 0.5, 0.2, 0.2]
