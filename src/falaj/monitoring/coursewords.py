"""The words of what a monitor has seen over time: its verdict, its findings, its reports."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from falaj.monitoring.model import KeptReport, Monitor

CourseOf = Literal[
    "drift", "performance", "estimate", "losses", "calibration", "fairness", "leakage", "anomalies"
]


class Verdict(StrEnum):
    """What the last check of a monitor came to."""

    NEVER = "never checked"
    QUIET = "quiet"
    """It found nothing."""
    WAITING = "waiting"
    """It found something, not yet in as many windows as the monitor wants."""
    ALERTING = "alerting"
    """It raised an alert, or raised it again."""


class MonitorSummary(BaseModel):
    """A declared monitor in a list, with what its last check came to."""

    name: str
    endpoint: str
    model: str | None
    """That the endpoint serves now; None if it serves nothing."""
    version: int | None
    verdict: Verdict
    checked_at: datetime | None
    """When its last check was made; None before the first."""
    n_alerts: int
    """That the last check raised."""


class LastingFinding(BaseModel):
    """What the newest window showed, and for how long it has been so. The figures stand in the
    reports."""

    name: str
    column: str
    windows: int
    """In a row; they share no instant, and are of the version that the newest one is of."""
    since: datetime
    """Where the first of them begins."""


class MonitorStatus(MonitorSummary):
    """A monitor: what it declares, what its last check came to, and what has lasted."""

    monitor: Monitor
    findings: list[LastingFinding]


class MonitorCourse(BaseModel):
    """The kept reports of one kind of a monitor, the newest first."""

    monitor: str
    kind: CourseOf
    reports: list[KeptReport]
    n_not_shown: int
    """Told from tables that the caller may not read, as the caller stands."""
