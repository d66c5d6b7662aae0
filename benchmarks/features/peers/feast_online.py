"""Feast's online store: rows written, read and pushed.

Arguments: a folder for its registry; a Redis address (``127.0.0.1:6379``) or ``sqlite``;
number of views; features per view; number of entities.
"""

from __future__ import annotations

import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from answering import answer
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast.data_source import PushMode
from feast.types import Float64
from feast.value_type import ValueType

FOLDER, ADDRESS = Path(sys.argv[1]), sys.argv[2]
N_VIEWS, N_FEATURES, N_ENTITIES = (int(text) for text in sys.argv[3:6])
NOW = datetime.now(UTC) - timedelta(minutes=5)


def columns(view: int) -> list[str]:
    return [f"v{view}_f{i}" for i in range(N_FEATURES)]


def store() -> tuple[FeatureStore, list[str]]:
    """A store with the views, filled with nothing yet."""
    online: dict[str, Any] = {"type": "redis", "connection_string": ADDRESS}
    if ADDRESS == "sqlite":
        online = {"type": "sqlite", "path": str(FOLDER / "online.db")}
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(FOLDER / "registry.db"),
        offline_store={"type": "file"},
        online_store=online,
        entity_key_serialization_version=3,
    )
    found = FeatureStore(config=config)
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    wanted, objects = [], [entity]
    for number in range(N_VIEWS):
        path = FOLDER / f"empty{number}.parquet"
        rows(number, 1).to_parquet(path)
        source = FileSource(name=f"file{number}", path=str(path), timestamp_field="event_timestamp")
        view = FeatureView(
            name=f"view{number}",
            entities=[entity],
            ttl=timedelta(days=30),
            schema=[Field(name=name, dtype=Float64) for name in columns(number)],
            source=PushSource(name=f"push{number}", batch_source=source),
        )
        objects.append(view)
        wanted += [f"view{number}:{name}" for name in columns(number)]
    found.apply(objects)
    return found, wanted


def rows(view: int, n: int, first: int = 0) -> pd.DataFrame:
    """Rows of n entities."""
    chance = np.random.default_rng(view)
    values = chance.normal(size=(n, N_FEATURES))
    frame = pd.DataFrame(values, columns=columns(view))
    frame["entity"] = np.arange(first, first + n)
    frame["event_timestamp"] = NOW
    return frame


STORE, WANTED = store()


def fill() -> dict[str, Any]:
    """Write a row of each view for every entity; rows a second."""
    frames = [rows(view, N_ENTITIES) for view in range(N_VIEWS)]
    started = time.perf_counter()
    for view, frame in enumerate(frames):
        STORE.write_to_online_store(f"view{view}", frame)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows_per_second": N_VIEWS * N_ENTITIES / seconds}


def read(n_entities: int, n_calls: int) -> dict[str, Any]:
    """Read some entities, many times, to a dict; median microseconds."""
    chance = np.random.default_rng(7)
    asked = [
        [{"entity": int(i)} for i in chance.integers(0, N_ENTITIES, n_entities)]
        for _ in range(n_calls)
    ]
    taken = []
    for entity_rows in asked:
        started = time.perf_counter()
        STORE.get_online_features(features=WANTED, entity_rows=entity_rows).to_dict()
        taken.append(time.perf_counter() - started)
    return {"p50_us": statistics.median(taken) * 1e6}


def push(n_calls: int) -> dict[str, Any]:
    """Push one row, many times; median milliseconds."""
    taken = []
    for number in range(n_calls):
        frame = rows(0, 1, first=number % N_ENTITIES)
        started = time.perf_counter()
        STORE.push("push0", frame, to=PushMode.ONLINE)
        taken.append(time.perf_counter() - started)
    return {"p50_ms": statistics.median(taken) * 1e3}


answer({"fill": fill, "read": read, "push": push})
