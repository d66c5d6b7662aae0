"""The parts that check by a schedule and retrain, joined: they act as whoever declared them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Forbidden, NotFound
from falaj.wiring.pipelineparts import OnPlatform
from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Handler
    from falaj.monitoring.leakage_actions import LeakageChecks
    from falaj.monitoring.retraining import Retrainer
    from falaj.monitoring.retraining_service import RetrainingService
    from falaj.monitoring.retrainings import Retrainings
    from falaj.monitoring.schedules import Ask, MonitorSchedules
    from falaj.operations.model import Change
    from falaj.wiring.assembly import Premises

EVERY_SECONDS = 1.0
"""How often schedules and retrainings are looked at."""


def asking(made: Premises) -> Callable[[str], Ask]:
    """Asks the door as a principal, with the roles that its account has now and no second
    factor; the answer is JSON."""
    platform = OnPlatform(made)

    def of(principal: str) -> Any:
        return platform.asking(principal, None)

    return of


def monitor_schedules(made: Premises) -> MonitorSchedules:
    """What begins the checks of monitors that are due."""
    from falaj.monitoring.schedules import MonitorSchedules

    return MonitorSchedules(made.calls, made.jobs, made.definitions, made.alerts)


def leakage_checks(made: Premises) -> LeakageChecks:
    """What looks for features that know too much."""
    from falaj.monitoring.leakage import Leakage
    from falaj.monitoring.leakage_actions import LeakageChecks

    leakage = Leakage(made.lake, made.bundles)
    return LeakageChecks(leakage, made.serving.releases, made.registry, made.alerts)


def retraining_jobs(made: Premises) -> dict[str, Callable[[], Handler]]:
    """What makes the handlers of jobs of this kind."""
    from falaj.monitoring.schedulewords import CHECK_JOB

    def checks() -> Handler:
        from falaj.monitoring.schedules import CheckJob

        return CheckJob(asking(made))

    return {CHECK_JOB: checks}


def chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What must be done again and again."""

    @cache
    def kept() -> Retrainer:  # it remembers what is in its way
        return retrainer(made)

    return {
        "monitor schedules": Seldom(
            lambda: monitor_schedules(made).run_once(), every_seconds=EVERY_SECONDS
        ),
        "retraining": Seldom(lambda: kept().run_once(), every_seconds=EVERY_SECONDS),
    }


class PromotionAsks:
    """Promotions as the registry asks for them; fulfils ``monitoring.promoting.Asks``."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def ask(
        self, call: Call, model: str, version: int, reason: str, evidence: Mapping[str, Any]
    ) -> Change:
        """See ``Asks.ask``."""
        from falaj.models.model import Stage

        asked: Change = self._made.promotions.ask(
            call, model, version, Stage.PRODUCTION, reason, evidence=evidence
        )
        return asked

    def carry_out(
        self,
        call: Call,
        template: str,
        model: str,
        version: int,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> Change:
        """See ``Asks.carry_out``."""
        from falaj.models.model import Stage

        done: Change = self._made.promotions.carry_out_standard(
            call, template, model, version, Stage.PRODUCTION, reason, evidence=evidence
        )
        return done


class Standing:
    """What triggers and bounds want to know of the platform."""

    def __init__(self, made: Premises) -> None:
        self._made = made
        self._platform = OnPlatform(made)

    def serving(self, connection: Connection, endpoint: str) -> tuple[int, datetime] | None:
        """See ``monitoring.triggers.Serving``."""
        releases = self._made.serving.releases
        release = releases.active(connection, endpoint)
        if release is None:
            return None
        switched = [one for one in releases.history(connection, endpoint)
                    if one.release == release.id]  # fmt: skip
        since = max((one.at for one in switched), default=release.created_at)
        return release.variants[0].version, since

    def newest_set(self, connection: Connection, model: str) -> tuple[str, int] | None:
        """See ``monitoring.triggers.NewestSet``."""
        with_set = [
            one for one in self._made.registry.versions(connection, model) if one.training_set
        ]
        if not with_set:
            return None
        newest = max(with_set, key=lambda one: one.version)
        made = self._made.training_sets.get(connection, newest.training_set)
        return made.id, made.spine_snapshot

    def may_read(self, connection: Connection, principal: str, table: str) -> bool:
        """See ``monitoring.triggers.MayRead``."""
        return self._may(connection, principal, "tables.read", AssetRef("table", table))

    def may_promote(self, call: Call, model: str, version: int) -> bool:
        """See ``monitoring.promoting.MayPromote``; the second factor is the approver's."""
        ref = AssetRef("model_version", f"{model}/{version}")
        return self._may(call.connection, call.principal.id, "models.promote", ref, factor=True)

    def _may(
        self, connection: Connection, principal: str, action: str, ref: AssetRef,
        *, factor: bool = False,
    ) -> bool:  # fmt: skip
        try:
            caller = self._platform.caller(principal)
        except (Forbidden, NotFound):
            return False
        resource = self._made.catalog.load(connection, ref)
        return self._made.policy.decide(caller, action, resource, stepped_up=factor).allowed


def retrainings(made: Premises) -> Retrainings:
    """The record of retrainings."""
    from falaj.monitoring.retrainings import Retrainings

    return Retrainings(made.catalog, made.alerts)


def retrainer(made: Premises) -> Retrainer:
    """What begins retrainings and takes them on."""
    from falaj.monitoring.promoting import Promoting
    from falaj.monitoring.retraining import Retrainer
    from falaj.monitoring.triggers import Triggers

    standing = Standing(made)
    return Retrainer(
        calls=made.calls,
        jobs=made.jobs,
        changes=made.changes,
        registry=made.registry,
        definitions=made.definitions,
        pipelines=made.pipelines.runs,
        asking=asking(made),
        triggers=Triggers(
            made.alerts, standing.serving, standing.newest_set, standing.may_read,
            lambda: made.lake,
        ),
        retrainings=retrainings(made),
        promoting=Promoting(
            made.registry, made.bundles, PromotionAsks(made), standing.may_promote
        ),
    )  # fmt: skip


def retraining_service(made: Premises) -> RetrainingService:
    """The actions."""
    from falaj.monitoring.retraining_service import RetrainingService

    return RetrainingService(retrainer(made), retrainings(made), made.may_on)
