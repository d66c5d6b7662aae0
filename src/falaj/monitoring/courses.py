"""What a monitor has seen over time, from the records that its checks have kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.monitoring import persistence, tables
from falaj.monitoring.coursewords import (
    CourseOf,
    LastingFinding,
    MonitorStatus,
    MonitorSummary,
    Verdict,
)
from falaj.monitoring.model import KeptReport, Monitor

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.operations.alerts import Alerts
    from falaj.serving.releases import Releases

_OF_NO_MONITOR = frozenset({"losses"})
"""Kinds of reports that no monitor makes: those of its endpoint are shown."""


class Courses:
    """Reads what checks have kept.

    Args:
        releases: tell what serves.
        alerts: tell what checks have raised.
    """

    def __init__(self, releases: Releases, alerts: Alerts) -> None:
        self._releases = releases
        self._alerts = alerts

    def summary(self, connection: Connection, monitor: Monitor) -> MonitorSummary:
        """What the last check of a monitor came to."""
        active = self._releases.active(connection, monitor.endpoint)
        served = None if active is None else active.variants[0]
        checked_at = tables.last_report_at(connection, monitor.endpoint, monitor.name)
        raised: list[str] = []
        if checked_at is not None:
            subject = AssetRef("endpoint", monitor.endpoint)
            raised = self._alerts.seen_since(
                connection, subject, checked_at, prefix=f"{monitor.name}:"
            )
        verdict = Verdict.NEVER
        if checked_at is not None:
            verdict = Verdict.ALERTING if raised else Verdict.QUIET
            if not raised and persistence.in_a_row(connection, monitor.name):
                verdict = Verdict.WAITING
        return MonitorSummary(
            name=monitor.name,
            endpoint=monitor.endpoint,
            model=None if served is None else served.model,
            version=None if served is None else served.version,
            verdict=verdict,
            checked_at=checked_at,
            n_alerts=len(raised),
        )

    def status(self, connection: Connection, monitor: Monitor) -> MonitorStatus:
        """A monitor, and what of its findings has lasted."""
        return MonitorStatus(
            **self.summary(connection, monitor).model_dump(),
            monitor=monitor,
            findings=[
                LastingFinding(
                    name=one.name, column=one.column, windows=one.windows, since=one.since
                )
                for one in persistence.in_a_row(connection, monitor.name)
            ],
        )

    @staticmethod
    def reports(
        connection: Connection, monitor: Monitor, kind: CourseOf, *, limit: int
    ) -> list[KeptReport]:
        """The kept reports of one kind, the newest first."""
        by = None if kind in _OF_NO_MONITOR else monitor.name
        rows = tables.course_rows(connection, kind, monitor.endpoint, by, limit=limit)
        names = list(KeptReport.model_fields)
        return [
            KeptReport.model_validate({name: getattr(row, name) for name in names}) for row in rows
        ]
