"""Streams: pushes, partitions, lateness, dead letters, contracts, and the way to the lake."""

import json
from datetime import timedelta

import pyarrow as pa
import pytest
from tests.features.streams.conftest import NOW, UTC_US, declared, rows_of

from falaj.features.streams.progress import NEVER
from falaj.features.streams.worker import StreamWorker
from falaj.ingest.checks import Between, NotNull, Severity
from falaj.ingest.model import Contract, ContractBroken
from falaj.ingest.ports import ARROW, JSON
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded


def worked(world):
    worker = StreamWorker(world.streams)
    while worker.run_once():
        pass
    worker.land_once()
    return worker


def test_what_was_pushed_online_is_read_at_once_and_lands_later(world):
    pushed = world.store.push("payments", rows_of(("a", 0, 5.0), ("a", -1, 7.0)))
    assert (pushed.snapshot, pushed.n_events, pushed.repeated) == (None, 2, False)
    assert world.online_now("a") == {"spent__n_1h": 2, "spent__sum_1h": 12.0, "last__amount": 5.0}
    assert not world.table_is_there("payments")
    worked(world)
    assert world.lake.scan("payments").num_rows == 2
    world.agree("a", "b")


def test_what_was_only_logged_is_brought_home_by_the_worker(world):
    world.store.push("payments", rows_of(("a", 0, 5.0)), ack="log")
    assert world.online_now("a")["spent__n_1h"] == 0
    worked(world)
    assert world.online_now("a")["spent__n_1h"] == 1
    world.agree("a")


def test_the_instant_of_recording_is_filled_in_where_the_event_does_not_say(world):
    said = NOW - timedelta(minutes=3)
    rows = rows_of(("a", -10, 5.0), ("b", -10, 5.0))
    rows = rows.append_column("taken_at", pa.array([None, said], UTC_US))
    world.store.push("payments", rows)
    world.streams.settle("payments")
    assert world.lake.scan("payments")["taken_at"].to_pylist() == [NOW, said]
    before = NOW - timedelta(seconds=1)
    assert world.offline_now("a", before)["spent__n_1h"] == 0  # not known yet
    assert world.offline_now("b", before)["spent__n_1h"] == 1
    world.agree("a", "b")


def test_events_with_one_key_are_of_one_partition_and_all_arrive(make):
    world = make(declared(partitions=4))
    cards = [f"card {number}" for number in range(20)]
    for round_number in range(3):
        world.store.push("payments", rows_of(*[(card, round_number, 1.0) for card in cards]))
    status = world.streams.status("payments")
    assert len(status) == 4
    assert sum(one.n_applied for one in status) == 60
    assert min(one.n_applied for one in status) > 0
    for card in cards:
        assert world.online_now(card, NOW + timedelta(minutes=5))["spent__n_1h"] == 3
    world.agree(*cards, at=NOW + timedelta(minutes=5))
    assert world.store.push("payments", rows_of(*[(c, 4, 1.0) for c in cards]), key="k").n_events
    assert world.store.push("payments", rows_of(*[(c, 4, 1.0) for c in cards]), key="k").repeated
    world.agree(*cards, at=NOW + timedelta(minutes=5))


def test_a_push_with_a_key_counts_once_even_if_both_copies_are_in_the_log(world):
    rows = rows_of(("a", 0, 5.0))
    world.store.push("payments", rows, key="1", ack="log")
    again = world.store.push("payments", rows, key="1", ack="log")  # not applied yet: appended too
    assert world.log.end("payments", 0) == 2
    assert not again.repeated
    worked(world)
    assert world.online_now("a")["spent__n_1h"] == 1
    assert world.lake.scan("payments").num_rows == 1
    assert world.store.push("payments", rows, key="1").repeated
    world.agree("a")


def test_keys_are_forgotten_in_the_end(world):
    world.store.push("payments", rows_of(("a", 0, 5.0)), key="1")
    now = microseconds(NOW)
    assert world.streams.forget_marks(now) == 0
    assert world.streams.forget_marks(now + 1) == 1
    assert not world.store.push("payments", rows_of(("a", 0, 5.0)), key="1").repeated


# ── lateness ─────────────────────────────────────────────────────────────────────────────


def test_a_late_event_within_its_lateness_counts_and_one_beyond_is_a_dead_letter(make):
    world = make(declared(spent=10, last=10))
    world.store.push("payments", rows_of(("a", 0, 1.0)))
    world.store.push("payments", rows_of(("a", -10, 2.0), ("a", -10.001, 4.0), ("b", -30, 8.0)))
    assert world.online_now("a")["spent__sum_1h"] == 3.0
    assert world.online_now("b")["last__amount"] is None
    dead = world.dead()
    assert [(one["view"], one["row"], one["code"]) for one in dead] == [
        ("last", 1, "late"), ("last", 2, "late"), ("spent", 1, "late"), ("spent", 2, "late"),
    ]  # fmt: skip
    assert {one["offset"] for one in dead} == {1}
    assert "behind the watermark 2026-03-01T12:00:00" in dead[0]["reason"]
    assert json.loads(dead[0]["payload"])["amount"] == 4.0
    assert world.lake.scan("payments").num_rows == 2  # late for all: only among the dead
    (status,) = world.streams.status("payments")
    assert (status.n_late, status.n_dead, status.n_applied) == (4, 0, 2)
    world.agree("a", "b")


def test_views_of_one_stream_may_differ_in_lateness_online_and_offline_alike(make):
    world = make(declared(spent=10, last=40))
    world.store.push("payments", rows_of(("a", 0, 1.0)))
    world.store.push("payments", rows_of(("a", -20, 2.0), ("b", -20, 4.0), ("b", -41, 8.0)))
    assert world.online_now("a") == {"spent__n_1h": 1, "spent__sum_1h": 1.0, "last__amount": 1.0}
    assert world.online_now("b") == {"spent__n_1h": 0, "spent__sum_1h": None, "last__amount": 4.0}
    world.agree("a", "b")
    assert world.lake.scan("payments").num_rows == 3
    assert [(one["view"], one["row"]) for one in world.dead()] == [
        ("last", 2), ("spent", 0), ("spent", 1), ("spent", 2),
    ]  # fmt: skip
    world.store.materialize("spent")
    world.store.materialize("last")
    world.agree("a", "b")


def test_without_a_lateness_every_event_is_taken(make):
    world = make(declared(last=1))
    world.store.push("payments", rows_of(("a", 0, 1.0)))
    world.store.push("payments", rows_of(("a", -50, 2.0)))
    assert world.online_now("a")["spent__n_1h"] == 2
    assert [one["view"] for one in world.dead()] == ["last"]
    world.agree("a")


def test_a_clock_that_runs_wild_makes_nobody_else_late(make):
    world = make(declared(spent=10, last=10))
    world.store.push("payments", rows_of(("a", 0, 1.0)))
    world.store.push("payments", rows_of(("wild", 6, 1.0), ("fast", 5, 1.0)))
    (status,) = world.streams.status("payments")
    assert status.watermark == NOW + timedelta(minutes=5)
    world.store.push("payments", rows_of(("a", -5, 1.0)))
    assert world.online_now("a")["spent__n_1h"] == 2
    assert world.dead() == []


def test_the_watermark_never_moves_back_and_does_not_depend_on_batches(make):
    world = make(declared(spent=10, last=10))
    minutes = [0, -9, 1, -10, -8, 2, -9, -20]
    for minute in minutes:
        world.store.push("payments", rows_of((f"one {minute}", minute, 1.0)), ack="log")
    world.store.push("payments", rows_of(*[(f"all {m}", m - 30, 1.0) for m in minutes]), ack="log")
    (before,) = world.streams.status("payments")
    assert (before.watermark, before.lag_records) == (None, 9)
    worked(world)
    (status,) = world.streams.status("payments")
    assert (status.watermark, status.lag_records) == (NOW + timedelta(minutes=2), 0)
    assert (before.lake_lag_records, status.lake_lag_records) == (0, 0)
    late = {json.loads(one["payload"])["card"] for one in world.dead()}
    assert {card for card in late if card[:3] == "one"} == {"one -10", "one -9", "one -20"}
    world.agree(*[f"one {minute}" for minute in minutes])


# ── what does not fit ────────────────────────────────────────────────────────────────────

BAD = {
    "another column": (lambda rows: rows.append_column("x", pa.array([1])), "'x'"),
    "a missing column": (lambda rows: rows.drop_columns("amount"), "amount"),
    "another type": (lambda rows: rows.set_column(2, "amount", pa.array(["5"])), "amount"),
    "no event time": (lambda rows: rows.set_column(1, "at", pa.array([None], UTC_US)), "'at'"),
    "a time without zone": (
        lambda rows: rows.set_column(1, "at", pa.array([0], pa.timestamp("us"))), "zone"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_push_that_does_not_fit_is_refused_whole(world, case):
    change, told = BAD[case]
    with pytest.raises(InvalidInput, match=told) as refused:
        world.store.push("payments", change(rows_of(("a", 0, 5.0))))
    assert refused.value.hint
    assert world.log.end("payments", 0) == 0


def test_a_key_that_is_too_long_is_refused_and_a_long_one_is_not(world):
    world.store.push("payments", rows_of(("k" * 400, 0, 5.0)))
    with pytest.raises(LimitExceeded):
        world.store.push("payments", rows_of(("fine", 0, 1.0), ("k" * 481, 0, 5.0)))
    assert world.log.end("payments", 0) == 1


def event(card, minutes, amount, **more):
    at = (NOW + timedelta(minutes=minutes)).isoformat()
    return json.dumps({"card": card, "at": at, "amount": amount, **more}).encode()


def test_records_of_a_topic_that_do_not_fit_are_dead_letters_with_the_reason(world):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows_of(("a", 0, 1.0)).schema) as writer:
        writer.write_table(rows_of(("a", 0, 1.0), ("k" * 481, 0, 2.0), ("b", 0, 3.0)))
        writer.write_table(rows_of(("c", 0, 4.0)))
    for payload, media in [
        (event("a", 0, 5), JSON),
        (event("a", 0, "five"), JSON),
        (b"{not json", JSON),
        (b"[1]", JSON),
        (event("a", 0, 5.0, other=1), JSON),
        (b"\xff\xff\xff\xff not arrow", ARROW),
        (b"x", "text/plain"),
        (bytes(sink.getvalue()), ARROW),
        (event("a", 1, 6.0), JSON),
    ]:
        world.log.append("payments", [payload], media=media)
    worked(world)
    assert world.online_now("a", NOW + timedelta(minutes=2))["spent__sum_1h"] == 12.0
    world.agree("a", "b", "c", at=NOW + timedelta(minutes=2))
    dead = world.dead()
    assert [(one["offset"], one["row"], one["code"]) for one in dead] == [
        (1, None, "unreadable"), (2, None, "unreadable"), (3, None, "unreadable"),
        (4, 0, "invalid-input"), (5, None, "unreadable"), (6, None, "unreadable"),
        (7, 1, "limit-exceeded"),
    ]  # fmt: skip
    assert all(one["reason"] and one["appended_at"] == NOW for one in dead)
    assert dead[1]["payload"] == "{not json"
    (status,) = world.streams.status("payments")
    assert (status.n_dead, status.n_applied) == (7, 5)


def with_contract(**lateness):
    definitions = declared(**lateness)
    contract = Contract(
        name="sound", table="payments",
        checks=[
            Between(column="amount", least=0, severity=Severity.QUARANTINE),
            NotNull(column="card"),
            Between(column="amount", greatest=1000, severity=Severity.WARN),
        ],
    )  # fmt: skip
    definitions.found["contract", "sound"] = contract
    return definitions


def test_a_push_that_breaks_a_contract_is_refused_whole(make):
    world = make(with_contract())
    world.store.push("payments", rows_of(("a", 0, 5000.0)))
    with pytest.raises(ContractBroken, match=r"row 1: .*amount") as refused:
        world.store.push("payments", rows_of(("a", 0, 1.0), ("a", 0, -1.0), (None, 0, -1.0)))
    assert "2 of 3 rows" in refused.value.message
    assert world.online_now("a")["spent__n_1h"] == 1


def test_an_event_of_a_topic_that_breaks_a_contract_is_a_dead_letter(make):
    world = make(with_contract())
    for amount in (1.0, -1.0, 2.0):
        world.log.append("payments", [event("a", 0, amount)], media=JSON)
    worked(world)
    assert world.online_now("a")["spent__sum_1h"] == 3.0
    (dead,) = world.dead()
    assert (dead["offset"], dead["row"], dead["code"]) == (1, 0, "contract")
    assert "amount" in dead["reason"]
    world.agree("a")


# ── views that come and go, stores that are lost ─────────────────────────────────────────


def test_a_new_view_is_partial_until_it_is_materialised(make):
    definitions = declared()
    spent = definitions.found.pop(("feature_view", "spent"))
    service = definitions.found.pop(("feature_service", "all"))
    world = make(definitions)
    world.store.push("payments", rows_of(("a", 0, 5.0)))
    definitions.found["feature_view", "spent"] = spent
    definitions.found["feature_service", "all"] = service
    world.store.push("payments", rows_of(("a", 0, 7.0)))
    assert world.online_now("a")["spent__n_1h"] == 1
    assert world.streams.status("payments")[0].partial_views == ("spent",)
    world.store.materialize("spent")
    assert world.streams.status("payments")[0].partial_views == ()
    world.store.push("payments", rows_of(("a", 0, 1.0)))
    assert world.online_now("a")["spent__n_1h"] == 3
    world.agree("a")


def test_an_online_store_that_was_lost_is_made_again_from_lake_and_log(make, tmp_path):
    world = make()
    world.store.push("payments", rows_of(("a", 0, 5.0)))
    world.streams.settle("payments")
    world.store.push("payments", rows_of(("a", 0, 7.0)), ack="log")
    lake = world.lake
    world.close()
    for file in (tmp_path / "online").iterdir():
        file.unlink()
    again = make(lake=lake)
    worked(again)
    assert again.online_now("a")["spent__n_1h"] == 1  # what the lake held lacks
    for view in ("spent", "last"):
        again.store.materialize(view)
    assert again.online_now("a")["spent__n_1h"] == 2
    again.agree("a")


def test_a_log_that_lacks_what_was_applied_is_told(make, tmp_path):
    world = make()
    for _ in range(3):
        world.store.push("payments", rows_of(("a", 0, 5.0)))
    lake = world.lake
    world.close()
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    again = make(lake=lake)
    with pytest.raises(Corrupt, match="3 records") as told:
        again.streams.applier.apply("payments", 0)
    assert told.value.hint


def test_the_log_is_released_once_its_records_are_in_the_lake(world):
    released = []
    world.streams.log.release = lambda *given: released.append(given)
    world.store.push("payments", rows_of(("a", 0, 5.0)))
    assert released == []
    world.streams.settle("payments")
    assert released == [("payments", 0, 1)]
    world.streams.settle("payments")  # nothing waits: nothing is done
    assert released == [("payments", 0, 1)]


def test_the_lake_knows_its_position_and_watermark(world):
    assert world.streams.lander.position("payments", 0) == (0, NEVER)
    world.store.push("payments", rows_of(("a", -3, 5.0)))
    world.streams.settle("payments")
    wanted = (1, microseconds(NOW - timedelta(minutes=3)))
    assert world.streams.lander.position("payments", 0) == wanted


def test_a_landing_that_is_repeated_by_another_process_writes_nothing(make):
    one = make()
    one.store.push("payments", rows_of(("a", 0, 5.0)))
    other = make(lake=one.lake, online=one.online)
    for world in (one, other):
        world.streams.lander.position("payments", 0)
    one.streams.lander.land("payments", 0, 1)
    other.store.push("payments", rows_of(("a", 0, 7.0)))
    other.streams.lander._known["payments", 0] = (0, NEVER)  # it was slow to learn
    other.streams.settle("payments")
    assert one.lake.scan("payments").num_rows == 2
    one.agree("a")


def test_a_stream_to_which_nothing_was_pushed_asks_the_lake_once_where_it_begins(
    world, monkeypatch
):
    asked, scan = [], world.lake.scan

    def counted(*arguments, **options):
        asked.append(arguments)
        return scan(*arguments, **options)

    monkeypatch.setattr(world.lake, "scan", counted)
    for _ in range(5):
        world.streams.applier.apply("payments", 0)
    assert len(asked) == 1
    world.store.push("payments", rows_of(("a", 0, 5.0)), ack="log")
    worked(world)
    assert world.online_now("a")["spent__n_1h"] == 1
    world.agree("a")
