"""Streams and foreign tables against the views that read them, before anything is applied."""

from datetime import timedelta

import pyarrow as pa
import pytest
from pydantic import ValidationError

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Classification
from falaj.features.appliers import KINDS, appliers
from falaj.features.fitting import Fitting
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
)
from falaj.features.sources import ForeignTable, Stream
from falaj.features.views import ViewPlan
from falaj.ingest.model import Source
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.lake.model import SchemaMismatch
from falaj.testing.features import MemoryLake

INSTANT = pa.timestamp("us", "UTC")
CARD = Entity(name="card", keys={"card": "string"})
COLUMNS = {"card": "string", "at": "timestamp", "amount": "float64", "face": "embedding[4]",
           "photo": "bytes", "words": "list[string]"}  # fmt: skip
PAYMENTS = Stream(name="payments", columns=COLUMNS, event_time="at", recorded_at="seen")
ARCHIVE = ForeignTable(name="archive", location="archive/*.parquet")


def view(**values):
    given = {"name": "spent", "entity": CARD, "source": "payments", "event_time": "at"}
    if "aggregates" not in values:
        values.setdefault("features", [Feature("amount", "float64")])
    return FeatureView(**{**given, **values})


class Platform:
    def __init__(self, database, make_call, **tables):
        def find(connection, kind, name, version=None):
            return self.definitions.definition(connection, kind, name, version)

        self.schemas = {
            "archive": pa.schema({"card": pa.string(), "at": INSTANT, "amount": pa.float64()})
        }
        self.catalog = Catalog()
        self.database, self._make_call = database, make_call
        fitting = Fitting(lambda table: self.schemas[table.name], lambda: MemoryLake(**tables))
        self.definitions = Definitions(
            self.catalog, {**KINDS, "source": Source}, appliers(find, self.catalog), [fitting]
        )

    def apply(self, *definitions):
        with self._make_call(self.database) as call:
            return self.definitions.apply(call, definitions)

    def plan(self, *definitions):
        with self.database.reading() as connection:
            return self.definitions.plan(connection, definitions)


@pytest.fixture
def platform(sqlite_database, make_call):
    return Platform(sqlite_database, make_call)


def test_a_view_of_a_stream_may_read_lists_bytes_and_the_instant_of_recording(platform):
    features = [Feature("amount", "float64"), Feature("face", "embedding[4]"),
                Feature("photo", "bytes"), Feature("words", "list[string]")]  # fmt: skip
    fine = view(features=features, recorded_at="seen", where=[Filter("amount", ">", 0.0)])
    platform.apply(CARD, PAYMENTS, fine)
    assert len(platform.plan(CARD, PAYMENTS, fine).items) == 3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"features": [Feature("euros", "float64")]}, "no column 'euros'"),
        ({"features": [Feature("amount", "int64")]}, "'amount' has the type double"),
        ({"features": [Feature("face", "embedding[3]", column="words")]}, "'words'"),
        ({"features": [Feature("photo", "string")]}, "'photo' has the type binary"),
        ({"event_time": "amount"}, "'amount'"),
        ({"recorded_at": "nothing"}, "no column 'nothing'"),
        ({"entity_columns": {"card": "amount"}}, "'amount' has the type double"),
        ({"where": [Filter("amount", "==", "much")]}, "cannot compare"),
        ({"where": [Filter("nothing", "not_null")]}, "no column 'nothing'"),
        ({"aggregates": [Aggregate("s", "sum", "card", window=timedelta(1))]}, "'card'"),
    ],
)
@pytest.mark.parametrize("source", ["payments", "archive"])
def test_a_view_that_does_not_fit_its_source_is_refused_by_plan_and_apply(
    platform, values, told, source
):
    if source == "archive" and told in ("'words'", "'photo' has the type binary"):
        told = "no column"
    declared = [CARD, PAYMENTS, ARCHIVE, view(source=source, **values)]
    for act in (platform.plan, platform.apply):
        with pytest.raises(InvalidInput, match=told) as refused:
            act(*declared)
        assert "'spent' does not fit its source" in refused.value.message
    with platform.database.reading() as connection:
        assert platform.definitions.listed(connection) == []


def test_a_source_that_its_views_no_longer_fit_is_refused(platform):
    platform.apply(CARD, PAYMENTS, ARCHIVE, view(), view(name="old", source="archive"))
    narrower = {name: kind for name, kind in COLUMNS.items() if name != "amount"}
    with pytest.raises(InvalidInput, match="no column 'amount'"):
        platform.apply(Stream(name="payments", columns=narrower, event_time="at"))
    platform.schemas["archive"] = pa.schema({"card": pa.string(), "at": INSTANT})
    with pytest.raises(InvalidInput, match="'old' does not fit its source 'archive'"):
        platform.apply(ARCHIVE.model_copy(update={"location": "newer/*.parquet"}))
    wider = Stream(name="payments", columns={**COLUMNS, "shop": "string"}, event_time="at")
    platform.apply(wider)


def test_the_table_of_a_stream_that_stands_already_must_fit(sqlite_database, make_call):
    there = pa.table({"card": pa.array([], pa.string()), "at": pa.array([], INSTANT),
                      "amount": pa.array([], pa.string())})  # fmt: skip
    platform = Platform(sqlite_database, make_call, payments=there)
    with pytest.raises(SchemaMismatch, match="'amount'"):
        platform.apply(PAYMENTS)
    lacking = Stream(name="payments", columns={"card": "string", "at": "timestamp"},
                     event_time="at")  # fmt: skip
    with pytest.raises(SchemaMismatch, match="lack the column"):
        platform.apply(lacking)


def test_the_tables_of_a_stream_are_assets_as_secret_as_the_stream(platform):
    platform.apply(CARD, PAYMENTS.model_copy(update={"classification": Classification.PERSONAL}))
    with platform.database.reading() as connection:
        for table in ("payments", "payments_dead_letters"):
            ref = AssetRef("table", table)
            asset = platform.catalog.get(connection, ref)
            assert asset.classification is Classification.PERSONAL
            assert platform.catalog.walk(connection, ref).refs() == [AssetRef("stream", "payments")]
    with pytest.raises(InvalidInput, match="personal table"):
        platform.apply(view())
    platform.apply(view(classification="personal"))
    with platform.database.reading() as connection:
        upstream = platform.catalog.walk(connection, AssetRef("feature_view", "spent")).refs()
    assert AssetRef("stream", "payments") in upstream


def test_lineage_runs_from_a_foreign_table_to_its_views(platform):
    platform.apply(CARD, ARCHIVE, view(source="archive"))
    with platform.database.reading() as connection:
        upstream = platform.catalog.walk(connection, AssetRef("feature_view", "spent")).refs()
    assert AssetRef("foreign_table", "archive") in upstream


def test_a_name_of_a_table_means_one_thing(platform):
    clash = ForeignTable(name="payments", location="x.parquet")
    dead = ForeignTable(name="payments_dead_letters", location="x.parquet")
    long = [Stream(name="a" * 50 + end, columns=COLUMNS, event_time="at") for end in "bc"]
    load = Source(name="load", table="archive", path="x.csv", columns={"card": "text"})
    for declared in ([PAYMENTS, clash], [PAYMENTS, dead], long):
        with pytest.raises(InvalidInput, match="mean the table"):
            platform.apply(*declared)
    with pytest.raises(InvalidInput, match="is foreign"):
        platform.apply(ARCHIVE, load)


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": {"x; DROP TABLE t": "string", "at": "timestamp"}},
        {"columns": {"1st": "string", "at": "timestamp"}},
        {"columns": {"a": "string", "A": "string", "at": "timestamp"}},
        {"columns": {"at": "int64"}},
        {"columns": {"at": "timestamp", "seen": "string"}, "recorded_at": "seen"},
        {"columns": {"card": "string"}},
        {"columns": {"at": "timestamp"}, "key": ("card",)},
        {"name": 'x" OR 1=1'},
    ],
)
def test_a_stream_that_cannot_be_is_refused(wrong):
    given = {"name": "payments", "columns": COLUMNS, "event_time": "at"}
    with pytest.raises(ValidationError):
        Stream(**{**given, **wrong})


@pytest.mark.parametrize("name", ["a;b", 'x"', "a b", "", "Ünïcode", "x" * 64, "1st", "a@0"])
def test_names_that_are_no_names_are_refused(name):
    for make in (
        lambda: view(name=name),
        lambda: Feature(name, "float64"),
        lambda: FeatureService(name="s", features=[f"{name}:x"]),
    ):
        with pytest.raises(ValidationError):
            make()


def test_two_features_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="same name"):
        view(features=[Feature("amount", "float64"), Feature("amount", "int64")])
    with pytest.raises(ValidationError, match="same name"):
        view(aggregates=[Aggregate("n", "count", window=timedelta(1))] * 2)


@pytest.mark.nightly
def test_a_view_of_ten_thousand_features_is_planned_applied_and_compiled(platform):
    names = [f"f{number}" for number in range(9_990)]
    stream = Stream(
        name="wide", event_time="at",
        columns={"card": "string", "at": "timestamp", **dict.fromkeys(names, "float64")},
    )  # fmt: skip
    wide = view(name="wide", source="wide", features=[Feature(name, "float64") for name in names])
    platform.apply(CARD, stream, wide, FeatureService(name="all", features=["wide"]))
    assert len(ViewPlan.of(wide, CARD).outputs) == 9_990
    with pytest.raises(InvalidInput, match="wide:nothing") as refused:
        platform.apply(FeatureService(name="some", features=["wide:nothing"]))
    assert len(refused.value.hint) < 500
    with pytest.raises(ValidationError):
        Stream(name="wider", event_time="at", columns={
            "at": "timestamp", **{f"f{number}": "float64" for number in range(10_000)}
        })  # fmt: skip
