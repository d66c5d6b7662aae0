"""Offline values against plain loops: late events, long entities, several runs, old snapshots."""

import math
from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.index.indexes import Indexes
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.offline import Offline
from falaj.features.plan import ServicePlan
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.testing.features import GivenDefinitions, MemoryLake

TIME = pa.timestamp("us", "UTC")
THING = Entity(name="thing", keys={"k": "int64", "s": "string"})
TYPES = {
    "x": "float64", "i": "int64", "b": "bool", "t": "timestamp", "s2": "string", "y": "bytes",
    "l": "list[int64]", "e": "embedding[2]",
}  # fmt: skip
FUNCTIONS = [
    ("count", None), ("count", "x"), ("count", "s2"), ("sum", "x"), ("mean", "x"), ("std", "x"),
    ("min", "x"), ("max", "x"), ("last", "x"), ("min", "i"), ("max", "i"), ("last", "b"),
    ("sum", "b"), ("distinct", "x"), ("distinct", "s2"), ("distinct", "b"), ("topk", "x"),
    ("topk", "s2"), ("topk", "t"), ("quantile", "x"), ("quantile", "i"),
]  # fmt: skip
WINDOWS = [(200, 7), (60, 60), (40, 1)]


def views():
    common = {"entity": THING, "source": "events", "event_time": "at", "recorded_at": "rec"}
    state = FeatureView(
        name="state", ttl=timedelta(microseconds=50), **common,
        features=[Feature(f"f_{name}", dtype, column=name) for name, dtype in TYPES.items()],
    )  # fmt: skip
    sums = FeatureView(
        name="sums", **common,
        aggregates=[
            Aggregate(
                f"{function}_{column or 'rows'}_{w}", function, column,
                dtype=TYPES.get(column, "float64"),
                window=timedelta(microseconds=w), hop=timedelta(microseconds=h),
                **({"k": 2} if function == "topk" else {}),
                **({"q": 0.3} if function == "quantile" else {}),
            )
            for function, column in FUNCTIONS for w, h in WINDOWS
        ],
    )  # fmt: skip
    service = FeatureService(name="all", features=[state, sums])
    return GivenDefinitions(THING, state, sums, service)


def plan_of(definitions):
    return ServicePlan.of(definitions.get("feature_service", "all"), definitions)


def rows_of(chance, n, *, span=300, late=0.3, latest=150, keys=2):
    """Random events; a key or an instant is missing now and then."""

    def some(values, share=0.1):
        return [
            None if gone else value
            for gone, value in zip(chance.random(n) < share, values, strict=True)
        ]

    at = chance.integers(0, span, n).tolist()
    delays = np.where(chance.random(n) < late, chance.integers(0, latest, n), 0).tolist()
    recorded = [a + d for a, d in zip(at, delays, strict=True)]
    floats = chance.choice(
        [0.5, -0.0, 0.0, 1e9, -2.5, math.inf, -math.inf, math.nan],
        n,
        p=[0.3, 0.1, 0.1, 0.1, 0.37, 0.01, 0.01, 0.01],
    )
    words = chance.choice(["a", "b", "é", "zz", ""], n).tolist()
    numbers = chance.integers(-3, 3, n)
    columns = {
        "k": pa.array(some(chance.integers(0, keys, n).tolist(), 0.02), pa.int64()),
        "s": pa.array(chance.choice(["u", "v"], n).tolist(), pa.string()),
        "at": pa.array(some(at, 0.02), pa.int64()).cast(TIME),
        "rec": pa.array(some(recorded, 0.3), pa.int64()).cast(TIME),
        "x": pa.array(some(floats.tolist()), pa.float64()),
        "i": pa.array(some(numbers.tolist()), pa.int64()),
        "b": pa.array(some((numbers > 0).tolist()), pa.bool_()),
        "t": pa.array(some((numbers * 10).tolist()), pa.int64()).cast(TIME),
        "s2": pa.array(some(words), pa.string()),
        "y": pa.array(some([word.encode() for word in words]), pa.binary()),
        "l": pa.array(some([[1] * (abs(int(v))) for v in numbers]), pa.list_(pa.int64())),
        "e": pa.array(some([[float(v), 0.5] for v in numbers]), pa.list_(pa.float32(), 2)),
    }  # fmt: skip
    return pa.table(columns)


def spine_of(chance, m, *, span=400, keys=2):
    return pa.table(
        {
            "k": pa.array(
                [None if v == keys + 1 else int(v) for v in chance.integers(0, keys + 2, m)],
                pa.int64(),
            ),
            "s": pa.array(chance.choice(["u", "u", "v", "w"], m).tolist()),
            "timestamp": pa.array(chance.integers(0, span, m)).cast(TIME),
        }
    )


def plain(table):
    """Rows with instants as microseconds."""
    for name in table.column_names:
        kind = table[name].type
        if pa.types.is_timestamp(kind):
            table = table.set_column(
                table.column_names.index(name), name, table[name].cast(pa.int64())
            )
        elif pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
            column = table[name].cast(pa.list_(pa.int64()))
            table = table.set_column(table.column_names.index(name), name, column)
    return table.to_pylist()


def known(events, key, t, recorded):
    found = []
    for position, row in enumerate(events):
        if None in key or row["at"] is None or (row["k"], row["s"]) != key:
            continue
        rec = row["at"] if row["rec"] is None else row["rec"]
        if row["at"] <= t and (rec <= t or not recorded):
            found.append((row["at"], rec, position, row))
    return [item[3] for item in sorted(found, key=lambda item: item[:3])]


def ordered(value):
    """NaN above all numbers."""
    return (1, 0) if isinstance(value, float) and math.isnan(value) else (0, value)


def windowed(function, values):
    if function in ("distinct", "topk", "quantile"):
        counts = Counter(
            ordered(value + 0.0 if isinstance(value, float) else value) for value in values
        )
        if function == "distinct":
            return len(counts)
        if not values:
            return None
        if function == "topk":
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:2]
            return [math.nan if nan else value for (nan, value), _ in ranked]
        nan, value = sorted(counts.elements())[max(1, math.ceil(0.3 * len(values))) - 1]
        return math.nan if nan else float(value)
    if function == "count":
        return len(values)
    if not values:
        return None
    if function == "last":
        return values[-1]
    with np.errstate(all="ignore"):
        computed = {"sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max, "std": np.std}
        return computed[function](
            np.array(values, float if function != "min" and function != "max" else None)
        ).item()


def wanted(events, key, t, recorded):
    seen = known(events, key, t, recorded)
    newest = seen[-1] if seen and seen[-1]["at"] > t - 50 else dict.fromkeys(TYPES)
    answer = {f"state__f_{name}": newest[name] for name in TYPES}
    for function, column in FUNCTIONS:
        for w, h in WINDOWS:
            after = (t - w) // h * h
            values = [1 if column is None else row[column] for row in seen if row["at"] > after]
            got = windowed(function, [value for value in values if value is not None])
            answer[f"sums__{function}_{column or 'rows'}_{w}"] = None if None in key else got
    return answer


def same(got, want):
    if isinstance(want, float) and isinstance(got, float):
        return got == pytest.approx(want, rel=1e-9, abs=1e-6, nan_ok=True)
    if isinstance(want, list) and isinstance(got, list):
        return len(got) == len(want) and all(map(same, got, want))
    return got == want and type(got) is type(want)


def check(frame, events, *, recorded=True):
    events = plain(events)
    for row in plain(frame):
        expected = wanted(events, (row["k"], row["s"]), row["timestamp"], recorded)
        wrong = {n: (row[n], w) for n, w in expected.items() if not same(row[n], w)}
        assert not wrong, (row["k"], row["s"], row["timestamp"])


@pytest.mark.parametrize("knowledge", ["recorded", "event"])
@pytest.mark.parametrize(("late", "n"), [(0.0, 300), (0.3, 300), (1.0, 1500)])
def test_values_are_those_of_the_plain_definition(knowledge, late, n):
    chance = np.random.default_rng(n)
    events, spine = rows_of(chance, n, late=late), spine_of(chance, 60)
    frame = Offline(Indexes(MemoryLake(events=events))).frame(
        spine, plan_of(views()), knowledge=knowledge
    )
    check(frame, events, recorded=knowledge == "recorded")


def test_an_entity_of_many_events_is_answered_by_blocks():
    chance = np.random.default_rng(3)
    events = rows_of(chance, 9000, keys=1, late=0.02, span=300).slice(0, 9000)
    spine = spine_of(chance, 12, keys=1)
    offline = Offline(Indexes(MemoryLake(events=events)))
    check(offline.frame(spine, plan_of(views())), events)


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_runs_that_came_later_are_answered_with_the_first_and_old_snapshots_stay(late):
    chance = np.random.default_rng(4)
    lake, offline = (lake := MemoryLake()), Offline(Indexes(lake))
    plan, spine, states = plan_of(views()), spine_of(chance, 25), []
    for n in (400, 150, 60, 20, 5, 1, 0):
        events = rows_of(chance, n, late=late)
        lake.append("events", events)
        states.append((lake.latest(), lake.scan("events")))
        check(offline.frame(spine, plan), states[-1][1])
    for snapshot, events in [*reversed(states), states[2]]:
        check(offline.frame(spine, plan, snapshot=snapshot), events)


def test_a_replaced_table_is_indexed_anew_and_its_past_can_still_be_asked():
    chance = np.random.default_rng(5)
    first, second, third = (rows_of(chance, n) for n in (80, 50, 30))
    lake = MemoryLake(events=first)
    offline, plan, spine = Offline(Indexes(lake)), plan_of(views()), spine_of(chance, 20)
    before = lake.latest()
    check(offline.frame(spine, plan), first)
    lake.replace("events", second)
    check(offline.frame(spine, plan), second)
    check(offline.frame(spine, plan, snapshot=before), first)
    lake.append("events", third)
    check(offline.frame(spine, plan), pa.concat_tables([second, third]))
    lake.replace("events", second.slice(0, 0))
    check(offline.frame(spine, plan), second.slice(0, 0))


def test_only_rows_that_came_later_are_read():
    chance = np.random.default_rng(6)
    lake, read = MemoryLake(events=rows_of(chance, 1000)), []
    log = lake.log
    lake.log = lambda table, *, since=0, **how: (
        read.append(since),
        log(table, since=since, **how),
    )[1]
    offline, plan, spine = Offline(Indexes(lake)), plan_of(views()), spine_of(chance, 3)
    offline.frame(spine, plan)
    offline.frame(spine, plan)
    assert read == [0, 0]  # once for each view
    read.clear()
    lake.append("events", rows_of(chance, 10))
    offline.frame(spine, plan)
    lake.append("others", rows_of(chance, 10))
    offline.frame(spine, plan)
    assert read == [1000, 1000]
    read.clear()
    lake.append("events", rows_of(chance, 8))
    offline.frame(spine, plan)
    assert read == [1000, 1000]  # the small run is read again with the rows after it
    read.clear()
    lake.append("events", rows_of(chance, 2000))
    offline.frame(spine, plan)
    assert read == [0, 0]


def test_a_spine_is_answered_batch_by_batch_as_at_once():
    chance = np.random.default_rng(7)
    lake = MemoryLake(events=rows_of(chance, 500))
    offline, plan, spine = Offline(Indexes(lake)), plan_of(views()), spine_of(chance, 200)
    at_once = offline.frame(spine, plan, snapshot=1)
    parts = [offline.frame(spine.slice(low, 30), plan, snapshot=1) for low in range(0, 200, 30)]
    assert repr(pa.concat_tables(parts).to_pylist()) == repr(at_once.to_pylist())
    assert offline.frame(spine.slice(0, 0), plan).num_rows == 0


def test_what_cannot_be_answered_is_told():
    chance = np.random.default_rng(8)
    lake = MemoryLake(events=rows_of(chance, 5).drop_columns(["i"]))
    offline, plan, spine = Offline(Indexes(lake)), plan_of(views()), spine_of(chance, 3)
    with pytest.raises(InvalidInput, match="no column 'i'"):
        offline.frame(spine, plan)
    with pytest.raises(InvalidInput, match="timestamp"):
        offline.frame(spine.drop_columns(["timestamp"]), plan)
    taken = spine.append_column("state__f_x", pa.array([1.0] * 3))
    with pytest.raises(InvalidInput, match="state__f_x"):
        offline.frame(taken, plan)
    with pytest.raises(NotFound):
        offline.frame(spine, plan, snapshot=99)


def test_a_table_that_is_not_there_yet_has_no_values_and_then_has():
    chance = np.random.default_rng(9)
    lake = MemoryLake()
    offline, plan, spine = Offline(Indexes(lake)), plan_of(views()), spine_of(chance, 20)
    check(offline.frame(spine, plan), rows_of(chance, 0))
    events = rows_of(chance, 50)
    lake.append("events", events)
    check(offline.frame(spine, plan), events)


def test_indexes_beyond_the_budget_are_let_go():
    chance = np.random.default_rng(10)
    lake = MemoryLake(events=rows_of(chance, 100))
    indexes = Indexes(lake, budget=1)
    check(Offline(indexes).frame(spine_of(chance, 10), plan_of(views())), lake.scan("events"))
    assert indexes.n_held == 1


def test_windows_and_times_to_live_of_any_length_are_taken():
    chance = np.random.default_rng(11)
    common = {"entity": THING, "source": "events", "event_time": "at"}
    state = FeatureView(
        name="state", ttl=timedelta.max, features=[Feature("x", "float64")], **common
    )
    how = {"window": timedelta.max, "hop": timedelta.max, "dtype": "float64"}
    sums = FeatureView(
        name="sums", **common,
        aggregates=[
            Aggregate("n", "count", window=timedelta.max), Aggregate("d", "distinct", "x", **how)
        ],
    )  # fmt: skip
    service = FeatureService(name="all", features=[state, sums])
    definitions = GivenDefinitions(THING, state, sums, service)
    events, spine = rows_of(chance, 50), spine_of(chance, 30)
    events = events.set_column(3, "rec", pa.nulls(50, TIME))  # no view reads it
    frame = Offline(Indexes(MemoryLake(events=events))).frame(spine, plan_of(definitions))
    for row in plain(frame):
        key = (row["k"], row["s"])
        seen = known(plain(events), key, row["timestamp"], recorded=False)
        values = [event["x"] for event in seen if event["x"] is not None]
        assert row["sums__n"] == (None if None in key else len(seen))
        assert row["sums__d"] == (None if None in key else windowed("distinct", values))
        assert same(row["state__x"], seen[-1]["x"] if seen else None)
