"""How long it takes to detect, acknowledge and resolve incidents: a report over a period."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import fmean, median

from pydantic import BaseModel, ConfigDict

from falaj.operations.model import Incident


class Times(BaseModel):
    """Seconds, over those incidents for which they are known."""

    model_config = ConfigDict(frozen=True)

    n: int
    mean_seconds: float | None = None
    median_seconds: float | None = None
    longest_seconds: float | None = None


class IncidentTimes(BaseModel):
    """The incidents of one priority, or of all."""

    model_config = ConfigDict(frozen=True)

    priority: int | None
    """None for all together."""
    n_opened: int
    n_resolved: int
    to_detect: Times
    to_acknowledge: Times
    to_resolve: Times


class IncidentReport(BaseModel):
    """The incidents that were opened in a period."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    end: datetime
    all: IncidentTimes
    by_priority: list[IncidentTimes]


def reported(incidents: Sequence[Incident], start: datetime, end: datetime) -> IncidentReport:
    """The times of incidents, together and by priority (1 to 5, those that occur)."""
    priorities = sorted({one.priority for one in incidents})
    return IncidentReport(
        start=start,
        end=end,
        all=_times(None, incidents),
        by_priority=[
            _times(priority, [one for one in incidents if one.priority == priority])
            for priority in priorities
        ],
    )


def _times(priority: int | None, incidents: Sequence[Incident]) -> IncidentTimes:
    return IncidentTimes(
        priority=priority,
        n_opened=len(incidents),
        n_resolved=sum(one.resolved_at is not None for one in incidents),
        to_detect=_of(one.seconds_to_detect for one in incidents),
        to_acknowledge=_of(one.seconds_to_acknowledge for one in incidents),
        to_resolve=_of(one.seconds_to_resolve for one in incidents),
    )


def _of(seconds: Iterable[float | None]) -> Times:
    known = [one for one in seconds if one is not None]
    if not known:
        return Times(n=0)
    return Times(
        n=len(known),
        mean_seconds=fmean(known),
        median_seconds=median(known),
        longest_seconds=max(known),
    )
