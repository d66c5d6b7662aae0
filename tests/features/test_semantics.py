"""The whole semantics of features against an oracle: offline = online = oracle.

Random views, histories and questions; ``oracle.py`` says in plain lines what is right.
"""

import importlib.util
import itertools
import math
import struct
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    OnDemandFeatures,
)
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock, from_microseconds
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

_SPEC = importlib.util.spec_from_file_location(
    "features_oracle", Path(__file__).with_name("oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

US = pa.timestamp("us", "UTC")
KEYS = {"number": "int64", "name": "string"}
COLUMNS = {"number": "k", "name": "s"}
"""The source column of each entity key."""


# ── random definitions ───────────────────────────────────────────────────────────────────

SECOND, HOUR = 1_000_000, 3_600_000_000
SCALES = [  # the step of instants and where they begin: an edge, two changes of clocks, the past
    (1, 0),
    (SECOND, int(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()) * SECOND),
    (HOUR, int(datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp()) * SECOND),
    (24 * HOUR, -3_652 * 24 * HOUR),
]
ZONES = ["UTC", "Asia/Dubai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
SOURCE = {  # source column: its type in a definition
    "x": "float64", "i": "int64", "b": "bool", "w": "string", "ts": "timestamp",
    "y": "bytes", "l": "list[int64]", "p": "list[float64, 2]", "e": "embedding[3]",
}  # fmt: skip
ARROW = {
    "k": pa.int64(), "s": pa.string(), "at": US, "rec": US, "x": pa.float64(), "i": pa.int64(),
    "b": pa.bool_(), "w": pa.string(), "ts": US, "y": pa.binary(), "l": pa.list_(pa.int64()),
    "p": pa.list_(pa.float64()), "e": pa.list_(pa.float32(), 3),
}  # fmt: skip
SIMPLE = ["x", "i", "b", "w", "ts"]
TAKEN = [*SIMPLE, "y", "l", "p", "e"]
FUNCTIONS = [
    ("count", None), *(("count", name) for name in TAKEN),
    *((function, name) for function in ("sum", "mean", "std") for name in "xxib"),
    *((function, name) for function in ("min", "max") for name in ("x", "i", "ts")),
    *(("last", name) for name in ("x", "i", "x", "i", "b", "ts")),
    *((function, name) for function in ("distinct", "topk") for name in SIMPLE),
    *(("quantile", name) for name in "xixi"),
]  # fmt: skip
FILTERS = [
    Filter("i", ">", -3), Filter("i", "in", [1, 4]), Filter("i", "is_null"),
    Filter("b", "==", True), Filter("x", "<=", 0), Filter("x", "!=", 0.1),
    Filter("x", "in", [0.0, 0.1]), Filter("x", "not_null"), Filter("w", "in", ["a", "é"]),
    Filter("w", ">=", "b"),
]  # fmt: skip


@st.composite
def aggregates(draw, number, step):
    function, column = draw(st.sampled_from(FUNCTIONS))
    steps = draw(st.integers(1, 20))
    window = steps * step
    hops = [None, window, max(1, window // 7), draw(st.integers(1, steps)) * step]
    hop = draw(st.sampled_from(hops))
    return Aggregate(
        f"a{number}", function, column, window=timedelta(microseconds=window),
        dtype=SOURCE[column] if column and function != "count" else "float64",
        hop=None if hop is None else timedelta(microseconds=hop),
        k=draw(st.integers(1, 3)) if function == "topk" else None,
        q=draw(st.sampled_from([0.01, 0.07, 0.25, 0.5, 0.9, 1.0]))
        if function == "quantile" else None,
    )  # fmt: skip


@st.composite
def views(draw, name, keys, step):
    given = {
        "name": name,
        "entity": "thing",
        "entity_columns": {key: COLUMNS[key] for key in keys},
        "source": draw(st.sampled_from(["events", "events", "others"])),
        "event_time": "at",
        "recorded_at": draw(st.sampled_from([None, "rec"])),
        "where": draw(several(st.sampled_from(FILTERS), [0, 0, 0, 1, 2])),
        "classification": draw(st.sampled_from(["internal", "personal"])),
    }
    if draw(st.booleans()):
        n = draw(st.integers(1, 4))
        wanted = [draw(aggregates(number, step)) for number in range(n)]
        head = timedelta(microseconds=step * draw(st.sampled_from([0, 0, 5, 200])))
        return FeatureView(aggregates=wanted, head=head, **given)
    wanted = draw(st.lists(st.sampled_from(TAKEN), min_size=1, max_size=4, unique=True))
    ttl = draw(st.sampled_from([None, 1, 2, 3, 9]))
    return FeatureView(
        features=[Feature(f"f_{column}", SOURCE[column], column=column) for column in wanted],
        ttl=None if ttl is None else timedelta(microseconds=step * ttl), **given,
    )  # fmt: skip


def blended(x, asked):
    return {"ratio": np.where(asked > 0, x / asked, np.nan), "known": ~np.isnan(x)}


def blended_plainly(x, asked):
    x, asked = (math.nan if value is None else value for value in (x, asked))
    ratio = x / asked if asked > 0 else math.nan
    return {"ratio": None if math.isnan(ratio) else ratio, "known": not math.isnan(x)}


def on_demand(found):
    """The on-demand definition over the first exact float feature of the views, if any."""
    for view in found:
        exact = [one.name for one in view.features if one.dtype.value == "float64"]
        exact += [one.name for one in view.aggregates
                  if one.function in ("min", "max", "last") and one.dtype == "float64"]  # fmt: skip
        if exact:
            inputs = {"x": f"{view.name}:{exact[0]}", "asked": "request:asked"}
            outputs = [Feature("ratio", "float64"), Feature("known", "bool")]
            return OnDemandFeatures.of(blended, inputs=inputs, outputs=outputs)
    return None


# ── random histories and questions ───────────────────────────────────────────────────────

FLOATS = [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1, 0.1, 3.0, 1e16, -1e16, 1e100]
FLOAT = st.one_of(st.sampled_from(FLOATS), st.floats(-1e6, 1e6))
VALUES = {
    "x": FLOAT,
    "i": st.sampled_from([1, 2, 4, 4, -2, -3, None, 2**63 - 1, -(2**63), 2**53 + 1]),
    "b": st.sampled_from([None, True, False]),
    "w": st.sampled_from([None, "", "a", "b", "é", "😀", "'; drop table x"]),
    "y": st.sampled_from([None, b"", b"\0\xff", b"a"]),
    "l": st.one_of(st.none(), st.lists(st.sampled_from([0, -1, 2**63 - 1]), max_size=3)),
    "p": st.one_of(st.none(), st.tuples(*[st.sampled_from(FLOATS[1:])] * 2).map(list)),
    "e": st.one_of(st.none(), st.tuples(*[st.sampled_from([0.5, -2.0, math.inf])] * 3).map(list)),
}


HOW = ["push", "push", "records", "twice", "twice", "log", "append"]


@dataclass
class Arrival:
    """Rows that reach a table together."""

    table: str
    rows: list
    how: str  # push, records, log, twice (log, then push), append
    now: int
    rebuild: bool  # materialise every view of the table behind it


@dataclass
class Case:
    """A world to try."""

    keys: tuple
    views: list
    arrivals: list
    questions: list  # (number, name, instant)
    asked: object  # the request field
    zone: str
    pinned: int
    swapped: bool  # the first view takes its first key from another column

    def history(self, table, upto=None):
        return [row for one in self.arrivals[:upto] if one.table == table for row in one.rows]

    def _repr_pretty_(self, printer, cycle):
        printer.text(self.told())

    def renamed(self, suffix):
        """The same world with tables of its own."""
        kept = [view.model_copy(update={"source": view.source + suffix}) for view in self.views]
        arrivals = [replace(one, table=one.table + suffix) for one in self.arrivals]
        return replace(self, views=kept, arrivals=arrivals)

    def told(self):
        views = "\n".join(f"  {view.model_dump_json(exclude_defaults=True)}" for view in self.views)
        rows = "\n".join(
            f"  {one.how} to {one.table} at {one.now}{', rebuild' * one.rebuild}: "
            + "".join(f"\n    { {k: v for k, v in row.items() if v is not None} }"
                      for row in one.rows)
            for one in self.arrivals
        )  # fmt: skip
        return (
            f"\nviews\n{views}\narrivals\n{rows}\nquestions {self.questions} "
            f"{self.zone}, asked {self.asked}, pinned {self.pinned}, swapped {self.swapped}"
        )


def edges(found, arrivals):
    """(k, s, instant) at which something begins or ends to count for an entity."""
    at = []
    for view, one in itertools.product(found, arrivals):
        for row in one.rows if one.table == view.source else []:
            time, hops = row["at"], [(part.window_us, part.hop_us) for part in view.aggregates]
            if None in (time, row["k"], row["s"]):
                continue
            ends = [0, *(window - -time // hop * hop - time for window, hop in hops)]
            ends += [window for window, _ in hops]
            if view.ttl:
                ttl = view.ttl // oracle.MICROSECOND
                newer = any(time < (other["at"] or 0) <= time + ttl for other in one.rows)
                ends += [] if newer else [ttl] * 3
            recorded = [row["rec"]] * 3 if view.recorded_at and row["rec"] is not None else []
            at += [(row["k"], row["s"], t) for t in (*(time + end for end in ends), *recorded)]
    return at


def seldom(rare, usual, times=12):
    """One strategy in one of so many draws (``one_of`` takes equal branches for one)."""
    return st.integers(1, times).flatmap(lambda n: rare if n == times else usual)


def several(one, sizes):
    """Lists of these sizes; left alone, hypothesis makes most of them empty."""
    return st.sampled_from(sizes).flatmap(lambda n: st.lists(one, min_size=n, max_size=n))


@st.composite
def cases(draw):
    step, base = draw(st.sampled_from(SCALES))
    keys = draw(st.sampled_from([("number", "name"), ("number",), ("name",)]))
    found = [draw(views(f"v{n}", keys, step)) for n in range(draw(st.integers(1, 2)))]
    jitter = st.sampled_from([0, 0, 0, -1, 1]) if step > 1 else st.just(0)
    instant = st.builds(lambda n, j: base + n * step + j, st.integers(-4, 12), jitter)
    needed = {one.column for view in found for one in (*view.features, *view.aggregates)}
    needed |= {item.column for view in found for item in view.where}
    event = st.fixed_dictionaries(
        {
            "k": st.sampled_from([0] * 10 + [-7, None]),
            "s": st.sampled_from(["a"] * 10 + ["é'; drop table x", None]),
            "at": seldom(st.none(), instant),
            "rec": seldom(instant, st.none(), 2),
            **{name: VALUES.get(name, st.one_of(st.none(), instant)) if name in needed
               else st.none() for name in SOURCE},
        }
    )  # fmt: skip
    arrivals = []
    for _ in range(draw(st.sampled_from([1, 2, 3, 4, 0]))):
        rows = draw(several(event, [3, 6, 9, 1, 0]))
        before = [row for one in arrivals for row in one.rows] + rows
        for old in draw(several(st.sampled_from(before), [0, 1, 2, 4])) if before else []:
            same = {name: old[name] for name in ("k", "s", "at", "rec")}
            rows.append({**draw(event), **same})  # corrects it
        arrivals.append(
            Arrival(
                draw(st.sampled_from(["events", "events", "others"])), rows,
                draw(st.sampled_from(HOW)),
                draw(instant), draw(seldom(st.just(True), st.just(False), 3)),
            )
        )  # fmt: skip
    question = st.tuples(
        st.sampled_from([0] * 6 + [-7, 99, None]), st.sampled_from(["a"] * 6 + ["z", None]), instant
    )
    if at_edges := edges(found, arrivals):
        shift = st.sampled_from([0, 0, -1, 1])
        near = st.builds(lambda q, j: (*q[:2], q[2] + j), st.sampled_from(at_edges), shift)
        question = seldom(question, near, 5)
    questions = draw(several(question, [6, 3, 1]))
    return Case(
        keys, found, arrivals, [*questions, questions[0]],
        draw(FLOAT), draw(st.sampled_from(ZONES)),
        draw(st.integers(0, len(arrivals))), draw(st.booleans()),
    )  # fmt: skip


# ── the platform under proof ─────────────────────────────────────────────────────────────


def service_of(case):
    computed = on_demand(case.views)
    plain = [f"{view.name}:{one.name}" for view in case.views for one in view.features
             if one.dtype.value == "float64"]  # fmt: skip
    service = FeatureService(
        name="all", features=[*case.views, *([computed] if computed else [])],
        request_fields={"asked": "float64"}, missing=dict.fromkeys(plain[:1], -1.5),
        keys={case.views[0].name: {case.keys[0]: "swapped"}} if case.swapped else {},
    )  # fmt: skip
    return service, computed


def store_of(case, folder, lake, clock):
    entity = Entity(name="thing", keys={key: KEYS[key] for key in case.keys})
    service, computed = service_of(case)
    known = [entity, *case.views, service, *([computed] if computed else [])]
    online = LmdbOnlineStore(folder, map_bytes=1 << 24, max_readers=8)
    return FeatureStore(GivenDefinitions(*known), lake, online, FixedSecrets(), clock)


def arrow(rows):
    instants = {name for name, kind in ARROW.items() if kind == US}
    return pa.table(
        {name: pa.array([row[name] for row in rows], pa.int64()).cast(US) if name in instants
         else pa.array([row[name] for row in rows], kind) for name, kind in ARROW.items()}
    )  # fmt: skip


def as_records(rows, zone):
    """Rows as JSON gives them: instants as text with the offset of a zone."""

    def text(value):
        return None if value is None else local(value, zone).isoformat()

    times = {name: [text(row[name]) for row in rows] for name, kind in ARROW.items() if kind == US}
    return [{**row, **{name: times[name][n] for name in times}} for n, row in enumerate(rows)]


def local(instant, zone):
    return from_microseconds(instant).astimezone(ZoneInfo(zone))


def spine_of(case):
    """The questions as a table of two chunks, the instants in the case's zone."""
    numbers, names, instants = zip(*case.questions, strict=True)
    first = numbers if case.keys[0] == "number" else names
    times = [local(t, case.zone) for t in instants]
    table = pa.table(
        {"id": range(len(numbers)), "number": pa.array(numbers, pa.int64()),
         "name": pa.array(names, pa.string()),
         "timestamp": pa.array(times, pa.timestamp("us", case.zone)),
         "swapped": first, "asked": pa.array([case.asked] * len(numbers), pa.float64())}
    )  # fmt: skip
    return pa.concat_tables([table.slice(0, 1), table.slice(1)])


def arrive(case, store, clock, lake):
    """Write the history as it arrives; returns the snapshot behind each arrival."""
    snapshots, behind = [lake.latest()], False
    for number, one in enumerate(case.arrivals):
        clock.move(from_microseconds(one.now) - clock.now())
        readers = [view.name for view in case.views if view.source == one.table]
        rows, key = arrow(one.rows), f"{one.table} {number}"
        how = one.how if readers else "append"
        if how == "records" and number and one.table in {a.table for a in case.arrivals[:number]}:
            store.push_records(one.table, as_records(one.rows, case.zone), key=key)
        elif how == "append":
            lake.append(one.table, rows)
            behind = behind or bool(readers)
        else:
            ack = "online" if how in ("push", "records") else "log"
            store.push(one.table, rows, key=key, ack=ack)
            behind = behind or how == "log"
            if ack == "online":
                assert store.push(one.table, rows, key=key).repeated  # a replay changes nothing
        for view in readers if one.rebuild or how == "twice" else []:
            store.materialize(view)
        if how == "twice":  # the sender lost the first answer, and sends again
            store.push(one.table, rows, key=key)
        snapshots.append(lake.latest())
    if behind:
        for view in case.views:
            store.materialize(view.name)
    return snapshots


# ── what is right, and whether it was said ───────────────────────────────────────────────


def expected(case, question, t, knowledge="recorded", upto=None):
    """{column: (value, status, tolerance)} and {view: newest event} for one question."""
    number, name, _ = question
    entity = tuple({"number": number, "name": name}[key] for key in case.keys)
    found, newest = {"asked": (case.asked, "null" if case.asked is None else "present", None)}, {}
    for view in case.views:
        rows = case.history(view.source, upto)
        values, newest[view.name] = oracle.answer(view, case.keys, rows, entity, t, knowledge)
        events = oracle.known(view, case.keys, rows, entity, t, knowledge)
        tolerances = {
            one.name: 1e-9 * math.fsum(map(finite, oracle.counted(view, one, events, t)))
            for one in view.aggregates if one.function in ("sum", "mean", "std")
        }  # fmt: skip
        for feature, (value, status) in values.items():
            found[f"{view.name}__{feature}"] = value, status, tolerances.get(feature)
    service, computed = service_of(case)
    if computed:
        x = found[computed.inputs["x"].replace(":", "__")][0]
        for feature, value in blended_plainly(x, case.asked).items():
            status = "null" if value is None else "present"
            found[f"blended__{feature}"] = value, status, None
    for reference, default in service.missing.items():
        column = reference.replace(":", "__")
        value, *others = found[column]
        found[column] = (default if value is None else value, *others)
    return found, newest


def finite(value):
    return abs(value) if math.isfinite(value) else 0.0


def same(got, wanted, tolerance):
    if got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(same, got, wanted, [None] * len(wanted)))
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, float) and math.isnan(wanted):
        return math.isnan(got)
    if tolerance is not None and math.isfinite(wanted):
        return abs(got - wanted) <= tolerance
    return got == wanted


def bits(value):
    return struct.pack("<d", value) if isinstance(value, float) and value == value else None


def differences(case, values, wanted):
    """{column: (got, expected)} of what is wrong."""
    exact = {f"{view.name}__{one.name}" for view in case.views
             for one in (*view.features, *view.aggregates)
             if isinstance(one, Feature) or one.function == "last"}  # fmt: skip
    return {
        column: (values[column], value)
        for column, (value, _, tolerance) in wanted.items()
        if not same(values[column], value, tolerance)
        or (column in exact and bits(values[column]) != bits(value))
    }


def plain(column):
    """A column of the answer as Python values, instants as UTC microseconds."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    if pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
        return column.cast(pa.list_(pa.int64())).to_pylist()
    return column.to_pylist()


def check_offline(case, store, snapshots):
    for knowledge, upto in itertools.product(
        ("recorded", "event"), {case.pinned, len(snapshots) - 1}
    ):
        frame = store.training_frame(
            spine_of(case), "all", knowledge=knowledge, snapshot=snapshots[upto]
        )
        columns = {name: plain(frame[name]) for name in frame.column_names}
        assert columns["id"] == list(range(len(case.questions)))
        for row, question in enumerate(case.questions):
            wanted, _ = expected(case, question, question[2], knowledge, upto)
            got = {name: column[row] for name, column in columns.items()}
            wrong = differences(case, got, wanted)
            assert not wrong, f"offline, {knowledge}, after {upto} arrivals, {question}: {wrong}"


def read(store, case, question, t):
    number, name, _ = question
    row = {"number": number, "name": name, "asked": case.asked}
    row["swapped"] = row[case.keys[0]]
    return store.read_online("all", [row], local(t, case.zone))


def check_online(case, store, told):
    """Reads not before the newest event and record, where all is exact."""
    rows = [row for one in case.arrivals for row in one.rows]
    promised = max((t for row in rows for t in (row["at"], row["rec"]) if t is not None),
                   default=-(2**50))  # fmt: skip
    for question in case.questions:
        t = max(question[2], promised)
        wanted, newest = expected(case, question, t)
        found = read(store, case, question, t)
        (got,) = found.records()
        assert list(got) == list(wanted)
        wrong = differences(case, got, wanted)
        assert not wrong, f"{told}, {question} at {t}: {wrong}"
        statuses = dict(zip(found.names, map(str, found.statuses[0]), strict=True))
        wrong = {name: (statuses[name], status) for name, (_, status, _) in wanted.items()
                 if statuses[name] != status}  # fmt: skip
        assert not wrong, f"{told}, status, {question} at {t}: {wrong}"
        assert dict(found.event_times[0]) == newest, f"{told}, event times, {question} at {t}"


def check_head(case, store):
    """Before the newest event a window view stays exact as far back as its head."""
    for view in case.views:
        rows = [row for row in case.history(view.source) if row["at"] is not None]
        recorded = [row["rec"] for row in rows if view.recorded_at and row["rec"] is not None]
        now = max((one.now for one in case.arrivals), default=0)
        if not view.aggregates or not rows:
            continue
        back = min(now, max(row["at"] for row in rows)) - view.head // oracle.MICROSECOND
        for question in case.questions:
            t = max(question[2], back, *recorded)
            wanted, _ = expected(case, question, t)
            mine = {name: one for name, one in wanted.items() if name.startswith(view.name)}
            (got,) = read(store, case, question, t).records()
            wrong = differences(case, got, mine)
            assert not wrong, f"online at the head, {question} at {t}: {wrong}"


def check_upto(case, store, limit):
    """A view materialised up to an instant says at that instant what was known by then."""
    for view in case.views:
        store.materialize(view.name, upto=from_microseconds(limit))
    for question in case.questions:
        wanted, _ = expected(case, question, limit)
        (got,) = read(store, case, question, limit).records()
        wrong = differences(case, got, wanted)
        assert not wrong, f"materialised up to {limit}, {question}: {wrong}"


def prove(case, lake):
    clock = SetClock(from_microseconds(0))
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            store_of(case, Path(folder) / name, lake, clock) for name in ("push", "whole", "upto")
        ]
        pushed, whole, upto = stores
        try:
            snapshots = arrive(case, pushed, clock, lake)
            check_offline(case, pushed, snapshots)
            if isinstance(lake, DuckLake):
                lake.compact()  # changes files, no positions: ties are decided as before
                check_offline(case, pushed, snapshots)
            check_online(case, pushed, "pushed")
            check_head(case, pushed)
            for view in case.views:
                whole.materialize(view.name)
            check_online(case, whole, "materialised")
            check_upto(case, upto, case.questions[0][2])
        finally:
            for store in stores:
                store.online.close()


def profile(n):
    return settings(
        max_examples=n, deadline=None, report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@profile(60)
@given(case=cases())
def test_offline_and_online_agree_with_the_oracle(case):
    prove(case, MemoryLake())


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    """One real lake for all examples; each has tables of its own."""
    lake = DuckLake.in_folder(tmp_path_factory.mktemp("lake"), threads=1, memory="500MB")
    yield lake
    lake.close()


NUMBERS = itertools.count()


@profile(4)
@given(case=cases())
def test_they_agree_on_a_real_lake_too(duck, case):
    prove(case.renamed(f"_{next(NUMBERS)}"), duck)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@profile(4000)
@given(case=cases())
def test_they_agree_in_thousands_of_worlds(case):
    prove(case, MemoryLake())


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@profile(200)
@given(case=cases())
def test_they_agree_in_many_worlds_on_a_real_lake(duck, case):
    prove(case.renamed(f"_{next(NUMBERS)}"), duck)
