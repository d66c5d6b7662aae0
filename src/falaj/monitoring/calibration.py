"""Calibration over time: do scores come true as often as they say?"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from falaj.monitoring.expected import Vector, miscalibrated
from falaj.monitoring.joined import Joins, Version
from falaj.monitoring.model import Band, Labels, Period
from falaj.monitoring.performance import young_periods
from falaj.monitoring.performancereports import (
    CalibrationReport,
    PeriodCalibration,
    ReliabilityBin,
)
from falaj.monitoring.realised import share_band

_DRAWS = 400
_SEED = 11


class Calibrations:
    """Reports calibration from predictions and labels."""

    def __init__(self, joins: Joins) -> None:
        self._joins = joins

    def report(
        self,
        endpoint: str,
        labels: Labels,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        n_bins: int = 10,
        confidence: float = 0.95,
        now: datetime | None = None,
        version: Version | None = None,
    ) -> CalibrationReport:
        """Reliability, expected calibration error and its test by period of [since, until).

        Args:
            n_bins: into how many of nearly equal size the scores are put.
            now: against which a period is young; the end of the window if left out.
            version: whose predictions; all if left out.

        Raises:
            NotFound: there are no such predictions, or no label table.
            InvalidInput: a label is neither 0 nor 1, or a column is missing.
        """
        joined = self._joins.joined(endpoint, labels, since, until, by, version=version)
        edges = bin_edges(joined.score[joined.known], n_bins)
        young = young_periods(joined, by, now or until)
        periods = []
        for start, rows in joined.by_period():
            known = rows.known
            found = PeriodCalibration(
                since=start,
                n_predictions=len(rows),
                n_labels=int(known.sum()),
                young=start in young,
            )
            if found.n_labels:
                tell(found, rows.label[known], rows.score[known], edges, confidence)
            periods.append(found)
        return CalibrationReport(
            endpoint=endpoint,
            labels=labels,
            by=by,
            since=since,
            until=until,
            confidence=confidence,
            n_predictions=len(joined),
            n_labels=int(joined.known.sum()),
            edges=edges.tolist(),
            periods=periods,
        )


def bin_edges(scores: Vector, n_bins: int) -> Vector:
    """Values that cut scores into at most so many bins of nearly equal count."""
    if not len(scores):
        return np.empty(0)
    shares = np.linspace(0, 1, n_bins + 1)[1:-1]
    edges = np.unique(np.quantile(scores, shares, method="inverted_cdf"))
    return np.asarray(edges[edges < scores.max()])


def tell(
    period: PeriodCalibration, labels: Vector, scores: Vector, edges: Vector, confidence: float
) -> None:
    """Fill in what labels and scores tell of a period."""
    places = np.searchsorted(edges, scores, side="left")
    size = len(edges) + 1
    n = np.bincount(places, minlength=size).astype(np.float64)
    there = n > 0
    n = n[there]
    means = np.asarray(np.bincount(places, weights=scores, minlength=size)[there] / n)
    ones = np.bincount(places, weights=labels, minlength=size)[there].astype(np.float64)
    period.error, period.by_chance = error_band(means, n, ones, confidence)
    period.p_value = miscalibrated(np.clip(means, 0.0, 1.0), n, ones)
    period.bins = [
        ReliabilityBin(n=int(rows), predicted=float(mean), observed=band)
        for rows, mean, positive in zip(n, means, ones, strict=True)
        if (band := share_band(float(positive), float(rows), confidence)) is not None
    ]


def error_band(means: Vector, n: Vector, ones: Vector, confidence: float) -> tuple[Band, float]:
    """The expected calibration error of bins with its band, and the error by chance alone.

    Chance adds to a mean of distances: bins of 20 labels that come true exactly show an error of
    about 0.08. If ε is how far chance moved the shares of the bins, the true error lies within
    Σ w |ε| of the one that is seen (the triangle inequality), so that the band is as far as that
    sum goes with the confidence, on each side; it errs on the side of saying too little. The sum
    is simulated: labels are drawn within the bins.
    """
    random = np.random.default_rng(_SEED)
    weights = n / n.sum()
    rows = n.astype(np.int64)
    error = float((weights * np.abs(ones / n - means)).sum())
    rates = (ones + 0.5) / (n + 1)
    moved = random.binomial(rows, rates, size=(_DRAWS, len(n))) / n - rates
    null = random.binomial(rows, np.clip(means, 0, 1), size=(_DRAWS, len(n))) / n - means
    far = float(np.quantile((weights * np.abs(moved)).sum(axis=1), 0.5 + confidence / 2))
    by_chance = float((weights * np.abs(null)).sum(axis=1).mean())
    band = Band(estimate=error, low=max(0.0, error - far), high=min(1.0, error + far))
    return band, by_chance
