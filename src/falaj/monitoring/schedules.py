"""Schedules: monitors that check by themselves, each time once, as whoever applied them.

A time of a schedule is a row, written in the transaction that submits the check's job: so two
workers that see the same time begin one check. The job asks the door with a key that is made of
the time: so a worker that is killed after the check and before it could say so leaves one check.
While a check waits for its turn no other one of its monitor is begun: the times that go by
meanwhile are one check afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.jobs import JobState
from falaj.kernel.telemetry import logger
from falaj.monitoring.model import Monitor, NoPredictions
from falaj.monitoring.scheduletables import check_rows
from falaj.monitoring.schedulewords import (
    CHECK_JOB,
    CheckSchedule,
    CheckState,
    MonitorSchedule,
    ScheduledCheck,
)
from falaj.operations import tables as operations
from falaj.operations.histories import key_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.catalog.planning import VersionedDefinition
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun, Jobs
    from falaj.operations.alerts import Alerts

Ask = Callable[[str, list[Any], dict[str, Any], str], Any]
"""Asks the door for an action: name, values, named values, and the key under which it is asked
once."""
Asking = Callable[[str], Ask]
"""Asks as a principal, with the roles that its account has now."""
KEPT = 1_000
"""So many checks of each monitor stay on record."""
FAILING = "checks-fail"
"""The last part of the name of the alert that checks fail."""


class MonitorSchedules:
    """Begins the checks that are due, and keeps what became of them.

    Args:
        calls: opens the transactions.
        jobs: runs the checks.
        definitions: hold the monitors, and who applied them.
        alerts: are raised when checks fail again and again.
    """

    def __init__(self, calls: Calls, jobs: Jobs, definitions: Definitions, alerts: Alerts) -> None:
        self._calls = calls
        self._jobs = jobs
        self._definitions = definitions
        self._alerts = alerts
        self._log = logger(__name__)

    def run_once(self) -> int:
        """Settle the checks that ended and begin those that are due; returns how many it began.

        A monitor that cannot be looked after is logged, and holds up no other.
        """
        with self._calls.database.reading() as connection:
            kept = self._definitions.listed(connection, kind=Monitor.kind)
            waiting = [_check(row) for row in connection.execute(_WAITING)]
        for check in waiting:
            self._settle(check)
        begun = 0
        for version in kept:
            monitor = self._definitions.parsed(version)
            if not isinstance(monitor, Monitor) or monitor.schedule is None:
                continue
            try:
                begun += self._begin(version, monitor.schedule)
            except FalajError as error:
                self._log.warning("check not begun", monitor=version.name, error=str(error))
        return begun

    def checks(self, connection: Connection, monitor: str, *, limit: int) -> list[ScheduledCheck]:
        """The newest checks of a monitor, the newest first; raises NotFound without the monitor."""
        self._definitions.version(connection, Monitor.kind, monitor)
        return self._newest(connection, monitor, limit=limit)

    @staticmethod
    def _newest(connection: Connection, monitor: str, *, limit: int) -> list[ScheduledCheck]:
        rows = connection.execute(_of(monitor).order_by(check_rows.c.tick.desc()).limit(limit))
        return [_check(row) for row in rows]

    def listed(self, connection: Connection) -> list[MonitorSchedule]:
        """The monitors that have a schedule, by name."""
        found = []
        for version in self._definitions.listed(connection, kind=Monitor.kind):
            monitor = self._definitions.parsed(version)
            if not isinstance(monitor, Monitor) or monitor.schedule is None:
                continue
            newest = self._newest(connection, version.name, limit=monitor.schedule.alert_after + 1)
            found.append(
                MonitorSchedule(
                    monitor=version.name,
                    endpoint=monitor.endpoint,
                    schedule=monitor.schedule,
                    principal=version.by,
                    next_at=monitor.schedule.after(self._calls.now()),
                    last=newest[0] if newest else None,
                    n_failed=failed_in_a_row(newest),
                )
            )
        return sorted(found, key=lambda one: one.monitor)

    def _due(
        self, connection: Connection, version: VersionedDefinition, schedule: CheckSchedule
    ) -> datetime | None:
        """The time for which a check is to be begun now."""
        newest = self._newest(connection, version.name, limit=1)
        if newest and newest[0].state is CheckState.WAITING:
            return None
        since = max([version.at, *(one.tick for one in newest)])
        return schedule.due(since, self._calls.now())

    def _begin(self, version: VersionedDefinition, schedule: CheckSchedule) -> int:
        with self._calls.database.reading() as connection:
            if self._due(connection, version, schedule) is None:
                return 0
        resource = f"monitor:{version.name}"
        with self._calls.opened("monitors.schedule", version.by, resource=resource) as call:
            tick = self._due(call.connection, version, schedule)
            if tick is None:
                return 0
            row = {
                "id": new_id("check"),
                "monitor": version.name,
                "tick": tick,
                "job": "",
                "principal": version.by,
                "state": CheckState.WAITING,
                "asked_at": call.now,
            }
            if not insert_if_absent(call.connection, check_rows, row):
                return 0
            given = {"monitor": version.name, "tick": tick.isoformat()}
            job = self._jobs.submit(call, CHECK_JOB, given)
            call.connection.execute(
                update(check_rows).where(check_rows.c.id == row["id"]).values(job=job.id)
            )
            return 1

    def _settle(self, check: ScheduledCheck) -> None:
        """Keep what became of a check whose job has ended."""
        with self._calls.database.reading() as connection:
            try:
                job = self._jobs.get(connection, check.job)
            except NotFound:
                return
        if not job.state.ended:
            return
        done = job.state is JobState.DONE
        found = CheckState.NO_PREDICTIONS if _silent(job.result) else CheckState.DONE
        told = job.error or {"code": "job-cancelled", "message": "Somebody stopped the check."}
        values = {
            "state": found if done else CheckState.FAILED,
            "ended_at": job.ended_at,
            "result": job.result if done else None,
            "error": None if done else told,
        }
        resource = f"monitor:{check.monitor}"
        with self._calls.opened("monitors.settle", check.principal, resource=resource) as call:
            mine = (check_rows.c.id == check.id, check_rows.c.state == CheckState.WAITING)
            changed = call.connection.execute(update(check_rows).where(*mine).values(**values))
            if changed.rowcount:
                call.note(check=check.id, state=str(values["state"]))
                self._tell(call, check.monitor, None if done else told)
                _forget_old(call.connection, check.monitor)

    def _tell(self, call: Call, name: str, error: Mapping[str, Any] | None) -> None:
        """Raise an alert for the last of too many failures; say that it is over after a success."""
        monitor = self._definitions.definition(call.connection, Monitor.kind, name)
        if not isinstance(monitor, Monitor) or monitor.schedule is None:
            return
        alert, subject = f"{name}:{FAILING}", AssetRef("endpoint", monitor.endpoint)
        if error is None:
            key = key_of(alert, str(subject))
            rows = operations.alerts
            opened = call.connection.execute(select(rows.c.id).where(rows.c.open_key == key))
            found = opened.scalar()
            if found is not None:
                self._alerts.resolve(call, found, "The monitor can be checked again.")
            return
        most = monitor.schedule.alert_after
        n = failed_in_a_row(self._newest(call.connection, name, limit=most))
        if n >= most:
            self._alerts.raise_alert(
                call,
                name=alert,
                subject=subject,
                severity=monitor.severity,
                message=f"The monitor {name} could not be checked {n} times in a row: "
                f"{error.get('message', '')}"[:1000],
                evidence={"error": dict(error)},
            )


class CheckJob:
    """Handles ``monitors.check``; arguments ``monitor`` and ``tick``.

    Args:
        asking: asks the door as whoever applied the monitor.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> Any:
        """Check; returns the ``CheckResult`` as JSON, of which only ``nothing`` is there if there
        were no predictions to measure. The same time is checked once."""
        monitor, tick = str(arguments["monitor"]), str(arguments["tick"])
        ask = self._asking(job.submitted_by)
        try:
            return ask("monitors.check", [monitor], {"until": tick}, f"check:{monitor}:{tick}")
        except NoPredictions as error:
            return {"nothing": [error.message]}


def _silent(result: Any) -> bool:
    """True if a check found no predictions in any of its parts."""
    return isinstance(result, dict) and bool(result.get("nothing")) and not result.get("reports")


def failed_in_a_row(newest_first: list[ScheduledCheck]) -> int:
    """How many of the checks that ended failed since the last one that did not."""
    n = 0
    for check in newest_first:
        if check.state in (CheckState.DONE, CheckState.NO_PREDICTIONS):
            break
        n += check.state is CheckState.FAILED
    return n


_WAITING = select(check_rows).where(check_rows.c.state == CheckState.WAITING)


def _of(monitor: str) -> Any:
    return select(check_rows).where(check_rows.c.monitor == monitor)


def _check(row: Any) -> ScheduledCheck:
    return ScheduledCheck.model_validate(
        {name: getattr(row, name) for name in ScheduledCheck.model_fields}
    )


def _forget_old(connection: Connection, monitor: str) -> None:
    mine = check_rows.c.monitor == monitor
    newest = select(check_rows.c.tick).where(mine).order_by(check_rows.c.tick.desc())
    last = connection.execute(newest.offset(KEPT).limit(1)).scalar()
    if last is not None:
        connection.execute(delete(check_rows).where(mine, check_rows.c.tick <= last))
