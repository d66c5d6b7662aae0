"""Triggers: what stands now that a model should be trained again for.

A cause has keys. Each key is a fact that one retraining at most stands for: that an alert is open
while a version serves, that a time has come, that labels came since a training set was made.
So a cause that goes on (a drift that lasts) begins one retraining; if the drift is still
there under the new version, that is another fact.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound
from falaj.lake.personal import rule_of
from falaj.monitoring.retrainingwords import Cause, OnFinding, OnLabels, OnSchedule, Retraining
from falaj.operations.model import AlertState

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.lake.ports import Lake
    from falaj.operations.alerts import Alerts
    from falaj.operations.model import Alert

Serving = Callable[["Connection", str], tuple[int, datetime] | None]
"""The version that an endpoint serves and since when; None if it serves nothing."""
MayRead = Callable[["Connection", str, str], bool]
"""True if a principal may read a table as it stands now: principal, table."""


class NewestSet(Protocol):
    """Tells what the newest version of a model was trained on."""

    def __call__(self, connection: Connection, model: str) -> tuple[str, int] | None:
        """The id of its training set and the lake snapshot of its spine; None without one."""
        ...


class Triggers:
    """Finds causes.

    Args:
        alerts: the open ones are findings that stand.
        serving, newest_set, may_read: see their types.
        lake: where labels are counted.
    """

    def __init__(
        self,
        alerts: Alerts,
        serving: Serving,
        newest_set: NewestSet,
        may_read: MayRead,
        lake: Callable[[], Lake],
    ) -> None:
        self._alerts = alerts
        self._serving = serving
        self._newest_set = newest_set
        self._may_read = may_read
        self._lake = lake

    def causes(
        self,
        connection: Connection,
        retraining: Retraining,
        principal: str,
        since: datetime,
        now: datetime,
    ) -> list[Cause]:
        """All causes that stand, whether or not a retraining was begun for them.

        Args:
            connection: reads.
            retraining: whose triggers.
            principal: as whom it acts.
            since: when it was applied; only later times of a schedule count.
            now: the time.

        Raises:
            Forbidden: the principal may not read the labels that it counts.
            NotFound: there is no table of labels.
        """
        found: list[Cause] = []
        for trigger in retraining.triggers:
            if isinstance(trigger, OnFinding):
                found += self._findings(connection, retraining, trigger)
            elif isinstance(trigger, OnSchedule):
                found += self._times(trigger, since, now)
            else:
                found += self._labels(connection, retraining, trigger, principal)
        return found

    def _findings(
        self, connection: Connection, retraining: Retraining, trigger: OnFinding
    ) -> list[Cause]:
        serving = self._serving(connection, retraining.endpoint)
        if serving is None:
            return []
        version, since = serving
        subject = AssetRef("endpoint", retraining.endpoint)
        fitting = [
            alert
            for state in (AlertState.OPEN, AlertState.ACKNOWLEDGED)
            for alert in self._alerts.listed(connection, state=state, subjects=[subject])
            if _fits(alert, trigger) and alert.last_seen_at > since
        ]
        if not fitting:
            return []
        fitting.sort(key=lambda one: one.id)
        told = "; ".join(one.message for one in fitting[:3])
        more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
        reports = [str(one.evidence["report"]) for one in fitting if "report" in one.evidence]
        return [
            Cause(
                on="finding",
                keys=tuple(f"{one.id}/{version}" for one in fitting),
                text=f"{trigger.monitor} found: {told}{more}",
                alerts=tuple(one.id for one in fitting),
                reports=tuple(dict.fromkeys(reports)),
            )
        ]

    @staticmethod
    def _times(trigger: OnSchedule, since: datetime, now: datetime) -> list[Cause]:
        times = trigger.times()
        due = times.due(since, now)
        if due is None:
            return []
        told = times.cron or f"every {times.every}"
        key = f"schedule/{told}/{due.isoformat()}"
        return [Cause(on="schedule", keys=(key,), text=f"{due.isoformat()} ({told}) has come.")]

    def _labels(
        self, connection: Connection, retraining: Retraining, trigger: OnLabels, principal: str
    ) -> list[Cause]:
        newest = self._newest_set(connection, retraining.model)
        if newest is None:
            return []
        if not self._may_read(connection, principal, trigger.table):
            raise Forbidden(
                f"{principal} may not read the labels in table:{trigger.table}.",
                hint="Let somebody who may apply the retraining.",
            )
        training_set, snapshot = newest
        n = self._counted(trigger, None) - self._counted(trigger, snapshot)
        if n < trigger.n:
            return []
        return [
            Cause(
                on="labels",
                keys=(f"labels/{trigger.table}/{training_set}",),
                text=f"{n:,} labels came into {trigger.table} since {training_set} was made.",
            )
        ]

    def _counted(self, trigger: OnLabels, snapshot: int | None) -> int:
        """The keys that have a label, now or at a snapshot."""
        lake, named = self._lake(), trigger.table
        inputs: dict[str, pa.Table] = {}
        try:
            if rule_of(lake, trigger.table) is not None:  # SQL sees nothing of sealed columns
                columns = list(dict.fromkeys((trigger.key, trigger.label)))
                named = "labelled"
                inputs[named] = lake.scan(trigger.table, columns=columns, snapshot=snapshot)
            found = lake.query(
                f'SELECT count(DISTINCT "{trigger.key}") AS n FROM {named} '
                f'WHERE "{trigger.label}" IS NOT NULL',
                inputs=inputs or None, snapshot=snapshot,
            )  # fmt: skip
        except (NotFound, InvalidInput):
            if snapshot is None:
                raise
            return 0  # there was no such table then
        return int(found.column("n")[0].as_py())


def _fits(alert: Alert, trigger: OnFinding) -> bool:
    monitor, _, finding = alert.name.partition(":")
    return (
        monitor == trigger.monitor
        and fnmatchcase(finding, trigger.finding)
        and alert.n_seen >= trigger.seen
    )
