"""Realised performance: predictions joined with labels that arrived late, by period and slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from falaj.lake.ports import Lake
from falaj.monitoring.joined import InputsOf, Joined, Joins, Version
from falaj.monitoring.model import (
    Band,
    Labels,
    PerformanceReport,
    Period,
    PeriodPerformance,
    SlicePerformance,
)
from falaj.monitoring.multiclass import realised_classes
from falaj.monitoring.performancewords import Slice
from falaj.monitoring.realised import mean_band, realised
from falaj.monitoring.regression import realised_numbers
from falaj.training.targets import Task

LEAST_SHOWN = 20
"""Labels that a group needs in a period to have figures there: fewer would tell of persons."""
_ENOUGH_LABELLED = 0.9
_FEWEST_DELAYS = 50
_ALL: tuple[Task, ...] = ("binary", "regression", "classes")


class Performance:
    """Reports realised performance from the prediction log and a label table.

    Args:
        lake: holds both.
        inputs_of: what an endpoint's model reads; None if no slice is by an input.
    """

    def __init__(self, lake: Lake, inputs_of: InputsOf | None = None) -> None:
        self._joins = Joins(lake, inputs_of)

    def report(
        self,
        endpoint: str,
        labels: Labels,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        confidence: float = 0.95,
        threshold: float = 0.5,
        slices: Sequence[Slice] = (),
        now: datetime | None = None,
        version: Version | None = None,
    ) -> PerformanceReport:
        """The figures of [since, until) by period, each with its band.

        A week begins on Monday, in UTC. Predictions without a label are counted, and are
        no part of the figures.

        Args:
            threshold: a score from here on predicts label 1.
            slices: by what rows are told apart, each by itself.
            now: against which a period is young; the end of the window if left out.
            version: whose predictions; all if left out.

        Raises:
            NotFound: there are no such predictions, or no label table.
            InvalidInput: a label is not of its task, or a column is missing.
        """
        joined = self._joins.joined(endpoint, labels, since, until, by, version=version, tasks=_ALL)
        periods = [
            period_of(start, rows, threshold, confidence, labels.task)
            for start, rows in joined.by_period()
        ]
        half, late = _delays(joined)
        young = young_periods(joined, by, now or until)
        for one in periods:
            one.young = one.since in young
        report = PerformanceReport(
            endpoint=endpoint,
            labels=labels,
            by=by,
            since=since,
            until=until,
            confidence=confidence,
            n_predictions=len(joined),
            n_labels=int(joined.known.sum()),
            periods=periods,
            threshold=threshold,
            label_delay_p50_seconds=half,
            label_delay_p95_seconds=late,
            warning=_warning(periods, by),
        )
        for cut in slices:
            apart = self._joins.joined(endpoint, labels, since, until, by, cut, version, tasks=_ALL)
            self._add_slice(report, cut, apart)
        return report

    def _add_slice(self, report: PerformanceReport, cut: Slice, joined: Joined) -> None:
        young = {one.since for one in report.periods if one.young}
        others = joined.chosen(joined.group < 0)
        report.n_groups_not_shown += bool(len(others))
        for name, rows in joined.by_group():
            n_labels = int(rows.known.sum())
            if n_labels < LEAST_SHOWN:
                report.n_groups_not_shown += 1
                continue
            periods = []
            for start, part in rows.by_period():
                found = PeriodPerformance(
                    since=start, n_predictions=len(part), n_labels=int(part.known.sum())
                )
                if found.n_labels >= LEAST_SHOWN:
                    found = period_of(
                        start, part, report.threshold, report.confidence, report.labels.task
                    )
                found.young = start in young
                periods.append(found)
            report.slices.append(
                SlicePerformance(
                    slice=cut,
                    group=name,
                    n_predictions=len(rows),
                    n_labels=n_labels,
                    periods=periods,
                )
            )


def period_of(
    since: datetime, rows: Joined, threshold: float, confidence: float, task: Task = "binary"
) -> PeriodPerformance:
    """The figures of the rows of one period."""
    known = rows.known
    y, s = rows.label[known], rows.score[known]
    told = PeriodPerformance(since=since, n_predictions=len(rows), n_labels=len(y))
    if not len(y):
        return told
    told.mean_score = float(s.mean())
    found: Mapping[str, Band | None]
    if task == "regression":
        found = realised_numbers(y, s, confidence)
    elif task == "classes" and rows.shares is not None:
        found = realised_classes(y.astype(np.int64), rows.shares[known], confidence)
    else:
        found = realised(y, s, threshold, confidence)
    for name, band in found.items():
        if name == "positive_rate":
            told.positive_rate = float(y.mean())
        else:
            setattr(told, name, band)
    return told


def end_of(since: datetime, by: Period) -> datetime:
    """When a period that began then ends."""
    if by == "month":
        return (since.replace(day=1) + timedelta(days=32)).replace(day=1)
    return since + timedelta(days=1 if by == "day" else 7)


def _delays(joined: Joined) -> tuple[float | None, float | None]:
    """The median and the 95th percentile of the labels' delay.

    Of the older half of the predictions, if that has labels enough: of the younger ones only
    the quick labels can have arrived.
    """
    known = ~np.isnan(joined.delay)
    older = known & (joined.period <= np.median(joined.period))
    chosen = older if older.sum() >= _FEWEST_DELAYS else known
    if not chosen.any():
        return None, None
    half, late = np.quantile(np.maximum(joined.delay[chosen], 0.0), (0.5, 0.95))
    return float(half), float(late)


def young_periods(joined: Joined, by: Period, now: datetime) -> set[datetime]:
    """The first instants of those periods whose labels are likely to be still arriving.

    Of which 95 % of the labels had no time to arrive; or, if labels do not say when they were
    recorded, the last ones that are labelled less than the best by a tenth.
    """
    _, late = _delays(joined)
    parts = joined.by_period()
    if late is not None:
        delay = timedelta(seconds=late)
        return {start for start, _ in parts if end_of(start, by) + delay > now.astimezone(UTC)}
    shares = [(start, float(np.isfinite(rows.label).mean())) for start, rows in parts]
    most = max((share for _, share in shares), default=0.0)
    found: set[datetime] = set()
    for start, share in reversed(shares):
        if share >= _ENOUGH_LABELLED * most:
            break
        found.add(start)
    return found


def _warning(periods: list[PeriodPerformance], by: Period) -> str:
    young = [one for one in periods if one.young]
    if not young:
        return ""
    n, rows = sum(one.n_labels for one in young), sum(one.n_predictions for one in young)
    return (
        f"The labels from the {by} of {young[0].since:%Y-%m-%d} on are still arriving: "
        f"{n / rows:.0%} of {rows} predictions have one. What arrives late may differ from "
        "what arrives early."
    )


__all__ = ["LEAST_SHOWN", "Performance", "end_of", "mean_band", "period_of", "young_periods"]
