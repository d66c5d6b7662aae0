"""The series of a monitor, read and judged: its endpoint's, and those of the business."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.call import Call
from falaj.kernel.errors import InvalidInput
from falaj.monitoring import tables
from falaj.monitoring.anomalies import Scale, expected, findings
from falaj.monitoring.anomalywords import (
    AnomalyReport,
    AnomalyWatch,
    MetricSeries,
    SeriesFinding,
    SeriesJudged,
)
from falaj.monitoring.assessments import keep
from falaj.monitoring.series import HOUR, MINUTE, MeterSeries
from falaj.monitoring.toldfrom import ToldFrom

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.monitoring.model import Monitor

Query = Callable[[Call, str], "pa.Table"]
"""Answers one SELECT, of tables that the caller sees whole and in clear."""
TablesOf = Callable[[str], set[str]]
"""The lake tables that a SELECT reads."""
LEAST_REQUESTS = 20
"""Of a point with fewer (requests, or tagged predictions), no share is told."""
Values = NDArray[np.float64]


class SeriesAnomalies:
    """Judges the series of monitors.

    Args:
        series: of the endpoints.
        query: reads lake tables as a caller may.
        tables_of: tells which of them a metric reads.
    """

    def __init__(self, series: MeterSeries, query: Query, tables_of: TablesOf) -> None:
        self._series = series
        self._query = query
        self._tables_of = tables_of

    def told_from(self, watch: AnomalyWatch) -> ToldFrom:
        """What the metrics of a monitor are told from."""
        now = datetime.now(UTC)
        return {
            table: None
            for metric in watch.metrics
            for table in sorted(self._tables_of(_select(metric, now, now, HOUR)))
        }

    def check(
        self, call: Call, monitor: Monitor, watch: AnomalyWatch, until: datetime
    ) -> tuple[str, list[SeriesFinding]]:
        """Judge, and keep the report; its id, and the findings that are new since the last
        report of this monitor or still last. Raises as ``report`` does."""
        last = tables.last_document(call.connection, "anomalies", monitor.name)
        earlier = [] if last is None else AnomalyReport.model_validate(last).findings
        before = {(one.series, one.since) for one in earlier}
        report = self.report(call, monitor, watch, until)
        news = [
            one for one in report.findings if one.lasts or (one.series, one.since) not in before
        ]
        told = self.told_from(watch)
        return keep(call, "anomalies", monitor.endpoint, monitor.name, report, told), news

    def report(
        self, call: Call, monitor: Monitor, watch: AnomalyWatch, until: datetime
    ) -> AnomalyReport:
        """Hold the newest whole points before ``until`` against those before them.

        Raises:
            InvalidInput: a metric's SQL is wrong. Forbidden: the caller does not see its table.
            NoStatsmodels: the history shows seasons and the extra is missing.
        """
        seconds = HOUR if watch.step == "hour" else MINUTE
        end = datetime.fromtimestamp(int(until.timestamp()) // seconds * seconds, UTC)
        start = end - timedelta(days=watch.history_days)
        judged = self._of_endpoint(call, monitor.endpoint, watch, start, end, seconds)
        for metric in watch.metrics:
            values = self._metric(call, metric, start, end, seconds)
            low = np.nanmin(values) if np.isfinite(values).any() else 0.0
            scale = Scale.COUNTS if low >= 0 and metric.value == "count(*)" else Scale.PLAIN
            judged.append(_judged(metric.name, start, values, scale, watch))
        return AnomalyReport(
            endpoint=monitor.endpoint, monitor=monitor.name, step=watch.step,
            since=start, until=end, series=judged,
        )  # fmt: skip

    def _of_endpoint(
        self,
        call: Call,
        endpoint: str,
        watch: AnomalyWatch,
        start: datetime,
        end: datetime,
        seconds: int,
    ) -> list[SeriesJudged]:
        """The series that the meters of an endpoint tell."""
        judged: list[SeriesJudged] = []
        if not (watch.traffic or watch.latency or watch.errors or watch.anomalous):
            return judged
        of = self._series.series(call.connection, endpoint, start, end, seconds)
        if watch.traffic:
            judged.append(_judged("traffic", start, of.requests, Scale.COUNTS, watch))
        if watch.latency:
            judged.append(_judged("latency", start, of.latency, Scale.POSITIVE, watch))
        if watch.errors:
            judged.append(_shares("errors", start, of.errors, of.requests, watch))
        if watch.anomalous and np.nansum(of.tagged):  # else the endpoint has never tagged any
            judged.append(_shares("anomalous", start, of.anomalous, of.tagged, watch))
        return judged

    def _metric(
        self, call: Call, metric: MetricSeries, start: datetime, end: datetime, seconds: int
    ) -> Values:
        first, last = (int(one.timestamp()) for one in (start, end))
        rows = self._query(call, _select(metric, start, end, seconds))
        if rows.column_names != ["step", "value"]:
            raise InvalidInput(
                f"The value of the metric {metric.name!r} is not one aggregate.",
                hint="Write one SQL aggregate, such as sum(amount).",
            )
        values = np.full((last - first) // seconds, np.nan)
        known = [
            (step - first // seconds, value)
            for step, value in zip(rows["step"].to_pylist(), rows["value"].to_pylist(), strict=True)
            if value is not None
        ]
        if metric.empty == "zero" and known:
            values[min(at for at, _ in known) :] = 0.0
        for place, value in known:
            values[place] = value
        return values


def _select(metric: MetricSeries, start: datetime, end: datetime, seconds: int) -> str:
    us = f'epoch_us("{metric.at}"::TIMESTAMPTZ)'
    first, last = (int(one.timestamp()) for one in (start, end))
    where = f"AND ({metric.where}\n)" if metric.where is not None else ""
    return (
        f"SELECT {us} // {seconds * 1_000_000} AS step, ({metric.value}\n)::DOUBLE AS value"
        f' FROM "{metric.table}" WHERE {us} >= {first * 1_000_000}'
        f" AND {us} < {last * 1_000_000} {where} GROUP BY 1"
    )


def _shares(
    name: str, start: datetime, shares: Values, of: Values, watch: AnomalyWatch
) -> SeriesJudged:
    """A share of what was counted at each point, of which only too much is told."""
    told = np.where(of >= LEAST_REQUESTS, shares, np.nan)
    sizes = np.nan_to_num(of[-watch.judged :])
    return _judged(name, start, told, Scale.SHARES, watch, sizes=sizes, only_above=True)


def _judged(
    name: str,
    start: datetime,
    values: Values,
    scale: Scale,
    watch: AnomalyWatch,
    *,
    sizes: Values | None = None,
    only_above: bool = False,
) -> SeriesJudged:
    step = timedelta(seconds=HOUR if watch.step == "hour" else MINUTE)
    n = min(watch.judged, len(values))
    history, seen = values[: len(values) - n], values[len(values) - n :]
    of = expected(
        history, n, per_day=timedelta(days=1) // step, scale=scale, width=watch.width, sizes=sizes
    )
    times = [start + step * (len(history) + k) for k in range(n)]
    points, found = findings(name, times, seen, of, watch, step, only_above=only_above)
    return SeriesJudged(
        name=name,
        method=of.method,
        n_history=int(np.isfinite(history).sum()),
        points=points,
        findings=found,
    )
