"""Plots that the server draws: points of lines and bands in a frame of fixed size, as SVG takes
them. The page's template writes the elements, so that nothing has to be escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 12, 26


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


@dataclass(frozen=True)
class Series:
    """Figures over time, each with its interval if it has one."""

    name: str
    at: Sequence[datetime]
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Drawn:
    """A series in the units of the plot's frame."""

    name: str
    line: str
    """Empty with fewer than two points."""
    band: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CoursePlot:
    """Series over time, and the limits that they are held to."""

    drawn: tuple[Drawn, ...]
    """The first is drawn as a whole line, the second dashed."""
    limits: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    begin: str
    end: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT


def course_plot(
    series: Sequence[Series], limits: Sequence[float] = (), form: str = ".3g"
) -> CoursePlot | None:
    """A plot of figures over time with their limits; None with fewer than two instants.

    The vertical axis holds all figures, limits and intervals; an interval that is more than
    three times as wide as all the rest leaves it.
    """
    instants = [when for one in series for when, value in _known(one)]
    if len(set(instants)) < 2:
        return None
    values = [value for one in series for _, value in _known(one)] + list(limits)
    bottom, top = min(values), max(values)
    reach = 3 * (top - bottom) or abs(top) or 1.0
    ends = [
        end
        for one in series
        for end in (*one.low, *one.high)
        if end is not None and bottom - reach <= end <= top + reach
    ]
    bottom, top = min([bottom, *ends]), max([top, *ends])
    margin = 0.1 * (top - bottom) or 0.1 * abs(top) or 0.1
    floor = max(0.0, bottom - margin) if bottom >= 0 else bottom - margin
    frame = _Frame(min(instants), max(instants), floor, top + margin)
    marks = tuple(
        Tick(frame.y(value), f"{value:{form}}")
        for value in (frame.bottom, (frame.bottom + frame.top) / 2, frame.top)
    )
    return CoursePlot(
        drawn=tuple(_drawn(one, frame) for one in series if _known(one)),
        limits=tuple(Tick(frame.y(limit), f"{limit:{form}}") for limit in dict.fromkeys(limits)),
        ticks=marks,
        begin=f"{frame.begin:%Y-%m-%d %H:%M}",
        end=f"{frame.end:%Y-%m-%d %H:%M}",
    )


@dataclass(frozen=True)
class _Frame:
    begin: datetime
    end: datetime
    bottom: float
    top: float

    def x(self, when: datetime) -> float:
        gone = (when - self.begin).total_seconds() / (self.end - self.begin).total_seconds()
        return round(_LEFT + gone * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        within = min(max(value, self.bottom), self.top)
        down = (self.top - within) / (self.top - self.bottom)
        return round(_TOP + down * (HEIGHT - _TOP - _BOTTOM), 1)


def _known(series: Series) -> list[tuple[datetime, float]]:
    return [
        (when, value)
        for when, value in zip(series.at, series.values, strict=True)
        if value is not None and math.isfinite(value)
    ]


def _drawn(series: Series, frame: _Frame) -> Drawn:
    places = [(frame.x(when), frame.y(value)) for when, value in _known(series)]
    ends = [
        (when, low, high)
        for when, low, high in zip(series.at, series.low, series.high, strict=False)
        if low is not None and high is not None and not math.isnan(low + high)
    ]
    outline = [(frame.x(when), frame.y(high)) for when, _, high in ends]
    outline += [(frame.x(when), frame.y(low)) for when, low, _ in reversed(ends)]
    return Drawn(
        name=series.name,
        line=_points(places) if len(places) > 1 else "",
        band=_points(outline) if len(ends) > 1 else "",
        dots=tuple(places),
    )


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:g},{down:g}" for across, down in places)
