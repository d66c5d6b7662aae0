"""Fairness over time: are groups of people treated alike?

Demographic parity compares the shares that are predicted positive, equal opportunity the true
positive rates, equalised odds true and false positive rates (Hardt, Price and Srebro, NeurIPS
2016), and the last gap whether scores over-estimate one group more than another. A gap is that
of the two groups that are farthest apart; its band is theirs, and wide enough for all pairs of
groups together (Bonferroni).
"""

from __future__ import annotations

from datetime import datetime
from math import exp, inf, log
from statistics import NormalDist

import numpy as np

from falaj.monitoring.joined import Joined, Joins, Version
from falaj.monitoring.model import Band, Labels, Period
from falaj.monitoring.performance import LEAST_SHOWN, young_periods
from falaj.monitoring.performancereports import FairnessReport, GroupFairness, PeriodFairness
from falaj.monitoring.performancewords import Gap, Slice
from falaj.monitoring.realised import share_band

Count = tuple[float, float]
"""How many of how many."""


class Fairness:
    """Reports fairness from predictions and, for what needs them, labels."""

    def __init__(self, joins: Joins) -> None:
        self._joins = joins

    def report(
        self,
        endpoint: str,
        groups: Slice,
        labels: Labels | None,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        threshold: float = 0.5,
        confidence: float = 0.95,
        now: datetime | None = None,
        version: Version | None = None,
    ) -> FairnessReport:
        """Rates by group and gaps between groups, by period of [since, until).

        Args:
            groups: by what people are told apart.
            labels: where outcomes arrive; None for the shares predicted positive alone.
            threshold: a score from here on predicts label 1.
            now: against which a period is young; the end of the window if left out.
            version: whose predictions; all if left out.

        Raises:
            NotFound: there are no such predictions, or no label table.
            InvalidInput: a label is neither 0 nor 1, or a column is missing.
        """
        joined = self._joins.joined(endpoint, labels, since, until, by, groups, version)
        young = young_periods(joined, by, now or until) if labels is not None else set()
        hidden, periods = 0, []
        for start, rows in joined.by_period():
            found = PeriodFairness(since=start, groups=[], gaps={}, young=start in young)
            counts = []
            hidden += bool((rows.group < 0).any())
            for name, part in rows.by_group():
                if not len(part):
                    continue
                if len(part) < LEAST_SHOWN:
                    hidden += 1
                    continue
                one = Counted(part, threshold)
                found.groups.append(one.told(name, confidence))
                counts.append(one)
            found.gaps = gaps(counts, confidence)
            periods.append(found)
        return FairnessReport(
            endpoint=endpoint,
            labels=labels,
            groups=groups,
            by=by,
            since=since,
            until=until,
            threshold=threshold,
            confidence=confidence,
            least_shown=LEAST_SHOWN,
            n_groups_not_shown=hidden,
            periods=periods,
        )


class Counted:
    """What is counted of one group.

    Attributes:
        selected: predicted positive, of all with a score.
        true, false: predicted positive, of those with label 1, and with label 0; None with
            fewer labels than may be shown.
        gap, error: the mean of score less label, and its standard error.
    """

    def __init__(self, rows: Joined, threshold: float) -> None:
        finite = np.isfinite(rows.score)
        said = rows.score[finite] >= threshold
        self.n = len(rows)
        self.selected: Count = (float(said.sum()), float(len(said)))
        known = rows.known
        y, s = rows.label[known], rows.score[known]
        self.n_labels = len(y)
        self.true: Count | None = None
        self.false: Count | None = None
        self.positive: Count | None = None
        self.gap: float | None = None
        self.error = inf
        if len(y) < LEAST_SHOWN:
            return
        positive = s >= threshold
        self.true = (float((positive & (y == 1)).sum()), float((y == 1).sum()))
        self.false = (float((positive & (y == 0)).sum()), float((y == 0).sum()))
        self.positive = (float(y.sum()), float(len(y)))
        off = s - y
        self.gap, self.error = float(off.mean()), float(off.std(ddof=1)) / len(y) ** 0.5

    def told(self, name: str, confidence: float) -> GroupFairness:
        """As it stands in a report."""
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        selection = share_band(*self.selected, confidence)
        gap = self.gap
        return GroupFairness(
            group=name,
            n_predictions=self.n,
            n_labels=self.n_labels,
            selection_rate=selection or Band(estimate=0.0, low=0.0, high=1.0),
            true_positive_rate=self.true and share_band(*self.true, confidence),
            false_positive_rate=self.false and share_band(*self.false, confidence),
            positive_rate=self.positive and share_band(*self.positive, confidence),
            calibration_gap=None
            if gap is None
            else Band(estimate=gap, low=gap - z * self.error, high=gap + z * self.error),
        )


def gaps(groups: list[Counted], confidence: float) -> dict[Gap, Band]:
    """How far groups are apart; empty with fewer than two."""
    found: dict[Gap, Band | None] = {}
    selected = [one.selected for one in groups]
    found["demographic_parity_difference"] = difference(selected, confidence)
    found["demographic_parity_ratio"] = ratio(selected, confidence)
    true = [one.true for one in groups if one.true is not None]
    false = [one.false for one in groups if one.false is not None]
    equal = difference(true, confidence)
    found["equal_opportunity_difference"] = equal
    # Two gaps are looked at, so each gets half of the error.
    narrow = 1 - (1 - confidence) / 2
    both = [one for one in (difference(true, narrow), difference(false, narrow)) if one]
    if len(both) == 2:
        found["equalised_odds_difference"] = max(both, key=lambda one: one.estimate)
    off = [(one.gap, one.error) for one in groups if one.gap is not None]
    found["calibration_difference"] = _means_apart(off, confidence)
    return {name: band for name, band in found.items() if band is not None}


def difference(counts: list[Count], confidence: float) -> Band | None:
    """The greatest difference of shares, with Newcombe's interval of the two that it is of.

    (Newcombe, Statistics in Medicine 17, 1998, method 10: from Wilson's intervals.)
    """
    bands = _shares(counts, confidence)
    if len(bands) < 2:
        return None
    least, most = bands[0], bands[-1]
    apart = most.estimate - least.estimate
    low = apart - ((most.estimate - most.low) ** 2 + (least.high - least.estimate) ** 2) ** 0.5
    high = apart + ((most.high - most.estimate) ** 2 + (least.estimate - least.low) ** 2) ** 0.5
    return Band(estimate=apart, low=max(0.0, low), high=min(1.0, high))


def ratio(counts: list[Count], confidence: float) -> Band | None:
    """The least share over the greatest, with the interval of the logarithm of a ratio.

    (Katz and others, Biometrics 34, 1978, with half a row added to each count.)
    """
    known = sorted((one for one in counts if one[1] > 0), key=lambda one: one[0] / one[1])
    if len(known) < 2 or not known[-1][0]:
        return None
    (k, n), (m, of) = known[0], known[-1]
    estimate = (k / n) / (m / of)
    middle = log((k + 0.5) / (n + 0.5)) - log((m + 0.5) / (of + 0.5))
    spread = 1 / (k + 0.5) - 1 / (n + 0.5) + 1 / (m + 0.5) - 1 / (of + 0.5)
    half = _quantile(len(known), confidence) * max(spread, 0.0) ** 0.5
    low, high = exp(middle - half), min(1.0, exp(middle + half))
    return Band(estimate=estimate, low=min(low, estimate), high=max(high, estimate))


def _shares(counts: list[Count], confidence: float) -> list[Band]:
    """The shares of those groups that have any, growing, wide enough for all pairs."""
    known = [one for one in counts if one[1] > 0]
    each = 1 - (1 - confidence) / _n_pairs(len(known))
    bands = [band for one in known if (band := share_band(*one, each)) is not None]
    return sorted(bands, key=lambda one: one.estimate)


def _means_apart(off: list[tuple[float, float]], confidence: float) -> Band | None:
    if len(off) < 2:
        return None
    ordered = sorted(off)
    (least, e1), (most, e2) = ordered[0], ordered[-1]
    half = _quantile(len(off), confidence) * (e1 * e1 + e2 * e2) ** 0.5
    apart = most - least
    return Band(estimate=apart, low=max(0.0, apart - half), high=apart + half)


def _n_pairs(n: int) -> int:
    return max(1, n * (n - 1) // 2)


def _quantile(n: int, confidence: float) -> float:
    return NormalDist().inv_cdf(1 - (1 - confidence) / 2 / _n_pairs(n))
