"""Anomalies of a series: what its days and weeks let one expect, and what lies far from it.

The newest points are held against a forecast from the points before them, never against a fit
of themselves: a decomposition bends towards a level shift at its end. The forecast is the level
of a robust seasonal-trend decomposition (STL, Cleveland et al., 1990; MSTL for days and weeks,
Bandara et al., 2021; from statsmodels) and the last cycle of its seasons. How far a point may
lie from it is measured on the forecast of the last week that is not judged, not on residuals:
these are too small, since the seasons follow their noise.

Counts are judged as square roots and shares as arcsines of square roots, which makes the noise
of small and large ones alike; latencies as logarithms.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.anomalywords import AnomalyWatch, Method, SeriesFinding, SeriesPoint

Values = NDArray[np.float64]
LEAST_POINTS = 12
"""With fewer known points before the judged ones nothing is expected."""
_CYCLES = 3
"""So many whole cycles show a season."""
_ROLLING = 180
"""The rolling median looks at so many points."""
_NORMAL = 1.4826
_IN_SAMPLE = 1.5
"""Residuals of the fit are smaller than errors of the forecast; where these cannot be measured."""

_STL = {"robust": True, "outer_iter": 2, "seasonal_deg": 0, "trend_jump": 12, "low_pass_jump": 12}
"""Of each decomposition. Seasons are smoothed by a constant: by a line, four weeks bend at their
end and errors of the forecast are three times as large (0.87 against 0.24 on the root of Poisson
counts, whose own noise is 0.5). Curves are computed at each twelfth point and drawn between."""


class NoStatsmodels(InvalidInput):
    """Seasons of a series need statsmodels, which is not installed."""

    code = "no-statsmodels"


class Scale(StrEnum):
    """On which scale a series is judged."""

    COUNTS = "counts"
    SHARES = "shares"
    POSITIVE = "positive"
    PLAIN = "plain"


@dataclass(frozen=True)
class Expected:
    """What is expected of the judged points."""

    method: Method
    middle: Values
    low: Values
    high: Values


def expected(
    history: Values,
    n: int,
    *,
    per_day: int,
    scale: Scale,
    width: float,
    sizes: Values | None = None,
) -> Expected:
    """What a history lets one expect of the ``n`` points that follow it.

    Args:
        history: one value for each step, the oldest first; NaN where none is known.
        n: how many points follow.
        per_day: steps in a day.
        scale: on which it is judged.
        width: of the band, in robust standard deviations.
        sizes: of shares, how many each of the n points is a share of; few make a wide band.

    Raises:
        NoStatsmodels: the history is long enough for seasons and the extra is missing.
    """
    there, back = _SCALES[scale]
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = there(np.asarray(history, np.float64))
    moved[~np.isfinite(moved)] = np.nan
    known = int(np.isfinite(moved).sum())
    nothing = np.full(n, np.nan)
    if known < LEAST_POINTS:
        return Expected("none", nothing, nothing, nothing)
    moved = moved[int(np.flatnonzero(np.isfinite(moved))[0]) :]
    periods = [p for p in (per_day, 7 * per_day) if len(moved) >= _CYCLES * p and p > 1]
    method: Method = "rolling"
    if periods and known >= len(moved) / 2 and per_day <= 24 * 4:
        method = "seasonal"
        middle, spread = _seasonal(moved, n, periods)
    else:
        newest = moved[-_ROLLING:]
        newest = newest[np.isfinite(newest)]
        middle = np.full(n, np.median(newest) if len(newest) else np.nan)
        spread = _deviation(newest) if len(newest) else np.nan
    noise = np.full(n, max(float(spread), _LEAST[scale]))
    if scale is Scale.SHARES and sizes is not None:
        noise = np.sqrt(noise**2 + 0.25 / np.maximum(sizes, 1))
    low, high = middle - width * noise, middle + width * noise
    return Expected(method, back(middle), back(low), back(high))


def findings(
    name: str,
    times: Sequence[datetime],
    seen: Values,
    of: Expected,
    watch: AnomalyWatch,
    step: timedelta,
    *,
    only_above: bool = False,
) -> tuple[list[SeriesPoint], list[SeriesFinding]]:
    """The judged points, and the stretches that lie outside of their bands for long enough.

    A gap neither ends a stretch nor adds to it.

    Args:
        name: of the series.
        times: the beginnings of the points.
        seen: their values; NaN in a gap.
        of: what was expected of them.
        watch: says how much and how long.
        step: of the series.
        only_above: True if too little is never wrong.
    """
    away = np.abs(seen - of.middle) > watch.least_change * np.abs(of.middle)
    above = away & (seen > of.high)
    below = away & (seen < of.low) & (not only_above)
    points = [
        SeriesPoint(
            at=at,
            seen=float(seen[k]) if np.isfinite(seen[k]) else None,
            expected=float(of.middle[k]), low=float(of.low[k]), high=float(of.high[k]),
            anomalous=bool(above[k] or below[k]),
        )
        for k, at in enumerate(times) if np.isfinite(of.middle[k])
    ]  # fmt: skip
    known = [k for k in range(len(times)) if np.isfinite(seen[k])]
    found = []
    for side, outside in (("above", above), ("below", below)):
        for run in _runs(known, outside):
            if len(run) < watch.persistence:
                continue
            worst = max(run, key=lambda k: abs(seen[k] - of.middle[k]))
            found.append(
                SeriesFinding(
                    series=name, side=side, since=times[run[0]], until=times[run[-1]] + step,
                    n_points=len(run), lasts=run[-1] == known[-1], seen=float(seen[worst]),
                    expected=float(of.middle[worst]), low=float(of.low[worst]),
                    high=float(of.high[worst]),
                )
            )  # fmt: skip
    return points, sorted(found, key=lambda one: one.since)


def _runs(known: Sequence[int], outside: NDArray[np.bool_]) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for k in known:
        if outside[k]:
            runs[-1].append(k)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _seasonal(moved: Values, n: int, periods: list[int]) -> tuple[Values, float]:
    """The forecast of the next n points, and the deviation of such forecasts."""
    filled = _filled(moved, periods[-1], periods[0])
    middle, residuals = _forecast(filled, n, periods)
    held = periods[-1]
    left = len(filled) - held
    shorter = [p for p in periods if left > 2 * p]
    if not shorter:
        return middle, _IN_SAMPLE * _deviation(residuals)
    earlier, _ = _forecast(filled[:left], held, shorter)
    errors = (moved[left:] - earlier)[np.isfinite(moved[left:])]
    spread = _deviation(errors - np.median(errors)) if len(errors) >= LEAST_POINTS else 0.0
    return middle, max(spread, _deviation(residuals))


def _forecast(filled: Values, n: int, periods: list[int]) -> tuple[Values, Values]:
    library = _statsmodels()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels tells of periods that it leaves out
        fit = library.MSTL(filled, periods=tuple(periods), stl_kwargs=_STL).fit()
    seasons = np.asarray(fit.seasonal).reshape(len(filled), -1)
    level = float(np.median(np.asarray(fit.trend)[-periods[0] :]))
    middle = np.full(n, level)
    for column, period in enumerate(periods):
        last = seasons[-period:, column]
        middle += np.resize(last, n)
    return middle, np.asarray(fit.resid)


def _filled(moved: Values, period: int, shorter: int) -> Values:
    """The series with gaps filled by the median of the same phase (of the week, then the day)."""
    filled = moved.copy()
    for of in (period, shorter, 1):
        for phase in range(of):
            values = filled[phase::of]
            gaps = ~np.isfinite(values)
            if gaps.any() and not gaps.all():
                values[gaps] = np.median(values[~gaps])
    return filled


def _deviation(values: Values) -> float:
    """Median absolute deviation, as a standard deviation of normal noise."""
    return float(_NORMAL * np.median(np.abs(values - np.median(values))))


def _statsmodels() -> Any:
    try:
        return importlib.import_module("statsmodels.tsa.seasonal")
    except ImportError:
        raise NoStatsmodels(
            "The seasons of a series need the package statsmodels, which is not installed.",
            hint="Install falaj[monitoring].",
        ) from None


def _squares(values: Values) -> Values:
    return np.square(np.maximum(values, 0.0))


def _sines(values: Values) -> Values:
    return np.square(np.sin(np.clip(values, 0.0, np.pi / 2)))


def _roots(values: Values) -> Values:
    return np.sqrt(np.maximum(values, 0.0))


def _arcsines(values: Values) -> Values:
    return np.arcsin(np.sqrt(np.clip(values, 0.0, 1.0)))


_SCALES: dict[Scale, tuple[Callable[[Values], Values], Callable[[Values], Values]]] = {
    Scale.COUNTS: (_roots, _squares),
    Scale.SHARES: (_arcsines, _sines),
    Scale.POSITIVE: (np.log, np.exp),
    Scale.PLAIN: (np.copy, np.copy),
}
_LEAST = {Scale.COUNTS: 0.5, Scale.SHARES: 0.005, Scale.POSITIVE: 0.02, Scale.PLAIN: 1e-12}
"""The least noise: of the root of a Poisson count it is 0.5; a histogram of latencies is told to
6 %, a fiftieth of which on the logarithm is kept."""
