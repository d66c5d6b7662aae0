"""The words of checks by a schedule: when one looks by itself, and what became of each look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.cron import Cron
from falaj.kernel.errors import InvalidInput

SHORTEST = timedelta(seconds=1)


class CheckSchedule(BaseModel):
    """When a monitor or a contract checks by itself: at the times of a cron expression, or every
    so often.

    The worker process does it, as whoever applied the definition, while that account may. Of the
    times at which no worker ran, the last one counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str | None = Field(None, max_length=100)
    """Minute, hour, day of the month, month, day of the week, in UTC."""
    every: timedelta | None = Field(None, ge=SHORTEST)
    """Counted from 1970, so that the times do not depend on when it was applied."""
    alert_after: int = Field(3, ge=1, le=1000)
    """So many checks that fail in a row raise an alert."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("a schedule has either cron or every")
        if self.cron is not None:
            try:
                Cron(self.cron)
            except InvalidInput as error:
                raise ValueError(f"{error.message} {error.hint}") from None
        return self

    def due(self, since: datetime, now: datetime) -> datetime | None:
        """The last of its times after ``since`` and not after ``now``; None if there is none."""
        if self.cron is not None:
            found = Cron(self.cron).until(since, now)
            return found[-1] if found else None
        last = self._floor(now)
        return last if last > since else None

    def after(self, now: datetime) -> datetime:
        """The next of its times."""
        if self.cron is not None:
            return next(Cron(self.cron).after(now))
        return self._floor(now) + self._every

    @property
    def _every(self) -> timedelta:
        return self.every or SHORTEST

    def _floor(self, at: datetime) -> datetime:
        step = self._every // timedelta(microseconds=1)
        return from_microseconds(microseconds(at.astimezone(UTC)) // step * step)


class CheckState(StrEnum):
    """Where a scheduled check stands."""

    WAITING = "waiting"
    """Its job has not ended."""
    DONE = "done"
    NO_PREDICTIONS = "no predictions"
    """It was done, and there was nothing to measure: no failure."""
    FAILED = "failed"


class Look(BaseModel):
    """One check that a schedule asked for."""

    id: str
    tick: datetime
    """The time of the schedule."""
    job: str
    principal: str
    """As whom it is done."""
    state: CheckState
    asked_at: datetime
    ended_at: datetime | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
