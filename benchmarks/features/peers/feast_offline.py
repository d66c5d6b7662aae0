"""Feast's point-in-time join (duckdb offline store) over Parquet files.

Arguments: a folder with ``spine.parquet`` (entity, event_timestamp) and
``view0.parquet`` ... (entity, event_timestamp, and features). ``join`` does the join once.
"""

from __future__ import annotations

import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from answering import answer
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

FOLDER = Path(sys.argv[1])


def store() -> tuple[FeatureStore, list[str]]:
    """A store over the folder's views, and the features of all of them."""
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(FOLDER / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(FOLDER / "online.db")},
        entity_key_serialization_version=3,
    )
    found = FeatureStore(config=config)
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    wanted, objects = [], [entity]
    for path in sorted(FOLDER.glob("view*.parquet")):
        names = [n for n in pq.read_schema(path).names if n not in ("entity", "event_timestamp")]
        view = FeatureView(
            name=path.stem,
            entities=[entity],
            ttl=timedelta(days=0),
            schema=[Field(name=name, dtype=Float64) for name in names],
            source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        )
        objects.append(view)
        wanted += [f"{path.stem}:{name}" for name in names]
    found.apply(objects)
    return found, wanted


STORE, WANTED = store()


def join(spine: str = "spine.parquet", save: str | None = None) -> dict[str, Any]:
    """One join; seconds, CPU seconds, rows, peak memory in MB."""
    frame = pd.read_parquet(FOLDER / spine)
    cpu, started = time.process_time(), time.perf_counter()
    table = STORE.get_historical_features(entity_df=frame, features=WANTED).to_arrow()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if save:
        pq.write_table(table, FOLDER / save)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu_seconds": cpu, "n_rows": table.num_rows, "peak_mb": peak}


answer({"join": join})
