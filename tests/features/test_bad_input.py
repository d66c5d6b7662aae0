"""Bad input is refused clearly, and nothing of it is written: not in the lake, not online."""

import json
import math
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView, Filter
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import FalajError, InvalidInput, LimitExceeded
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.counting import n_calls
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
US = pa.timestamp("us", "UTC")
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
DEVICE = Entity(name="device", keys={"device": "string"})
STATE = FeatureView(
    name="state", entity=DEVICE, source="readings", event_time="at", recorded_at="rec",
    ttl=timedelta(hours=1),
    features=[
        Feature("temp", "float64"), Feature("n", "int64"), Feature("on", "bool"),
        Feature("label", "string"), Feature("seen", "timestamp"), Feature("raw", "bytes"),
        Feature("steps", "list[int64]"), Feature("place", "list[float64, 2]"),
        Feature("text", "embedding[3]"),
    ],
)  # fmt: skip
SUMS = FeatureView(
    name="sums", entity=DEVICE, source="readings", event_time="at", recorded_at="rec",
    aggregates=[
        Aggregate("warmth", "sum", "temp", window=timedelta(hours=1)),
        Aggregate("labels", "topk", "label", dtype="string", k=2, window=timedelta(days=1)),
    ],
)  # fmt: skip
SERVICE = FeatureService(name="all", features=[STATE, SUMS], request_fields={"asked": "float64"})
GOOD = {
    "device": ("a", pa.string()), "at": (NOW, US), "rec": (NOW, US), "temp": (1.0, pa.float64()),
    "n": (1, pa.int64()), "on": (True, pa.bool_()), "label": ("x", pa.string()),
    "seen": (NOW, US), "raw": (b"\xff", pa.binary()), "steps": ([1, 2], pa.list_(pa.int64())),
    "place": ([1.0, 2.0], pa.list_(pa.float64())),
    "text": ([1.0, 2.0, 3.0], pa.list_(pa.float32())),
}  # fmt: skip


def rows(**other):
    """One good row with some columns changed, added, or (None) left out."""
    columns = {name: pa.array([value], kind) for name, (value, kind) in GOOD.items()}
    columns.update(other)
    return pa.table({name: column for name, column in columns.items() if column is not None})


def instant(value):
    return pa.array([value], pa.int64()).cast(US)


def not_utf8():
    whole = pa.array([b"\xff"])
    return pa.Array.from_buffers(pa.string(), 1, whole.buffers())


def doubled(table, name):
    columns = [*table.columns, table.column(name)]
    return pa.Table.from_arrays(columns, names=[*table.column_names, name])


def made(folder, lake, *more):
    definitions = GivenDefinitions(DEVICE, STATE, SUMS, SERVICE, *more)
    online = LmdbOnlineStore(folder, map_bytes=1 << 22)
    return FeatureStore(definitions, lake, online, FixedSecrets(), SetClock(NOW))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store on a real lake, with one good row in it."""
    folder = tmp_path_factory.mktemp("bad input")
    lake = DuckLake.in_folder(folder / "lake", threads=1, memory="500MB")
    found = made(folder / "online", lake)
    found.push("readings", rows())
    yield found
    found.online.close()
    lake.close()


def everything(store):
    """All that is written: each online row, the lake's snapshot, the rows of its tables."""
    keys = list(store.online.keys(b""))
    counts = {table: store.lake.count(table) for table in store.lake.tables()}
    return dict(zip(keys, store.online.read(keys), strict=True)), store.lake.latest(), counts


@contextmanager
def refused(store, told, kind=FalajError):
    """The block must be refused in these words, with a way out, and change nothing."""
    before = everything(store)
    with pytest.raises(kind, match=told) as error:
        yield
    assert error.value.hint
    assert everything(store) == before


BAD_ROWS = {
    "text for a number": (rows(temp=pa.array(["5"])), "temp"),
    "a number for text": (rows(label=pa.array([5])), "label"),
    "a fraction for an integer": (rows(n=pa.array([1.5])), "'n'"),
    "an integer for a bool": (rows(on=pa.array([1])), "'on'"),
    "an integer that is too large": (rows(n=pa.array([2**64 - 1], pa.uint64())), "'n'"),
    "an integer that no float holds": (rows(temp=pa.array([2**60 + 1])), "temp"),
    "a time without zone": (rows(at=pa.array([NOW.replace(tzinfo=None)])), "zone"),
    "a value without zone": (rows(seen=pa.array([NOW.replace(tzinfo=None)])), "zone"),
    "a time as text": (rows(at=pa.array(["2026-03-01T12:00:00Z"])), "'at'"),
    "nanoseconds": (rows(at=pa.array([1], pa.timestamp("ns", "UTC"))), "'at'"),
    "the year 10000": (rows(at=instant(LAST_US + 1)), "years 1 to 9999"),
    "the year 0": (rows(rec=instant(FIRST_US - 1)), "years 1 to 9999"),
    "the end of int64": (rows(seen=instant(2**63 - 1)), "years 1 to 9999"),
    "the beginning of int64": (rows(at=instant(-(2**63))), "years 1 to 9999"),
    "a key that is NaN": (rows(device=pa.array([math.nan])), "device"),
    "a key that is too long": (rows(device=pa.array(["k" * 481])), "480"),
    "text that is not UTF-8": (rows(label=not_utf8()), "UTF"),
    "a key that is not UTF-8": (rows(device=not_utf8()), "UTF"),
    "a missing column": (rows(temp=None), "temp"),
    "no key": (rows(device=None), "device"),
    "no columns": (pa.table({}), "column"),
    "a column too many": (rows(more=pa.array([1])), "more"),
    "a column twice": (doubled(rows(), "temp"), "temp"),
    "a column twice but for its case": (rows(TEMP=pa.array([1.0])), "TEMP"),
    "a list that is too short": (rows(place=pa.array([[1.0]])), "place"),
    "an embedding that is too long": (rows(text=pa.array([[1.0] * 4])), "text"),
    "an embedding of another length": (
        rows(text=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))), "text"),
    "an embedding of words": (rows(text=pa.array([["a", "b", "c"]])), "text"),
    "a number too large for an embedding": (rows(text=pa.array([[1e300, 0.0, 0.0]])), "text"),
    "a null within a list": (rows(steps=pa.array([[1, None]])), "steps"),
    "a list within a list": (rows(steps=pa.array([[[1]]])), "steps"),
    "one value for a list": (rows(steps=pa.array([1])), "steps"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_push_of_bad_rows_is_refused_and_the_next_good_one_is_taken(store, case):
    bad, told = BAD_ROWS[case]
    kind = LimitExceeded if "too long" in case and "key" in case else InvalidInput
    with refused(store, told, kind):
        store.push("readings", bad)
    if case in ("text that is not UTF-8", "the end of int64"):  # nothing waits in the way
        assert store.push("readings", rows()).n_events == 1
        assert store.lake.count("readings") > 1


JSON_ROW = {
    "device": "a", "at": "2026-03-01T12:00:00Z", "rec": None, "temp": 1.0, "n": 1, "on": True,
    "label": "x", "seen": None, "raw": "/w==", "steps": [1], "place": [1, 2], "text": None,
}  # fmt: skip
BAD_VALUES = [
    ("at", "2026-03-01T12:00:00"), ("at", "2026-03-01"), ("at", 5), ("at", "soon"),
    ("at", "10000-01-01T00:00:00Z"), ("at", "9999-12-31T23:59:59-12:00"),
    ("device", math.nan), ("device", 3), ("device", "\ud800"), ("temp", "1.0"), ("temp", True),
    ("temp", {"a": 1}), ("temp", 2**70), ("n", 1.5), ("n", True), ("n", 2**70), ("on", 1),
    ("label", "\ud800"), ("label", 5), ("raw", "no base64"), ("steps", [1.5]), ("steps", "abc"),
    ("steps", [None]), ("place", [1.0]), ("text", [1.0, 2.0, 1e300]), ("more", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_push_of_bad_json_is_refused(store, name, value):
    with refused(store, name, InvalidInput):
        store.push_records("readings", [JSON_ROW, {**JSON_ROW, name: value}])


def test_a_good_row_of_json_says_the_same_as_one_of_arrow(store):
    store.push_records("readings", [{**JSON_ROW, "device": "json"}])
    (got,) = store.read_online("all", [{"device": "json", "asked": 1}], NOW).records()
    assert got["state__raw"] == b"\xff"
    assert [list(got["state__steps"]), list(got["state__place"])] == [[1], [1.0, 2.0]]
    assert json.dumps(got["sums__labels"]) == '["x"]'


def test_no_rows_of_json_are_taken_though_a_filter_names_a_column_of_unknown_type(tmp_path):
    hot = STATE.model_copy(update={"name": "hot", "where": [Filter("heat", ">", 3.0)]})
    store = made(tmp_path, MemoryLake(), hot)
    assert store.push_records("readings", []).n_events == 0
    store.push_records("readings", [{**JSON_ROW, "heat": 4.0}])
    assert store.push_records("readings", [], key="once").n_events == 0
    store.online.close()


@pytest.mark.parametrize(
    ("table", "given", "told"),
    [
        ("nothing", {}, "nothing"), ("readings; drop table readings", {}, "drop table"),
        ("readings", {"key": ""}, "key"), ("readings", {"key": "k" * 1001}, "key"),
        ("readings", {"key": "\ud800"}, "key"), ("readings", {"ack": "maybe"}, "maybe"),
    ],
)  # fmt: skip
def test_a_push_that_is_asked_for_badly_is_refused(store, table, given, told):
    with refused(store, told, InvalidInput):
        store.push(table, rows(), **given)


def test_rows_that_are_no_rows_are_refused(store):
    with refused(store, "Row 1", InvalidInput):
        store.push_records("readings", [JSON_ROW, "a"])
    with refused(store, "Row 0", InvalidInput):
        store.read_online("all", ["a"], NOW)
    with refused(store, "zone", InvalidInput):
        store.read_online("all", [{"device": "a", "asked": 1.0}], NOW.replace(tzinfo=None))


@pytest.mark.parametrize("at", [FIRST_US, LAST_US])
def test_the_first_and_the_last_instant_of_the_calendar_are_instants(store, at):
    name = f"at {at}"
    store.push("readings", rows(device=pa.array([name]), at=instant(at), rec=instant(at)))
    when = datetime(1, 1, 1, tzinfo=UTC) if at < 0 else datetime.max.replace(tzinfo=UTC)
    (got,) = store.read_online("all", [{"device": name, "asked": 1.0}], when).records()
    spine = pa.table({"device": [name], "asked": [1.0], "timestamp": instant(at)})
    frame = store.training_frame(spine, "all").to_pylist()[0]
    assert got["state__n"] == frame["state__n"] == 1
    assert got["sums__warmth"] == frame["sums__warmth"] == 1.0
    store.push("readings", rows(device=pa.array([name])))  # an instant far off stops nothing


def spine(**other):
    columns = {
        "device": pa.array(["a"]),
        "asked": pa.array([1.0]),
        "timestamp": pa.array([NOW], US),
    }
    columns.update(other)
    return pa.table({name: column for name, column in columns.items() if column is not None})


BAD_SPINES = {
    "no instants": (spine(timestamp=None), "timestamp"),
    "no key": (spine(device=None), "device"),
    "no request field": (spine(asked=None), "asked"),
    "no columns": (pa.table({}), "timestamp"),
    "a null instant": (spine(timestamp=pa.array([None], US)), "null"),
    "an instant without zone": (spine(timestamp=pa.array([NOW.replace(tzinfo=None)])), "zone"),
    "an instant as text": (spine(timestamp=pa.array(["2026-03-01"])), "timestamp"),
    "an instant beyond the calendar": (spine(timestamp=instant(2**62)), "years 1 to 9999"),
    "a column named as a feature": (spine(state__temp=pa.array([1.0])), "state__temp"),
    "a key twice": (doubled(spine(), "device"), "device"),
    "a key of another type": (spine(device=pa.array([1])), "device"),
    "a key that is NaN": (spine(device=pa.array([math.nan])), "device"),
    "a request field of another type": (spine(asked=pa.array(["1"])), "asked"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPINES)
def test_a_bad_spine_is_refused(store, case):
    bad, told = BAD_SPINES[case]
    with refused(store, told, InvalidInput):
        store.training_frame(bad, "all")


def test_what_is_asked_of_a_spine_must_exist(store):
    for given, told in (
        ({"snapshot": 10**6}, "1000000"), ({"knowledge": "guessed"}, "guessed"),
        ({"timestamp": "when"}, "when"),
    ):  # fmt: skip
        with refused(store, told):
            store.training_frame(spine(), "all", **given)


def test_an_empty_spine_has_no_rows_and_every_column(store):
    whole, none = (store.training_frame(table, "all") for table in (spine(), spine().slice(0, 0)))
    assert none.num_rows == 0
    assert none.schema.names == whole.schema.names
    assert none.schema.types == whole.schema.types


@contextmanager
def small_disk(path, megabytes):
    """A disk of a few megabytes, or a skip where none can be made."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def filled(disk):
    """Nothing is free on a disk meanwhile."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(64 * 1024))
    yield
    ballast.unlink()


def test_a_push_onto_a_full_disk_is_refused_whole_and_can_be_repeated(tmp_path):
    many = pa.table(
        {name: pa.array([value] * 4000, kind) for name, (value, kind) in GOOD.items()}
    ).set_column(0, "device", pa.array([f"device {i}" for i in range(4000)]))
    with small_disk(tmp_path / "disk", 32) as disk:
        store = made(disk / "online", MemoryLake())
        try:
            store.push("readings", rows(), key="first")
            before = everything_online(store)
            with filled(disk), pytest.raises(LimitExceeded, match="full") as error:
                store.push("readings", many, key="many")
            assert error.value.hint
            assert everything_online(store) == before
            store.push("readings", many, key="many")
            asked = [{"device": "device 3999", "asked": 1.0}]
            assert store.read_online("all", asked, NOW).records()[0]["sums__warmth"] == 1.0
        finally:
            store.online.close()


def everything_online(store):
    keys = list(store.online.keys(b""))
    return dict(zip(keys, store.online.read(keys), strict=True))


def wide(n):
    features = [Feature(f"f{i}", "float64") for i in range(n)]
    view = FeatureView(
        name=f"wide_{n}", entity=DEVICE, source=f"wide_{n}", event_time="at", features=features
    )
    return view, FeatureService(name=f"service_{n}", features=[view])


def used(store, n):
    """One push, one read and one training frame of n features, each of them checked."""
    values = {f"f{i}": pa.array([float(i)]) for i in range(n)}
    table = pa.table({"device": ["a"], "at": pa.array([NOW], US), **values})
    store.push(f"wide_{n}", table)
    (got,) = store.read_online(f"service_{n}", [{"device": "a"}], NOW).records()
    asked = pa.table({"device": ["a"], "timestamp": pa.array([NOW], US)})
    frame = store.training_frame(asked, f"service_{n}")
    assert list(got.values()) == [float(i) for i in range(n)]
    assert frame.num_columns == n + 2


def test_a_view_of_ten_thousand_columns_works_and_is_not_quadratic(tmp_path):
    small, large = 2_500, 10_000
    store = made(tmp_path / "online", MemoryLake(), *wide(small), *wide(large), *wide(10))
    try:
        used(store, 10)  # compiles what is compiled once
        ratio = n_calls(partial(used, store, large)) / n_calls(partial(used, store, small))
    finally:
        store.online.close()
    assert ratio < 4.5, f"4 times the columns took {ratio:.1f} times as many calls"
