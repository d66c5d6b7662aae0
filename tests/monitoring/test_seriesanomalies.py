from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import select

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import FalajError
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.queries import table_names
from falaj.monitoring.anomalywords import AnomalyWatch, MetricSeries
from falaj.monitoring.model import Monitor
from falaj.monitoring.series import HOUR, MeterSeries
from falaj.monitoring.seriesanomalies import SeriesAnomalies
from falaj.monitoring.tables import reports
from falaj.serving.counted import ANOMALOUS, FAILED, LATENCY, TAGGED, Counted, histogram
from falaj.testing.calls import opened_call

START = datetime(2026, 5, 1, tzinfo=UTC)
END = START + timedelta(days=2)
QUIET = {"traffic": False, "latency": False, "errors": False}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Two days of sales: a hundred an hour, and only twenty in each of the last three hours."""
    made = DuckLake.in_folder(tmp_path_factory.mktemp("lake"), threads=1)
    at, amount = [], []
    for hour in range(48):
        n = 20 if hour >= 45 else 100
        at += [START + timedelta(hours=hour, seconds=30 * k) for k in range(n)]
        amount += [10.0 + hour % 3] * n
    table = pa.table({"at": pa.array(at, pa.timestamp("us", tz="UTC")), "amount": amount})
    made.append("sales", table)
    made.append("secrets", pa.table({"v": [1.0]}))
    yield made
    made.close()


def tables_in(lake):
    return lambda sql: table_names(sql, lake.tables())


def judged(database, lake, watch, until=END, times=1):
    series = MeterSeries(database, SetClock(until))
    found = SeriesAnomalies(series, lambda _call, sql: lake.query(sql), tables_in(lake))
    monitor = Monitor(name="late-series", endpoint="late", anomalies=watch)
    for _ in range(times):
        with opened_call(database, now=until) as call:
            answer = found.check(call, monitor, watch, until)
            report = found.report(call, monitor, watch, until)
    return answer, report


def metric(**more):
    return MetricSeries(**{"name": "sales", "table": "sales", "at": "at", **more})


def watching(*metrics, **more):
    return AnomalyWatch(**{**QUIET, "judged": 6, "history_days": 3, "metrics": metrics, **more})


def test_a_figure_of_the_business_that_falls_is_found_and_told_with_its_band(sqlite_database, lake):
    (report_id, news), report = judged(sqlite_database, lake, watching(metric()))
    assert report_id.startswith("report_")
    (found,) = news
    assert (found.series, found.side, found.n_points, found.lasts) == ("sales", "below", 3, True)
    assert (found.seen, found.expected) == (20.0, pytest.approx(100.0))
    assert found.since == START + timedelta(hours=45)
    (series,) = report.series
    assert (series.method, len(series.points)) == ("rolling", 6)


def test_a_kept_report_names_every_table_that_its_metrics_read(sqlite_database, lake):
    nested = metric(where="amount > (SELECT max(v) FROM secrets)")
    (report_id, _), _ = judged(sqlite_database, lake, watching(nested))
    with sqlite_database.reading() as connection:
        kept = connection.execute(
            select(reports.c.document).where(reports.c.id == report_id)
        ).scalar()
    assert kept["told_from"] == {"sales": None, "secrets": None}


def test_a_finding_that_is_over_is_told_once(sqlite_database, lake):
    watch = watching(metric(where="\"at\" < TIMESTAMPTZ '2026-05-02 22:00:00Z' OR amount = 12"))
    until = END - timedelta(hours=0)
    (_, first), report = judged(sqlite_database, lake, watch, until)
    assert report.findings
    lasting = [one for one in report.findings if one.lasts]
    (_, again), _ = judged(sqlite_database, lake, watch, until)
    assert len(first) == len(report.findings)
    assert again == lasting


def test_an_average_is_no_count_and_a_stretch_without_rows_may_be_a_gap(sqlite_database, lake):
    mean = metric(value="avg(amount)", where="amount <> 11", empty="gap")
    _, report = judged(sqlite_database, lake, watching(mean, judged=3))
    (series,) = report.series
    assert [point.seen for point in series.points] == [10.0, None, 12.0]
    assert series.findings == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "1) FROM sales; DROP TABLE sales; --"},
        {"value": "nope(amount)"},
        {"value": "amount"},
        {"where": "1 = 1) UNION SELECT 1, 2 FROM secrets --"},
        {"value": "(SELECT max(v) FROM read_text('/etc/passwd'))"},
        {"table": "nowhere"},
        {"at": "amount"},
    ],
)
def test_sql_that_is_no_aggregate_of_its_table_is_refused(sqlite_database, lake, wrong):
    with pytest.raises(FalajError):
        judged(sqlite_database, lake, watching(metric(**wrong)))
    assert lake.count("sales") == 45 * 100 + 60


def test_errors_and_latency_that_rise_are_found_in_the_meters(sqlite_database, lake):
    clock = SetClock(START)
    series = MeterSeries(sqlite_database, clock)
    one = Counted()
    series.look("here", lambda: {("late", "v1"): one})
    for minute in range(40):
        bad = minute >= 35
        n = 200
        one.histograms[LATENCY] += histogram(np.full(n, 0.5 if bad else 0.01, np.float32))
        one.counters[FAILED] += 60 if bad else 1
        clock.move(timedelta(minutes=1))
        series.look("here", lambda: {("late", "v1"): one})
    watch = AnomalyWatch(step="minute", history_days=1, judged=10)
    (_, news), report = judged(sqlite_database, lake, watch, clock.now())
    assert {finding.series for finding in news} >= {"errors", "latency"}
    errors = next(finding for finding in news if finding.series == "errors")
    assert (errors.side, errors.n_points, errors.lasts) == ("above", 5, True)
    assert [one.name for one in report.series] == ["traffic", "latency", "errors"]


def tagging(database, clock, *, minutes=40, odd=35):
    """Meters that are looked at each minute; of 200 tagged predictions 2 are anomalous, and from
    a minute on 60."""
    series = MeterSeries(database, clock)
    one = Counted()
    series.look("here", lambda: {("late", "v1"): one})
    for minute in range(minutes):
        one.histograms[LATENCY] += histogram(np.full(200, 0.01, np.float32))
        one.counters[TAGGED] += 200
        one.counters[ANOMALOUS] += 60 if minute >= odd else 2
        clock.move(timedelta(minutes=1))
        series.look("here", lambda: {("late", "v1"): one})
    return series


def test_a_share_of_unusual_requests_that_rises_is_found(sqlite_database, lake):
    clock = SetClock(START)
    tagging(sqlite_database, clock)
    watch = AnomalyWatch(step="minute", history_days=1, judged=10)
    (_, news), report = judged(sqlite_database, lake, watch, clock.now())
    assert [one.name for one in report.series] == ["traffic", "latency", "errors", "anomalous"]
    (found,) = news
    assert (found.series, found.side, found.n_points) == ("anomalous", "above", 5)
    assert (found.seen, found.expected) == (pytest.approx(0.3), pytest.approx(0.01, abs=0.005))


def test_a_monitor_may_leave_the_share_of_unusual_requests_out(sqlite_database, lake):
    clock = SetClock(START)
    tagging(sqlite_database, clock)
    watch = AnomalyWatch(**QUIET, anomalous=False, step="minute", history_days=1, judged=10)
    (_, news), report = judged(sqlite_database, lake, watch, clock.now())
    assert (news, report.series) == ([], [])
    assert (
        "anomalous" in Monitor(name="m", endpoint="late", anomalies=watch).document()["anomalies"]
    )
    usual = Monitor(name="m", endpoint="late", anomalies=AnomalyWatch())
    assert "anomalous" not in usual.document()["anomalies"]


def test_shares_of_old_minutes_are_summed_into_hours(sqlite_database):
    clock = SetClock(START)
    series = tagging(sqlite_database, clock, minutes=60, odd=30)
    clock.move(timedelta(days=3))
    assert series.roll_up() == 1
    with sqlite_database.reading() as connection:
        of = series.series(connection, "late", START, START + timedelta(hours=2), HOUR)
    assert of.tagged[0] == 60 * 200
    assert of.anomalous[0] == pytest.approx((30 * 2 + 30 * 60) / (60 * 200))
    assert np.isnan(of.anomalous[1])


def test_an_endpoint_that_nobody_has_looked_at_is_judged_by_nothing(sqlite_database, lake):
    (_, news), report = judged(sqlite_database, lake, AnomalyWatch())
    assert news == []
    assert {one.method for one in report.series} == {"none"}


def test_a_monitor_without_series_keeps_its_fingerprint():
    assert "anomalies" not in Monitor(name="m", endpoint="late").document()
