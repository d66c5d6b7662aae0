"""The parts of rollouts, joined."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from falaj.rollouts.model import Metric, Rollout

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Applier, Definition
    from falaj.kernel.call import Call
    from falaj.operations.changes import ChangeHandler
    from falaj.operations.model import Change
    from falaj.rollouts.following import Following
    from falaj.rollouts.ports import Judge
    from falaj.rollouts.records import Agreement, Run
    from falaj.rollouts.running import Engine
    from falaj.rollouts.servedtraffic import ServedTraffic
    from falaj.rollouts.service import RolloutService
    from falaj.rollouts.starting import Starting
    from falaj.wiring.assembly import Premises


class RolloutParts:
    """What starts, steers and looks after rollouts.

    Args:
        made: the platform's other parts.
    """

    def __init__(self, made: Premises) -> None:
        self._made = made

    @cached_property
    def traffic(self) -> ServedTraffic:
        """What divides the units."""
        from falaj.rollouts.servedtraffic import ServedTraffic

        serving = self._made.serving
        return ServedTraffic(serving.releases, serving.rollout_releases)

    @cached_property
    def starting(self) -> Starting:
        """Starts."""
        from falaj.rollouts.starting import Starting

        made = self._made
        return Starting(
            made.definitions,
            made.changes,
            self.traffic,
            self._checked,
            made.clock,
            TriedVersions(made),
        )

    def _checked(self, call: Call, rollout: Rollout) -> None:
        """Raise unless who asks may see what the rollout is measured by."""
        from falaj.rollouts.rights import check_may_measure, check_tables
        from falaj.wiring.readingparts import guarded_lake

        made = self._made

        def declared(name: str) -> Metric:
            return _metric(made.definitions.definition(call.connection, "metric", name))

        check_may_measure(call, rollout, declared, guarded_lake(made), made.may_on)
        check_tables(rollout, declared, made.lake)

    @cached_property
    def following(self) -> Following:
        """What follows from decisions."""
        from falaj.rollouts.following import Following

        made = self._made
        return Following(
            self.traffic,
            made.changes,
            made.alerts,
            made.incidents,
            made.promotions,
            made.registry,
        )

    def judge(self) -> Judge:
        """Who measures."""
        from falaj.rollouts.judging import RolloutJudge
        from falaj.rollouts.metricfunctions import LimitedFunctions

        made = self._made

        def declared(name: str) -> Metric:
            with made.database.reading() as connection:
                return _metric(made.definitions.definition(connection, "metric", name))

        return RolloutJudge(made.lake, made.serving.meters.units, declared, run=LimitedFunctions())

    def engine(self) -> Engine:
        """Who looks after rollouts."""
        from falaj.rollouts.running import Engine
        from falaj.rollouts.servedtraffic import LoggedRequests

        made = self._made
        samples = LoggedRequests(made.lake)
        return Engine(made.calls, self.judge(), self.traffic, self.following, samples)

    def service(self) -> RolloutService:
        """The actions."""
        from falaj.rollouts.service import RolloutService
        from falaj.rollouts.steering import Steering

        return RolloutService(
            self.starting, Steering(self.following), self._made.may_on, self._agreement
        )

    def _agreement(self, connection: Connection, run: Run, now: datetime) -> list[Agreement]:
        """What a shadow's challengers say, compared with the champion."""
        from falaj.rollouts.agreement import agreement
        from falaj.wiring.liveparts import kept_sketches

        return agreement(kept_sketches(self._made), connection, run, now)


class TriedVersions:
    """Versions of the registry; fulfils ``rollouts.ports.Versions``."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def told(self, call: Call, endpoint: str, version: int) -> dict[str, Any]:
        """See ``Versions.told``."""
        from falaj.kernel.errors import Forbidden
        from falaj.models.model import Stage
        from falaj.monitoring.promoting import compared
        from falaj.wiring.retrainingparts import Standing

        made = self._made
        model = made.serving.releases.endpoint(call.connection, endpoint).model
        found = made.registry.version(call.connection, model, version)
        # As for production: if it wins, nothing but the rollout stands between.
        report = made.promotions.permitted(call, found, Stage.PRODUCTION)
        if not found.stage.guarded and not Standing(made).may_promote(call, model, version):
            raise Forbidden(
                f"{call.principal.id} may not ask for a stage of {model}, and version {version} "
                f"stands in {found.stage}.",
                hint="Let somebody who may, or have it promoted to staging first.",
            )
        return {
            "model": model,
            "version": version,
            "stage": str(found.stage),
            "gate_report": report.id if report else None,
            **compared(made.registry, made.bundles, call, model, version),
        }

    def staged(self, call: Call, change: Change, model: str, version: int) -> None:
        """See ``Versions.staged``."""
        from falaj.models.model import Stage

        made = self._made
        found = made.registry.version(call.connection, model, version)
        if found.stage is not Stage.DEVELOPMENT:
            return
        report = made.promotions.permitted(call, found, Stage.STAGING)
        made.registry.move(
            call,
            found,
            Stage.STAGING,
            change=change.id,
            asked_by=change.requested_by,
            reason=change.reason,
            gate_report=report.id if report else None,
        )


def _metric(found: Definition) -> Metric:
    if not isinstance(found, Metric):
        raise TypeError(f"{found.name!r} is applied as {type(found).__name__}")
    return found


def rollout_appliers(made: Premises) -> dict[str, Applier]:
    """What applying a metric does."""

    def metric_applied(call: Call, definition: Any) -> None:
        RolloutParts(made).starting.metric_applied(call, definition)

    return {"metric": metric_applied}


def rollout_changes(made: Premises) -> dict[str, ChangeHandler]:
    """What approving the start of a rollout does."""
    from falaj.rollouts.starting import START

    def begun(call: Call, change: Any) -> None:
        RolloutParts(made).starting.begin(call, change)

    return {START: begun}
