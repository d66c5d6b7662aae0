"""The actions on what monitors have seen over time; ``MonitorService`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.monitoring import toldfrom
from falaj.monitoring.coursewords import CourseOf, MonitorCourse, MonitorStatus, MonitorSummary
from falaj.monitoring.model import Monitor

if TYPE_CHECKING:
    from falaj.monitoring.monitors import Monitors
    from falaj.monitoring.sight import Sight

Reports = Annotated[int, Field(ge=1, le=200)]


class CourseActions(Service):
    """How monitors stand, and what their checks have kept."""

    _monitors: Monitors
    _sight: Sight

    @action(get="/monitor-overview")
    def overview(self) -> Sequence[MonitorSummary]:
        """List the monitors with the model that they watch and what their last check came to."""
        connection = self.call.connection
        return [
            self._monitors.courses.summary(connection, one)
            for one in self._monitors.listed(connection)
            if self._sight.may_know(self.call, one.endpoint)
        ]

    @action(get="/monitors/{name}", on="monitor")
    def show(self, name: str) -> MonitorStatus:
        """Show a monitor: what it declares, its last check, and since when its findings last."""
        return self._monitors.courses.status(self.call.connection, self._seen(name))

    @action(get="/monitors/{name}/courses/{kind}", on="monitor")
    def course(self, name: str, kind: CourseOf, *, limit: Reports = 30) -> MonitorCourse:
        """Show the kept reports of one kind of a monitor, the newest first, whole.

        Args:
            name: of the monitor.
            kind: of the reports; losses are those of its endpoint, since no monitor makes them.
            limit: of reports.
        """
        monitor = self._seen(name)
        kept = self._monitors.courses.reports(self.call.connection, monitor, kind, limit=limit)
        shown = [one for one in kept if self._sight.sees(self.call, toldfrom.of_kept(one))]
        return MonitorCourse(
            monitor=name, kind=kind, reports=shown, n_not_shown=len(kept) - len(shown)
        )

    def _seen(self, name: str) -> Monitor:
        """A monitor, whose endpoint the caller sees too."""
        monitor = self._monitors.monitor(self.call.connection, name)
        self._sight.check_known(self.call, monitor)
        return monitor
