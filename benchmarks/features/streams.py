"""Streams: a push of one row, the event log, and the way from the log to online rows.

A push is measured with one view and with four of one table, acknowledged ``log`` and
``online``. The stream's rate is that of one process which applies what stands in the log
already (10,000 keys; count, sum and mean over 1 h and 24 h); its latency that of an event
from before its push until its tiles are readable, at 50,000 events/s pushed by another
process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.store import FeatureStore
from falaj.features.streams.worker import StreamWorker
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.ports import JSON
from falaj.kernel.clock import SystemClock
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.streams import TestKeys

VERSIONS = {name: version(name) for name in ("lmdb", "pyarrow", "numpy", "cryptography")}
HOUR = timedelta(hours=1)
KEYS = 10_000
PUSHED_ROWS = 500
RATE = 50_000


def main() -> None:
    """Measure and report, or push as the other process of the latency."""
    if len(sys.argv) == 4 and sys.argv[1] == "push":
        pushing(Path(sys.argv[2]), float(sys.argv[3]))
        return
    given = arguments(__doc__ or "")
    full = given.size == "full"
    rows = pushes(2_000 if full else 400)
    rows += log_rates(2_000 if full else 400)
    rows += [stream_rate(3_000_000 if full else 500_000)]
    rows += [latency(20.0 if full else 5.0)]
    report("features", "Features: pushes, the event log, streams", rows, given)


def definitions(n_views: int) -> GivenDefinitions:
    """Window views of one table, with several of them as many of latest values; for none,
    one of latest values."""
    card = Entity(name="card", keys={"card": "int64"})
    windows = [
        FeatureView(
            name=f"spent_{number}", entity=card, source="payments", event_time="at",
            aggregates=[
                Aggregate(f"{function}_{hours}h", function, "amount", window=hours * HOUR)
                for hours in (1, 24)
                for function in ("count", "sum", "mean")
            ],
        )
        for number in range((n_views + 1) // 2)
    ]  # fmt: skip
    latest = [
        FeatureView(
            name=f"last_{number}", entity=card, source="payments", event_time="at",
            features=[Feature("amount", "float64")],
        )
        for number in range(n_views // 2 if n_views else 1)
    ]  # fmt: skip
    views = [*windows, *latest]
    return GivenDefinitions(card, *views, FeatureService(name="all", features=views))


class Place:
    """A feature store in a folder, with its log."""

    def __init__(self, folder: Path, n_views: int = 1) -> None:
        self.log = SegmentLog(folder / "log", TestKeys())
        self.online = LmdbOnlineStore(folder / "online")
        self.store = FeatureStore(
            definitions(n_views), MemoryLake(), self.online, FixedSecrets(), SystemClock(),
            log=self.log, locks=folder / "locks",
        )  # fmt: skip
        self.store.streams.plans._version = lambda: 0  # definitions stand still

    def pushed(self, given: list[pa.Table], ack: str) -> list[float]:
        """Seconds of each push, into tiles that hold something."""
        self.store.push("payments", events(20_000))
        return timed(lambda i: self.store.push("payments", given[i], ack=ack), len(given))

    def close(self) -> None:
        """Close its files."""
        self.log.close()
        self.online.close()


def events(n_rows: int, seed: int = 0, at: datetime | None = None) -> pa.Table:
    """Events of random cards, their times in order, the last of them now."""
    random = np.random.default_rng(seed)
    end = int((at or datetime.now(UTC)).timestamp() * 1e6)
    times = np.linspace(end - 1000 * n_rows // 50, end, n_rows).astype(np.int64)
    return pa.table(
        {
            "card": pa.array(random.integers(0, KEYS, n_rows)),
            "at": pa.array(times, pa.timestamp("us", tz="UTC")),
            "amount": pa.array(random.normal(50, 10, n_rows)),
        }
    )


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    return float(np.quantile(seconds, 0.5)), float(np.quantile(seconds, 0.99))


def timed(work: Any, n: int) -> list[float]:
    """Seconds of each of n calls."""
    taken = []
    for number in range(n):
        begin = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - begin)
    return taken


def pushes(n: int) -> list[Row]:
    """One row at a time."""
    rows = []
    for n_views in (0, 1, 4):
        for ack in ("online", "log"):
            with tempfile.TemporaryDirectory() as name:
                place = Place(Path(name), n_views)
                taken = place.pushed([events(1, seed) for seed in range(n)], ack)
                place.close()
            half, most = quantiles(taken)
            views = {0: "1 view of latest values", 1: "1 view of windows", 4: "2 of each"}
            told = f"{views[n_views]}, ack {ack}"
            goal = "<= 0.5" if ack == "online" else ""
            met = half <= 0.5e-3 if goal else None
            rows.append(
                Row("push of one row, p50", told, "ms", half * 1e3, goal=goal, met=met,
                    versions=VERSIONS)
            )  # fmt: skip
            rows.append(Row("push of one row, p99", told, "ms", most * 1e3, versions=VERSIONS))
    return rows


def log_rates(n: int) -> list[Row]:
    """Appends of small records one by one, and of large ones together; reads of those."""
    with tempfile.TemporaryDirectory() as name:
        log = SegmentLog(Path(name), TestKeys())
        half, _ = quantiles(timed(lambda _: log.append("a", [b"x" * 400], media=JSON), n))
        many = [b"y" * 32_000] * 25
        taken = sum(timed(lambda _: log.append("b", many, media=JSON), n // 10))
        n_bytes, begin, offset = len(many) * 32_000 * (n // 10), time.perf_counter(), 0
        while found := log.read("b", 0, offset):
            offset = found[-1].offset + 1
        read = time.perf_counter() - begin
        log.close()
    return [
        Row("append of one record, synced, p50", "400 bytes", "ms", half * 1e3, versions=VERSIONS),
        Row(
            "append",
            "25 x 32 kB, synced",
            "MB/s",
            n_bytes / taken / 1e6,
            better="more",
            versions=VERSIONS,
        ),
        Row(
            "read", "32 kB records", "MB/s", n_bytes / read / 1e6, better="more", versions=VERSIONS
        ),
    ]


def stream_rate(n_rows: int) -> Row:
    """Events per second from the log to the online store, by one process."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        place.store.push("payments", events(100_000, 1))  # tiles of all keys, kernels compiled
        for number in range(n_rows // 20_000):
            place.store.push("payments", events(20_000, number), ack="log")
        begin, used = time.perf_counter(), time.process_time()
        worker = StreamWorker(place.store.streams)
        while worker.run_once():
            pass
        taken, used = time.perf_counter() - begin, time.process_time() - used
        applied = place.store.streams.applier.progress("payments", 0).n_rows - 100_000
        place.close()
    if applied < n_rows // 20_000 * 20_000:
        raise AssertionError(applied)
    told = f"{applied:,} events, {KEYS:,} keys, {used / taken:.0%} of a core"
    return Row(
        "stream: log to online store", told, "events/s", applied / taken, goal=">= 300,000",
        met=applied / taken >= 300_000, better="more", versions=VERSIONS,
    )  # fmt: skip


def pushing(folder: Path, seconds: float) -> None:
    """Push at the rate, each push in its time."""
    place = Place(folder)
    begin, number = time.time(), 0
    while time.time() - begin < seconds:
        due = begin + number * PUSHED_ROWS / RATE
        if due > time.time():
            time.sleep(due - time.time())
        place.store.push("payments", events(PUSHED_ROWS, number), ack="log")
        number += 1
    print(number * PUSHED_ROWS / (time.time() - begin))


def latency(seconds: float) -> Row:
    """From the event's own time, just before its push, until a read can see it."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        place.store.push("payments", events(100_000, 1))
        stopped = threading.Event()
        worker = StreamWorker(place.store.streams, lake_seconds=3600)
        thread = threading.Thread(target=worker.run_until, args=(stopped,))
        thread.start()
        pusher = subprocess.Popen(
            [sys.executable, __file__, "push", name, str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        late = []
        while pusher.poll() is None:
            before = place.store.streams.applier.progress("payments", 0)
            time.sleep(0.001)
            after = place.store.streams.applier.progress("payments", 0)
            if after.position > before.position:
                seen = time.time()
                for record in place.log.read("payments", 0, before.position):
                    if record.offset < after.position:
                        rows = pa.ipc.open_stream(record.payload).read_all()
                        newest = rows["at"].cast(pa.int64())[-1].as_py() / 1e6
                        late.append(seen - newest)
        rate = float(pusher.stdout.read())  # type: ignore[union-attr]
        stopped.set()
        thread.join()
        place.close()
    told = f"{rate:,.0f} events/s, p50 {np.quantile(late, 0.5) * 1e3:.0f} ms"
    return Row(
        "stream: event to readable, p99", told, "ms", float(np.quantile(late, 0.99)) * 1e3,
        goal="<= 100", met=bool(np.quantile(late, 0.99) <= 0.1), versions=VERSIONS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
