"""The flights of a few weeks, as the sources give them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from falaj.catalog.definitions import Definition
from falaj.demo.definitions import features, sources
from falaj.demo.flights_data import history
from falaj.testing.features import GivenDefinitions

Tables = Mapping[str, pa.Table]


@pytest.fixture(scope="session")
def year() -> Tables:
    """All rows of every source, by table."""
    wanted = (sources.schedule, sources.departures, sources.weather, sources.aircraft)
    return {source.table: history(source, Path()) for source in wanted}


@pytest.fixture(scope="session")
def autumn(year: Tables) -> Tables:
    """From the last of August to the third of October."""

    def cut(rows: pa.Table, column: str) -> pa.Table:
        first, last = datetime(2013, 8, 31, tzinfo=UTC), datetime(2013, 10, 3, 12, tzinfo=UTC)
        time = rows.column(column)
        late, early = pc.less_equal(time, last), pc.greater_equal(time, first)
        return rows.filter(pc.and_(early, late))

    return {
        "schedule": cut(year["schedule"], "scheduled_at"),
        "departures": cut(year["departures"], "departed_at"),
        "weather": cut(year["weather"], "known_at"),
        "aircraft": year["aircraft"],
    }


@pytest.fixture
def definitions() -> GivenDefinitions:
    """The declared features."""
    return GivenDefinitions(
        *(value for value in vars(features).values() if isinstance(value, Definition))
    )
