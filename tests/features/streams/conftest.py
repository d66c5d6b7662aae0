"""A stream with two views of it, over the embedded log and a real lake or one in memory."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.sources import Stream
from falaj.features.store import FeatureStore
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import NotFound
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.streams import TestKeys

HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")


def declared(partitions=1, **lateness):
    """The definitions; ``lateness`` of the views ``spent`` and ``last`` in minutes."""
    card = Entity(name="card", keys={"card": "string"})
    allowed = {name: timedelta(minutes=minutes) for name, minutes in lateness.items()}
    stream = Stream(
        name="payments",
        columns={"card": "string", "at": "timestamp", "amount": "float64"},
        event_time="at", recorded_at="taken_at", key=("card",), partitions=partitions,
    )  # fmt: skip
    spent = FeatureView(
        name="spent", entity=card, source="payments", event_time="at", recorded_at="taken_at",
        allowed_lateness=allowed.get("spent"),
        aggregates=[
            Aggregate("n_1h", "count", window=HOUR),
            Aggregate("sum_1h", "sum", "amount", window=HOUR),
        ],
    )  # fmt: skip
    last = FeatureView(
        name="last", entity=card, source="payments", event_time="at", recorded_at="taken_at",
        allowed_lateness=allowed.get("last"), features=[Feature("amount", "float64")],
    )  # fmt: skip
    service = FeatureService(name="all", features=[spent, last])
    return GivenDefinitions(card, stream, spent, last, service)


def rows_of(*rows):
    """Rows of (card, minutes from now, amount)."""
    cards, minutes, amounts = zip(*rows, strict=True)
    times = [NOW + timedelta(minutes=minute) for minute in minutes]
    return pa.table(
        {"card": pa.array(cards, pa.string()), "at": pa.array(times, UTC_US),
         "amount": pa.array(amounts, pa.float64())}
    )  # fmt: skip


class World:
    """A feature store in a folder, as one process has it open."""

    def __init__(self, folder, definitions, lake, clock, online=None):
        self.clock = clock
        self.log = SegmentLog(folder / "log", TestKeys(), clock=clock)
        self.online = online or LmdbOnlineStore(folder / "online", map_bytes=1 << 24)
        self.lake = lake
        self.store = FeatureStore(
            definitions, lake, self.online, FixedSecrets(), clock,
            log=self.log, locks=folder / "locks",
        )  # fmt: skip
        self.streams = self.store.streams

    def online_now(self, card, at=NOW):
        (found,) = self.store.read_online("all", [{"card": card}], at).records()
        return found

    def offline_now(self, card, at=NOW):
        spine = pa.table({"card": [card], "timestamp": pa.array([at], UTC_US)})
        frame = self.store.training_frame(spine, "all").to_pylist()[0]
        return {name: frame[name] for name in self.online_now(card, at)}

    def agree(self, *cards, at=NOW):
        for card in cards:
            assert self.online_now(card, at) == self.offline_now(card, at)

    def dead(self):
        self.streams.settle("payments")
        if not self.table_is_there("payments_dead_letters"):
            return []
        return self.lake.scan("payments_dead_letters").to_pylist()

    def table_is_there(self, name):
        try:
            self.lake.schema(name)
        except NotFound:
            return False
        return True

    def close(self):
        self.log.close()
        self.online.close()


@pytest.fixture
def make(tmp_path):
    made = []

    def make_it(definitions=None, lake=None, online=None):
        definitions = declared() if definitions is None else definitions
        lake = MemoryLake() if lake is None else lake
        made.append(World(tmp_path, definitions, lake, SetClock(NOW), online))
        return made[-1]

    yield make_it
    for world in made:
        world.close()


@pytest.fixture
def world(make):
    return make()
