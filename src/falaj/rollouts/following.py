"""What follows from a decision: each one act, in the transaction of its call.

A rollback is four acts in an order that puts people before records: the traffic returns to the
champion, then the incident and the emergency change are recorded, then the harmful challengers
are quarantined, then a release of the champion alone takes the place of the divided one. Each
is done once, and what a killed process has left is done by the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict
from falaj.models.model import Stage
from falaj.operations.histories import add_entry
from falaj.operations.model import ChangeState, IncidentState, Severity
from falaj.rollouts import runs
from falaj.rollouts.concluding import Decision, champion_alone
from falaj.rollouts.model import CHAMPION, RolloutState
from falaj.rollouts.records import Run, Step, evidence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falaj.kernel.call import Call
    from falaj.models.promotion import Promotions
    from falaj.models.registry import Registry
    from falaj.operations.alerts import Alerts
    from falaj.operations.changes import Changes
    from falaj.operations.incidents import Incidents
    from falaj.operations.model import Change
    from falaj.rollouts.ports import Traffic

ROLLED_BACK, MISMATCHED, UNWATCHED, UNFINISHED = (
    "rollout.rolled_back",
    "rollout.mismatch",
    "rollout.unwatched",
    "rollout.unfinished",
)
"""Names of alerts."""
EMERGENCY = "rollout.rollback"
_PLOTTED_AS_EVIDENCE = 60


class Following:
    """Carries decisions out.

    Args:
        traffic: divides the units.
        changes, alerts, incidents: where it is put on record.
        promotions: where the promotion of a winner is asked for.
        registry: tells whether the winner stands in production already.
    """

    def __init__(
        self,
        traffic: Traffic,
        changes: Changes,
        alerts: Alerts,
        incidents: Incidents,
        promotions: Promotions,
        registry: Registry,
    ) -> None:
        self._traffic = traffic
        self._changes = changes
        self._alerts = alerts
        self._incidents = incidents
        self._promotions = promotions
        self._registry = registry

    # -- decisions ------------------------------------------------------------------

    def act(self, call: Call, run: Run, decision: Decision) -> Run:
        """Carry out a decision other than to wait on a locked run; the run as it is then."""
        acts: dict[str, Callable[[Call, Run, Decision], Run]] = {
            "advance": self._advanced,
            "weigh": self._weighed,
            "pause": self._mismatched,
            "succeed": self._succeeded,
            "stop": lambda call, run, decision: self.stopped(call, run, decision.why),
            "roll_back": self._rolled_back,
        }
        return acts[decision.what](call, run, decision)

    def _advanced(self, call: Call, run: Run, decision: Decision) -> Run:
        more = {"stage": run.stage + 1, "stage_since": call.now}
        return self.divided(call, run, decision.shares, decision.why, what="advanced", **more)

    def _weighed(self, call: Call, run: Run, decision: Decision) -> Run:
        return self.divided(call, run, decision.shares, decision.why, what="weighed")

    def _succeeded(self, call: Call, run: Run, decision: Decision) -> Run:
        outcome = run.outcome.model_copy(update={"winner": decision.winner})
        return self._ended(
            call, run, RolloutState.SUCCEEDED, Step.PROMOTE, decision.why, outcome=outcome
        )

    def divided(
        self, call: Call, run: Run, shares: Mapping[str, float], why: str, *, what: str, **more: Any
    ) -> Run:
        """Give the variants other shares, from the commit on."""
        self._traffic.divide(call, run.endpoint, shares)
        after = runs.changed(
            call.connection, run, shares=dict(shares), shares_since=call.now, why=why, **more
        )
        self.told(call, after, what, why, shares=dict(shares))
        return after

    def stopped(self, call: Call, run: Run, why: str) -> Run:
        """End it without a winner: all units meet the champion from the commit on.

        A promotion that waits is taken back.
        """
        self._to_champion(call, run)
        self._promotion_taken_back(call, run, why)
        return self._ended(
            call, run, RolloutState.STOPPED, Step.RELEASE, why, shares=champion_alone(run.rollout)
        )

    def overtaken(self, call: Call, run: Run, serving: str | None) -> Run:
        """Somebody let another release serve: there is nothing left to divide."""
        why = f"The release {serving or 'none'} serves instead of {run.release}."
        if run.step.looks and run.state in (RolloutState.RUNNING, RolloutState.PAUSED):
            return self._ended(call, run, RolloutState.STOPPED, Step.NOTHING, why)
        after = runs.changed(call.connection, run, step=Step.NOTHING)
        self.told(call, after, "left", why)
        return after

    def _rolled_back(self, call: Call, run: Run, decision: Decision) -> Run:
        self._to_champion(call, run)
        outcome = run.outcome.model_copy(update={"harmful": list(decision.harmful)})
        return self._ended(
            call,
            run,
            RolloutState.ROLLED_BACK,
            Step.RECORD,
            decision.why,
            shares=champion_alone(run.rollout),
            outcome=outcome,
        )

    def _mismatched(self, call: Call, run: Run, decision: Decision) -> Run:
        after = runs.changed(call.connection, run, state=RolloutState.PAUSED, why=decision.why)
        self._alerts.raise_alert(
            call,
            name=MISMATCHED,
            subject=_ref(run),
            severity=Severity.WARNING,
            message=f"The rollout {run.name} is paused. {decision.why}",
            evidence=self.evidence(call, after),
        )
        self.told(call, after, "paused", decision.why)
        return after

    def _to_champion(self, call: Call, run: Run) -> None:
        self._traffic.divide(call, run.endpoint, champion_alone(run.rollout))

    def _ended(
        self, call: Call, run: Run, state: RolloutState, step: Step, why: str, **more: Any
    ) -> Run:
        if "shares" in more:
            more["shares_since"] = call.now
        after = runs.changed(
            call.connection,
            run,
            state=state,
            step=step,
            why=why,
            ended_at=call.now,
            ended_by=call.principal.id,
            **more,
        )
        self.told(call, after, str(state), why, **more)
        return after

    # -- what is left to do of a run that has ended ------------------------------------

    def record(self, call: Call, run: Run, samples: Mapping[str, Any]) -> Run:
        """Put a rollback on record: an alert, its incident, and an emergency change.

        Args:
            call: whose transaction holds all of it.
            run: that was rolled back.
            samples: requests that the harmful challengers answered, or why none are told.
        """
        endpoint = AssetRef("endpoint", run.endpoint)
        title = f"The rollout {run.name} on {run.endpoint} was rolled back: {run.why}"
        evidence = self.evidence(call, run, samples=dict(samples))
        emergency = self._changes.record_emergency(
            call,
            kind=EMERGENCY,
            subject=endpoint,
            title=f"Roll back {run.name} on {run.endpoint}",
            reason=run.why,
            evidence=evidence,
            payload={
                "run": run.id,
                "shares": run.shares,
                "quarantined": self._versions(run),
                "withdrawn": self._promotion_taken_back(call, run, run.why),
            },
        )
        self._alerts.raise_alert(
            call,
            name=ROLLED_BACK,
            subject=endpoint,
            severity=Severity.CRITICAL,
            message=title[:1000],
            evidence={**evidence, "change": emergency.id},
        )
        opened = self._incidents.listed(
            call.connection, state=IncidentState.OPEN, subjects=[endpoint]
        )
        incident = next(one for one in opened if one.subject == endpoint)
        self._incidents.note(
            call, incident.id, f"All units meet the champion. Emergency change: {emergency.id}."
        )
        return self._done(
            call, run, Step.QUARANTINE, "recorded", f"{incident.id}, {emergency.id}",
            incident=incident.id, emergency=emergency.id,
        )  # fmt: skip

    def quarantine(self, call: Call, run: Run) -> Run:
        """Quarantine the versions of the challengers that did harm."""
        reason = f"The rollout {run.name} was rolled back: {run.why}"
        for version in self._versions(run):
            self._traffic.quarantine(call, run.model, version, reason[:1000])
        told = ", ".join(f"{run.model}/{version}" for version in self._versions(run))
        return self._done(call, run, Step.RELEASE, "quarantined", told)

    def release(self, call: Call, run: Run) -> Run:
        """Let the champion serve from a release of its own."""
        release = self._traffic.end_rollout(call, run.endpoint, keep=CHAMPION)
        return self._done(call, run, Step.NOTHING, "released", release, release=release)

    def promote(self, call: Call, run: Run) -> Run:
        """Ask for the promotion of the winner, on the evidence of the rollout.

        Raises:
            GatesNotPassed: its gates are to be run again; it is asked for again later.
        """
        version = self.winning_version(run)
        stands = self._registry.version(call.connection, run.model, version)
        if stands.stage is Stage.PRODUCTION:
            return self._done(call, run, Step.KEEP, "promoted", "It stands in production already.")
        change = self._promotions.ask(
            call,
            run.model,
            version,
            Stage.PRODUCTION,
            f"The rollout {run.name} succeeded: {run.why}",
            evidence={"rollout": self.evidence(call, run)},
        )
        return self._done(call, run, Step.AWAIT, "promotion asked", change.id, promotion=change.id)

    def settled(self, call: Call, run: Run, change: Change) -> Run:
        """Go on as the promotion was decided: with the winner alone, or with the champion."""
        if change.state is ChangeState.APPROVED:
            return self._done(call, run, Step.KEEP, "promoted", f"{change.id}: {change.decision}")
        self._to_champion(call, run)
        why = f"The promotion {change.id} was {change.state} by {change.decided_by}."
        after = runs.changed(
            call.connection, run, step=Step.RELEASE, why=why,
            shares=champion_alone(run.rollout), shares_since=call.now,
        )  # fmt: skip
        self.told(call, after, "not promoted", why)
        return after

    def keep(self, call: Call, run: Run) -> Run:
        """Let the winner serve from a release of its own."""
        if run.outcome.winner is None:
            raise Conflict(f"The run {run.id} has no winner.")
        release = self._traffic.end_rollout(call, run.endpoint, keep=run.outcome.winner)
        return self._done(call, run, Step.NOTHING, "released", release, release=release)

    def hindered(self, call: Call, run: Run, why: str) -> None:
        """Tell people that a run cannot be looked at, or that its end is not finished."""
        looks = run.step.looks
        told = (
            "cannot be looked at in full" if looks else f"has ended, but its step {run.step} fails"
        )
        self._alerts.raise_alert(
            call,
            name=UNWATCHED if looks else UNFINISHED,
            subject=_ref(run),
            severity=Severity.WARNING,
            message=f"The rollout {run.name} {told}: {why}"[:1000],
            evidence={"run": run.id, "step": str(run.step), "why": why},
        )

    # -- inside ---------------------------------------------------------------------

    def promotion_of(self, connection: Any, run: Run) -> Change | None:
        """The change that promotes the winner, once it was asked for."""
        asked = run.outcome.promotion
        return None if asked is None else self._changes.get(connection, asked)

    @staticmethod
    def winning_version(run: Run) -> int:
        """The model version of the winner."""
        found = {one.name: one.version for one in run.rollout.challengers}
        if run.outcome.winner not in found:
            raise Conflict(f"The run {run.id} of {run.name} has no winner.")
        return found[run.outcome.winner]

    @staticmethod
    def evidence(call: Call, run: Run, **more: Any) -> dict[str, Any]:
        """What was measured, with the data of its plots."""
        looks = runs.kept_looks(call.connection, run.id, most=_PLOTTED_AS_EVIDENCE)
        return evidence_of(run, looks, **more)

    @staticmethod
    def _versions(run: Run) -> list[int]:
        return [one.version for one in run.rollout.challengers if one.name in run.outcome.harmful]

    def _promotion_taken_back(self, call: Call, run: Run, why: str) -> str | None:
        """Take back the promotion of a winner that did harm, or was stopped, while it waited."""
        change = self.promotion_of(call.connection, run)
        if change is None or change.state is not ChangeState.WAITING:
            return None
        if change.requested_by == call.principal.id:
            return self._changes.withdraw(call, change.id, why).id
        return self._changes.reject(call, change.id, why).id

    def _done(self, call: Call, run: Run, then: Step, what: str, why: str, **facts: Any) -> Run:
        outcome = run.outcome.model_copy(update=facts)
        after = runs.changed(
            call.connection, run, step=then, outcome=outcome, failures=0, due_at=call.now
        )
        self.told(call, after, what, why)
        return after

    @staticmethod
    def told(call: Call, run: Run, what: str, why: str, **facts: Any) -> None:
        """Put what was done into the run's history, the audit record and the events."""
        add_entry(call, run.id, what, why)
        kept = {name: one for name, one in facts.items() if name == "shares"}
        call.note(run=run.id, rollout=run.name, why=why, **kept)
        call.emit(
            f"rollout.{what.replace(' ', '_')}",
            id=run.id,
            subject=str(_ref(run)),
            endpoint=run.endpoint,
            title=f"The rollout {run.name}: {what}",
            text=why,
        )


def _ref(run: Run) -> AssetRef:
    return AssetRef("rollout", run.name)
