"""What people do with a rollout that is underway: pause, resume, stop, override, conclude.

Each is on record with its reason, in the audit log and in the history of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.call import Call
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.operations.model import told
from falaj.rollouts import runs
from falaj.rollouts.concluding import MISMATCH, shares_at, whole
from falaj.rollouts.model import CHAMPION, RolloutKind, RolloutState
from falaj.rollouts.records import Run

if TYPE_CHECKING:
    from falaj.rollouts.following import Following


class Steering:
    """What people decide.

    Args:
        following: carries it out.
    """

    def __init__(self, following: Following) -> None:
        self._following = following

    def pause(self, call: Call, name: str, reason: str) -> Run:
        """Leave shares as they are until it is resumed; guardrails still roll back.

        Raises:
            Conflict: it is not running.
        """
        run = self._live(call, name)
        if run.state is RolloutState.PAUSED:
            raise Conflict(f"The rollout {name!r} is paused already: {run.why}")
        return self._noted(call, run, "paused", reason, state=RolloutState.PAUSED)

    def resume(self, call: Call, name: str, reason: str) -> Run:
        """Let a paused rollout go on; units are counted against shares from now on, and a
        stage is held anew.

        Raises:
            Conflict: it is not paused.
        """
        run = self._live(call, name)
        if run.state is not RolloutState.PAUSED:
            raise Conflict(f"The rollout {name!r} is not paused; it runs.")
        return self._noted(
            call, run, "resumed", reason, state=RolloutState.RUNNING,
            shares_since=call.now, stage_since=call.now,
        )  # fmt: skip

    def stop(self, call: Call, name: str, reason: str) -> Run:
        """End it: all units meet the champion, and a promotion that waits is taken back.

        It can be stopped until its winner serves alone.

        Raises:
            Conflict: it is not underway.
        """
        run = self._live(call, name, or_won=True)
        stopped = self._following.stopped(call, run, _reason(reason))
        return self._at_once(call, stopped)

    def override(
        self,
        call: Call,
        name: str,
        reason: str,
        *,
        stage: int | None = None,
        shares: Mapping[str, float] | None = None,
        dismiss: str | None = None,
    ) -> Run:
        """Set the stage or the shares, or say that breaches of a guardrail lead to nothing.

        Args:
            call: of the person who answers for it.
            name: of the rollout.
            reason: why, for the record.
            stage: of a canary, from 1.
            shares: of challengers by name, each at most the declared one; who is not named
                keeps the present one.
            dismiss: ``metric`` or ``metric/challenger`` of a guardrail, or ``mismatch``.

        Raises:
            InvalidInput: nothing is asked for, or what no rollout of this kind can have.
            Conflict: it is not underway.
        """
        if sum(given is not None for given in (stage, shares, dismiss)) != 1:
            raise InvalidInput(
                "An override sets one thing.", hint="Give a stage, or shares, or what to dismiss."
            )
        run, why = self._live(call, name), _reason(reason)
        if dismiss is not None:
            known = _dismissable(run)
            if dismiss not in known:
                raise InvalidInput(
                    f"{dismiss!r} is no guardrail of {name!r}.", hint=f"One of {', '.join(known)}."
                )
            words = f"{dismiss} is dismissed: {why}"
            dismissed = sorted({*run.dismissed, dismiss})
            return self._noted(call, run, "overridden", words, dismissed=dismissed)
        if stage is not None:
            wanted, more = _at_stage(run, stage), {"stage": stage - 1, "stage_since": call.now}
        else:
            wanted, more = _shared(run, shares or {}), {}
        return self._following.divided(call, run, wanted, why, what="overridden", **more)

    def conclude(self, call: Call, name: str, challenger: str, reason: str) -> Run:
        """Say that a challenger won: its promotion is asked for, for another to approve.

        Raises:
            InvalidInput: no such challenger.
            Conflict: it is not underway, or the version may not be promoted.
        """
        run, why = self._live(call, name), _reason(reason)
        if challenger not in {one.name for one in run.rollout.challengers}:
            names = ", ".join(one.name for one in run.rollout.challengers)
            raise InvalidInput(f"{name!r} has no challenger {challenger!r}.", hint=f"{names}.")
        outcome = run.outcome.model_copy(update={"winner": challenger})
        concluded = self._noted(
            call, run, "concluded", why, state=RolloutState.SUCCEEDED, outcome=outcome,
            ended_at=call.now, ended_by=call.principal.id,
        )  # fmt: skip
        return self._at_once(call, self._following.promote(call, concluded))

    # -- inside ---------------------------------------------------------------------

    @staticmethod
    def _live(call: Call, name: str, *, or_won: bool = False) -> Run:
        run = runs.newest(call.connection, name, locked=True)
        if run is None:
            raise NotFound(
                f"The rollout {name!r} has never run.",
                hint=f"Ask for its start: `falaj rollouts start {name} --reason …`.",
            )
        if not (run.step.divides if or_won else run.is_live):
            raise Conflict(
                f"The rollout {name!r} is not underway: it has {run.state}. {run.why}",
                hint="`falaj rollouts history NAME` tells what happened.",
            )
        return run

    def _noted(self, call: Call, run: Run, what: str, reason: str, **values: Any) -> Run:
        why = _reason(reason)
        after = runs.changed(call.connection, run, why=why, **values)
        self._following.told(call, after, what, why)
        return after

    @staticmethod
    def _at_once(call: Call, run: Run) -> Run:
        """What is left of it is due now."""
        return runs.changed(call.connection, run, due_at=call.now) if run.is_open else run


def _reason(reason: str) -> str:
    return told("reason", reason)


def _dismissable(run: Run) -> list[str]:
    names = [one.name for one in run.rollout.challengers]
    metrics = [one.metric for one in run.rollout.guardrails]
    return [MISMATCH, *metrics, *(f"{metric}/{name}" for metric in metrics for name in names)]


def _at_stage(run: Run, stage: int) -> dict[str, float]:
    if run.rollout.how is not RolloutKind.CANARY or not 1 <= stage <= len(run.rollout.stages):
        raise InvalidInput(
            f"{run.name!r} has no stage {stage}.",
            hint=f"It is of kind {run.rollout.how} and has {len(run.rollout.stages)} stages.",
        )
    return shares_at(run.rollout, stage - 1)


def _shared(run: Run, given: Mapping[str, float]) -> dict[str, float]:
    """The present shares with those that are given."""
    most = {one.name: one.share for one in run.rollout.challengers}
    for name, share in given.items():
        if name == CHAMPION or not 0 <= share <= most.get(name, -1.0):
            told_most = ", ".join(f"{one} {limit:g}" for one, limit in most.items())
            raise InvalidInput(
                f"A share of {share:g} for {name!r} is not within what was approved.",
                hint=f"Challengers, and the most that each may have: {told_most}.",
            )
    return whole(run.rollout, {**run.shares, **given})
