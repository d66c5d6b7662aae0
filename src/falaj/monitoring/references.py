"""Which windows of its own traffic a window is compared with."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.monitoring.driftwords import DriftReference

Window = tuple[datetime, datetime]


def windows_of(reference: DriftReference, since: datetime, until: datetime) -> list[Window]:
    """The windows that a reference of [since, until) is made of, the latest first.

    None for the training rows. Sketches merge by addition, so that several windows weigh as
    many rows as they hold. Where they lie so far back that minutes became hours or days, a
    window holds the stretches that begin in it.
    """
    if reference.kind == "fixed" and reference.since and reference.until:
        return [(reference.since, reference.until)]
    numbers = range(1, reference.windows + 1)
    if reference.kind == "rolling":
        length = until - since
        return [(since - number * length, since - (number - 1) * length) for number in numbers]
    if reference.kind == "seasonal":
        period = reference.period
        return [(since - number * period, until - number * period) for number in numbers]
    return []


def told(reference: DriftReference, since: datetime, until: datetime) -> str:
    """A reference in words."""
    windows = windows_of(reference, since, until)
    if not windows:
        return "the training rows"
    first, last = windows[-1][0], windows[0][1]
    if reference.kind == "seasonal":
        count = f"{reference.windows} times " if reference.windows > 1 else ""
        return f"the same window {count}every {reference.period} before, from {_at(first)}"
    return f"the {reference.kind} window from {_at(first)} to {_at(last)}"


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"
