"""Online reads: by row, by column and one by one give the same."""

import random
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
    Status,
)
from falaj.features.store import FeatureStore
from falaj.features.vectors import NO_TIME, STATUSES, Block
from falaj.kernel.clock import SetClock, microseconds
from falaj.kernel.errors import InvalidInput
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

HOUR = timedelta(hours=1)
TYPES = {"x": "float64", "i": "int64", "b": "bool", "s": "string", "y": "bytes",
         "e": "embedding[4]", "l": "list[int64]", "t": "timestamp"}  # fmt: skip


@pytest.fixture
def given():
    card = Entity(name="card", keys={"card": "int64"})
    state = FeatureView(
        name="state", entity=card, source="states", event_time="at", ttl=HOUR,
        features=[Feature(name, dtype) for name, dtype in TYPES.items()],
    )  # fmt: skip
    floats = [
        FeatureView(
            name=name, entity=card, source="states", event_time="at", classification=secret,
            features=[Feature("x", "float64"), Feature("z", "float64")],
        )
        for name, secret in (("open", None), ("sealed", "personal"))
    ]  # fmt: skip
    spent = FeatureView(
        name="spent", entity=card, source="states", event_time="at",
        aggregates=[Aggregate("n", "count", window=HOUR),
                    Aggregate("most", "max", "x", window=HOUR),
                    Aggregate("kinds", "distinct", "s", dtype="string", window=HOUR),
                    Aggregate("often", "topk", "i", dtype="int64", k=2, window=HOUR)],
    )  # fmt: skip
    double = OnDemandFeatures(
        name="double", inputs={"x": "open:x", "asked": "request:asked"},
        outputs=[Feature("x", "float64")], source="def double(x, asked):\n    return x * asked\n",
    )  # fmt: skip
    return GivenDefinitions(
        card, state, *floats, spent, double,
        FeatureService(name="typed", features=["state"]),
        FeatureService(name="floats", features=["sealed:z", "open"],
                       request_fields={"asked": "float64"},
                       missing={"open:x": -1.0, "asked": 2.0}, classification="personal"),
        FeatureService(name="windows", features=["spent:often", "spent:n", "state:i", "spent:most",
                                                 "spent:kinds"]),
        FeatureService(name="computed", features=["double:x", "state:s"], on_demand=["double"],
                       request_fields={"asked": "float64"}),
    )  # fmt: skip


@pytest.fixture
def store(given, tmp_path, now):
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    store = FeatureStore(given, MemoryLake(), online, FixedSecrets(), SetClock(now))
    chance = random.Random(5)

    def some(value):
        return value if chance.random() < 0.8 else None

    rows = []
    for card in range(40):
        at = now - timedelta(minutes=chance.choice([0, 1, 59, 60, 61]))
        rows += [
            {"card": card, "at": at - timedelta(minutes=k), "x": some(chance.random()),
             "z": some(float(card)), "i": some(card % 3), "b": some(card % 2 == 0),
             "s": some(f"text {card % 5}"), "y": some(bytes([card])), "e": some([0.5, 1, 2, card]),
             "l": some([card] * (card % 4)), "t": some(at)}
            for k in range(3)
        ]  # fmt: skip
    kinds = {"at": pa.timestamp("us", "UTC"), "t": pa.timestamp("us", "UTC"),
             "e": pa.list_(pa.float32(), 4), "y": pa.binary()}  # fmt: skip
    table = pa.table(
        {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
    )
    store.push("states", table)
    yield store
    online.close()


SERVICES = ["typed", "floats", "windows", "computed"]


@pytest.mark.parametrize("service", SERVICES)
def test_rows_columns_and_single_reads_say_the_same(store, now, service):
    reader, at = store.reader(store.plan(service)), microseconds(now)
    asked = [*range(43), None, 7, 7]
    rows = [{"card": card, "asked": 0.5 if card != 3 else None} for card in asked]
    alone = [reader.read([row], at) for row in rows]
    few = [reader.read(rows[i : i + 4], at) for i in range(0, len(rows), 4)]
    many = reader.read(rows, at)
    columns = reader.columns({name: [row[name] for row in rows] for name in rows[0]}, at)
    times = reader.read(rows, [at] * len(rows))
    for name in ("values", "statuses", "event_times"):
        wanted = [one for found in alone for one in getattr(found, name)]
        assert [one for found in few for one in getattr(found, name)] == wanted
        assert getattr(many, name) == wanted
        assert getattr(times, name) == wanted
        assert getattr(columns.vectors(), name) == wanted
    records = [dict(zip(reader.names, values, strict=True)) for values in many.values]
    assert reader.records(rows, at) == columns.records() == records
    assert [reader.record(row, at) for row in rows] == records
    assert {status for row in many.statuses for status in row} >= {Status.PRESENT, Status.MISSING}


@pytest.mark.parametrize("service", SERVICES)
def test_no_rows_give_columns_without_values(store, now, service):
    reader = store.reader(store.plan(service))
    columns = reader.columns({"card": [], "asked": []}, microseconds(now))
    assert [len(columns.values[name]) for name in reader.names] == [0] * len(reader.names)
    assert columns.statuses.shape == (0, len(reader.names))
    assert reader.read([], microseconds(now)).values == []


def test_columns_are_numpy_arrays_of_their_types(store, now):
    reader = store.reader(store.plan("typed"))
    for cards in (np.array([1]), np.arange(30)):
        found = reader.columns({"card": cards}, microseconds(now)).values
        kinds = {name.split("__")[1]: array.dtype.str for name, array in found.items()}
        assert kinds == {"x": "<f8", "i": "<i8", "b": "|b1", "s": "|O", "y": "|O", "e": "<f4",
                         "l": "|O", "t": "<i8"}  # fmt: skip
        assert found["state__e"].shape == (len(cards), 4)


def test_columns_of_nothing_but_floats_stand_in_one_block(store, now):
    reader = store.reader(store.plan("floats"))
    for n in (1, 43):
        given = {"card": list(range(n)), "asked": [1.0] * n}
        found = reader.columns(given, microseconds(now))
        assert isinstance(found.values, Block)
        assert found.values.array.shape == (len(reader.names), n)
        assert list(found.values) == list(reader.names)


def test_event_times_and_statuses_stand_beside_the_values(store, now):
    reader, at = store.reader(store.plan("typed")), microseconds(now)
    found = reader.columns({"card": [*range(40), 99]}, at)
    assert found.event_times[40, 0] == NO_TIME
    expired = found.event_times[:40, 0] <= at - 3_600_000_000
    assert expired.any()
    codes = found.statuses[:40]
    assert ((codes == STATUSES.index(Status.EXPIRED)).all(axis=1) == expired).all()
    assert np.isnan(found.values["state__x"][:40][expired]).all()
    assert found.values["state__s"][40] is None


def test_a_read_of_ten_thousand_entities_is_one_call(store, now):
    reader = store.reader(store.plan("floats"))
    given = {"card": np.arange(10_000), "asked": np.ones(10_000)}
    found = reader.columns(given, microseconds(now))
    few = reader.columns({name: one[:40] for name, one in given.items()}, microseconds(now))
    assert (found.values["open__x"][:40] == few.values["open__x"]).all()
    assert (found.values["open__x"][40:] == -1.0).all()


def test_columns_that_do_not_fit_are_refused(store, now):
    reader, at = store.reader(store.plan("floats")), microseconds(now)
    for given, told in (
        ({"card": [1, 2], "asked": [1.0]}, "lengths"),
        ({"asked": [1.0, 2.0]}, "card"),
        ({"asked": [1.0]}, "card"),
        ({"card": ["1"] * 20, "asked": [1.0] * 20}, "int64"),
        ({"card": [1] * 20, "asked": ["1"] * 20}, "asked"),
    ):
        with pytest.raises(InvalidInput, match=told):
            reader.columns(given, at)
    assert reader.columns({"card": [1]}, at).values["asked"].tolist() == [2.0]
    assert reader.columns({"card": [1] * 20}, at).values["asked"].tolist() == [2.0] * 20
