"""The clock as a dependency, so that tests and replays can set the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time. ``now()`` is timezone-aware UTC with microseconds."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """This instant."""
        return datetime.now(UTC)


class SetClock:
    """A clock that stands still until it is moved; for tests and replays."""

    def __init__(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs a time with a zone")
        self._at = at.astimezone(UTC)

    def now(self) -> datetime:
        """The instant that the hands show."""
        return self._at

    def move(self, by: timedelta) -> None:
        """Move the hands forward (or back) by a duration."""
        self._at += by


def microseconds(at: datetime) -> int:
    """Unix microseconds of an aware instant, exact (no float on the way)."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(value: int) -> datetime:
    """The aware UTC instant of Unix microseconds."""
    return _EPOCH + timedelta(microseconds=value)


def monotonic() -> float:
    """Seconds that never run backwards, for measuring durations."""
    return time.perf_counter()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
