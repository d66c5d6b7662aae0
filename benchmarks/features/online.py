"""The online store on LMDB: reads, writes and materialisation, and window tiles.

One view of 30 features and three of 10 over the same entities. Floors are bare reads and
bare puts of the same rows in LMDB. Feast (on SQLite, in its own interpreter) is asked for
the same features in turn with ours, where ``make peers`` has been run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
from measuring import Row, arguments, median, report

from falaj.features.adapters.foreign_parquet import ParquetReader
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.foreign import ForeignTables
from falaj.features.foreign_join import Foreign
from falaj.features.index.indexes import Indexes
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.offline import Offline
from falaj.features.ports import Write
from falaj.features.sources import ForeignTable, Format
from falaj.features.store import FeatureStore
from falaj.features.subjectsealing import PURPOSE
from falaj.ingest.files import Files
from falaj.kernel.clock import SetClock, microseconds
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjectciphers import SubjectCiphers

NOW = datetime(2026, 1, 31, tzinfo=UTC)
NOW_US = microseconds(NOW)
VALUES = [f"v{number}" for number in range(30)]
VERSIONS = {name: version(name) for name in ("lmdb", "numpy", "numba", "pyarrow")}
SIZES = {"small": (10_000, 30_000, 100_000), "full": (100_000, 300_000, 1_000_000)}
GOALS = {("numpy", 1): 8, ("dict", 1): 20, ("numpy", 100): 120, ("dict", 100): 400}
STREAM_KEYS = 10_000
SUBJECTS = 10_000
"""Persons who are asked for; a process keeps the keys of more."""


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows: list[Row] = []
    for n in SIZES[given.size]:
        rows += written(n)
    rows += read(SIZES[given.size][-1], calls=300 if given.size == "small" else 3_000)
    rows += sealed(SIZES[given.size][0], calls=300 if given.size == "small" else 3_000)
    rows += streamed(batches=4 if given.size == "small" else 20)
    report("features", "Features: the online store on LMDB", rows, given)


def definitions() -> GivenDefinitions:
    """One view of 30 features, three of 10, window aggregates, and the 30 features of a view
    that is sealed under a key of its own, and of one whose persons have keys."""
    card = Entity(name="card", keys={"card": "int64"})
    common: dict[str, Any] = {"entity": card, "source": "states", "event_time": "at"}
    parts = {"whole": VALUES} | {f"part{i}": VALUES[10 * i : 10 * i + 10] for i in range(3)}
    views = [
        FeatureView(
            name=name,
            ttl=timedelta(days=365),
            features=[Feature(value, "float64") for value in values],
            **common,
        )
        for name, values in parts.items()
    ]
    windows = FeatureView(
        name="windows",
        aggregates=[
            Aggregate(f"{function}_{hours}h", function, "v0", window=timedelta(hours=hours))
            for hours in (1, 24)
            for function in ("count", "sum", "mean")
        ],
        **common,
    )
    secret = [
        FeatureView(
            name=name,
            classification="personal",
            subject=subject,
            features=[Feature(value, "float64") for value in VALUES],
            **common,
        )
        for name, subject in (("personal", None), ("persons", "card"))
    ]
    return GivenDefinitions(
        card,
        *views,
        windows,
        *secret,
        FeatureService(name="one", features=["whole"]),
        *(FeatureService(name=one.name, features=[one]) for one in secret),
        FeatureService(name="three", features=["part0", "part1", "part2"]),
        FeatureService(name="windowed", features=["windows"]),
    )


def table(n_entities: int, each: int, *, seed: int = 7) -> pa.Table:
    """Events in the order of their time, of entities in no order."""
    random = np.random.default_rng(seed)
    cards = np.repeat(np.arange(n_entities), each)
    random.shuffle(cards)
    at = NOW_US - np.sort(random.integers(1, 30 * 86_400_000_000, len(cards)))[::-1]
    columns = {"card": pa.array(cards), "at": pa.array(at, pa.timestamp("us", tz="UTC"))}
    return pa.table(columns | {name: random.normal(size=len(cards)) for name in VALUES})


def store_of(folder: Path, lake: MemoryLake, file: Path | None = None) -> FeatureStore:
    """A feature store over a lake, or over a Parquet file, with an online store in a folder."""
    online, given, offline = LmdbOnlineStore(folder, map_bytes=1 << 30), definitions(), None
    if file is not None:
        source = ForeignTable(name="states", location=file.name)
        given = GivenDefinitions(*given.found.values(), source)
        readers = {Format.PARQUET: ParquetReader(Files([file.parent]))}
        offline = Offline(Indexes(lake), Foreign(given, ForeignTables(readers)))
    persons = SubjectCiphers(MemorySubjectKeys(), PURPOSE)
    return FeatureStore(
        given, lake, online, FixedSecrets(), SetClock(NOW), offline=offline, subjects=persons
    )


# -- writing ---------------------------------------------------------------------------


def written(n: int) -> list[Row]:
    """Rows put if newer, and a Parquet file materialised, in rows a second."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {each: folder / f"{each}.parquet" for each in (1, 10)}
        for each, file in files.items():
            pq.write_table(table(n // each, each), file, compression="none")
        source = table(n, 1)
        for number in range(5 if n <= 100_000 else 3):
            place = folder / str(number)
            place.mkdir()
            for work, taken in once(place, source, files):
                found.setdefault(work, []).append(taken)
    floor = n / median(found["floor"])

    def rate(work: str, key: str, goal: int, floor: float | None = floor) -> Row:
        ours = n / median(found[key])
        return Row(
            work, f"{n:,} rows of 30", "rows/s", ours, floor=floor, goal=f"≥ {goal:,}",
            met=ours >= goal, better="more", versions=VERSIONS,
        )  # fmt: skip

    return [
        rate("put if newer, fsync, into an empty view", "new", 200_000),
        rate("put if newer, fsync, over older rows", "replaced", 200_000),
        rate("materialise Parquet, 1 row an entity", "materialise 1", 900_000),
        rate("materialise Parquet, 10 rows an entity", "materialise 10", 900_000, None),
    ]


def once(place: Path, source: pa.Table, files: dict[int, Path]) -> Iterator[tuple[str, float]]:
    """One round of writing, each work into a store of its own."""
    store = store_of(place / "a", MemoryLake())
    plan = store.view_plan("whole")
    events, storage = plan.events(source), store.storage(plan)
    packed: list[tuple[bytes, bytes]] = []

    def put() -> None:
        packed[:] = storage.latest_rows(events)
        store.online.write(Write(newer=packed))

    yield "new", seconds(put)
    yield "replaced", seconds(put)
    yield "floor", seconds(lambda: bare_put(place / "bare", packed))
    store.online.close()
    for each, file in files.items():
        filled = store_of(place / f"m{each}", MemoryLake(), file)
        started = time.perf_counter()
        done = filled.materialize("whole")
        yield f"materialise {each}", time.perf_counter() - started
        if (done.n_events, done.n_entities) != (len(source), len(source) // each):
            sys.exit(f"not all of {file.name} was materialised: {done}")
        filled.online.close()


def seconds(work: Callable[[], Any]) -> float:
    """How long some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_put(folder: Path, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """The same rows into an empty LMDB, sorted and synced: the floor of a write."""
    environment = lmdb.open(str(folder), map_size=4 << 30)
    with environment, environment.begin(write=True) as transaction:
        transaction.cursor().putmulti(rows, append=True)


# -- reading ---------------------------------------------------------------------------


def read(n: int, *, calls: int) -> list[Row]:
    """Vectors of 30 features for 1, 10, 100 and 1,000 entities, to numpy and to dicts."""
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = store_of(folder / "online", MemoryLake(states=table(n, 1)))
        stack.callback(store.online.close)
        for view in ("whole", "part0", "part1", "part2"):
            store.materialize(view)
        feast = begun(stack, folder)
        for m in (1, 10, 100, 1_000):
            few = max(20, calls // (1 + m // 20))
            peer = None
            if feast is not None and m <= 100:
                peer = feast.ask("read", n_entities=m, n_calls=max(10, few // 10))["p50_us"]
            for service, told in (("one", "1 view"), ("three", "3 views of 10")):
                rows += measured(store, service, told, n, m, few, peer)
    return rows


def begun(stack: ExitStack, folder: Path) -> peers.Peer | None:
    """Feast with one view of 30 features, filled; None if there are no peers here."""
    if not peers.available():
        return None
    (folder / "feast").mkdir()
    sizes = ("1", "30", "2000")
    script = "features/peers/feast_online.py"
    feast = stack.enter_context(peers.Peer(script, str(folder / "feast"), "sqlite", *sizes))
    feast.ask("fill")
    return feast


def measured(
    store: FeatureStore, service: str, told: str, n: int, m: int, calls: int, peer: float | None
) -> Iterator[Row]:
    """One size of read, in turn with the bare reads of the same rows."""
    reader = store.reader(store.plan(service))
    random = np.random.default_rng(m)
    asked = [random.integers(0, n, m).tolist() for _ in range(calls)]
    keys = [
        [
            key
            for use in reader.plan.views
            for key in store.storage(use.plan).keys.asked([cards])
            if key is not None
        ]
        for cards in asked
    ]
    columns = [{"card": cards} for cards in asked]
    dicts = [[{"card": card} for card in cards] for cards in asked]
    taken: dict[str, list[float]] = {"floor": [], "numpy": [], "dict": []}
    for i in range(calls):
        taken["numpy"].append(seconds(lambda i=i: reader.columns(columns[i], NOW_US)))
        taken["dict"].append(seconds(lambda i=i: reader.records(dicts[i], NOW_US)))
        taken["floor"].append(seconds(lambda i=i: store.online.read(keys[i])))
    for form in ("numpy", "dict"):
        ours = median(taken[form]) * 1e6
        goal = GOALS.get((form, m)) if service == "one" else None
        against = peer if form == "dict" and service == "one" else None
        yield Row(
            f"read 30 features to {form}, {told}, p50", f"{m:,} of {n:,} entities", "µs", ours,
            peer=against, peer_name="Feast, SQLite" if against else "",
            floor=median(taken["floor"]) * 1e6, goal=f"≤ {goal}" if goal else "",
            met=None if goal is None else ours <= goal, versions=VERSIONS,
        )  # fmt: skip


def sealed(n: int, *, calls: int) -> list[Row]:
    """The same 30 features in clear, sealed under their view's key, and under each person's,
    whose keys are in use, read in turn."""
    rows: list[Row] = []
    told = {"one": "in clear", "personal": "sealed", "persons": "about persons"}
    with tempfile.TemporaryDirectory() as name:
        store = store_of(Path(name), MemoryLake(states=table(n, 1)))
        for view in ("whole", "personal", "persons"):
            store.materialize(view)
        readers = {service: store.reader(store.plan(service)) for service in told}
        random = np.random.default_rng(11)
        for m in (1, 100):
            taken: dict[str, list[float]] = {service: [] for service in told}
            for _ in range(max(20, calls // (1 + m // 20))):
                asked = {"card": random.integers(0, min(n, SUBJECTS), m).tolist()}
                for service, reader in readers.items():
                    taken[service].append(seconds(lambda r=reader, a=asked: r.columns(a, NOW_US)))
            for service, words in told.items():
                size = f"{m} of {min(n, SUBJECTS):,} entities"
                value = median(taken[service]) * 1e6
                row = Row(f"read 30 features to numpy, a view {words}, p50", size, "µs", value)
                row.versions = VERSIONS
                rows.append(row)
        store.online.close()
    return rows


# -- window tiles ----------------------------------------------------------------------


def streamed(*, batches: int) -> list[Row]:
    """Batches of events merged into tiles (count, sum, mean over 1 h and 24 h), and reads."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        store = store_of(Path(name), MemoryLake())
        plan = store.view_plan("windows")
        storage, random = store.storage(plan), np.random.default_rng(3)
        at = NOW_US - 3 * 3_600_000_000
        for size in (100_000, 2_500):
            taken = []
            for _ in range(batches + 1):
                events = burst(random, at, size)
                at += size * 10
                taken.append(seconds(lambda events=events: applied(store, plan, storage, events)))
            rate, goal = size / median(taken[1:]), 300_000 if size == 100_000 else 50_000
            told = f"batches of {size:,}, {STREAM_KEYS:,} keys"
            row = Row("merge events into tiles, fsync", told, "events/s", rate, better="more")
            row.goal, row.met, row.versions = f"≥ {goal:,}", rate >= goal, VERSIONS
            rows.append(row)
        reader = store.reader(store.plan("windowed"))
        for m in (1, 100):
            asked = [random.integers(0, STREAM_KEYS, m).tolist() for _ in range(200)]
            taken = [seconds(lambda one=one: reader.columns({"card": one}, at)) for one in asked]
            size = f"{m} of {STREAM_KEYS:,} entities"
            row = Row("read 6 windows to numpy, p50", size, "µs", median(taken) * 1e6)
            row.versions = VERSIONS
            rows.append(row)
        store.online.close()
    return rows


def burst(random: np.random.Generator, at: int, n: int) -> pa.Table:
    """Events at 100,000 a second of event time."""
    columns = {
        "card": random.integers(0, STREAM_KEYS, n),
        "at": pa.array(at + np.arange(n) * 10, pa.timestamp("us", tz="UTC")),
        "v0": random.normal(size=n),
    }
    return pa.table(columns)


def applied(store: FeatureStore, plan: Any, storage: Any, table: pa.Table) -> None:
    """What a stream worker does with a batch, but for reading the log."""
    merge = storage.applier(plan.events(table), NOW_US)
    if merge is not None:
        store.online.write(Write(merges=[merge(0)]))


if __name__ == "__main__":
    main()
