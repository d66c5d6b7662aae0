"""Window views online: rebuilding beside what is read, and letting go of the old."""

import struct
from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features import windowstorage
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, FeatureService, FeatureView
from falaj.features.ports import Write
from falaj.features.store import FeatureStore
from falaj.features.tiles import Mark
from falaj.features.windowstorage import Superseded
from falaj.kernel.clock import SetClock, microseconds
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def clock(now):
    return SetClock(now)


@pytest.fixture
def store(tmp_path, clock):
    yield from opened(tmp_path, clock)


@pytest.fixture
def sealed(tmp_path, clock):
    yield from opened(tmp_path, clock, classification="personal")


def opened(tmp_path, clock, **values):
    card = Entity(name="card", keys={"card": "string"})
    view = FeatureView(
        name="spent", entity=card, source="payments", event_time="at", head=MINUTE,
        aggregates=[Aggregate("n", "count", window=HOUR),
                    Aggregate("sum", "sum", "amount", window=HOUR),
                    Aggregate("half", "quantile", "amount", q=0.5, window=HOUR)],
        **values,
    )  # fmt: skip
    folder = tmp_path / f"online {values}"
    online = LmdbOnlineStore(folder, map_bytes=1 << 22)
    service = FeatureService(name="all", features=["spent"], **values)
    definitions = GivenDefinitions(card, view, service)
    yield FeatureStore(definitions, MemoryLake(), online, FixedSecrets(), clock)
    online.close()


def payments(*rows):
    cards, times, amounts = zip(*rows, strict=True)
    return pa.table({"card": pa.array(cards), "at": pa.array(times, pa.timestamp("us", "UTC")),
                     "amount": pa.array(amounts, pa.float64())})  # fmt: skip


def read(store, card, at=None):
    (record,) = store.read_online("all", [{"card": card}], at).records()
    return tuple(record.values())


def window(store):
    return store.storage(store.view_plan("spent")).window


def rows_of(store):
    """How many rows the view has, of each generation."""
    found = {}
    for key in store.online.keys(window(store).layout.mark_key):
        if len(key) > 8:
            found[key[8]] = found.get(key[8], 0) + 1
    return found


def many(now, n=30):
    return payments(
        *[(f"card {i}", now - k * 7 * MINUTE, float(i)) for i in range(n) for k in range(5)]
    )


def test_a_rebuild_in_many_writes_gives_what_pushes_gave(store, now, monkeypatch):
    store.push("payments", many(now))
    before = [read(store, f"card {i}") for i in range(30)]
    assert before[7] == (5, 35.0, 7.0)
    monkeypatch.setattr(windowstorage, "_EVENTS_PER_WRITE", 12)
    for _ in range(3):
        store.materialize("spent")
        assert [read(store, f"card {i}") for i in range(30)] == before
        assert len(rows_of(store)) == 1  # nothing is left of what was read before


def test_an_entity_that_the_lake_does_not_hold_is_gone_after_a_rebuild(store, now):
    store.push("payments", payments(("stray", now, 1.0)), stored=True)
    store.push("payments", many(now))
    assert read(store, "stray") == (1, 1.0, 1.0)
    store.materialize("spent")
    assert read(store, "stray") == (0, None, None)


def test_readers_and_writers_follow_a_rebuild_of_another_process(store, now, clock, tmp_path):
    store.push("payments", many(now))
    assert read(store, "card 1") == (5, 5.0, 1.0)
    other = FeatureStore(store.definitions, store.lake, store.online, FixedSecrets(), clock)
    other.materialize("spent")
    other.materialize("spent")
    assert read(store, "card 1") == (5, 5.0, 1.0)
    store.push("payments", payments(("card 1", now, 1.0)))
    assert read(store, "card 1") == read(other, "card 1") == (6, 6.0, 1.0)
    assert len(rows_of(store)) == 1


def test_a_rebuild_that_was_killed_changes_nothing_and_the_next_one_cleans_up(store, now):
    store.push("payments", many(now))
    plan = store.view_plan("spent")
    events, at = store.events(plan), microseconds(now)
    abandoned = store.storage(plan).rebuilt(store.online, events, at, store.lake.latest())
    assert len(rows_of(store)) == 2
    assert read(store, "card 1") == (5, 5.0, 1.0)
    store.push("payments", payments(("card 1", now, 1.0)))
    assert read(store, "card 1") == (6, 6.0, 1.0)
    store.materialize("spent")
    assert read(store, "card 1") == (6, 6.0, 1.0)
    assert len(rows_of(store)) == 1
    with pytest.raises(Superseded):
        store.online.write(Write(merges=[abandoned.merge]))
    assert read(store, "card 1") == (6, 6.0, 1.0)


def test_of_two_rebuilds_at_once_the_later_wins(store, now):
    store.push("payments", many(now))
    plan, at = store.view_plan("spent"), microseconds(now)
    storage, events = store.storage(plan), store.events(plan)
    first = storage.rebuilt(store.online, events, at, store.lake.latest())
    second = storage.rebuilt(store.online, events, at, store.lake.latest())
    with pytest.raises(Superseded):
        store.online.write(Write(merges=[first.merge]))
    store.online.write(Write(merges=[second.merge]))
    second.finish()
    assert read(store, "card 1") == (5, 5.0, 1.0)


def test_chunks_that_no_window_reaches_are_removed_when_the_entity_is_written(store, now, clock):
    for hours in range(60):
        at = now + hours * HOUR
        clock.now = lambda at=at: at
        store.push("payments", payments(("a", at - 2 * MINUTE, 1.0), ("a", at, 2.0)))
        assert read(store, "a", at) == (2, 3.0, 1.0)
    assert sum(rows_of(store).values()) < 20


def test_what_has_gone_out_of_every_window_is_let_go_for_all_entities(store, now):
    store.push("payments", many(now - 5 * HOUR))
    store.push("payments", many(now, 3))
    full = sum(rows_of(store).values())
    n = store.let_go(now)
    assert n > 0
    assert sum(rows_of(store).values()) == full - n
    assert read(store, "card 1") == (5, 5.0, 1.0)
    assert read(store, "card 20") == (0, None, None)
    assert window(store).expired(store.online, microseconds(now)) == 0


def in_the_store(store, *parts):
    """Which of these bytes stand in any key or row, in clear."""
    written = b"".join(
        key + row for key in store.online.keys(b"") for row in store.online.read([key])
    )
    return [part in written for part in parts]


def test_what_tiles_and_heads_hold_does_not_stand_in_clear(store, sealed, now):
    card, amount = b"a-known-card", struct.pack("<d", 123.456)
    rows = [("a-known-card", now - timedelta(minutes=k), 123.456) for k in (-1, 0, 5)]
    store.push("payments", payments(*rows))
    assert in_the_store(store, card, amount) == [True, True]
    sealed.push("payments", payments(*rows))
    assert in_the_store(sealed, card, amount) == [False, False]
    assert read(sealed, "a-known-card") == (2, 246.912, 123.456)
    sealed.materialize("spent")
    assert in_the_store(sealed, card, amount) == [False, False]
    assert read(sealed, "a-known-card") == (2, 246.912, 123.456)


def test_a_mark_survives_its_bytes():
    assert Mark.of(Mark(5, 7, 3, 4).row()) == Mark(5, 7, 3, 4)
    assert Mark.of(None) == Mark()


def test_a_batch_of_many_entities_is_one_write_of_whole_rows(store, now):
    n = 2_000
    at = [now - timedelta(seconds=i % 1_800) for i in range(n)]
    store.push("payments", payments(*[(f"card {i % 500}", at[i], 1.0) for i in range(n)]))
    found = store.read_online("all", [{"card": f"card {i}"} for i in range(500)])
    assert [values[0] for values in found.values] == [4] * 500
