"""Feast's own feature server, as ``feast serve`` runs it, at its best setting.

Arguments: a folder for its registry; a Redis address (``127.0.0.1:6379``, or with
``,password=…``) or ``sqlite``; number of views; features per view; number of entities.

``serve`` fills the online store and starts Feast's application (``get_app``) in this
process: uvloop, httptools, no access log, no metrics, the registry read anew every minute.
``feast serve`` puts gunicorn around the same worker; one worker without it has less to do.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import uvicorn
from answering import answer
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
)
from feast.feature_server import get_app
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from feast.types import Float64
from feast.value_type import ValueType

FOLDER, ADDRESS = Path(sys.argv[1]), sys.argv[2]
N_VIEWS, N_FEATURES, N_ENTITIES = (int(text) for text in sys.argv[3:6])
NOW = datetime.now(UTC) - timedelta(minutes=5)
REGISTRY_SECONDS = 60


def rows(view: int, n: int) -> pd.DataFrame:
    """The rows of n entities; the same numbers as the benchmark gives to ours."""
    values = np.random.default_rng(view).normal(size=(n, N_FEATURES))
    frame = pd.DataFrame(values, columns=[f"f{i}" for i in range(N_FEATURES)])
    frame["entity"] = np.arange(n)
    frame["event_timestamp"] = NOW
    return frame


def store() -> FeatureStore:
    """A store with the views and the feature service ``bench``, filled."""
    online: dict[str, Any] = {"type": "redis", "connection_string": ADDRESS}
    if ADDRESS == "sqlite":
        online = {"type": "sqlite", "path": str(FOLDER / "online.db")}
    found = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry={"path": str(FOLDER / "registry.db"), "cache_ttl_seconds": REGISTRY_SECONDS},
            offline_store={"type": "file"},
            online_store=online,
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    views = []
    for number in range(N_VIEWS):
        path = FOLDER / f"empty{number}.parquet"
        rows(number, 1).to_parquet(path)
        batch = FileSource(name=f"file{number}", path=str(path), timestamp_field="event_timestamp")
        views.append(
            FeatureView(
                name=f"view{number}",
                entities=[entity],
                ttl=timedelta(days=30),
                schema=[Field(name=f"f{i}", dtype=Float64) for i in range(N_FEATURES)],
                source=PushSource(name=f"push{number}", batch_source=batch),
            )
        )
    found.apply([entity, *views, FeatureService(name="bench", features=views)])
    for number in range(N_VIEWS):
        found.write_to_online_store(f"view{number}", rows(number, N_ENTITIES))
    return found


def serve() -> dict[str, Any]:
    """Serve on a free port of 127.0.0.1, on a thread of this process."""
    filled = store()
    kind = str_to_auth_manager_type(filled.config.auth_config.type)
    init_security_manager(auth_type=kind, fs=filled)
    init_auth_manager(
        auth_type=kind, server_type=ServerType.REST, auth_config=filled.config.auth_config
    )
    config = uvicorn.Config(
        get_app(filled, registry_ttl_sec=REGISTRY_SECONDS),
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    until = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > until:
            raise TimeoutError("Feast's server did not start")
        time.sleep(0.01)
    return {"port": server.servers[0].sockets[0].getsockname()[1]}


answer({"serve": serve})
