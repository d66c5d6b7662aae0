"""Foreign tables are joined where they lie, with the answers of the lake."""

import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.features.adapters.foreign_parquet import ParquetReader
from falaj.features.foreign import ForeignChanged, ForeignTables, ForeignUnreadable
from falaj.features.foreign_join import Foreign, ForeignView
from falaj.features.index.indexes import Indexes
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    Knowledge,
)
from falaj.features.offline import Offline
from falaj.features.sources import ForeignTable, Format
from falaj.features.store import FeatureStore
from falaj.features.views import ViewPlan
from falaj.ingest.files import Files
from falaj.ingest.model import SourceBroken
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSTANT = pa.timestamp("us", "UTC")
SECOND = 1_000_000
CARD = Entity(name="card", keys={"card": "int64"})
ROUTE = Entity(name="route", keys={"origin": "string", "hour": "int64"})
FEATURES = [Feature("amount", "float64"), Feature("note", "string"), Feature("n", "int64"),
            Feature("words", "list[string]")]  # fmt: skip
AGGREGATES = [
    Aggregate("sum_9s", "sum", "amount", window=timedelta(seconds=9), hop=timedelta(seconds=2)),
    Aggregate("n_9s", "count", window=timedelta(seconds=9)),
    Aggregate("last_5s", "last", "n", dtype="int64", window=timedelta(seconds=5)),
]


def table(rows):
    """Rows of (card, origin, hour, at, seen, amount, note) with seconds for instants."""
    cards, origins, hours, at, seen, amounts, notes = zip(*rows, strict=True) if rows else [[]] * 7
    instants = [
        pa.array([None if t is None else t * SECOND for t in times], pa.int64()).cast(INSTANT)
        for times in (at, seen)
    ]
    return pa.table({
        "card": pa.array(cards, pa.int32()), "origin": pa.array(origins, pa.string()),
        "hour": pa.array(hours, pa.int64()), "at": instants[0], "seen": instants[1],
        "amount": pa.array(amounts, pa.float32()), "note": pa.array(notes, pa.string()),
        "n": pa.array(range(len(rows)), pa.int64()),
        "words": pa.array([None if n is None else [n] * 2 for n in notes], pa.list_(pa.string())),
    })  # fmt: skip


def written(folder, rows, *, files=1, group=3):
    """Parquet files of consecutive rows with small row groups; the table that they hold."""
    for old in folder.glob("*.parquet"):
        old.unlink()
    size = -(-max(rows.num_rows, 1) // files)
    for number in range(files):
        part = rows.slice(number * size, size)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=group)
    return ForeignTable(name="events", location="*.parquet")


def reader(folder):
    return ParquetReader(Files([folder]))


def view(entity=CARD, **values):
    values.setdefault("features", () if "aggregates" in values else FEATURES)
    return ViewPlan.of(
        FeatureView(name="v", entity=entity, source="events", event_time="at", **values), entity
    )


def spine(plan, asked):
    columns = {
        "card": pa.array([row[0] for row in asked], pa.int64()),
        "origin": pa.array([row[1] for row in asked], pa.string()),
        "hour": pa.array([row[2] for row in asked], pa.int64()),
    }
    at = np.array([row[3] * SECOND for row in asked], np.int64)
    return [columns[key] for key in plan.keys], at


def features(plan, opened, asked, ordered_by=None):
    keys, at = spine(plan, asked)
    found = ForeignView(plan, opened, ordered_by)
    return found.features(list(plan.outputs), keys, at, Knowledge.RECORDED)


def answers(found):
    return {name: str(column.to_pylist()) for name, column in found.items()}


cards = st.one_of(st.none(), st.integers(0, 3))
origins = st.one_of(st.none(), st.sampled_from("ab"))
hours = st.one_of(st.none(), st.integers(0, 1))
times = st.integers(0, 20)
amounts = st.one_of(st.none(), st.sampled_from([0.0, -1.5, 2.0, float("nan"), float("inf")]))
events = st.tuples(cards, origins, hours, st.one_of(st.none(), times), st.one_of(st.none(), times),
                   amounts, st.one_of(st.none(), st.sampled_from("xy")))  # fmt: skip
questions = st.tuples(cards, origins, hours, st.integers(-2, 25))
meanings = st.fixed_dictionaries(
    {},
    optional={
        "recorded_at": st.just("seen"),
        "ttl": st.integers(1, 8).map(lambda n: timedelta(seconds=n)),
        "where": st.sampled_from([(Filter("amount", ">=", 0.0),), (Filter("note", "not_null"),)]),
    },
)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(events, max_size=25),
    asked=st.lists(questions, max_size=12),
    meaning=meanings,
    entity=st.sampled_from([CARD, ROUTE]),
    windows=st.booleans(),
    ordered=st.booleans(),
    files=st.integers(1, 3),
    knowledge=st.sampled_from(list(Knowledge)),
)
def test_the_answers_are_those_of_the_same_rows_in_the_lake(
    tmp_path_factory, rows, asked, meaning, entity, windows, ordered, files, knowledge
):
    folder = tmp_path_factory.getbasetemp()
    if ordered:
        rows = sorted(rows, key=lambda row: -1 if row[3] is None else row[3])
    if windows:
        meaning = {**{k: v for k, v in meaning.items() if k != "ttl"}, "aggregates": AGGREGATES}
    whole, plan = table(rows), view(entity, **meaning)
    keys, at = spine(plan, asked)
    opened = reader(folder).open(written(folder, whole, files=files), None)
    found = ForeignView(plan, opened, "at" if ordered else None)
    lake, names = Offline(Indexes(MemoryLake(events=whole))), list(plan.outputs)[::-1]
    wanted = lake.values(plan, names, keys, at, knowledge, 1)
    assert answers(found.features(names, keys, at, knowledge)) == answers(wanted)
    assert len(found.events()) == len(plan.events(whole))


def test_many_late_rows_of_one_entity_are_stepped_over(tmp_path):
    late = [(1, "a", 0, 10 + i // 50, 900, 1.0, "late") for i in range(500)]
    rows = table([(1, "a", 0, 1, 1, 1.0, "early"), *late, (2, "a", 0, 70, 70, 1.0, "other")])
    plan = view(recorded_at="seen")
    asked = [(1, "a", 0, 80), (1, "a", 0, 899), (1, "a", 0, 900), (2, "a", 0, 80)]
    opened = reader(tmp_path).open(written(tmp_path, rows, group=64), None)
    found = features(plan, opened, asked, "at")
    assert found["note"].to_pylist() == ["early", "early", "late", "other"]
    assert found["n"].to_pylist() == [0, 0, 500, 501]


class Counting:
    """Opened parts that remember what was read of them."""

    def __init__(self, opened):
        self.pin, self.schema, self.check, self.reads = opened.pin, opened.schema, opened.check, []
        self.parts = [CountingPart(part, number, self.reads)
                      for number, part in enumerate(opened.parts)]  # fmt: skip


class CountingPart:
    def __init__(self, part, number, reads):
        self._part, self._number, self._reads = part, number, reads
        self.name, self.least, self.n_rows = part.name, part.least, part.n_rows

    def read(self, columns):
        self._reads.append((self._number, tuple(columns)))
        return self._part.read(columns)


def test_only_what_is_needed_is_read(tmp_path):
    rows = table([(i, "a", 0, i, i, 1.0, "x") for i in range(12)])
    plan = view(features=[Feature("amount", "float64")])
    opened = Counting(reader(tmp_path).open(written(tmp_path, rows), None))
    assert features(plan, opened, [(4, "a", 0, 7)], "at")["amount"].to_pylist() == [1.0]
    marks, values = ("card", "at"), ("amount",)
    assert sorted(opened.reads) == [(0, marks), (1, values), (1, marks), (2, marks)]


def test_rows_out_of_the_promised_order_are_named(tmp_path):
    for places, told in [((0, 1, 2, 5, 4, 6), "row 2 of row group 1"),
                         ((3, 4, 5, 2, 6, 7), "row 1 of row group 1"),
                         ((3, 4, 5, 6, 1, 7, 8), "row 1 of row group 0 of part-1")]:  # fmt: skip
        rows = table([(9, "a", 0, i, i, 1.0, "x") for i in places])
        files = 2 if len(places) == 7 else 1
        declared = written(tmp_path, rows, files=files, group=3 if files == 1 else 6)
        opened = reader(tmp_path).open(declared, None)
        with pytest.raises(InvalidInput, match=told) as refused:
            features(view(), opened, [(1, "a", 0, 30)], "at")
        assert "ordered_by" in refused.value.hint
        found = features(view(), opened, [(9, "a", 0, 30)])
        assert found["n"].to_pylist() == [places.index(max(places))]


def test_a_column_of_another_type_is_refused(tmp_path):
    declared = written(tmp_path, table([(1, "a", 0, 1, 1, 1.0, "x")]))
    opened = reader(tmp_path).open(declared, None)
    for values, told in [
        ({"features": [Feature("nothing", "float64")]}, "no column 'nothing'"),
        ({"features": [Feature("note", "float64")]}, "'note' has the type string"),
        ({"features": FEATURES, "where": [Filter("note", ">", 3)]}, "cannot compare"),
    ]:
        with pytest.raises(InvalidInput, match=told):
            features(view(**values), opened, [(1, "a", 0, 3)])
    naive = pa.table({"card": [1], "at": pa.array([0], pa.timestamp("us")), "amount": [1.0]})
    opened = reader(tmp_path).open(written(tmp_path, naive), None)
    plan = view(features=[Feature("amount", "float64")])
    with pytest.raises(InvalidInput, match="no time zone"):
        features(plan, opened, [(1, "a", 0, 3)])


def test_a_pin_says_which_files_were_read(tmp_path):
    rows = table([(1, "a", 0, 1, 1, 1.0, "x")])
    declared = written(tmp_path, rows)
    files = reader(tmp_path)
    first = files.open(declared, None)
    assert files.open(declared, first.pin).pin == first.pin
    first.check()
    os.utime(tmp_path / "part-0.parquet", ns=(1, 1))
    with pytest.raises(ForeignChanged, match="events"):
        files.open(declared, first.pin)
    with pytest.raises(ForeignChanged, match="while"):
        first.check()


def test_files_that_cannot_be_a_table_are_told(tmp_path):
    declared = written(tmp_path, table([(1, "a", 0, 1, 1, 1.0, "x")]))
    pq.write_table(pa.table({"card": ["1"]}), tmp_path / "part-9.parquet")
    with pytest.raises(ForeignUnreadable, match="differ in"):
        reader(tmp_path).open(declared, None)
    (tmp_path / "part-9.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(ForeignUnreadable, match="cannot be read"):
        reader(tmp_path).open(declared, None)


@pytest.mark.parametrize(
    "location",
    [
        "../*.parquet",
        "/etc/passwd",
        "own/x.parquet",
        "link.parquet",
        ".hidden/x.parquet",
        "gone.parquet",
    ],
)
def test_only_permitted_files_are_opened(tmp_path, location):
    project = tmp_path / "project"
    for folder in (project / "own", project / ".hidden"):
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "outside.parquet")
    (project / "link.parquet").symlink_to(tmp_path / "outside.parquet")
    files = ParquetReader(Files([project], closed=[project / "own"]))
    with pytest.raises(SourceBroken):
        files.open(ForeignTable(name="events", location=location), None)


# -- in the feature store ------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [(1, "a", 0, 1, 1, 1.0, "x"), (1, "a", 0, 5, 5, 2.0, "y"), (2, "b", 1, 6, 6, 3.0, "z")]
    declared = written(folder, table(rows)).model_copy(update={"ordered_by": "at"})
    latest = FeatureView(
        name="latest", entity=CARD, source=declared.name, event_time="at", features=FEATURES[:1]
    )
    windows = FeatureView(
        name="windows", entity=CARD, source=declared.name, event_time="at", aggregates=AGGREGATES
    )
    own = FeatureView(
        name="own", entity=CARD, source="lake_events", event_time="at", features=FEATURES[:1]
    )
    from falaj.features.adapters.online_lmdb import LmdbOnlineStore

    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    given = GivenDefinitions(
        CARD, declared, latest, windows, own,
        FeatureService(name="all", features=["latest", "windows:sum_9s", "own"]),
        FeatureService(name="foreign", features=["latest", "windows:n_9s"]),
    )  # fmt: skip
    lake = MemoryLake(lake_events=table(rows))
    foreign = Foreign(given, ForeignTables({Format.PARQUET: reader(folder)}))
    made = FeatureStore(
        given, lake, online, FixedSecrets(), SetClock(NOW), offline=Offline(Indexes(lake), foreign)
    )
    made.folder = folder
    yield made
    online.close()


def asked(*rows):
    cards, at = zip(*rows, strict=True)
    instants = pa.array([t * SECOND for t in at], pa.int64()).cast(INSTANT)
    return pa.table({"card": pa.array(cards), "timestamp": instants})


def test_a_training_frame_takes_from_the_lake_and_from_foreign_tables(store):
    frame = store.training_frame(asked((1, 4), (1, 7), (2, 7), (3, 7)), "all")
    assert frame.column("latest__amount").to_pylist() == [1.0, 2.0, 3.0, None]
    assert frame.column("own__amount").to_pylist() == [1.0, 2.0, 3.0, None]
    assert frame.column("windows__sum_9s").to_pylist() == [1.0, 3.0, 3.0, None]
    assert store.lake.latest() == 1  # nothing was copied


def test_a_training_frame_says_what_it_read_and_refuses_another_version(store):
    pins = store.foreign_pins("all")
    assert set(pins) == {"events"}
    first = store.training_frame(asked((1, 7)), "all", pins=pins)
    assert store.training_frame(asked((1, 7)), "all", pins=pins).equals(first)
    written(store.folder, table([(1, "a", 0, 1, 1, 9.0, "x")]))
    with pytest.raises(ForeignChanged):
        store.training_frame(asked((1, 7)), "all", pins=pins)


def test_views_of_a_foreign_table_are_materialised_to_the_online_store(store):
    done = [store.materialize(name) for name in ("latest", "windows")]
    assert [one.n_events for one in done] == [3, 3]
    at = datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)
    found = store.read_online("foreign", [{"card": 1}, {"card": 2}], at)
    assert found.values == [[2.0, 2], [3.0, 1]]


def test_nothing_is_pushed_to_a_foreign_table(store):
    with pytest.raises(InvalidInput, match="foreign"):
        store.push("events", table([(1, "a", 0, 8, 8, 1.0, "x")]))


def test_a_format_without_a_reader_is_told(store):
    declared = store.definitions.get(ForeignTable.kind, "events")
    with pytest.raises(Unavailable, match="delta"):
        ForeignTables({}).open(declared.model_copy(update={"format": Format.DELTA}))
