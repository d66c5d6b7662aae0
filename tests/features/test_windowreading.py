"""Window views read for one entity and for many: by different code, with the same answers."""

import math
from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, FeatureService, FeatureView
from falaj.features.ports import Merge, Write
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NUMBERS = (1.5, -0.0, float("nan"), float("inf"), -float("inf"), 1e308, None)


@pytest.fixture
def store(tmp_path, now):
    card = Entity(name="card", keys={"card": "int64"})
    functions = ("count", "sum", "mean", "min", "max", "std", "last", "distinct")
    aggregates = [
        Aggregate(f"{function}_{dtype}_{minutes}", function, column, dtype=dtype,
                  window=minutes * MINUTE)
        for minutes in (30, 60)
        for function in functions
        for dtype, column in (("float64", "x"), ("int64", "i"), ("bool", "b"))
        if not (dtype == "bool" and function in ("min", "max"))
    ]  # fmt: skip
    aggregates.append(Aggregate("at_60", "last", "at", dtype="timestamp", window=HOUR))
    view = FeatureView(
        name="spent", entity=card, source="payments", event_time="at", head=MINUTE,
        aggregates=aggregates,
    )  # fmt: skip
    service = FeatureService(name="all", features=[view])
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    given = GivenDefinitions(card, view, service)
    yield FeatureStore(given, MemoryLake(), online, FixedSecrets(), SetClock(now))
    online.close()


def same(one, other):
    both = isinstance(one, float) and isinstance(other, float)
    return (both and math.isnan(one) and math.isnan(other)) or (
        one == other and type(one) is type(other)
    )


def test_one_entity_is_answered_as_it_is_among_many(store, now):
    times = [now - k * 11 * MINUTE for k in range(7)]
    rows = [
        (card, at, NUMBERS[(card + k) % len(NUMBERS)], (None, 2**60, -3)[k % 3],
         (True, None, False)[(card + k) % 3])
        for card in range(9)
        for k, at in enumerate(times[: card + 1])
    ]  # fmt: skip
    kinds = {
        "card": pa.int64(), "at": pa.timestamp("us", "UTC"), "x": pa.float64(),
        "i": pa.int64(), "b": pa.bool_(),
    }  # fmt: skip
    columns = dict(zip(kinds, zip(*rows, strict=True), strict=True))
    store.push(
        "payments", pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})
    )
    asked = [{"card": card} for card in (*range(11), None)]
    for at in (now, now - 20 * MINUTE, now + 40 * MINUTE, now + 3 * HOUR):
        together = store.read_online("all", asked, at)
        for number, row in enumerate(asked):
            alone = store.read_online("all", [row], at)
            for name, one, other in zip(
                alone.names, alone.values[0], together.values[number], strict=True
            ):
                assert same(one, other), (row, at, name, one, other)
            assert alone.statuses[0] == together.statuses[number], (row, at)
            assert alone.event_times[0] == together.event_times[number]


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_row_that_is_cut_short_is_refused_and_never_read_beyond_its_end(store, now, cut):
    at = pa.array([now - 20 * MINUTE, now], pa.timestamp("us", "UTC"))
    table = {"card": [7, 7], "at": at, "x": [1.5, 2.5], "i": [3, 4], "b": [True, False]}
    store.push("payments", pa.table(table))
    assert store.read_online("all", [{"card": 7}], now).values[0][0] == 2
    layout = store.storage(store.plan("all").views[0].plan).window.layout
    kept = {key: store.online.read([key])[0] for key in store.online.keys(layout.mark_key)}
    head = layout.generation_prefix(0) + b"\x00"
    tiles = [layout.hop_prefix(0, hop, by_value=False) for hop in range(len(layout.hops))]
    damaged = {key: row[:-cut] for key, row in kept.items() if key.startswith((head, *tiles))}
    assert len(damaged) == 3
    for key, row in list(damaged.items()):
        many = row[:32] + (1 << 60).to_bytes(8, "little") + row[40:]
        for wrong in (row, many) if key.startswith(head) else (row, kept[key] + bytes(cut)):
            put(store, key, wrong)
            with pytest.raises(Corrupt, match="cut short"):
                store.read_online("all", [{"card": 7}] * 3, now)
        put(store, key, kept[key])
    assert store.read_online("all", [{"card": 7}], now).values[0][0] == 2


def put(store, key, row):
    store.online.write(Write(merges=[Merge([key], lambda _: [row])]))
