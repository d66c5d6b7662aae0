"""Vectors as models take them: what is read as a block, and what is read column by column."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.online import OnlineReader
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock, microseconds
from falaj.serving.storedfeatures import EncodedReader
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = microseconds(NOW)
CARD = Entity(name="card", keys={"card": "int64"})
NUMBERS = FeatureView(
    name="numbers", entity=CARD, source="numbers", event_time="at", ttl=timedelta(hours=1),
    features=[Feature(name, "float64") for name in "xyz"],
)  # fmt: skip


class World:
    def __init__(self, online: LmdbOnlineStore, *definitions: Any) -> None:
        self.online = online
        given = GivenDefinitions(CARD, NUMBERS, *definitions)
        self.store = FeatureStore(given, MemoryLake(), online, FixedSecrets(), SetClock(NOW))  # type: ignore[arg-type]

    def push(self, *rows: tuple[int, float | None, float | None, float | None]) -> None:
        kinds = {"card": pa.int64(), "x": pa.float64(), "y": pa.float64(), "z": pa.float64()}
        columns = {
            name: pa.array(values, kind)
            for (name, kind), values in zip(kinds.items(), zip(*rows, strict=True), strict=True)
        }
        at = pa.array([NOW] * len(rows), pa.timestamp("us", "UTC"))
        self.store.push("numbers", pa.table({**columns, "at": at}))

    def reader(self, service: str, **categories: tuple[str, ...]) -> EncodedReader:
        plan = self.store.plan(service)
        return EncodedReader(OnlineReader(plan, self.online, FixedSecrets()), categories)


@pytest.fixture
def online(tmp_path: Path) -> Iterator[LmdbOnlineStore]:
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    yield online
    online.close()


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_rows_of_a_read_are_contiguous_as_compiled_models_take_them(
    online: LmdbOnlineStore, n: int
) -> None:
    world = World(online, FeatureService(name="all", features=[NUMBERS]))
    world.push(*[(card, card + 0.5, -1.0, 2.0) for card in range(n)])
    matrix, statuses, times = world.reader("all").read([{"card": card} for card in range(n)], AT)
    assert matrix.tolist() == [[card + 0.5, -1.0, 2.0] for card in range(n)]
    assert matrix.dtype == np.float32
    assert all(one.flags.c_contiguous for one in (matrix, statuses, times))
