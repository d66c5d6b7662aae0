"""A lake and the domain objects of training over it; features come from a lake table."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.kernel.errors import NotFound
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.training.model import TimeSplit, TrainingSetSpec
from falaj.training.ports import Pinned
from falaj.training.tracking.runs import Runs
from falaj.training.training_sets import TrainingSets

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


class TableFrames:
    """A ``FeatureFrames`` whose features stand in a lake table, by flight."""

    def __init__(self, lake):
        self.lake = lake

    def training_frame(
        self,
        spine,
        service,
        *,
        timestamp="timestamp",
        knowledge="recorded",
        snapshot=None,
        pins=None,
    ):
        assert "late" not in spine.column_names, "features must never see the label"
        found = self.lake.scan("features", snapshot=snapshot)
        values = dict(zip(found["flight"].to_pylist(), found["x"].to_pylist(), strict=True))
        column = pa.array([values.get(key) for key in spine["flight"].to_pylist()], pa.float64())
        return spine.append_column("x", column)


class FixedPins:
    """``DefinitionPins`` that a test sets."""

    def __init__(self):
        self.found = {"feature_service:delays": "1"}

    def pins(self, connection, feature_service):
        if feature_service != "delays":
            raise NotFound(f"There is no feature service {feature_service!r}.")
        return Pinned(dict(self.found), feature_service, {}, ("carrier",))

    def pinned(self, connection, feature_service, versions, fingerprints):
        return Pinned(dict(fingerprints), feature_service, dict(versions), ("carrier",))


@pytest.fixture
def lake(tmp_path):
    found = DuckLake.in_folder(tmp_path / "lake", threads=1, memory="1GB")
    n = 60
    found.append_many(
        {
            "spine": pa.table(
                {
                    "flight": list(range(n)),
                    "carrier": ["AA", "UA"] * (n // 2),
                    "at": pa.array(
                        [BEGIN + timedelta(days=place) for place in range(n)],
                        pa.timestamp("us", "UTC"),
                    ),
                    "late": [None if place % 20 == 0 else place % 3 == 0 for place in range(n)],
                }
            ),
            "features": pa.table(
                {"flight": list(range(n)), "x": [float(place) for place in range(n)]}
            ),
        }
    )
    yield found
    found.close()


@pytest.fixture
def catalog():
    return Catalog()


@pytest.fixture
def pins():
    return FixedPins()


@pytest.fixture
def sets(lake, pins, catalog):
    return TrainingSets(lake, TableFrames(lake), pins, catalog)


@pytest.fixture
def runs(catalog):
    return Runs(catalog)


@pytest.fixture
def spec():
    return TrainingSetSpec(
        feature_service="delays",
        label="late",
        spine="spine",
        timestamp="at",
        split=TimeSplit(
            train_from=BEGIN + timedelta(days=2),
            train_until=BEGIN + timedelta(days=30),
            validation_until=BEGIN + timedelta(days=40),
            test_until=BEGIN + timedelta(days=55),
        ),
    )


@pytest.fixture
def pinned():
    return Pinned(
        {"feature_service:delays": "1"}, "delays", {"feature_service:delays": 1}, ("carrier",)
    )
