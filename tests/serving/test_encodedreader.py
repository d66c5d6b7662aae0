"""Vectors as models take them: what is read as a block, and what is read column by column."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.online import OnlineReader
from falaj.features.store import FeatureStore
from falaj.features.vectors import STATUSES
from falaj.kernel.clock import SetClock, microseconds
from falaj.kernel.errors import InvalidInput
from falaj.serving.storedfeatures import EncodedReader
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = microseconds(NOW)
CARD = Entity(name="card", keys={"card": "int64"})
NUMBERS = FeatureView(
    name="numbers", entity=CARD, source="numbers", event_time="at", ttl=timedelta(hours=1),
    features=[Feature(name, "float64") for name in "xyz"],
)  # fmt: skip


class Row(msgspec.Struct):
    card: int | None
    asked: float | None = None


class World:
    def __init__(self, online: LmdbOnlineStore, *definitions: Any) -> None:
        self.online = online
        given = GivenDefinitions(CARD, NUMBERS, *definitions)
        self.store = FeatureStore(given, MemoryLake(), online, FixedSecrets(), SetClock(NOW))  # type: ignore[arg-type]

    def push(
        self, *rows: tuple[int, float | None, float | None, float | None], at: datetime = NOW
    ) -> None:
        kinds = {"card": pa.int64(), "x": pa.float64(), "y": pa.float64(), "z": pa.float64()}
        columns = {
            name: pa.array(values, kind)
            for (name, kind), values in zip(kinds.items(), zip(*rows, strict=True), strict=True)
        }
        stamps = pa.array([at] * len(rows), pa.timestamp("us", "UTC"))
        self.store.push("numbers", pa.table({**columns, "at": stamps}))

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
    matrix, statuses, times = world.reader("all").read([Row(card) for card in range(n)], AT)
    assert matrix.tolist() == [[card + 0.5, -1.0, 2.0] for card in range(n)]
    assert matrix.dtype == np.float32
    assert all(one.flags.c_contiguous for one in (matrix, statuses, times))


SERVICES = [
    FeatureService(name="all", features=[NUMBERS]),
    FeatureService(name="some", features=["numbers:z", "numbers:x"]),
    FeatureService(
        name="more", features=["numbers:y"], request_fields={"asked": "float64"},
        missing={"numbers:y": -7.0},
    ),
]  # fmt: skip


@pytest.mark.parametrize("service", [one.name for one in SERVICES])
def test_a_crowd_reads_what_each_of_it_reads_alone_by_name(
    online: LmdbOnlineStore, service: str
) -> None:
    world = World(online, *SERVICES)
    for card in range(12):
        values = [None if (card >> bit) & 1 and card < 8 else card + bit / 4 for bit in range(3)]
        age = timedelta(minutes=(0, 30, 60, 61, -10)[card % 5])
        world.push((card, *values), at=NOW - age)  # type: ignore[arg-type]
    encoded = world.reader(service)
    by_name = OnlineReader(world.store.plan(service), online, FixedSecrets())
    random = np.random.default_rng(5)
    for n in (*range(1, 10), 40):
        cards = [None if card == 14 else card for card in random.integers(0, 15, n).tolist()]
        rows = [Row(card, None if place % 3 else place / 2) for place, card in enumerate(cards)]
        each = AT + random.integers(-2, 3, n) * 1_800_000_000
        for at in (AT, AT + 1_000_000, each):
            matrix, statuses, times = encoded.read(rows, at)
            assert all(one.flags.c_contiguous for one in (matrix, times))
            for place, row in enumerate(rows):
                instant = at if isinstance(at, int) else int(at[place])
                alone = by_name.read([{"card": row.card, "asked": row.asked}], instant)
                wanted = [np.nan if value is None else value for value in alone.values[0]]
                np.testing.assert_array_equal(matrix[place], np.array(wanted, np.float32))
                assert [STATUSES[code] for code in statuses[place]] == alone.statuses[0]
                seen = alone.event_times[0]["numbers"] or 0
                own = [0 if name == "asked" else seen for name in encoded.names]
                assert times[place].tolist() == own


def test_a_wrong_key_in_a_crowd_is_named_with_its_row(online: LmdbOnlineStore) -> None:
    reader = World(online, *SERVICES).reader("all")
    rows = [Row(card) for card in range(9)]
    rows[4].card = "four"  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="Row 4: The key 'card' is str"):
        reader.read(rows, AT)
