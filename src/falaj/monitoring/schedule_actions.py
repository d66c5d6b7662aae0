"""The actions on scheduled checks; ``MonitorService`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.monitoring.schedulewords import MonitorSchedule, ScheduledCheck
from falaj.monitoring.toldfrom import FIELD, untold

if TYPE_CHECKING:
    from falaj.monitoring.monitors import Monitors
    from falaj.monitoring.schedules import MonitorSchedules
    from falaj.monitoring.sight import Sight

Limit = Annotated[int, Field(ge=1, le=1000)]


class ScheduleActions(Service):
    """What monitors have checked by themselves, and when they will again."""

    _monitors: Monitors
    _schedules: MonitorSchedules | None = None
    _sight: Sight

    @action(get="/monitor-schedules")
    def schedules(self) -> Sequence[MonitorSchedule]:
        """List the monitors that check by themselves: as whom, when next, and how it went."""
        if self._schedules is None:
            return []
        listed = self._schedules.listed(self.call.connection)
        return [
            one.model_copy(update={"last": None if one.last is None else self._shown(one.last)})
            for one in listed
            if self._sight.may_know(self.call, one.endpoint)
        ]

    @action(get="/monitors/{name}/checks", on="monitor")
    def checks(self, name: str, *, limit: Limit = 50) -> Sequence[ScheduledCheck]:
        """List what a monitor's schedule has checked, the newest first, with what was found."""
        if self._schedules is None:
            return []
        self._sight.check_known(self.call, self._monitors.monitor(self.call.connection, name))
        listed = self._schedules.checks(self.call.connection, name, limit=limit)
        return [self._shown(one) for one in listed]

    def _shown(self, check: ScheduledCheck) -> ScheduledCheck:
        """A check, without the sentences that are told from what the caller may not read."""
        result = check.result
        if result is None or self._sight.sees(self.call, result.get(FIELD, {})):
            return check
        return check.model_copy(update={"result": untold(result)})
