"""A rollout that was not decided by its longest time ends as it was declared."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from falaj.operations.model import ChangeState
from falaj.rollouts.model import GuardrailReading, RolloutKind, RolloutState, Success
from falaj.rollouts.records import Step

AB: dict[str, Any] = {
    "how": RolloutKind.AB, "stages": (), "success": Success(metric="error_rate"),
}  # fmt: skip
PROMOTED: dict[str, Any] = {**AB, "longest": timedelta(hours=1), "at_longest": "promote"}


def _reading(metric: str, n: float, *, judged: bool = True) -> GuardrailReading:
    return GuardrailReading(
        metric=metric, challenger="two", n_champion=9000, n_challenger=n, champion=None,
        challenger_value=None, worse_by=None, error=0.02, judged=judged and n > 0,
    )  # fmt: skip


def _held(*, errors: float = 900, latency: float = 900) -> list[GuardrailReading]:
    return [_reading("error_rate", errors), _reading("latency", latency)]


def test_nothing_decided_in_the_longest_time_ends_it(trial: Any) -> None:
    trial.started(**AB, longest=timedelta(hours=1))
    assert trial.after(3599).state is RolloutState.RUNNING
    run = trial.after(30)
    assert (run.state, trial.traffic.shares) == (RolloutState.STOPPED, {"champion": 1.0})


def test_guardrails_that_held_for_the_longest_time_let_a_person_promote_if_so_declared(
    trial: Any,
) -> None:
    trial.started(**PROMOTED)
    trial.sees(two=100, champion=900, guardrails=_held())
    assert trial.after(3599).state is RolloutState.RUNNING
    run = trial.after(30)
    assert (run.state, run.step) == (RolloutState.SUCCEEDED, Step.AWAIT)
    assert run.outcome.winner == "two"
    assert "declared to be promoted" in run.why
    with trial.database.reading() as connection:
        change = trial.changes.get(connection, run.outcome.promotion)
    assert change.state is ChangeState.WAITING


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"two": 99, "guardrails": _held()}, "met by 99 units"),
        ({"two": 200, "guardrails": _held(latency=0)}, "latency has measured no unit of two"),
        ({"two": 200, "guardrails": _held()[:1]}, "latency was not judged"),
        (
            {"two": 200, "guardrails": [_held()[0], _reading("latency", 900, judged=False)]},
            "latency of two was not judged yet",
        ),
        ({"two": 200, "guardrails": _held(), "unmeasured": "No table."}, "not all was measured"),
    ],
)
def test_what_was_not_guarded_is_not_promoted_at_the_longest_time(
    trial: Any, seen: dict[str, Any], told: str
) -> None:
    trial.started(**PROMOTED)
    trial.sees(champion=900, **seen)
    run = trial.after(3630)
    assert (run.state, trial.traffic.shares) == (RolloutState.STOPPED, {"champion": 1.0})
    assert told in run.why


def test_a_canary_is_promoted_at_its_longest_time_from_its_last_stage_only(trial: Any) -> None:
    success = Success(metric="error_rate")
    trial.started(success=success, longest=timedelta(hours=1), at_longest="promote")
    trial.sees(two=99, champion=900, guardrails=_held())
    run = trial.after(3630)
    assert run.state is RolloutState.STOPPED
    assert "its stage 1 of 2 was not held" in run.why


def test_a_breach_that_somebody_dismissed_is_no_guardrail_that_held(trial: Any) -> None:
    trial.started(**PROMOTED)
    breached = [_held()[0].model_copy(update={"breached": True}), _held()[1]]
    trial.sees(two=200, champion=900, guardrails=_held())
    trial.after(30)
    with trial.call() as call:
        trial.steering.override(call, "try-two", "It is known.", dismiss="error_rate")
    trial.sees(two=200, champion=900, guardrails=breached)
    run = trial.after(3630)
    assert run.state is RolloutState.STOPPED
    assert "error_rate was dismissed" in run.why


def test_nor_is_one_that_was_dismissed_and_is_not_breached_in_the_last_look(trial: Any) -> None:
    trial.started(**PROMOTED)
    trial.sees(two=200, champion=900, guardrails=_held())
    trial.after(30)
    with trial.call() as call:
        trial.steering.override(call, "try-two", "It is known.", dismiss="error_rate")
    run = trial.after(3630)
    assert run.state is RolloutState.STOPPED
    assert "error_rate was dismissed" in run.why


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"how": "shadow", "stages": ()}, "is not promoted"),
        ({"guardrails": ()}, "nothing can have held"),
    ],
)
def test_an_end_by_promotion_needs_what_can_hold(
    trial: Any, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        trial.declared(at_longest="promote", **given)
