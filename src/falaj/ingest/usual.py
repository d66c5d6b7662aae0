"""What is usual: bounds that a figure's own history sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

NORMAL = 1.4826
"""Median absolute deviations times this are standard deviations, if the noise is normal."""
LEAST_SHARE = 0.05
"""Of the median: a history that hardly moves allows at least this much."""
Past = Sequence[tuple[datetime, float]]
"""Earlier figures, each with its instant."""


@dataclass(frozen=True)
class Bounds:
    """What is expected of a figure, and how it was learned."""

    expected: float
    low: float
    high: float
    told: str
    """Of what the expectation was made, in words."""


def bounds_of(past: Past, now: datetime, *, width: float, least: int) -> Bounds | None:
    """What the past lets one expect now; None if it is too short.

    The expectation is the median of the figures of the same day of the week (UTC), if there
    are ``least`` of them, else of all. The bounds are ``width`` robust standard deviations
    (1.4826 times the median absolute deviation; Rousseeuw and Croux, 1993) away from it, and
    a twentieth of it at least. No figure here is below 0, so no bound is.

    Args:
        past: earlier figures, in any order.
        now: its day of the week counts.
        width: in robust standard deviations.
        least: how many figures make a history.
    """
    same = [value for at, value in past if at.weekday() == now.weekday()]
    values = same if len(same) >= least else [value for _, value in past]
    if len(values) < least:
        return None
    told = f"{len(values)} earlier ones" + (f" on a {now:%A}" if values is same else "")
    middle = median(values)
    deviation = NORMAL * median(abs(value - middle) for value in values)
    away = max(width * deviation, LEAST_SHARE * abs(middle))
    return Bounds(middle, max(0.0, middle - away), middle + away, told)
