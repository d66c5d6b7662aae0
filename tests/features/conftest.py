"""A small feature store for the tests of this room."""

from datetime import UTC, datetime, timedelta

import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.store import FeatureStore
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.kernel.clock import SetClock
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.streams import TestKeys

HOUR = timedelta(hours=1)


@pytest.fixture
def now():
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def definitions():
    card = Entity(name="card", keys={"card": "string"})
    balance = FeatureView(
        name="balance", entity=card, source="accounts", event_time="at", ttl=HOUR,
        features=[Feature("amount", "float64"), Feature("holder", "string")],
        classification="personal",
    )  # fmt: skip
    spent = FeatureView(
        name="spent", entity=card, source="payments", event_time="at",
        aggregates=[
            Aggregate("sum_1h", "sum", "amount", window=HOUR),
            Aggregate("n_1h", "count", window=HOUR),
        ],
    )  # fmt: skip
    service = FeatureService(
        name="fraud", features=["balance:amount", spent], request_fields={"asked": "float64"},
        missing={"balance:amount": -1.0}, classification="personal",
    )  # fmt: skip
    return GivenDefinitions(card, balance, spent, service)


@pytest.fixture
def store(definitions, tmp_path, now):
    clock = SetClock(now)
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    log = SegmentLog(tmp_path / "log", TestKeys(), clock=clock)
    yield FeatureStore(
        definitions, MemoryLake(), online, FixedSecrets(), clock,
        log=log, locks=tmp_path / "locks",
    )  # fmt: skip
    log.close()
    online.close()
