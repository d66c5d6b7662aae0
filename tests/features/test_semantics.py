"""The whole semantics of features against an oracle: offline = online = oracle."""

import math
import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView, Filter
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock, from_microseconds
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

# ── the oracle: what section 6 says, in plain lines ──────────────────────────────────────


def known(rows, keys, t, recorded):
    """The events of an entity that were known at t, oldest first."""
    found = []
    for position, row in enumerate(rows):
        if row["at"] is None or None in keys or (row["k"], row["s"]) != keys:
            continue
        rec = row["at"] if row["rec"] is None else row["rec"]
        if row["at"] <= t and (rec <= t or not recorded) and row["i"] is not None and row["i"] > -3:
            found.append((row["at"], rec, position, row))
    return [item[3] for item in sorted(found, key=lambda item: item[:3])]


def latest(rows, keys, t, recorded, ttl, column):
    found = known(rows, keys, t, recorded)
    if not found or found[-1]["at"] <= t - ttl:
        return None
    return found[-1][column]


def window(rows, keys, t, recorded, function, column, w, h):
    if None in keys:
        return None
    after = (t - w) // h * h
    events = [row for row in known(rows, keys, t, recorded) if row["at"] > after]
    values = [1 if column is None else row[column] for row in events]
    values = [value for value in values if value is not None]
    if function == "count":
        return len(values)
    if not values:
        return None
    if function == "last":
        return values[-1]
    if any(math.isnan(value) for value in values):
        return math.nan
    if function in ("min", "max"):
        return min(values) if function == "min" else max(values)
    if any(math.isinf(value) for value in values):
        return math.nan if function == "std" else sum(values) / (
            len(values) if function == "mean" else 1)  # fmt: skip
    total = math.fsum(values)
    if function == "sum":
        return total
    mean = total / len(values)
    return mean if function == "mean" else math.sqrt(
        math.fsum((value - mean) ** 2 for value in values) / len(values))  # fmt: skip


# ── random views, events and questions ───────────────────────────────────────────────────

TIMES = st.integers(-4, 12)  # few instants and keys, so that edges are met often
FLOATS = st.one_of(
    st.none(), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1, 1e16, -1e16]),
    st.floats(-1e6, 1e6),
)  # fmt: skip
EVENT = st.fixed_dictionaries(
    {
        "k": st.sampled_from([0] * 6 + [-7, None]),
        "s": st.sampled_from(["a", "a", "a", "a", "a", "é'; drop table x", None]),
        "at": st.sampled_from([*range(-4, 13), *range(-4, 13), None]),
        "rec": st.sampled_from([None] * 9 + list(range(-4, 13))),
        "x": FLOATS,
        "i": st.sampled_from([1, 2, 4, 4, -2, -3, None]),
        "b": st.sampled_from([None, True, False]),
        "t": st.one_of(st.none(), TIMES),
    }
)
ASKED = st.tuples(
    st.sampled_from([0] * 6 + [-7, 99, None]), st.sampled_from(["a"] * 6 + ["z", None]), TIMES
)
WINDOWS = st.tuples(st.integers(1, 20), st.integers(1, 8)).map(lambda p: (max(p), min(p)))
FUNCTIONS = [
    ("count", None), ("count", "b"), ("count", "x"), ("sum", "x"), ("mean", "x"), ("std", "x"),
    ("min", "x"), ("max", "x"), ("last", "x"), ("min", "i"), ("max", "i"), ("last", "i"),
    ("last", "b"), ("last", "t"), ("max", "t"),
]  # fmt: skip
DTYPES = {"x": "float64", "i": "int64", "b": "bool", "t": "timestamp", "s": "string"}
TYPES = {
    "k": pa.int64(), "s": pa.string(), "at": pa.timestamp("us", "UTC"),
    "rec": pa.timestamp("us", "UTC"), "x": pa.float64(), "i": pa.int64(), "b": pa.bool_(),
    "t": pa.timestamp("us", "UTC"),
}  # fmt: skip


def table(rows):
    return pa.table(
        {name: pa.array([row[name] for row in rows], pa.int64()).cast(kind)
         if pa.types.is_timestamp(kind) else pa.array([row[name] for row in rows], kind)
         for name, kind in TYPES.items()}
    )  # fmt: skip


def store_of(folder, windows, ttl, recorded, head, clock):
    entity = Entity(name="thing", keys={"k": "int64", "s": "string"})
    common = {
        "entity": entity, "source": "events", "event_time": "at",
        "recorded_at": "rec", "where": [Filter("i", ">", -3)],
    }  # fmt: skip
    states = FeatureView(
        name="state", ttl=timedelta(microseconds=ttl), **common,
        features=[Feature(f"f_{name}", dtype, column=name) for name, dtype in DTYPES.items()],
    )  # fmt: skip
    aggregates = [
        Aggregate(
            f"{function}_{column or 'rows'}_{number}", function, column,
            dtype=DTYPES.get(column, "float64"),
            window=timedelta(microseconds=w), hop=timedelta(microseconds=h),
        )
        for number, (w, h) in enumerate(windows)
        for function, column in FUNCTIONS
    ]  # fmt: skip
    sums = FeatureView(
        name="sums", aggregates=aggregates, head=timedelta(microseconds=head),
        classification="personal", **common,
    )  # fmt: skip
    service = FeatureService(name="all", features=[states, sums])
    definitions = GivenDefinitions(entity, states, sums, service)
    online = LmdbOnlineStore(folder, map_bytes=1 << 24)
    return FeatureStore(definitions, MemoryLake(), online, FixedSecrets(), clock)


def expected(rows, windows, ttl, recorded, k, s, t):
    answer = {f"state__f_{name}": latest(rows, (k, s), t, recorded, ttl, name) for name in DTYPES}
    for number, (w, h) in enumerate(windows):
        for function, column in FUNCTIONS:
            answer[f"sums__{function}_{column or 'rows'}_{number}"] = window(
                rows, (k, s), t, recorded, function, column, w, h
            )
    return answer


def same(name, got, wanted, rows):
    if got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, float) and name.split("__")[1].split("_")[0] in ("sum", "mean", "std"):
        if not math.isfinite(wanted):
            return math.isnan(got) if math.isnan(wanted) else got == wanted
        scale = math.fsum(abs(r["x"]) for r in rows if r["x"] is not None and math.isfinite(r["x"]))
        return abs(got - wanted) <= 1e-9 * scale + 1e-300
    if isinstance(wanted, float) and math.isnan(wanted):
        return math.isnan(got)
    return got == wanted and type(got) is type(wanted)


def compare(got, wanted, rows):
    wrong = {n: (got[n], w) for n, w in wanted.items() if not same(n, got[n], w, rows)}
    assert not wrong


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(EVENT, max_size=12), min_size=1, max_size=3),
    asked=st.lists(ASKED, min_size=1, max_size=6),
    windows=st.lists(WINDOWS, min_size=1, max_size=2),
    ttl=st.integers(1, 15),
    recorded=st.booleans(),
    head=st.sampled_from([0, 0, 5, 200]),
    now=st.integers(-4, 16),
    rebuild=st.booleans(),
)
def test_offline_and_online_agree_with_the_oracle(
    batches, asked, windows, ttl, recorded, head, now, rebuild
):
    rows = [row for batch in batches for row in batch]
    clock = SetClock(from_microseconds(now))
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Path(folder), windows, ttl, recorded, head, clock)
        try:
            for number, batch in enumerate(batches):
                store.push("events", table(batch), key=f"batch {number}")
            assert store.push("events", table(batches[0]), key="batch 0").repeated  # a replay
            if rebuild:
                store.materialize("sums")
                store.materialize("state")
            spine = pa.table(
                {"k": pa.array([q[0] for q in asked], pa.int64()),
                 "s": pa.array([q[1] for q in asked], pa.string()),
                 "timestamp": pa.array([q[2] for q in asked], pa.int64()).cast(TYPES["at"])}
            )  # fmt: skip
            knowledge = "recorded" if recorded else "event"
            frame = store.training_frame(spine, "all", knowledge=knowledge)
            for name in ("state__f_t", *(n for n in frame.column_names if "_t_" in n)):
                at = frame.schema.get_field_index(name)
                frame = frame.set_column(at, name, frame[name].cast(pa.int64()))
            frame = frame.to_pylist()
            assert [(row["k"], row["s"]) for row in frame] == [q[:2] for q in asked]
            for row, (k, s, t) in zip(frame, asked, strict=True):
                compare(row, expected(rows, windows, ttl, recorded, k, s, t), rows)
            times = [v for row in rows for v in (row["at"], row["rec"]) if v is not None]
            promised = max(times, default=0)  # here every read is exact
            head_only = max([now - head, *(r["rec"] for r in rows if r["rec"] is not None)])
            for k, s, t in asked:
                at = max(t, promised)
                (got,) = store.read_online(
                    "all", [{"k": k, "s": s}], from_microseconds(at)
                ).records()
                compare(got, expected(rows, windows, ttl, True, k, s, at), rows)
                at = max(t, head_only)  # events of the future wait at the head
                if not any(r["rec"] is None and (r["at"] or 0) > at for r in rows):
                    (got,) = store.read_online(
                        "all", [{"k": k, "s": s}], from_microseconds(at)
                    ).records()
                    wanted = expected(rows, windows, ttl, True, k, s, at)
                    sums = {n: v for n, v in wanted.items() if n.startswith("sums__")}
                    compare(got, sums, rows)
        finally:
            store.online.close()
