"""Monitors that check by themselves; see ``operations.scheduled``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef
from falaj.monitoring.model import Monitor, NoPredictions
from falaj.monitoring.scheduletables import check_rows
from falaj.monitoring.schedulewords import (
    CHECK_JOB,
    CheckSchedule,
    CheckState,
    MonitorSchedule,
    ScheduledCheck,
)
from falaj.operations.scheduled import (
    FAILING,
    KEPT,
    Ask,
    Asking,
    ScheduledChecks,
    Watched,
    failed_in_a_row,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Definitions
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun, Jobs
    from falaj.operations.alerts import Alerts
    from falaj.operations.model import Severity

__all__ = ["FAILING", "KEPT", "Ask", "Asking", "CheckJob", "MonitorSchedules"]


def _schedule(definition: Definition) -> CheckSchedule | None:
    return definition.schedule if isinstance(definition, Monitor) else None


def _about(definition: Definition) -> tuple[AssetRef, Severity]:
    assert isinstance(definition, Monitor)  # noqa: S101 - its kind says so
    return AssetRef("endpoint", definition.endpoint), definition.severity


def _state(result: Any) -> CheckState:
    """Whether a check found predictions in any of its parts."""
    silent = isinstance(result, dict) and bool(result.get("nothing")) and not result.get("reports")
    return CheckState.NO_PREDICTIONS if silent else CheckState.DONE


WATCHED = Watched(
    kind=Monitor.kind,
    actions="monitors",
    rows=check_rows,
    look=ScheduledCheck,
    job=CHECK_JOB,
    schedule=_schedule,
    about=_about,
    state=_state,
)


class MonitorSchedules(ScheduledChecks[ScheduledCheck]):
    """Begins the checks of monitors that are due, and keeps what became of them.

    Args:
        calls, jobs, definitions, alerts: see ``ScheduledChecks``.
    """

    def __init__(self, calls: Calls, jobs: Jobs, definitions: Definitions, alerts: Alerts) -> None:
        super().__init__(calls, jobs, definitions, alerts, WATCHED)

    def listed(self, connection: Connection) -> list[MonitorSchedule]:
        """The monitors that have a schedule, by name."""
        found, now = [], self._calls.now()
        for version, monitor, schedule in self.scheduled(connection):
            assert isinstance(monitor, Monitor)  # noqa: S101 - its kind says so
            limit = schedule.alert_after + 1
            newest = self.newest(connection, version.name, limit=limit, until=now)
            found.append(
                MonitorSchedule(
                    monitor=version.name,
                    endpoint=monitor.endpoint,
                    schedule=schedule,
                    principal=version.by,
                    next_at=schedule.after(now),
                    last=newest[0] if newest else None,
                    n_failed=failed_in_a_row(newest),
                )
            )
        return sorted(found, key=lambda one: one.monitor)


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
