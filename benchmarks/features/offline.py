"""The offline execution: point-in-time joins and window aggregates, at three sizes each.

The same rows stand in a lake, in a DuckDB database and in Parquet files. Ours is measured
warm, with the index mapped from clear files, against Feast (duckdb store, in an interpreter
of its own), DuckDB's ASOF join, Polars' join_asof and the same search in numpy; windows are
measured against DuckDB's range windows, and against its join with filtered aggregates. All
answers are compared before anything is timed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
from measuring import Row, arguments, in_turn, median, report

from falaj.features.index.files import RunFiles
from falaj.features.index.indexes import Indexes
from falaj.features.index.runs import Run
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.offline import Offline
from falaj.features.plan import ServicePlan
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.features import GivenDefinitions

TIME = pa.timestamp("us", tz="UTC")
BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
SPAN = 30 * 86_400_000_000
VIEWS = ("view0", "view1", "view2")
VALUES = tuple(f"f{number}" for number in range(10))
WINDOWS = tuple(timedelta(hours=hours) for hours in (1, 6, 24, 72, 168, 336))
FUNCTIONS = ("sum", "mean", "std", "min", "max")
SIZES = {
    "small": ((10_000, 1_000), (30_000, 3_000), (100_000, 10_000)),
    "full": ((1_000_000, 10_000), (3_000_000, 30_000), (10_000_000, 100_000)),
}
"""(rows of each view, rows of the spine); the last spine again with ten times the rows."""
EVENTS_PER_ENTITY = 100
VERSIONS = {name: version(name) for name in ("duckdb", "pyarrow", "numpy", "numba", "polars")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows = kernels()
    sizes = SIZES[given.size]
    for place, (n_rows, n_asked) in enumerate(sizes):
        largest = place == len(sizes) - 1
        judged = largest and given.size == "full"
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            place_of = Places.made(Path(name), n_rows, stack)
            rows += built(place_of)
            rows += joined(place_of, n_asked, feast=True, judged=judged)
            if largest:
                rows += joined(place_of, 10 * n_asked, feast=False, judged=judged)
            rows += windowed(place_of, n_asked, judged=judged)
    report("features", "Features offline: point-in-time joins and windows", rows, given)


# -- the data --------------------------------------------------------------------------


def events(n_rows: int, seed: int) -> pa.Table:
    """Events in the order of their time, no two at once."""
    random = np.random.default_rng(seed)
    at = BEGIN + np.cumsum(random.integers(1, 2 * SPAN // n_rows, n_rows))
    columns = {
        "entity": pa.array(random.integers(0, n_rows // EVENTS_PER_ENTITY, n_rows)),
        "event_timestamp": pa.array(at).cast(TIME),
    }
    return pa.table(columns | {name: pa.array(random.normal(size=n_rows)) for name in VALUES})


def spine(n_asked: int, n_rows: int) -> pa.Table:
    """Questions at random instants, in no order; some are about entities without events."""
    random = np.random.default_rng(99)
    n_entities = n_rows // EVENTS_PER_ENTITY
    columns = {
        "entity": pa.array(random.integers(0, n_entities + n_entities // 20, n_asked)),
        "event_timestamp": pa.array(BEGIN + random.integers(0, SPAN, n_asked)).cast(TIME),
    }
    return pa.table(columns)


@dataclass
class Places:
    """Where the rows stand: a lake, a database, Parquet files."""

    folder: Path
    n_rows: int
    lake: DuckLake
    engine: duckdb.DuckDBPyConnection
    offline: Offline
    indexes: Indexes
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path, n_rows: int, stack: ExitStack) -> Places:
        """Every view written to all three."""
        lake = DuckLake.in_folder(folder / "lake")
        engine = duckdb.connect(str(folder / "peer.duckdb"))
        stack.callback(lake.close)
        stack.callback(engine.close)
        engine.execute("SET threads = 2; SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0")
        for seed, view in enumerate(VIEWS):
            table = events(n_rows, seed)
            lake.append(view, table)
            names = [f"{view}__{name}" if name in VALUES else name for name in table.column_names]
            pq.write_table(table.rename_columns(names), folder / f"{view}.parquet")
            engine.register("incoming", table)
            engine.execute(f"CREATE TABLE {view} AS SELECT * FROM incoming")
            engine.unregister("incoming")
        indexes = Indexes(lake, RunFiles(folder / "index", None))
        return cls(folder, n_rows, lake, engine, Offline(indexes), indexes)


def plans() -> tuple[ServicePlan, ServicePlan]:
    """A service of thirty latest values, and one of thirty windows."""
    entity = Entity(name="entity", keys={"entity": "int64"})
    common = {"entity": entity, "event_time": "event_timestamp"}
    latest = [
        FeatureView(
            name=view, source=view, features=[Feature(name, "float64") for name in VALUES], **common
        )
        for view in VIEWS
    ]
    windows = FeatureView(
        name="windows",
        source=VIEWS[0],
        aggregates=[
            Aggregate(
                f"{function}_{window // timedelta(hours=1)}h", function, "f0",
                window=window, hop=timedelta(microseconds=1),
            )
            for window in WINDOWS
            for function in FUNCTIONS
        ],
        **common,
    )  # fmt: skip
    services = (
        FeatureService(name="latest", features=latest),
        FeatureService(name="windowed", features=[windows]),
    )
    definitions = GivenDefinitions(entity, *latest, windows, *services)
    return (
        ServicePlan.of(services[0], definitions),
        ServicePlan.of(services[1], definitions),
    )


LATEST, WINDOWED = plans()


# -- what is measured -------------------------------------------------------------------


_FIRST_FRAME = """
import sys, time
sys.path.insert(0, {folder!r})
import offline
from falaj.features.index.indexes import Indexes
from falaj.features.offline import Offline
from falaj.testing.features import MemoryLake
lake = MemoryLake(**{{view: offline.events(1_000, 0) for view in offline.VIEWS}})
asked = offline.spine(10, 1_000)
answering = Offline(Indexes(lake))
started = time.perf_counter()
for plan in (offline.LATEST, offline.WINDOWED):
    answering.frame(asked, plan, timestamp="event_timestamp")
print(time.perf_counter() - started)
"""


def kernels() -> list[Row]:
    """The first frame of a process: with nothing compiled, and with what was kept."""
    program = _FIRST_FRAME.format(folder=str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as name:
        surroundings = {**os.environ, "NUMBA_CACHE_DIR": name}
        seconds = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=surroundings, capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds.append(float(done.stdout.split()[-1]))
    size = "latest values and windows"
    return [
        Row("first frame, kernels compiled", size, "s", seconds[0], versions=VERSIONS),
        Row("first frame, kernels from the cache", size, "s", seconds[1], versions=VERSIONS),
    ]


def built(place: Places) -> list[Row]:
    """The index of one view: made from the lake, opened from its file, brought up to date."""
    one = spine(10, place.n_rows)
    plan = LATEST.views[0].plan
    size = f"{place.n_rows:,} rows x {len(VALUES)}"

    def opened() -> float:
        indexes = Indexes(place.lake, RunFiles(place.folder / "index", None))
        return timed(lambda: indexes.runs(plan, place.lake.latest()))

    with beyond_mapped() as memory:
        making = opened()
    opening = median([opened() for _ in range(3)])
    first = timed(lambda: place.offline.frame(one, LATEST, timestamp="event_timestamp"))
    del first
    return [
        Row("index made from the lake", size, "s", making, versions=VERSIONS),
        Row("index made: memory", size, "MB", memory.megabytes, versions=VERSIONS),
        Row("index opened from its file", size, "s", opening, versions=VERSIONS),
    ]


def joined(place: Places, n_asked: int, *, feast: bool, judged: bool) -> list[Row]:
    """Thirty latest values of three views."""
    asked = spine(n_asked, place.n_rows)
    size = f"{n_asked:,} of 3 x {place.n_rows:,} x {len(VALUES)}"
    latest = place.lake.latest()

    def ours() -> pa.Table:
        return place.offline.frame(asked, LATEST, timestamp="event_timestamp", snapshot=latest)

    frame = ours()
    same(frame, asof(place.engine, asked))
    same(frame, polars_asof(place, asked))
    same(frame, in_numpy(place, asked, frame))
    mine, theirs = in_turn(ours, lambda: asof(place.engine, asked), rounds=3)
    with beyond_mapped() as memory:
        ours()
    seconds = median(mine)
    work = "point-in-time join, 30 features"
    rows = [
        Row(
            work, size, "s", seconds, median(theirs), "DuckDB ASOF",
            goal="10" if not feast else "",
            met=median(theirs) / seconds >= 10 if judged and not feast else None,
            versions=VERSIONS,
        ),
        Row(
            f"{work}: rate", size, "rows/s", n_asked / seconds, better="more",
            goal="1,000,000" if not feast else "",
            met=n_asked / seconds >= 1e6 if judged and not feast else None, versions=VERSIONS,
        ),
        Row(
            f"{work}: memory beyond the mapped files", size, "MB", memory.megabytes,
            goal="500" if judged else "", met=memory.megabytes <= 500 if judged else None,
            versions=VERSIONS,
        ),
    ]  # fmt: skip
    if feast:
        others = in_turn(
            lambda: polars_asof(place, asked), lambda: in_numpy(place, asked, frame), rounds=3
        )
        names = ("Polars join_asof", "numpy, the same arrays")
        for name, other in zip(names, others, strict=True):
            rows.append(Row(work, size, "s", seconds, median(other), name, versions=VERSIONS))
        rows += against_feast(place, asked, ours, size, judged=judged)
    return rows


def against_feast(
    place: Places, asked: pa.Table, ours: Callable[[], pa.Table], size: str, *, judged: bool
) -> list[Row]:
    """The same join by Feast, if it has been installed."""
    if not peers.available():
        print("Feast is left out: `make peers` installs it")
        return []
    pq.write_table(asked, place.folder / "spine.parquet")
    with peers.Peer("features/peers/feast_offline.py", str(place.folder)) as feast:
        feast.ask("join", save="feast.parquet")
        same(ours(), told_by_feast(place.folder / "feast.parquet", asked))
        mine, theirs = [], []
        for _ in range(2 if judged else 3):
            theirs.append(feast.ask("join")["seconds"])
            mine.append(timed(ours))
    ratio = median(theirs) / median(mine)
    return [
        Row(
            "point-in-time join, 30 features", size, "s", median(mine), median(theirs), "Feast",
            goal="25" if judged else "", met=ratio >= 25 if judged else None, versions=VERSIONS,
        )
    ]  # fmt: skip


def windowed(place: Places, n_asked: int, *, judged: bool) -> list[Row]:
    """Six windows, five functions."""
    asked = spine(n_asked, place.n_rows)
    size = f"{n_asked:,} of {place.n_rows:,} events"

    def ours() -> pa.Table:
        return place.offline.frame(asked, WINDOWED, timestamp="event_timestamp")

    frame = ours()
    close(frame, filtered(place.engine, asked))
    started = time.perf_counter()  # once: it takes minutes at full size
    close(frame, ranged(place.engine, asked))
    ranges = [time.perf_counter() - started]
    mine, joins = in_turn(ours, lambda: filtered(place.engine, asked), rounds=2, warm=0)
    seconds, rows = median(mine), []
    for name, theirs in (("DuckDB range windows", ranges), ("DuckDB join and filter", joins)):
        ratio = median(theirs) / seconds
        goal = judged and name == "DuckDB range windows"
        rows.append(
            Row(
                "6 windows x 5 functions", size, "s", seconds, median(theirs), name,
                goal="5" if goal else "", met=ratio >= 5 if goal else None, versions=VERSIONS,
            )
        )  # fmt: skip
    return rows


# -- the peers --------------------------------------------------------------------------


def numbered(asked: pa.Table) -> pa.Table:
    return asked.append_column("row", pa.array(np.arange(asked.num_rows)))


def asof(engine: duckdb.DuckDBPyConnection, asked: pa.Table) -> pa.Table:
    """DuckDB's ASOF joins, in the spine's order."""
    engine.register("spine", numbered(asked))
    values = ", ".join(f"{view}.{name} AS {view}__{name}" for view in VIEWS for name in VALUES)
    joins = " ".join(
        f"ASOF LEFT JOIN {view} ON s.entity = {view}.entity"
        f" AND s.event_timestamp >= {view}.event_timestamp"
        for view in VIEWS
    )
    return engine.execute(f"SELECT {values} FROM spine s {joins} ORDER BY row").to_arrow_table()


def polars_asof(place: Places, asked: pa.Table) -> pa.Table:
    """Polars' join_asof over the Parquet files, which lie in the order of time."""
    found = pl.from_arrow(numbered(asked)).lazy().sort("event_timestamp")
    for view in VIEWS:
        other = pl.scan_parquet(place.folder / f"{view}.parquet")
        found = found.set_sorted("event_timestamp").join_asof(
            other.set_sorted("event_timestamp"), on="event_timestamp", by="entity"
        )
    return found.sort("row").collect().to_arrow()


def in_numpy(place: Places, asked: pa.Table, frame: pa.Table) -> pa.Table:
    """The same search over the same sorted arrays, with what numpy offers."""
    at = asked["event_timestamp"].cast(pa.int64()).to_numpy()
    columns: dict[str, pa.Array] = {}
    for use in LATEST.views:
        (run,), _ = place.indexes.runs(use.plan, place.lake.latest())
        codes = run.entities.find([asked["entity"].combine_chunks()])
        owners, times = numpy_keys(place, use.plan.name, run)
        ranks = np.searchsorted(times, at, "right")
        width = len(times) + 1
        found = np.searchsorted(owners, codes * width + ranks, "right") - 1
        there = (codes >= 0) & (found >= run.starts[codes])
        rows = run.words[np.where(there, found, 0)].view(np.float64)
        for number, name in enumerate(VALUES):
            values = np.ascontiguousarray(rows[:, run.n_flags + number])
            columns[f"{use.plan.name}__{name}"] = pa.array(values, mask=~there)
    return pa.table({name: columns[name] for name in frame.column_names if name in columns})


_KEYS: dict[tuple[str, int], tuple[Any, Any]] = {}


def numpy_keys(place: Places, view: str, run: Run) -> tuple[Any, Any]:
    """One sorted key of (entity, rank of the time) for each event; made once, not timed."""
    if (view, place.n_rows) not in _KEYS:
        times = np.unique(run.event_time)
        owners = np.repeat(np.arange(len(run.starts) - 1), np.diff(run.starts))
        ranks = np.searchsorted(times, run.event_time, "right")
        _KEYS[view, place.n_rows] = (owners * (len(times) + 1) + ranks, times)
    return _KEYS[view, place.n_rows]


_SQL = {"sum": "sum", "mean": "avg", "std": "stddev_pop", "min": "min", "max": "max"}


def ranged(engine: duckdb.DuckDBPyConnection, asked: pa.Table) -> pa.Table:
    """Range windows over events and questions together."""
    engine.register("spine", numbered(asked))
    values = ", ".join(
        f"{_SQL[function]}(f0) OVER w{place} AS {function}_{window // timedelta(hours=1)}h"
        for place, window in enumerate(WINDOWS)
        for function in FUNCTIONS
    )
    windows = ", ".join(
        f"w{place} AS (PARTITION BY entity ORDER BY event_timestamp RANGE BETWEEN"
        f" INTERVAL '{window // timedelta(microseconds=1) - 1} microseconds' PRECEDING"
        " AND CURRENT ROW)"
        for place, window in enumerate(WINDOWS)
    )
    return engine.execute(
        f"SELECT * FROM (SELECT row, {values} FROM (SELECT entity, event_timestamp, f0, NULL AS row"
        " FROM view0 UNION ALL SELECT entity, event_timestamp, NULL, row FROM spine)"
        f" WINDOW {windows}) WHERE row IS NOT NULL ORDER BY row"
    ).to_arrow_table()


def filtered(engine: duckdb.DuckDBPyConnection, asked: pa.Table) -> pa.Table:
    """A join over the longest window, and an aggregate of each window by a filter."""
    engine.register("spine", numbered(asked))
    values = ", ".join(
        f"{_SQL[function]}(f0) FILTER (e.event_timestamp > s.event_timestamp - INTERVAL"
        f" {window // timedelta(hours=1)} HOURS) AS {function}_{window // timedelta(hours=1)}h"
        for window in WINDOWS
        for function in FUNCTIONS
    )
    longest = max(WINDOWS) // timedelta(hours=1)
    return engine.execute(
        f"SELECT row, {values} FROM spine s LEFT JOIN view0 e ON s.entity = e.entity"
        " AND e.event_timestamp <= s.event_timestamp"
        f" AND e.event_timestamp > s.event_timestamp - INTERVAL {longest} HOURS"
        " GROUP BY row ORDER BY row"
    ).to_arrow_table()


def told_by_feast(path: Path, asked: pa.Table) -> pa.Table:
    """Feast's answer in the spine's order (it keeps no order of its own)."""
    table = pq.read_table(path)
    keys = ["entity", "event_timestamp"]
    order = pl.from_arrow(numbered(asked).select([*keys, "row"]))
    told = pl.from_arrow(table).with_columns(
        pl.col("event_timestamp").dt.replace_time_zone(None).dt.cast_time_unit("us")
    )
    order = order.with_columns(pl.col("event_timestamp").dt.replace_time_zone(None))
    return order.join(told.unique(keys), on=keys, how="left").sort("row").to_arrow()


# -- comparing and timing ---------------------------------------------------------------


def same(ours: pa.Table, peer: pa.Table) -> None:
    """Ends the benchmark unless both tables hold the same values."""
    for view in VIEWS:
        for name in (f"{view}__{value}" for value in VALUES):
            left, right = (table[name].to_numpy() for table in (ours, peer))
            if not np.array_equal(left, right, equal_nan=True):
                sys.exit(f"the answers differ in {name}")


def close(ours: pa.Table, peer: pa.Table) -> None:
    """Ends the benchmark unless both tables agree to 1e-9 of the sum of absolute values."""
    for window in WINDOWS:
        for function in FUNCTIONS:
            name = f"{function}_{window // timedelta(hours=1)}h"
            left, right = ours[f"windows__{name}"].to_numpy(), peer[name].to_numpy()
            if not np.allclose(left, right, rtol=1e-9, atol=1e-7, equal_nan=True):
                sys.exit(f"the answers differ in {name}")


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Memory:
    """The most memory of this process's own (no file's pages) beyond what there was."""

    megabytes = 0.0


@contextmanager
def beyond_mapped() -> Iterator[Memory]:
    """Watches ``RssAnon`` every millisecond."""
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    memory, done, before = Memory(), threading.Event(), anonymous_megabytes()

    def watch() -> None:
        while not done.wait(0.001):
            memory.megabytes = max(memory.megabytes, anonymous_megabytes() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield memory
    finally:
        done.set()
        watching.join()


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise AssertionError


if __name__ == "__main__":
    main()
