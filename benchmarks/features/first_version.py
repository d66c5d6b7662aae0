"""Features for training and for serving, at three sizes each.

Training: the latest value of eight features of each entity, as known at each row's
instant, against DuckDB's ASOF join over the same Arrow tables (the answers are compared
first); then the whole service of twenty features, windows included. Serving: vectors of
the twenty features, against the bare reads of the same rows in one LMDB transaction.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=30)
VALUES = [f"v{number}" for number in range(8)]
VERSIONS = {name: version(name) for name in ("duckdb", "pyarrow", "numpy", "lmdb")}
SIZES = {"small": (10_000, 30_000, 100_000), "full": (100_000, 300_000, 1_000_000)}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows = []
    for n_rows in SIZES[given.size]:
        rows += trained(n_rows, rounds=5)
    rows += served(n_entities=5_000 if given.size == "small" else 50_000, rounds=500)
    report("features", "Features: training frames and online reads", rows, given)


def definitions() -> GivenDefinitions:
    """Eight latest values and twelve windows of one entity; a service of each and of both."""
    card = Entity(name="card", keys={"card": "int64"})
    state = FeatureView(
        name="state",
        entity=card,
        source="states",
        event_time="at",
        features=[Feature(name, "float64") for name in VALUES],
    )
    spent = FeatureView(
        name="spent",
        entity=card,
        source="states",
        event_time="at",
        aggregates=[
            Aggregate(f"{function}_{days}d", function, "v0", window=timedelta(days=days))
            for days in (1, 7)
            for function in ("sum", "mean", "min", "max", "std", "count")
        ],
    )
    return GivenDefinitions(
        card,
        state,
        spent,
        FeatureService(name="latest", features=["state"]),
        FeatureService(name="all", features=["state", "spent"]),
    )


def events(n_rows: int, n_entities: int) -> pa.Table:
    """Distinct events in the order of their time."""
    random = np.random.default_rng(7)
    span = int((END - BEGIN).total_seconds() * 1e6)
    at = np.sort(random.choice(span, n_rows, replace=False)) + int(BEGIN.timestamp() * 1e6)
    columns = {
        "card": pa.array(random.integers(0, n_entities, n_rows)),
        "at": pa.array(at, pa.timestamp("us", tz="UTC")),
    }
    columns |= {name: pa.array(random.normal(size=n_rows)) for name in VALUES}
    return pa.table(columns)


def spine(n_rows: int, n_entities: int) -> pa.Table:
    """Questions at random instants, in no order; some are about entities without events."""
    random = np.random.default_rng(8)
    span = int((END - BEGIN).total_seconds() * 1e6)
    at = random.integers(0, span, n_rows) + int(BEGIN.timestamp() * 1e6)
    return pa.table(
        {
            "card": pa.array(random.integers(0, n_entities + n_entities // 20, n_rows)),
            "timestamp": pa.array(at, pa.timestamp("us", tz="UTC")),
        }
    )


def made(folder: Path, source: pa.Table) -> tuple[FeatureStore, Counting]:
    """A feature store over a lake in memory."""
    online = Counting(LmdbOnlineStore(folder))
    store = FeatureStore(
        definitions(), MemoryLake(states=source), online, FixedSecrets(), SetClock(END)
    )
    return store, online


# -- training --------------------------------------------------------------------------


def trained(n_rows: int, *, rounds: int) -> list[Row]:
    """Frames of so many spine rows, over five times as many events."""
    n_entities = n_rows // 10
    source, asked = events(5 * n_rows, n_entities), spine(n_rows, n_entities)
    with tempfile.TemporaryDirectory() as name, duckdb.connect() as engine:
        engine.execute("SET threads = 2; SET TimeZone = 'UTC'")
        store, online = made(Path(name), source)

        def ours() -> pa.Table:
            return store.training_frame(asked, "latest")

        def peer() -> pa.Table:
            return joined(engine, source, asked)

        same(ours(), peer())
        latest, asof, whole = in_turn(
            ours, peer, lambda: store.training_frame(asked, "all"), rounds=rounds
        )
        online.close()
    size = f"{n_rows:,} rows, {5 * n_rows:,} events"
    mine, theirs = median(latest), median(asof)
    return [
        Row(
            "training frame, 8 latest values",
            size,
            "s",
            mine,
            theirs,
            "DuckDB ASOF join",
            versions=VERSIONS,
        ),
        Row("training frame, 20 features", size, "s", median(whole), versions=VERSIONS),
    ]


def joined(engine: duckdb.DuckDBPyConnection, source: pa.Table, asked: pa.Table) -> pa.Table:
    """The same frame by an ASOF join, rows in the spine's order."""
    numbered = asked.append_column("row", pa.array(np.arange(asked.num_rows)))
    engine.register("states", source)
    engine.register("spine", numbered)
    values = ", ".join(f"e.{name} AS state__{name}" for name in VALUES)
    return engine.execute(
        f"SELECT s.card, s.timestamp, {values} FROM spine s ASOF LEFT JOIN states e "
        "ON s.card = e.card AND s.timestamp >= e.at ORDER BY s.row"
    ).to_arrow_table()


def same(ours: pa.Table, peer: pa.Table) -> None:
    """Ends the benchmark unless both frames hold the same."""
    for name in peer.column_names:
        left, right = (table.column(name).combine_chunks() for table in (ours, peer))
        if not left.equals(right.cast(left.type)):
            sys.exit(f"the frames differ in {name}")


# -- serving ---------------------------------------------------------------------------


class Counting:
    """An online store that remembers which keys were read last."""

    def __init__(self, store: LmdbOnlineStore) -> None:
        self._store = store
        self.last: list[bytes] = []
        self.write = store.write
        self.keys = store.keys
        self.forget = store.forget
        self.close = store.close

    def read(self, keys: list[bytes]) -> list[bytes | None]:
        """The rows of these keys."""
        self.last = list(keys)
        return self._store.read(keys)

    def bare(self, keys: list[bytes]) -> list[bytes | None]:
        """The same, unremembered: the floor of a read."""
        return self._store.read(keys)


def served(*, n_entities: int, rounds: int) -> list[Row]:
    """Vectors of 1, 10 and 100 rows."""
    source = events(20 * n_entities, n_entities)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store, online = made(Path(name), source)
        for view in ("state", "spent"):
            store.materialize(view)
        plan = store.plan("all")
        agreeing(store, n_entities)
        random = np.random.default_rng(9)
        for n_rows in (1, 10, 100):
            asked = [
                [{"card": int(card)} for card in random.integers(0, n_entities, n_rows)]
                for _ in range(rounds + 20)
            ]
            keys = []
            for request in asked:
                store.read_online(plan, request, END)
                keys.append(online.last)
            requests, wanted = iter(asked), iter(keys)
            ours, floor = in_turn(
                lambda requests=requests: store.read_online(plan, next(requests), END),
                lambda wanted=wanted: online.bare(next(wanted)),
                rounds=rounds,
                warm=20,
            )
            rows.append(
                Row(
                    f"online read of {len(plan.outputs)} features, p50",
                    f"{n_rows} of {n_entities:,} entities",
                    "µs",
                    median(ours) * 1e6,
                    floor=median(floor) * 1e6,
                    versions=VERSIONS,
                )
            )
        online.close()
    return rows


def agreeing(store: FeatureStore, n_entities: int) -> None:
    """Ends the benchmark unless serving and training give the same vectors."""
    cards = list(range(0, n_entities, max(1, n_entities // 200)))
    at = pa.array([END] * len(cards), pa.timestamp("us", tz="UTC"))
    frame = store.training_frame(pa.table({"card": cards, "timestamp": at}), "all")
    read = store.read_online("all", [{"card": card} for card in cards], END)
    for place, name in enumerate(read.names):
        trained = np.array(frame.column(name).to_pylist(), dtype=float)
        told = np.array([row[place] for row in read.values], dtype=float)
        if not np.allclose(trained, told, rtol=1e-9, equal_nan=True):
            sys.exit(f"training and serving differ in {name}")


if __name__ == "__main__":
    main()
