"""The actions on rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.operations.histories import entries
from falaj.operations.model import Change
from falaj.rollouts import runs
from falaj.rollouts.model import Name, RolloutKind
from falaj.rollouts.records import (
    Agreement,
    KeptLook,
    RolloutHistory,
    RolloutStatus,
    RolloutSummary,
    Run,
    plotted,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.rollouts.model import Rollout
    from falaj.rollouts.starting import Starting
    from falaj.rollouts.steering import Steering

May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""
Agreeing = Callable[["Connection", Run, "datetime"], Sequence[Agreement]]
"""Compares what the challengers of a shadow say with what the champion says."""
Part = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[int, Field(ge=1, le=1000)]
Version = Annotated[int, Field(ge=1)]


class RolloutService(Service):
    """Rollouts: challengers that are tried on live traffic, and what became of them."""

    name: ClassVar[str] = "rollouts"

    def __init__(
        self, starting: Starting, steering: Steering, may: May, agreeing: Agreeing
    ) -> None:
        self._starting = starting
        self._steering = steering
        self._may = may
        self._agreeing = agreeing

    @action(get="/rollouts")
    def list(self) -> Sequence[RolloutSummary]:
        """List the declared rollouts, and how the newest run of each stands."""
        declared = self._starting.listed(self.call.connection)
        return [self._summary(one) for one in declared if self._may_see(one.name)]

    @action(get="/rollouts/{name}", on="rollout")
    def show(self, name: Name) -> RolloutStatus:
        """Show a rollout: shares, stage, the latest look, and the data of its plots."""
        connection = self.call.connection
        run = runs.newest(connection, name)
        if run is None:
            declared = self._starting.declared(connection, name)
            return RolloutStatus(rollout=declared, run=None, latest=None, plot=[])
        is_shadow = run.rollout.how is RolloutKind.SHADOW
        return RolloutStatus(
            rollout=run.rollout,
            run=run,
            latest=runs.latest_look(connection, run.id),
            plot=plotted(runs.kept_looks(connection, run.id)),
            agreement=[*self._agreeing(connection, run, self.call.now)] if is_shadow else [],
        )

    @action(get="/rollouts/{name}/looks", on="rollout")
    def looks(self, name: Name, *, limit: Limit = 100) -> Sequence[KeptLook]:
        """List looks at the newest run over its whole time, the oldest first.

        If there are more than ``limit``, every second, third … is told.
        """
        self._starting.declared(self.call.connection, name)
        run = runs.newest(self.call.connection, name)
        return [] if run is None else runs.kept_looks(self.call.connection, run.id, most=limit)

    @action(get="/rollouts/{name}/history", on="rollout")
    def history(self, name: Name) -> RolloutHistory:
        """Show all runs of a rollout, and who did what with the newest one, and why."""
        self._starting.declared(self.call.connection, name)
        found = runs.listed(self.call.connection, name)
        told = entries(self.call.connection, found[0].id) if found else []
        return RolloutHistory(runs=found, entries=told)

    @action(post="/rollouts/{name}/starts", on="rollout")
    def start(
        self,
        name: Name,
        *,
        reason: str,
        version: Version | None = None,
        template: Name | None = None,
    ) -> Change:
        """Ask for the start of a rollout as it is declared; another person approves it.

        Args:
            name: the rollout.
            reason: why, for the record.
            version: of the model, tried in the place of its one challenger's; from development
                it takes staging with the approval.
            template: of standard changes (`rollout.start`); inside its bounds it begins at once.
        """
        return self._starting.ask(self.call, name, reason, version=version, template=template)

    @action(post="/rollouts/{name}/pauses", on="rollout")
    def pause(self, name: Name, *, reason: str) -> Run:
        """Leave the shares as they are; only a breached guardrail still changes them."""
        return self._steering.pause(self.call, name, reason)

    @action(post="/rollouts/{name}/resumptions", on="rollout", step_up=True)
    def resume(self, name: Name, *, reason: str) -> Run:
        """Let a paused rollout go on."""
        return self._steering.resume(self.call, name, reason)

    @action(post="/rollouts/{name}/stops", on="rollout")
    def stop(self, name: Name, *, reason: str) -> Run:
        """End a rollout: all units meet the champion, also if its winner waits for approval."""
        return self._steering.stop(self.call, name, reason)

    @action(post="/rollouts/{name}/overrides", on="rollout", step_up=True)
    def override(
        self,
        name: Name,
        *,
        reason: str,
        stage: int | None = None,
        shares: Mapping[str, Part] | None = None,
        dismiss: str | None = None,
    ) -> Run:
        """Set the stage or the shares, or dismiss a guardrail, on one's own responsibility.

        Args:
            name: the rollout.
            reason: why, for the record.
            stage: of a canary, from 1.
            shares: of challengers by name, each at most what was approved.
            dismiss: a guardrail (`metric` or `metric/challenger`) whose breaches lead to
                nothing from now on, or `mismatch`.
        """
        return self._steering.override(
            self.call, name, reason, stage=stage, shares=shares, dismiss=dismiss
        )

    @action(post="/rollouts/{name}/conclusions", on="rollout", step_up=True)
    def conclude(self, name: Name, *, challenger: str, reason: str) -> Run:
        """Say that a challenger has won; its promotion waits for another person's approval."""
        return self._steering.conclude(self.call, name, challenger, reason)

    def _summary(self, rollout: Rollout) -> RolloutSummary:
        run = runs.newest(self.call.connection, rollout.name)
        return RolloutSummary(
            name=rollout.name,
            endpoint=rollout.endpoint,
            how=rollout.how,
            state=run.state if run else None,
            run=run.id if run else None,
            stage=run.stage if run else None,
            shares=run.shares if run else {},
            started_at=run.started_at if run else None,
            why=run.why if run else "",
        )

    def _may_see(self, name: str) -> bool:
        return self._may(self.call, "assets.get", AssetRef("rollout", name))
