"""The words of scheduled checks of monitors."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from falaj.operations.scheduled_model import CheckSchedule, CheckState, Look

__all__ = ["CHECK_JOB", "CheckSchedule", "CheckState", "MonitorSchedule", "ScheduledCheck"]

CHECK_JOB = "monitors.check"
"""The kind of job that runs a check."""


class ScheduledCheck(Look):
    """One check of a monitor that a schedule asked for; its window ends at ``tick``.

    ``result`` is a ``CheckResult``; ``nothing`` alone if there were no predictions.
    """

    monitor: str


class MonitorSchedule(BaseModel):
    """A monitor that checks by itself, and how it goes."""

    monitor: str
    endpoint: str
    schedule: CheckSchedule
    principal: str
    """As whom its checks are done: whoever applied it last."""
    next_at: datetime
    last: ScheduledCheck | None = None
    n_failed: int = 0
    """Failures in a row, up to the last check that ended."""
