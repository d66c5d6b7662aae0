"""A prediction log with known truth, and the monitors over it, for tests of assessments."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.door import face
from falaj.kernel.errors import NotFound
from falaj.lake.ports import Lake
from falaj.models.reference import statistics_of
from falaj.monitoring.assessments import Assessments
from falaj.monitoring.drift import Drift
from falaj.monitoring.keptsketches import KeptSketches
from falaj.monitoring.model import Monitor
from falaj.monitoring.monitors import Monitors
from falaj.monitoring.performance import Performance
from falaj.monitoring.service import MonitorService
from falaj.monitoring.sketches import Bins
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.serving.logged import SCHEMA
from falaj.serving.model import Endpoint
from falaj.testing.calls import make_door, opened_call
from falaj.testing.seeing import whole
from falaj.testing.serving import make_release
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
DAYS = 14
NOW = MONDAY + timedelta(days=DAYS)
A_DAY = 600
N = DAYS * A_DAY
HARMED = 7 * A_DAY
"""From this row on the scores of half of the rows are inflated."""
ENCODING = Encoding(
    features=(
        EncodedFeature(name="a"),
        EncodedFeature(name="kind", type=FeatureType.CATEGORY, categories=("web", "shop")),
    )
)


def at_of(row: int) -> datetime:
    """When a row was predicted, 25 in the first minute of each hour: so there are few sketches."""
    return MONDAY + timedelta(hours=row * 24 // A_DAY)


def drawn() -> dict[str, Any]:
    """Scores that come true in the first week; in the second, those of the shop do not."""
    random = np.random.default_rng(2)
    chance = random.beta(1.5, 2.5, N)
    truth = (random.random(N) < chance).astype(float)
    shop = random.random(N) < 0.4
    scores = chance.copy()
    late = np.arange(N) >= HARMED
    scores[late & shop] = np.sqrt(scores[late & shop])
    return {"score": scores, "truth": truth, "shop": shop}


def log_of(data: dict[str, Any]) -> pa.Table:
    """The prediction log."""
    times = [at_of(i) for i in range(N)]
    features = np.column_stack([data["score"], data["shop"].astype(float)]).astype(np.float32)
    fields = [
        json.dumps({"channel": "shop" if one else "web", "age": 20 + i % 50, "note": None})
        for i, one in enumerate(data["shop"])
    ]
    given: dict[str, Any] = {
        "prediction_id": [f"pred_{i:06d}" for i in range(N)],
        "request_id": [f"r{i}" for i in range(N)],
        "endpoint": ["delays"] * N,
        "release": ["release_1"] * N,
        "variant": ["champion"] * N,
        "model": ["delay"] * N,
        "version": [1] * N,
        "requested_at": times,
        "predicted_for": times,
        "fields": fields,
        "features": features.tolist(),
        "score": data["score"],
        "outputs": data["score"].reshape(-1, 1).tolist(),
        "latency_us": [100] * N,
        "caller": ["user:amina"] * N,
    }
    return pa.table(
        [pa.array(given.get(field.name, [None] * N), field.type) for field in SCHEMA],
        schema=SCHEMA,
    )


def labels_of(data: dict[str, Any]) -> pa.Table:
    """Labels a day after each prediction, as far as they have arrived on the last day."""
    known = N - A_DAY
    at = [at_of(i) + timedelta(days=1) for i in range(known)]
    return pa.table(
        {
            "request_id": [f"r{i}" for i in range(known)],
            "delayed": data["truth"][:known],
            "region": ["north" if i % 3 else "south" for i in range(known)],
            "known_at": pa.array(at, pa.timestamp("us", tz="UTC")),
        }
    )


class Assessed:
    """Monitors over a lake that holds the log and the labels."""

    def __init__(self, database: Database, lake: Lake, data: dict[str, Any]) -> None:
        self.database, self.data = database, data
        self.active: Any = make_release()
        self.allowed = True
        self.readable = {"outcomes"}
        random = np.random.default_rng(1)
        scores = random.beta(1.5, 2.5, 20_000)
        labels = (random.random(20_000) < scores).astype(float)
        rows = np.column_stack([scores, random.integers(0, 2, 20_000)]).astype(np.float32)
        self.bundle = SimpleNamespace(
            statistics=statistics_of(ENCODING, rows, scores, labels),
            manifest=SimpleNamespace(
                signature=SimpleNamespace(encoding=ENCODING), importance={"a": 3.0, "kind": 1.0}
            ),
        )
        releases: Any = SimpleNamespace(active=self._active, endpoint=self._endpoint)
        bundles: Any = SimpleNamespace(open_bundle=lambda _: self.bundle)
        catalog = Catalog()
        self.definitions = Definitions(catalog, {"monitor": Monitor, "endpoint": Endpoint}, {})
        self.alerts = Alerts(catalog, Incidents(catalog))
        bins = Bins.of(self.bundle.statistics)
        self.kept = KeptSketches(database, lambda _model, _version: bins, SetClock(NOW))
        self.service = MonitorService(
            Monitors(
                Drift(lake, bundles),
                Performance(lake),
                releases,
                self.definitions,
                self.alerts,
                Assessments(lake, bundles, releases, self.kept, database),
            ),
            lambda _call, action, ref: action != "tables.read" or self.may_read(ref),
            whole(lake),
        )
        self.clock = SetClock(NOW)
        self.monitors = face(MonitorService, make_door(database, [self.service], clock=self.clock))
        with opened_call(database) as call:
            catalog.record(call, AssetRef("model", "delay"))
            catalog.record(call, AssetRef("endpoint", "delays"))

    def may_read(self, ref: AssetRef) -> bool:
        """True if the caller may read a table."""
        return ref.key in self.readable or (self.allowed and bool(self.readable))

    def declare(self, **given: Any) -> None:
        """Declare the monitor ``watched``."""
        monitor = Monitor(name="watched", endpoint="delays", drift=None, **given)
        with opened_call(self.database) as call:
            self.definitions.apply(call, [Endpoint(name="delays", model="delay"), monitor])

    def sketch(self) -> None:
        """Take the log into sketches."""
        self.kept.take("all", log_of(self.data))

    def _endpoint(self, _connection: Any, name: str) -> None:
        if name != "delays":
            raise NotFound(f"There is no endpoint {name!r}.")

    def _active(self, connection: Any, name: str) -> Any:
        self._endpoint(connection, name)
        return self.active
