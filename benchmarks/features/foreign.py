"""Joining time-ordered Parquet that someone else owns, against Polars' as-of join.

Latest values of ten features of each entity as known at each row's instant: ours reads,
checks the order of the rows and joins; Polars' ``join_asof`` (by the entity, told that the
rows are sorted) reads and joins, once eagerly and once lazily, and its better time counts.
The answers are compared first. Then rows that stand in no order, with the late rows that
bitemporal knowledge asks for, which Polars cannot join, for the time that they take.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.features.adapters.foreign_parquet import ParquetReader
from falaj.features.foreign_join import ForeignView
from falaj.features.model import Entity, Feature, FeatureView, Knowledge
from falaj.features.sources import ForeignTable
from falaj.features.views import ViewPlan
from falaj.ingest.files import Files

BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
SPAN = 30 * 86_400 * 1_000_000
VALUES = [f"v{number}" for number in range(10)]
VERSIONS = {name: version(name) for name in ("polars", "pyarrow", "numpy", "numba")}
SIZES = {
    "small": ((200_000, 10_000), (600_000, 30_000), (2_000_000, 100_000)),
    "full": ((1_000_000, 100_000), (3_000_000, 100_000), (10_000_000, 100_000)),
}
GOAL = 1.2
CARD = Entity(name="card", keys={"card": "int64"})


def main() -> None:
    """Measure and report."""
    warnings.filterwarnings("ignore", message="Sortedness of columns")
    given = arguments(__doc__ or "")
    rows = []
    for n_events, n_asked in SIZES[given.size]:
        for compression in ("snappy", "zstd"):
            rows.append(joined(n_events, n_asked, compression))
    rows.append(late(*SIZES[given.size][-1]))
    report("features", "Features: joins over foreign Parquet", rows, given)


def joined(n_events: int, n_asked: int, compression: str) -> Row:
    """One size, rows in the order of their time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n_events, compression=compression)
        cards, at = questions(n_asked, n_events // 100)
        ours = our_join(folder, cards, at, ordered_by="at")
        eager, lazy = peer_joins(folder, cards, at)
        same(ours(), eager())
        same(ours(), lazy())
        mine, one, other = in_turn(ours, eager, lazy, rounds=3)
    seconds, theirs = median(mine), min(median(one), median(other))
    return Row(
        f"join over time-ordered Parquet ({compression}), 10 float64",
        f"{n_asked:,} rows, {n_events:,} events",
        "s",
        seconds,
        theirs,
        "Polars join_asof",
        goal=f"≤ {GOAL} times Polars",
        met=seconds <= GOAL * theirs,
        versions=VERSIONS,
    )


def late(n_events: int, n_asked: int) -> Row:
    """Rows in no order, a tenth of them recorded late."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n_events, shuffled=True)
        cards, at = questions(n_asked, n_events // 100)
        (mine,) = in_turn(our_join(folder, cards, at, recorded_at="seen"), rounds=3)
    return Row(
        "join over shuffled Parquet with late rows, 10 float64",
        f"{n_asked:,} rows, {n_events:,} events",
        "s",
        median(mine),
        versions=VERSIONS,
    )


def write(
    folder: Path, n_events: int, *, compression: str = "snappy", shuffled: bool = False
) -> None:
    """Events of a hundredth as many entities, in one file."""
    random = np.random.default_rng(7)
    at = np.cumsum(random.integers(1, 2 * SPAN // n_events, n_events)) + BEGIN
    if shuffled:
        random.shuffle(at)
    delay = np.where(random.random(n_events) < 0.1, random.integers(0, SPAN // 30, n_events), 0)
    instant = pa.timestamp("us", tz="UTC")
    columns = {
        "card": pa.array(random.integers(0, n_events // 100, n_events)),
        "at": pa.array(at, instant),
        "seen": pa.array(at + delay, instant),
    }
    columns |= {name: pa.array(random.normal(size=n_events)) for name in VALUES}
    if not shuffled:
        del columns["seen"]
    pq.write_table(pa.table(columns), folder / "events.parquet", compression=compression)


def questions(n_rows: int, n_entities: int) -> tuple[np.ndarray, np.ndarray]:
    """Entities and instants in no order; some entities have no events."""
    random = np.random.default_rng(8)
    cards = random.integers(0, n_entities + n_entities // 20, n_rows)
    return cards, random.integers(0, SPAN, n_rows) + BEGIN


def our_join(
    folder: Path, cards: np.ndarray, at: np.ndarray, *, ordered_by: str | None = None,
    recorded_at: str | None = None,
) -> Callable[[], pa.Table]:  # fmt: skip
    """Opens the files and joins them."""
    view = FeatureView(
        name="state", entity=CARD, source="events", event_time="at", recorded_at=recorded_at,
        features=[Feature(name, "float64") for name in VALUES],
    )  # fmt: skip
    plan = ViewPlan.of(view, CARD)
    table = ForeignTable(name="events", location="*.parquet", ordered_by=ordered_by)
    reader, keys = ParquetReader(Files([folder])), [pa.array(cards)]

    def run() -> pa.Table:
        found = ForeignView(plan, reader.open(table, None), ordered_by)
        return pa.table(found.features(VALUES, keys, at, Knowledge.RECORDED))

    return run


def peer_joins(
    folder: Path, cards: np.ndarray, at: np.ndarray
) -> tuple[Callable[[], pl.DataFrame], Callable[[], pl.DataFrame]]:
    """Polars' join, eager and lazy; the spine is sorted beforehand, as it asks for."""
    file = folder / "events.parquet"
    instants = pl.Series("at", at).cast(pl.Datetime("us", "UTC"))
    spine = pl.DataFrame({"card": cards, "at": instants}).with_row_index("row").sort("at")

    def eager() -> pl.DataFrame:
        events = pl.read_parquet(file).set_sorted("at")
        return spine.join_asof(events, on="at", by="card").sort("row")

    def lazy() -> pl.DataFrame:
        events = pl.scan_parquet(file).set_sorted("at")
        return spine.lazy().join_asof(events, on="at", by="card").sort("row").collect()

    return eager, lazy


def same(ours: pa.Table, peer: pl.DataFrame) -> None:
    """Ends the benchmark unless both give the same values."""
    for name in VALUES:
        theirs = peer[name].to_arrow().cast(pa.float64())
        if not ours.column(name).combine_chunks().equals(theirs):
            sys.exit(f"the answers differ in {name}")


if __name__ == "__main__":
    main()
