from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from time import monotonic, sleep
from typing import Any

import pytest
from sqlalchemy import select

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, Unavailable
from falaj.operations import tables
from falaj.operations.histories import entries
from falaj.operations.model import AlertState, ChangeState, IncidentState, Scale, Severity
from falaj.rollouts import runs
from falaj.rollouts.model import (
    Guardrail,
    GuardrailReading,
    Metric,
    RolloutKind,
    RolloutState,
    Success,
)
from falaj.rollouts.records import SYSTEM, Step
from falaj.rollouts.tables import looks
from falaj.rollouts.tables import runs as run_rows
from falaj.testing.calls import opened_call

AB: dict[str, Any] = {
    "how": RolloutKind.AB, "stages": (), "success": Success(metric="error_rate"),
}  # fmt: skip


def _history(trial: Any) -> list[str]:
    with trial.database.reading() as connection:
        return [one.what for one in entries(connection, trial.run().id)]


def _alerts(trial: Any) -> dict[str, Severity]:
    with trial.database.reading() as connection:
        found = trial.alerts.listed(connection, state=AlertState.OPEN)
    return {one.name: one.severity for one in found}


def test_a_stage_is_held_for_its_time_and_its_units(trial: Any) -> None:
    trial.started()
    trial.sees(two=500, champion=4500)
    assert trial.after(200).stage == 0
    trial.sees(two=99, champion=900)
    assert trial.after(200).stage == 0
    trial.sees(two=100, champion=900)
    run = trial.after(30)
    assert (run.stage, trial.traffic.shares) == (1, {"champion": 0.5, "two": 0.5})
    assert run.stage_since == run.shares_since == trial.clock.now()


def _reading(**given: Any) -> GuardrailReading:
    told = {
        "metric": "bought", "challenger": "two", "n_champion": 0, "n_challenger": 0,
        "champion": None, "challenger_value": None, "worse_by": None, "error": 0.02,
    }  # fmt: skip
    return GuardrailReading(**(told | given))


SEEN = {"n_champion": 900, "n_challenger": 100}


@pytest.mark.parametrize("sides", [{}, {"n_champion": 900}, {"n_challenger": 100}])
def test_a_stage_is_held_while_a_declared_guardrail_measured_nothing(
    trial: Any, sides: dict[str, int]
) -> None:
    trial.started()
    trial.sees(two=500, champion=4500, guardrails=[_reading(**sides)])
    assert trial.after(3600).stage == 0
    with trial.database.reading() as connection:
        latest = runs.latest_look(connection, trial.run().id)
    why = latest.why if latest else ""
    assert "bought has measured no unit of" in why
    assert ("champion" in why, "two" in why) == (
        "n_champion" not in sides, "n_challenger" not in sides
    )  # fmt: skip
    trial.sees(two=500, champion=4500, guardrails=[_reading(**SEEN, judged=True)])
    assert trial.after(30).stage == 1


@pytest.mark.parametrize("metric", ["bought", "error_rate"])
def test_a_stage_is_held_while_a_guardrail_has_measured_but_judged_nothing(
    trial: Any, metric: str
) -> None:
    trial.started()
    unjudged = _reading(metric=metric, **SEEN, why="fewer than 100 units")
    trial.sees(two=500, champion=4500, guardrails=[unjudged])
    assert trial.after(3600).stage == 0
    with trial.database.reading() as connection:
        latest = runs.latest_look(connection, trial.run().id)
    assert f"{metric} of two was not judged yet (fewer than 100 units)" in latest.why
    trial.sees(two=500, champion=4500, guardrails=[_reading(metric=metric, **SEEN, judged=True)])
    assert trial.after(30).stage == 1


def test_latency_that_is_not_judged_yet_holds_no_stage(trial: Any) -> None:
    trial.started()
    unjudged = _reading(metric="latency", **SEEN, why="its spread is not known yet")
    trial.sees(two=500, champion=4500, guardrails=[unjudged])
    assert trial.after(3600).stage == 1


def test_a_reading_from_before_it_was_told_whether_it_was_judged_is_still_read() -> None:
    old = _reading(**SEEN).model_dump(exclude={"judged"})
    assert not GuardrailReading.model_validate(old).judged


def test_nobody_wins_a_canary_that_a_declared_guardrail_never_measured(trial: Any) -> None:
    trial.started(success=Success(metric="error_rate"))
    for _ in range(2):
        trial.sees(two=500, champion=500)
        trial.after(3600)
    trial.sees_success(guardrails=[_reading()])
    assert trial.after(3600).state is RolloutState.RUNNING
    trial.sees_success(guardrails=[_reading(**SEEN, judged=True)])
    assert trial.after(3600).state is RolloutState.SUCCEEDED


def test_a_guardrail_that_was_dismissed_holds_no_stage(trial: Any) -> None:
    with trial.call() as call:
        trial.definitions.apply(call, [Metric(name="bought", sql="SELECT 1")])
    trial.started(guardrails=(Guardrail(metric="bought"), Guardrail(metric="error_rate")))
    trial.sees(two=500, champion=4500, guardrails=[_reading(), _reading(metric="error_rate")])
    for name in ("bought", "error_rate"):
        assert trial.after(3600).stage == 0
        with trial.call() as call:
            trial.steering.override(call, "try-two", "Its table is late.", dismiss=name)
    assert trial.after(3600).stage == 1


def test_without_traffic_a_canary_waits_and_is_never_aborted(trial: Any) -> None:
    trial.started()
    for _ in range(50):
        run = trial.after(3600)
    assert (run.state, run.stage, run.n_looks) == (RolloutState.RUNNING, 0, 50)


def test_it_looks_at_once_and_then_as_seldom_as_it_was_told(trial: Any) -> None:
    trial.started()
    trial.after(0)
    trial.after(29)
    assert len(trial.judge.asked) == 1
    trial.after(1)
    trial.after(1)
    assert len(trial.judge.asked) == 2


def test_the_judge_is_given_back_what_it_wants_to_remember(trial: Any) -> None:
    trial.started()
    for _ in range(3):
        trial.after(30)
    assert [one.memory for one in trial.judge.asked] == [{}, {"looks": 1}, {"looks": 2}]


def test_a_canary_that_was_held_to_its_end_asks_for_the_promotion(trial: Any) -> None:
    trial.started()
    trial.sees(two=100, champion=900)
    trial.after(300)
    run = trial.after(300)
    assert (run.state, run.outcome.winner, run.step) == (RolloutState.SUCCEEDED, "two", Step.AWAIT)
    with trial.database.reading() as connection:
        change = trial.changes.get(connection, run.outcome.promotion)
    assert (change.state, change.requested_by) == (ChangeState.WAITING, SYSTEM)
    assert change.evidence["rollout"]["run"] == run.id
    assert trial.traffic.shares["two"] == 0.5  # until somebody has decided


def test_an_approved_promotion_lets_the_winner_serve_alone(trial: Any) -> None:
    trial.started(**AB)
    trial.sees_success()
    run = trial.after(30)
    with trial.call("user:omar") as call:
        trial.changes.approve(call, run.outcome.promotion, "It pays.")
    run = trial.after(1)
    assert (run.step, trial.traffic.shares) == (Step.NOTHING, {"two": 1.0})
    assert run.outcome.release == "release_of_two"
    with trial.database.reading() as connection:
        assert runs.open_on(connection, "late") is None


def test_a_rejected_promotion_returns_everybody_to_the_champion(trial: Any) -> None:
    trial.started(**AB)
    trial.sees_success()
    run = trial.after(30)
    with trial.call("user:omar") as call:
        trial.changes.reject(call, run.outcome.promotion, "Not before the holidays.")
    run = trial.after(1)
    assert trial.traffic.done[-2:] == [
        ("divide", {"champion": 1.0, "two": 0.0}),
        ("end", "champion"),
    ]
    assert (run.state, run.step) == (RolloutState.SUCCEEDED, Step.NOTHING)
    assert "rejected by user:omar" in run.why


def test_a_winner_that_is_in_production_already_needs_no_promotion(trial: Any) -> None:
    from falaj.models.model import Stage

    trial.stage = Stage.PRODUCTION
    trial.started(**AB)
    trial.sees_success()
    run = trial.after(30)
    assert (run.step, run.outcome.promotion) == (Step.NOTHING, None)
    assert trial.traffic.shares == {"two": 1.0}


@pytest.mark.parametrize("decided", ["worse", "no_difference"])
def test_if_no_challenger_won_the_champion_serves_alone(trial: Any, decided: str) -> None:
    trial.started(**AB)
    trial.sees_success(decided)
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.STOPPED, Step.NOTHING)
    assert trial.traffic.shares == {"champion": 1.0}
    assert _alerts(trial) == {}


def test_a_breach_returns_traffic_first_then_records_then_quarantines(trial: Any) -> None:
    trial.started()
    trial.sees_harm()
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.ROLLED_BACK, Step.NOTHING)
    assert trial.traffic.done == [
        ("halt", "late"),  # before the record, which may have to wait
        ("divide", {"champion": 1.0, "two": 0.0}),
        ("quarantine", "late", 2),
        ("end", "champion"),
    ]
    assert _history(trial) == ["started", "rolled_back", "recorded", "quarantined", "released"]


def test_a_rollback_opens_an_incident_with_its_evidence_and_an_emergency_change(
    trial: Any,
) -> None:
    trial.started()
    trial.sees(two=10, champion=90)
    trial.after(30)
    trial.sees_harm()
    run = trial.after(30)
    with trial.database.reading() as connection:
        (incident,) = trial.incidents.listed(connection, state=IncidentState.OPEN)
        change = trial.changes.get(connection, run.outcome.emergency)
    assert (incident.id, str(incident.subject)) == (run.outcome.incident, "endpoint:late")
    assert (change.requested_by, change.state) == (SYSTEM, ChangeState.IN_REVIEW)
    told = change.evidence
    assert told["samples"] == {"two": ["two-request-0", "two-request-1"]}
    assert told["guardrails"][0]["challenger_value"] == 0.4
    assert told["units"] == {"champion": 1800, "two": 200}
    assert change.payload["quarantined"] == [2]


def test_a_rollback_finds_its_incident_among_a_thousand_newer_ones(trial: Any) -> None:
    trial.started()
    now = trial.clock.now()
    with opened_call(trial.database, now=now) as call:
        endpoint = AssetRef("endpoint", "late")
        own = trial.incidents.open(call, endpoint, "Slow", urgency=Scale.HIGH)
        newer = {
            "title": "t", "subject_kind": "endpoint", "subject_key": "elsewhere", "impact": "high",
            "urgency": "high", "priority": 1, "state": "open", "opened_by": "user:omar",
            "opened_at": now + timedelta(seconds=1), "resolution": "",
        }  # fmt: skip
        rows = [{**newer, "id": f"incident_z{place}"} for place in range(1000)]
        call.connection.execute(tables.incidents.insert(), rows)
    trial.sees_harm()
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.ROLLED_BACK, Step.NOTHING)
    assert run.outcome.incident == own.id


def test_samples_that_cannot_be_read_hinder_no_rollback(trial: Any) -> None:
    def unreadable(*_: Any, **__: Any) -> list[str]:
        raise Unavailable("The lake is away.", hint="Wait.")

    trial.engine._samples.request_ids = unreadable
    trial.started()
    trial.sees_harm()
    run = trial.after(30)
    with trial.database.reading() as connection:
        change = trial.changes.get(connection, run.outcome.emergency)
    assert "The lake is away" in change.evidence["samples"]["two"]
    assert run.step is Step.NOTHING


def test_traffic_is_back_even_if_the_champions_release_cannot_be_made_yet(trial: Any) -> None:
    trial.started()
    trial.traffic.fails = Unavailable("A worker is away.", hint="Wait.")
    trial.sees_harm()
    run = trial.after(30)
    assert (run.step, trial.traffic.shares["champion"]) == (Step.RELEASE, 1.0)
    for _ in range(4):
        trial.after(60)
    assert "rollout.unfinished" in _alerts(trial)
    trial.traffic.fails = None
    assert trial.after(60).step is Step.NOTHING
    assert _history(trial).count("recorded") == 1


def test_harm_while_a_promotion_waits_rolls_back_and_takes_it_back(trial: Any) -> None:
    trial.started(**AB)
    trial.sees_success()
    promotion = trial.after(30).outcome.promotion
    trial.sees_harm()
    run = trial.after(30)
    assert run.state is RolloutState.ROLLED_BACK
    with trial.database.reading() as connection:
        assert trial.changes.get(connection, promotion).state is ChangeState.WITHDRAWN


def _stuck_winner(trial: Any, step: Step) -> None:
    """A winner whose promotion cannot be asked for, or that the workers refuse to load."""
    trial.started(**AB)
    trial.sees_success()
    if step is Step.PROMOTE:
        trial.promotions.fails = Conflict("Its gates are to be run again.")
        trial.after(30)
    else:
        promotion = trial.after(30).outcome.promotion
        trial.traffic.fails = Unavailable("A worker is away.", hint="Wait.")
        with trial.call("user:omar") as call:
            trial.changes.approve(call, promotion, "It pays.")
        trial.after(1)
    assert (trial.run().step, trial.traffic.shares["two"]) == (step, 0.5)


@pytest.mark.parametrize("step", [Step.PROMOTE, Step.KEEP])
def test_harm_rolls_back_while_what_follows_from_success_cannot_be_done(
    trial: Any, step: Step
) -> None:
    _stuck_winner(trial, step)
    trial.traffic.fails = None
    trial.sees_harm()
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.ROLLED_BACK, Step.NOTHING)
    assert trial.traffic.shares == {"champion": 1.0}


@pytest.mark.parametrize("step", [Step.PROMOTE, Step.KEEP])
def test_guardrails_are_looked_at_as_often_as_ever_while_a_winner_is_stuck(
    trial: Any, step: Step
) -> None:
    _stuck_winner(trial, step)
    for _ in range(10):
        n_looks, n_asked = trial.run().n_looks, len(trial.judge.asked)
        run = trial.after(30)
        assert (run.n_looks, len(trial.judge.asked)) == (n_looks + 1, n_asked + 1)
        assert trial.judge.asked[-1].memory == {"looks": n_looks}
    assert _alerts(trial) == {"rollout.unfinished": Severity.WARNING}


@pytest.mark.parametrize("step", [Step.PROMOTE, Step.KEEP])
def test_a_look_that_fails_hinders_no_step_that_a_person_waits_for(trial: Any, step: Step) -> None:
    _stuck_winner(trial, step)
    trial.judge.error = Unavailable("The lake is away.", hint="Wait.")
    trial.traffic.fails = trial.promotions.fails = None
    assert trial.after(30).step is (Step.AWAIT if step is Step.PROMOTE else Step.NOTHING)


def test_a_winner_whose_promotion_cannot_be_asked_for_is_left_if_another_release_serves(
    trial: Any,
) -> None:
    _stuck_winner(trial, Step.PROMOTE)
    trial.traffic.release = "release_by_hand"
    assert trial.after(30).step is Step.NOTHING
    assert _history(trial)[-1] == "left"


def test_a_mismatch_of_units_pauses_and_alerts_and_rolls_nothing_back(trial: Any) -> None:
    trial.started()
    trial.sees_harm("conversion", mismatch=True)
    run = trial.after(30)
    assert run.state is RolloutState.PAUSED
    assert "two got 10.00% of 2000" in run.why
    assert trial.traffic.shares["two"] == pytest.approx(0.1)
    assert _alerts(trial) == {"rollout.mismatch": Severity.WARNING}


def test_errors_roll_back_even_if_they_cause_a_mismatch(trial: Any) -> None:
    trial.started()
    trial.sees_harm("error_rate", mismatch=True)
    assert trial.after(30).state is RolloutState.ROLLED_BACK


def test_a_paused_rollout_stays_but_for_harm(trial: Any) -> None:
    trial.started()
    with trial.call() as call:
        trial.steering.pause(call, "try-two", "Black Friday.")
    trial.sees(two=100, champion=900)
    assert trial.after(3000).stage == 0
    trial.sees_harm()
    assert trial.after(30).state is RolloutState.ROLLED_BACK


def test_a_bandit_follows_what_pays_within_its_floor_and_its_shares(trial: Any) -> None:
    trial.started(
        how=RolloutKind.BANDIT, stages=(), success=Success(metric="error_rate"), floor=0.05
    )
    trial.sees(two=100, champion=100, weights={"champion": 0.1, "two": 0.9})
    assert trial.after(30).shares == {"champion": 0.5, "two": 0.5}
    trial.sees(two=100, champion=100, weights={"champion": 0.999, "two": 0.001})
    assert trial.after(30).shares == pytest.approx({"champion": 0.95, "two": 0.05})
    n_moves = len(trial.traffic.done)
    trial.sees(two=100, champion=100, weights={"champion": 0.945, "two": 0.055})
    trial.after(30)
    assert len(trial.traffic.done) == n_moves  # too little to move anybody


def test_a_shadow_decides_nothing_and_ends_at_its_longest_time(trial: Any) -> None:
    trial.started(how=RolloutKind.SHADOW, stages=(), longest=timedelta(hours=1))
    trial.sees_harm()
    assert trial.after(30).state is RolloutState.RUNNING
    run = trial.after(3600)
    assert (run.state, run.step) == (RolloutState.STOPPED, Step.NOTHING)
    assert trial.traffic.done == [("divide", {"champion": 1.0, "two": 0.0}), ("end", "champion")]


def test_a_release_that_somebody_else_activates_ends_the_rollout(trial: Any) -> None:
    trial.started()
    trial.traffic.release = "release_by_hand"
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.STOPPED, Step.NOTHING)
    assert "release_by_hand" in run.why
    assert trial.traffic.done == []


def test_nothing_follows_from_a_look_during_which_somebody_paused_it(trial: Any) -> None:
    trial.started()

    def pause() -> None:
        with trial.call() as call:
            trial.steering.pause(call, "try-two", "Wait.")

    trial.judge.while_looking = pause
    trial.sees(two=100, champion=900)
    run = trial.after(300)
    assert (run.state, run.stage, run.n_looks) == (RolloutState.PAUSED, 0, 0)


def test_two_worker_processes_never_look_at_one_rollout_at_once(trial: Any) -> None:
    trial.started()
    other, n_seen = trial.new_engine(), []
    trial.judge.while_looking = lambda: n_seen.append(other.run_once())
    trial.sees(two=100, champion=900)
    assert trial.after(300).stage == 1
    assert (n_seen, len(trial.judge.asked)) == ([0], 1)


def test_a_look_that_takes_long_keeps_its_lease(trial: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("falaj.rollouts.leasing.RENEWED_EVERY", 0.01)
    trial.started()
    other, taken = trial.new_engine(), []

    def slow() -> None:
        for _ in range(6):  # a minute, in which another process asks every ten seconds
            trial.clock.move(runs.LEASE - timedelta(seconds=1))
            _until_leased_for(trial, runs.LEASE)
            taken.append(other.run_once())

    trial.judge.while_looking = slow
    trial.sees(two=100, champion=900)
    assert trial.after(300).stage == 1
    assert (taken, len(trial.judge.asked)) == ([0] * 6, 1)


def _until_leased_for(trial: Any, lease: timedelta) -> None:
    """Wait until the lease is renewed, for ten seconds at most."""
    wanted, end = trial.clock.now() + lease, monotonic() + 10
    while monotonic() < end:
        with trial.database.reading() as connection:
            if connection.execute(select(run_rows.c.leased_until)).scalar() >= wanted:
                return
        sleep(0.005)
    raise AssertionError("the lease was not renewed")


def test_a_look_that_hangs_gives_its_run_to_another_process_in_the_end(
    trial: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("falaj.rollouts.leasing.RENEWED_EVERY", 0.01)
    monkeypatch.setattr("falaj.rollouts.leasing.MOST_RENEWED", 3)
    trial.started()
    other = trial.new_engine()

    def hangs() -> None:
        trial.judge.while_looking = lambda: None
        end = monotonic() + 10
        while not other.run_once() and monotonic() < end:
            trial.clock.move(timedelta(seconds=1))
            sleep(0.01)

    trial.judge.while_looking = hangs
    trial.sees(two=100, champion=900)
    trial.after(300)
    assert (trial.run().stage, len(trial.judge.asked)) == (1, 2)


def test_what_a_look_has_spent_is_remembered_though_nothing_follows_from_it(trial: Any) -> None:
    trial.started()

    def pause() -> None:
        trial.judge.while_looking = lambda: None
        with trial.call() as call:
            trial.steering.pause(call, "try-two", "Wait.")

    trial.judge.while_looking = pause
    trial.sees(two=100, champion=900)
    trial.after(300)
    trial.after(30)
    assert [one.memory for one in trial.judge.asked] == [{}, {"looks": 1}]


def test_what_a_look_said_is_forgotten_if_its_memory_is_lost_with_the_lease(trial: Any) -> None:
    run = trial.started()
    other = trial.new_engine()

    def slow() -> None:
        trial.judge.while_looking = lambda: None
        trial.clock.move(timedelta(seconds=60))
        other.run_once()

    trial.judge.while_looking = slow
    trial.after(300)
    assert trial.judge.forgotten == [run.id]


def test_what_a_killed_process_has_left_is_done_after_its_lease(trial: Any) -> None:
    trial.started()
    trial.sees_harm()

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    quarantine = trial.traffic.quarantine
    trial.traffic.quarantine = killed
    with pytest.raises(Killed):
        trial.after(30)
    run = trial.run()
    assert (run.state, run.step) == (RolloutState.ROLLED_BACK, Step.QUARANTINE)
    trial.traffic.quarantine = quarantine
    assert trial.new_engine().run_once() == 0  # the lease of the killed one holds
    assert trial.after(11).step is Step.NOTHING
    assert _history(trial) == ["started", "rolled_back", "recorded", "quarantined", "released"]
    assert [one[0] for one in trial.traffic.done] == ["halt", "divide", "quarantine", "end"]


def test_what_cannot_be_measured_changes_nothing_and_is_told_after_three_times(trial: Any) -> None:
    trial.started()
    trial.judge.error = Unavailable("The lake is away.", hint="Wait.")
    for n_failed in range(1, 4):
        assert _alerts(trial) == {}
        assert trial.after(30).failures == n_failed
    assert _alerts(trial) == {"rollout.unwatched": Severity.WARNING}
    trial.judge.error = None
    run = trial.after(30)
    assert (run.failures, run.state, run.stage) == (0, RolloutState.RUNNING, 0)


def test_one_rollout_that_breaks_hinders_no_other(trial: Any) -> None:
    first = trial.started()
    trial.started(name="another", endpoint="early")
    trial.traffic.serving = lambda _connection, endpoint: (
        first.release if endpoint == "late" else trial.run("another").release
    )

    def broken() -> None:
        if trial.judge.asked[-1].rollout.name == "try-two":
            raise ValueError("a metric is wrong")

    trial.judge.while_looking = broken
    assert trial.after(30).failures == 1
    assert trial.run("another").n_looks == 1


def test_every_look_is_kept_as_evidence_and_old_ones_are_thinned() -> None:
    seqs = list(range(1, 10_001))
    for newest in range(100, 10_001, 100):
        gone = set(runs.surplus([seq for seq in seqs if seq <= newest], newest))
        seqs = [seq for seq in seqs if seq not in gone]
    assert set(range(9_700, 10_001)) <= set(seqs)
    assert len(seqs) < 1_500
    assert max(b - a for a, b in pairwise(seqs)) <= 32


def test_a_look_that_led_to_something_is_kept_for_good(trial: Any) -> None:
    trial.started()
    trial.sees(two=100, champion=900)
    trial.after(300)
    with trial.database.reading() as connection:
        row = connection.execute(select(looks)).one()
        assert (row.decision, row.lasting, row.seq) == ("advance", True, 1)
        assert connection.execute(select(run_rows.c.n_looks)).scalar() == 1


def test_a_look_at_a_part_keeps_its_memory_concludes_nothing_good_and_is_told(trial: Any) -> None:
    trial.started()
    trial.sees(two=5_000, champion=5_000, unmeasured="The metric is wrong.")
    for n in range(1, 4):
        assert _alerts(trial) == {}
        run = trial.after(300)
        assert (run.failures, run.n_looks, run.stage) == (n, n, 0)
    assert _alerts(trial) == {"rollout.unwatched": Severity.WARNING}
    assert [one.memory for one in trial.judge.asked] == [{}, {"looks": 1}, {"looks": 2}]
    trial.sees_harm(unmeasured="The metric is wrong.")
    assert trial.after(30).state is RolloutState.ROLLED_BACK
