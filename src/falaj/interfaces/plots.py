"""Plots that the server draws: points of lines and bands in a frame of fixed size, as SVG takes
them. The page's template writes the elements, so that nothing has to be escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 8, 24


@dataclass(frozen=True)
class Tick:
    """A line across the plot, and what is written beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class BandPlot:
    """An estimate with its interval over time, in the units of the plot's frame."""

    line: str
    """``x,y x,y …``"""
    band: str
    """The outline of the interval; empty if there is none."""
    zero: float
    """Where "no difference" lies."""
    ticks: tuple[Tick, ...]
    begin: str
    end: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT


def band_plot(
    at: Sequence[datetime],
    estimate: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
) -> BandPlot | None:
    """The plot of relative differences over time; None with fewer than two points.

    The vertical axis holds zero and all estimates; intervals may leave it, so that the wide
    ones of the beginning do not flatten all that follows.
    """
    seen = [
        (when, value, below, above)
        for when, value, below, above in zip(at, estimate, low, high, strict=True)
        if value is not None and math.isfinite(value)
    ]
    if len(seen) < 2:
        return None
    last = seen[-1]
    edges = [0.0, *(one[1] for one in seen), *(one for one in last[2:] if one is not None)]
    bottom, top = min(edges), max(edges)
    margin = 0.1 * (top - bottom) or 0.01
    bottom, top = bottom - margin, top + margin
    begin, end = seen[0][0], last[0]
    span = (end - begin).total_seconds() or 1.0

    def x(when: datetime) -> float:
        share = (when - begin).total_seconds() / span
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        share = (top - min(max(value, bottom), top)) / (top - bottom)
        return round(_TOP + share * (HEIGHT - _TOP - _BOTTOM), 1)

    known = [one for one in seen if one[2] is not None and one[3] is not None]
    outline = [(x(one[0]), y(one[3])) for one in known if one[3] is not None]
    outline += [(x(one[0]), y(one[2])) for one in reversed(known) if one[2] is not None]
    return BandPlot(
        line=_points([(x(one[0]), y(one[1])) for one in seen]),
        band=_points(outline) if len(known) > 1 else "",
        zero=y(0.0),
        ticks=tuple(Tick(y(value), f"{value:+.1%}") for value in (bottom, 0.0, top)),
        begin=f"{begin:%Y-%m-%d %H:%M}",
        end=f"{end:%Y-%m-%d %H:%M}",
    )


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:g},{down:g}" for across, down in places)
