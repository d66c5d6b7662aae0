"""A platform whose definitions change: a release of an old version, tables of others."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from falaj.declare import Aggregate, Entity, Feature, FeatureService, FeatureView, ForeignTable
from falaj.features.foreign import ForeignChanged
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.testing.world import BEGIN, World, definitions

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


def test_a_release_keeps_its_version_of_a_view_up_to_date(world):
    world.serving()
    made = world.premises
    with made.database.reading() as connection:
        release = made.serving.releases.active(connection, "late")
    at = BEGIN + timedelta(days=101)
    at_us = int(at.timestamp() * 1_000_000)

    def count():
        """What the release reads as ``recent:count_2d``."""
        reader = made.serving.stored_features.compile(release.features, {})
        matrix, _, _ = reader.read([SimpleNamespace(signal=0.5, carrier="AA")], at_us)
        return matrix[0][reader.names.index("recent__count_2d")]

    def push(key):
        row = {"flight": key, "carrier": "AA", "signal": 0.5, "at": at.isoformat(),
               "delay": 3.0, "late": 0}  # fmt: skip
        with world.opened() as platform:
            platform.features.push("flights", rows=[row], key=key)

    push("before")
    assert count() == 1
    recent = next(one for one in definitions() if one.name == "recent")
    more = (*recent.aggregates, Aggregate("n_3d", "count", window=timedelta(days=3)))
    with world.call() as call:
        plan = made.definitions.apply(call, [recent.model_copy(update={"aggregates": more})])
    assert [one.compatible for item in plan.effective() for one in item.changes] == [True]
    push("after")
    assert count() == 2
    with made.database.reading() as connection:
        history = made.definitions.history(connection, "feature_view", "recent")
    with world.opened() as platform:
        with pytest.raises(Conflict, match="the endpoint late"):
            platform.features.retire("recent", version=history[1].version)
        (item,) = platform.features.list(kind="feature_view")
    assert item.versions[str(history[0].version)] == "current"
    assert item.versions[str(history[1].version)] == "live"


def test_a_table_of_somebody_else_is_declared_joined_and_served(world):
    made, folder = world.premises, world.folder / "theirs"
    folder.mkdir()
    rows = pa.table({
        "shop": ["a", "a", "b"],
        "at": pa.array([NOW - timedelta(hours=n) for n in (3, 2, 1)], pa.timestamp("us", "UTC")),
        "stock": [1.0, 2.0, 3.0],
    })  # fmt: skip
    pq.write_table(rows, folder / "stock.parquet")
    shop = Entity(name="shop", keys={"shop": "string"})
    table = ForeignTable(name="stock", location="theirs/*.parquet", ordered_by="at")
    view = FeatureView(name="in_stock", entity=shop, source="stock", event_time="at",
                       features=[Feature("stock", "float64")])  # fmt: skip
    wrong = FeatureView(name="wrong", entity=shop, source="stock", event_time="at",
                        features=[Feature("price", "float64")])  # fmt: skip
    service = FeatureService(name="shopping", features=["in_stock"])
    with pytest.raises(InvalidInput, match="no column 'price'"), world.call() as call:
        made.definitions.apply(call, [shop, table, wrong])
    with world.call() as call:
        made.definitions.apply(call, [shop, table, view, service])
    spine = pa.table({"shop": ["b", "a", "c"], "timestamp": [NOW] * 3})
    pins = made.features.foreign_pins("shopping")
    tables = made.lake.tables()
    frame = made.features.training_frame(spine, "shopping", pins=pins)
    assert frame.column("in_stock__stock").to_pylist() == [3.0, 2.0, None]
    with world.opened() as platform:
        platform.features.materialize("in_stock")
        world.work()
        found = platform.features.read("shopping", rows=[{"shop": "a"}], at=NOW)
    assert found.rows[0].values == {"in_stock__stock": 2.0}
    assert made.lake.tables() == tables  # nothing was copied
    pq.write_table(rows.slice(0, 1), folder / "stock.parquet")
    with pytest.raises(ForeignChanged, match="stock"):
        made.features.training_frame(spine, "shopping", pins=pins)
