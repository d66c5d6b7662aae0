"""Streams about persons: events stand in the log under their keys, and go with them."""

import json
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from tests.features.streams.conftest import HOUR, NOW, rows_of

from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.sources import Stream
from falaj.features.store import FeatureStore
from falaj.features.streams.copies import LoggedEvents
from falaj.features.streams.sealedrows import SEALED
from falaj.features.streams.taking import WITHHELD
from falaj.features.streams.worker import StreamWorker
from falaj.features.subjectsealing import PURPOSE
from falaj.ingest.ports import JSON
from falaj.kernel.errors import Unavailable
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import PersonalGroup, PersonalRule
from falaj.lake.sealedcolumns import SubjectLake
from falaj.testing.features import FixedSecrets, GivenDefinitions
from falaj.testing.scanning import files_with
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjectciphers import SubjectCiphers
from falaj.trust.subjects import Subject


def declared(**lateness):
    card = Entity(name="card", keys={"card": "string"})
    stream = Stream(
        name="payments", columns={"card": "string", "at": "timestamp", "amount": "float64"},
        event_time="at", recorded_at="taken_at", subject="card",
        classifications={"amount": "personal"},
    )  # fmt: skip
    allowed = {name: timedelta(minutes=minutes) for name, minutes in lateness.items()}
    views = [
        FeatureView(
            name="spent", entity=card, source="payments", event_time="at", recorded_at="taken_at",
            subject="card", aggregates=[Aggregate("sum_1h", "sum", "amount", window=HOUR)],
            allowed_lateness=allowed.get("spent"),
        ),
        FeatureView(
            name="last", entity=card, source="payments", event_time="at", recorded_at="taken_at",
            subject="card", features=[Feature("amount", "float64")],
            allowed_lateness=allowed.get("last"),
        ),
    ]  # fmt: skip
    return GivenDefinitions(card, stream, *views, FeatureService(name="all", features=views))


@pytest.fixture
def keys():
    return MemorySubjectKeys()


@pytest.fixture
def open_world(make, keys):
    def opened(lake=None, **lateness):
        world = make(declared(**lateness), lake=lake)
        world.store = FeatureStore(
            declared(**lateness), world.lake, world.online, FixedSecrets(), world.clock,
            log=world.log, subjects=SubjectCiphers(keys, PURPOSE, fresh_seconds=0.0),
        )  # fmt: skip
        world.streams = world.store.streams
        return world

    return opened


@pytest.fixture
def world(open_world):
    return open_world()


def worked(world):
    worker = StreamWorker(world.streams)
    while worker.run_once():
        pass
    worker.land_once()


def amounts(world):
    rows = world.lake.scan("payments").to_pylist()
    return sorted((row["card"], row["amount"]) for row in rows)


def test_events_of_persons_come_online_and_into_the_lake_as_others_do(world):
    world.store.push("payments", rows_of(("a", -2, 1.0), ("b", -1, 2.0), ("a", 0, 4.0)))
    world.store.push("payments", rows_of(("b", 0, 8.0)), ack="log")
    worked(world)
    assert world.online_now("a") == {"spent__sum_1h": 5.0, "last__amount": 4.0}
    world.agree("a", "b")
    assert amounts(world) == [("a", 1.0), ("a", 4.0), ("b", 2.0), ("b", 8.0)]


def test_what_the_log_holds_says_nothing_without_the_persons_key(world, keys, tmp_path):
    name = "amina-al-mansoori"
    world.store.push("payments", rows_of((name, 0, 1.0), ("b", 0, 2.0)), ack="log")
    (record,) = world.log.read("payments", 0, 0)
    assert record.media == SEALED
    assert name.encode() not in record.payload
    assert files_with(tmp_path, name.encode()) == []
    (key,) = keys.of([Subject("person", name)], make=False)
    assert LoggedEvents(world.streams).count(key) == {"payments": 1}
    assert LoggedEvents(world.streams).forget(key) == 0


def test_a_replay_after_an_erasure_leaves_the_persons_events_out_and_tells_how_many(world, keys):
    world.store.push(
        "payments", rows_of(("a", -2, 1.0), ("b", -1, 2.0), ("a", 0, 4.0)), key="one", ack="log"
    )
    world.store.push("payments", rows_of(("a", 0, 8.0)), ack="log")
    keys.destroy(Subject("person", "a"))
    worked(world)
    worked(world)
    assert amounts(world) == [("b", 2.0)]
    assert world.online_now("a") == {"spent__sum_1h": None, "last__amount": None}
    assert world.online_now("b") == {"spent__sum_1h": 2.0, "last__amount": 2.0}
    (status,) = world.streams.status("payments")
    assert (status.n_erased, status.n_applied, status.lag_records) == (3, 1, 0)
    assert world.dead() == []
    world.store.push("payments", rows_of(("b", 0, 16.0)))
    assert world.online_now("b")["spent__sum_1h"] == 18.0
    assert world.store.push("payments", rows_of(("b", 0, 2.0)), key="one").repeated


def test_an_event_that_was_opened_before_an_erasure_makes_nobody_a_new_key(
    open_world, keys, tmp_path
):
    waiting = [Subject("person", "a")]

    class Erasing(SubjectLake):
        """Somebody is erased just before the first events are written."""

        def append_many(self, rows, **how):
            if "payments" in rows and waiting:
                keys.destroy(waiting.pop())
            return super().append_many(rows, **how)

    lake = Erasing(DuckLake.in_folder(tmp_path / "lake", threads=1), keys)
    world = open_world(lake)
    world.store.push("payments", rows_of(("a", -2, 1.0), ("b", -1, 2.0)))
    worked(world)
    assert not waiting
    assert keys.of([Subject("person", "a")], make=False) == [None]
    assert amounts(world) == [("b", 2.0)]
    lake.close()


def test_an_erased_event_still_moves_the_watermark_so_online_and_lake_agree(open_world, keys):
    world = open_world(spent=10, last=10)
    world.store.push("payments", rows_of(("b", -30, 1.0), ("a", 0, 2.0), ("b", -20, 4.0)))
    online = world.online_now("b")
    keys.destroy(Subject("person", "a"))
    worked(world)  # the lake learns of them only now
    assert world.online_now("b") == online
    assert [
        (one["card"], one["late_by_us"]) for one in world.lake.scan("payments").to_pylist()
    ] == [("b", None)]
    assert {(one["view"], one["row"]) for one in world.dead()} == {("spent", 2), ("last", 2)}
    assert world.streams.status("payments")[0].watermark == NOW


def test_events_that_all_were_erased_move_the_watermark_too(open_world, keys):
    world = open_world(spent=10, last=10)
    world.store.push("payments", rows_of(("a", 0, 2.0)), ack="log")
    keys.destroy(Subject("person", "a"))
    worked(world)
    assert world.streams.status("payments")[0].watermark == NOW
    world.store.push("payments", rows_of(("b", -20, 4.0)))
    assert [one["code"] for one in world.dead()] == ["late", "late"]


def test_the_lake_is_told_what_to_seal_of_events_and_of_dead_letters(open_world):
    world = open_world(spent=10, last=10)
    world.store.push("payments", rows_of(("a", 0, 2.0), ("a", -20, 4.0)))
    letters = world.dead()
    assert {(one["subject"], json.loads(one["payload"])["amount"]) for one in letters} == {("a", 4)}
    group = PersonalGroup(subject="card", columns=("amount",))
    assert world.lake.rule("payments") == PersonalRule(table="payments", groups=(group,))
    group = PersonalGroup(subject="subject", columns=("reason", "payload"))
    assert world.lake.rule("payments_dead_letters").groups == (group,)


def test_a_dead_letter_that_names_nobody_says_nothing(world):
    at = NOW.isoformat()
    world.log.append("payments", [b"{amina, 4000"], media=JSON)
    world.log.append(
        "payments", [json.dumps({"card": None, "at": None, "amount": 4000}).encode()], media=JSON
    )
    world.log.append(
        "payments", [json.dumps({"card": "a" * 500, "at": at, "amount": 1}).encode()], media=JSON
    )
    worked(world)
    told = [(one["subject"], one["code"], one["payload"]) for one in world.dead()]
    assert told[:2] == [(None, "unreadable", WITHHELD), (None, "invalid-input", WITHHELD)]
    assert told[2][:2] == ("a" * 500, "limit-exceeded")
    assert "4000" not in str(told[:2])


def test_without_keys_at_hand_the_stream_waits_and_loses_nothing(world, make):
    world.store.push("payments", rows_of(("a", 0, 2.0)), ack="log")
    keyless = FeatureStore(
        declared(), world.lake, world.online, FixedSecrets(), world.clock, log=world.log
    )
    with pytest.raises(Unavailable, match="keys are not at hand"):
        keyless.streams.applier.apply("payments", 0)
    worked(world)
    assert world.online_now("a")["last__amount"] == 2.0


def test_the_key_of_a_push_is_recognised_by_a_hash_that_names_nobody(world, tmp_path):
    key = "amina-al-mansoori-2026-03"
    assert not world.store.push("payments", rows_of(("a", 0, 2.0)), key=key).repeated
    assert world.store.push("payments", rows_of(("a", 0, 2.0)), key=key).repeated
    (record,) = world.log.read("payments", 0, 0)
    assert record.mark == world.store.recognised("payments", key) != key
    assert key not in str(record)


def test_rows_without_a_person_and_of_many_persons_keep_their_order(world):
    rows = rows_of(*((str(i % 5), -i / 60, float(i)) for i in range(50)))
    cards = [None if i % 7 == 0 else card for i, card in enumerate(rows["card"].to_pylist())]
    rows = rows.set_column(0, "card", pa.array(cards, pa.string()))
    world.store.push("payments", rows, ack="log")
    worked(world)
    landed = world.lake.scan("payments")
    assert landed["amount"].to_pylist() == [float(i) for i in range(50)]
    assert landed["card"].to_pylist() == cards


def test_a_payload_opens_in_no_other_topic_and_not_when_it_was_changed(world, keys):
    plan = world.streams.plans.of("payments")
    world.store.push("payments", rows_of(("a", 0, 2.0)), ack="log")
    (record,) = world.log.read("payments", 0, 0)
    world.log.append("payments", [record.payload[:-1] + b"x"], media=SEALED)
    other = replace(plan, stream=plan.stream.model_copy(update={"topic": "other"}))
    for payload, topic in ((record.payload, other.topic), (record.payload[:-1] + b"x", plan.topic)):
        with pytest.raises(Exception, match="not what was written"):
            plan.sealed_rows.opened(topic, payload)
    worked(world)
    assert [(one["code"], one["payload"]) for one in world.dead()] == [("unreadable", WITHHELD)]
