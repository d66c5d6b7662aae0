"""The feature store: pushes, materialisation, reads, and what it refuses."""

import math
from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features.model import Aggregate, Feature, FeatureService, FeatureView, Status
from falaj.features.plan import ServicePlan
from falaj.features.store import spine_of
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, LimitExceeded, NotFound

UTC_US = pa.timestamp("us", "UTC")


def payments(*rows):
    cards, times, amounts = zip(*rows, strict=True)
    return pa.table(
        {"card": pa.array(cards, pa.string()), "at": pa.array(times, UTC_US),
         "amount": pa.array(amounts, pa.float64())}
    )  # fmt: skip


def accounts(*rows):
    holders = pa.array([f"holder of {row[0]}" for row in rows])
    return payments(*rows).append_column("holder", holders)


def everything(store):
    """The rows of views; those of streams begin with a zero."""
    keys = [key for key in store.online.keys(b"") if key[:1] != b"\0"]
    return [(key, *store.online.read([key])) for key in keys]


def read(store, card, at=None, **fields):
    found = store.read_online("fraud", [{"card": card, "asked": 1.0, **fields}], at)
    return dict(zip(found.names, found.values[0], strict=True)), dict(
        zip(found.names, found.statuses[0], strict=True)
    )


def test_an_online_push_is_read_at_once_with_the_status_of_each_feature(store, now):
    store.push("payments", payments(("a", now, 5.0), ("a", now, 7.0)))
    store.push("accounts", accounts(("a", now, 100.0)))
    values, statuses = read(store, "a")
    assert values == {
        "asked": 1.0, "balance__amount": 100.0, "spent__sum_1h": 12.0, "spent__n_1h": 2,
    }  # fmt: skip
    assert set(statuses.values()) == {Status.PRESENT}


def test_expired_missing_and_null_are_told_apart_and_the_default_fills_in(store, now):
    old = now - timedelta(hours=1)
    store.push("accounts", accounts(("expired", old, 1.0), ("null", now, None)))
    for card, status in (("expired", "expired"), ("null", "null"), ("never", "missing")):
        values, statuses = read(store, card)
        assert statuses["balance__amount"] == status
        assert values["balance__amount"] == -1.0
    values, statuses = read(store, None)
    assert values == {"asked": 1.0, "balance__amount": -1.0, "spent__sum_1h": None,
                      "spent__n_1h": None}  # fmt: skip
    assert {statuses[n] for n in statuses if n != "asked"} == {Status.MISSING}


def test_a_read_in_the_past_never_tells_of_the_future(store, now):
    store.push("accounts", accounts(("a", now, 5.0)))
    store.push("payments", payments(("a", now, 5.0)))
    values, statuses = read(store, "a", now - timedelta(seconds=1))
    assert statuses["balance__amount"] == Status.MISSING
    assert values["spent__n_1h"] == 0


def test_a_push_that_is_only_logged_becomes_readable_by_materialisation(store, now):
    pushed = store.push("payments", payments(("a", now, 5.0)), key="1", ack="log")
    assert pushed.views == ()
    assert read(store, "a")[0]["spent__n_1h"] == 0
    done = store.materialize("spent")
    assert (done.n_events, done.n_entities) == (1, 1)
    assert read(store, "a")[0]["spent__n_1h"] == 1


def test_a_push_that_the_rebuild_has_seen_is_not_counted_again(store, now):
    rows = payments(("a", now, 5.0))
    store.push("payments", rows, key="1", ack="log")  # the process dies before online
    store.materialize("spent")
    store.push("payments", rows, key="1")  # the caller repeats its push
    assert read(store, "a")[0]["spent__n_1h"] == 1
    store.push("payments", rows, key="2")
    assert read(store, "a")[0]["spent__n_1h"] == 2
    store.materialize("spent")
    assert read(store, "a")[0]["spent__n_1h"] == 2


def test_a_push_during_a_rebuild_is_not_lost(store, now, monkeypatch):
    store.push("payments", payments(("a", now, 5.0)), key="1")
    events, pushed = store.events, []

    def push_meanwhile(plan, snapshot=None):
        found = events(plan, snapshot)
        if not pushed:
            pushed.append(store.push("payments", payments(("a", now, 7.0)), key="2"))
        return found

    monkeypatch.setattr(store, "events", push_meanwhile)
    store.materialize("spent")
    assert read(store, "a")[0]["spent__sum_1h"] == 12.0


def test_a_rebuild_counts_what_is_pushed_while_it_reads(store, now, monkeypatch):
    events = store.events

    def push_meanwhile(plan, snapshot=None):
        found = events(plan, snapshot)
        store.push("payments", payments(("a", now, 7.0), ("b", now, 1.0)))
        store.push("payments", payments(("a", now, 0.5)), ack="log")
        return found

    monkeypatch.setattr(store, "events", push_meanwhile)
    for times in range(1, 4):
        store.materialize("spent")
        store.push("payments", payments(("c", now, 1.0)))
        assert read(store, "a")[0]["spent__sum_1h"] == 7.5 * times
        assert read(store, "b")[0]["spent__n_1h"] == times


def test_materialising_up_to_an_instant_leaves_out_what_came_later(store, now):
    rows = payments(("a", now, 5.0), ("a", now - timedelta(minutes=5), 7.0))
    store.push("payments", rows, ack="log")
    store.materialize("spent", upto=now - timedelta(minutes=1))
    assert read(store, "a")[0]["spent__sum_1h"] == 7.0
    store.push("payments", rows.slice(0, 1), stored=True)
    assert read(store, "a")[0]["spent__sum_1h"] == 12.0
    assert store.lake.latest() == 2


def test_values_and_keys_of_a_personal_view_do_not_stand_in_clear(store, now, tmp_path):
    store.push("accounts", accounts(("a-known-card-number", now, 100.0)))
    store.push("payments", payments(("a-public-key", now, 5.0)))
    written = b"".join(file.read_bytes() for file in (tmp_path / "online").iterdir())
    assert b"a-public-key" in written
    assert b"a-known-card-number" not in written
    assert b"holder of" not in written


def test_a_sealed_row_that_was_moved_or_changed_is_refused(store, now):
    store.push("accounts", accounts(("a", now, 100.0), ("b", now, 1.0)))
    from falaj.features.ports import Merge, Write

    (key, row), (other, _) = everything(store)
    store.online.write(Write(merges=[Merge([other], lambda _: [row])]))
    store.online.write(Write(merges=[Merge([key], lambda _: [row[:30]])]))
    for card in ("a", "b"):
        with pytest.raises(Corrupt):
            read(store, card)


def test_a_changed_view_never_reads_the_rows_of_the_old_one(store, definitions, now):
    store.push("payments", payments(("a", now, 5.0)))
    view = definitions.get("feature_view", "spent")
    changed = view.model_copy(update={"aggregates": (
        Aggregate("sum_1h", "max", "amount", window=timedelta(hours=1)),
        Aggregate("n_1h", "count", "amount", window=timedelta(hours=1)))})  # fmt: skip
    definitions.found["feature_view", "spent"] = changed
    assert read(store, "a")[0]["spent__n_1h"] == 0
    store.materialize("spent")
    assert read(store, "a")[0]["spent__sum_1h"] == 5.0


BAD_ROWS = {
    "a wrong type": (payments(("a", None, 5.0)).set_column(2, "amount", pa.array(["5"])), "amount"),
    "a lossy number": (
        payments(("a", None, 1.0)).set_column(2, "amount", pa.array([2**60 + 1])), "amount"),
    "a time without zone": (
        payments(("a", None, 1.0)).set_column(1, "at", pa.array([0], pa.timestamp("us"))), "zone"),
    "nanoseconds": (
        payments(("a", None, 1.0)).set_column(1, "at", pa.array([1], pa.timestamp("ns", "UTC"))),
        "at"),
    "a missing column": (payments(("a", None, 1.0)).drop_columns("amount"), "amount"),
    "a float key": (
        payments(("a", None, 1.0)).set_column(0, "card", pa.array([math.nan])), "card"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_push_that_does_not_fit_is_refused_and_nothing_is_written(store, case):
    rows, told = BAD_ROWS[case]
    with pytest.raises(InvalidInput, match=told) as error:
        store.push("payments", rows)
    assert error.value.hint
    assert store.lake.latest() == 1
    assert everything(store) == []


def test_a_key_over_the_limit_is_refused_and_nothing_is_written(store, now):
    for push, rows in (("payments", payments), ("accounts", accounts)):
        with pytest.raises(LimitExceeded):
            store.push(push, rows(("fine", now, 1.0), ("k" * 481, now, 5.0)))
    with pytest.raises(LimitExceeded):
        read(store, "k" * 100_000)
    assert store.lake.latest() == 1
    assert everything(store) == []


BAD_REQUESTS = [
    ({"card": "a"}, "asked"),
    ({"asked": 1.0}, "card"),
    ({"card": 7, "asked": 1.0}, "card"),
    ({"card": math.nan, "asked": 1.0}, "card"),
    ({"card": "\ud800", "asked": 1.0}, "card"),
    ({"card": "a", "asked": "1"}, "asked"),
    ({"card": "a", "asked": True}, "asked"),
    ({"card": "a", "asked": 2**60}, "asked"),
]


@pytest.mark.parametrize(("row", "told"), BAD_REQUESTS)
def test_a_request_that_does_not_fit_is_refused_by_name_and_row(store, row, told):
    with pytest.raises(InvalidInput, match=told):
        store.read_online("fraud", [row])
    with pytest.raises(InvalidInput, match="Row 1"):
        store.read_online("fraud", [{"card": "a", "asked": 1.0}, row])


def test_a_name_that_is_a_fragment_of_sql_is_only_a_name(store, now):
    name = "x'; drop table payments; --"
    store.push("payments", payments((name, now, 5.0)))
    assert read(store, name)[0]["spent__n_1h"] == 1
    for ask in (store.read_online, lambda n, _: store.materialize(n)):
        with pytest.raises(NotFound):
            ask(name, [{}])
    with pytest.raises(InvalidInput):
        store.push(name, payments(("a", now, 1.0)))
    with pytest.raises(ValueError, match="not a name"):
        FeatureView(name=name, entity="card", source="payments", event_time="at",
                    features=[Feature("amount", "float64")])  # fmt: skip


def test_a_spine_that_does_not_fit_is_refused(store, now):
    spine = pa.table({"card": ["a"], "asked": [1.0], "timestamp": pa.array([now], UTC_US)})
    assert store.training_frame(spine, "fraud").to_pylist() == [
        {"card": "a", "asked": 1.0, "timestamp": now, "balance__amount": -1.0,
         "spent__sum_1h": None, "spent__n_1h": 0}
    ]  # fmt: skip
    assert store.training_frame(spine.slice(0, 0), "fraud").num_rows == 0
    naive = spine.set_column(2, "timestamp", pa.array([0], pa.timestamp("us")))
    null = spine.set_column(2, "timestamp", pa.array([None], UTC_US))
    for bad, told in (
        (naive, "zone"), (null, "nulls"), (spine.drop_columns("card"), "card"),
        (spine.drop_columns("asked"), "asked"), (spine.drop_columns("timestamp"), "timestamp"),
        (spine.append_column("spent__n_1h", pa.array([1])), "spent__n_1h"),
        (spine.set_column(0, "card", pa.array([math.nan])), "card"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=told):
            store.training_frame(bad, "fraud")
    store.push("payments", payments(("a", now, 1.0)))
    store.lake.append("accounts", pa.table({"card": ["a"]}))
    with pytest.raises(InvalidInput, match="accounts"):
        store.training_frame(spine, "fraud")


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ({"features": ["spent:nothing"]}, "spent:nothing"),
        ({"features": ["spent:n_1h", "spent"]}, "twice"),
        ({"features": ["spent"], "keys": {"balance": {"card": "x"}}}, "balance"),
        ({"features": ["spent"], "keys": {"spent": {"no_key": "x"}}}, "no_key"),
        ({"features": ["spent"], "missing": {"spent:nothing": 1}}, "nothing"),
        ({"features": ["nowhere"]}, "nowhere"),
        ({"features": ["fraud"]}, "fraud"),
    ],
)
def test_a_service_that_cannot_be_computed_is_refused(definitions, service, told):
    with pytest.raises(FalajError, match=told):
        ServicePlan.of(FeatureService(name="bad", **service), definitions)


def test_a_service_travels_as_documents(store, now):
    store.push("payments", payments(("a", now, 5.0)))
    plan = ServicePlan.from_documents(store.plan("fraud").documents())
    assert plan.outputs == store.plan("fraud").outputs
    found = store.read_online(plan, [{"card": "a", "asked": 2}], now)
    assert found.records()[0]["spent__sum_1h"] == 5.0
    assert found.event_times == [{"balance": None, "spent": microseconds(now)}]
    assert spine_of([{"card": "a", "asked": 1.0}], [0], plan).num_rows == 1
    for broken in ([], [{"kind": "nothing"}], [{"kind": "entity", "name": "x"}]):
        with pytest.raises(InvalidInput):
            ServicePlan.from_documents(broken)
    with pytest.raises(InvalidInput, match="balance"):
        ServicePlan.from_documents(
            [d for d in plan.documents() if d["name"] != "balance"]
        )  # fmt: skip


def test_keys_of_a_view_can_come_from_other_columns(store, definitions, now):
    store.push("payments", payments(("a", now, 5.0)))
    definitions.found["feature_service", "other"] = FeatureService(
        name="other", features=["spent:n_1h"], keys={"spent": {"card": "paid_with"}}
    )
    found = store.read_online("other", [{"paid_with": "a"}], now)
    assert found.records() == [{"spent__n_1h": 1}]


def test_a_read_before_the_horizon_counts_the_tiles_that_had_ended_by_then(store, now):
    minutes = [now - timedelta(minutes=m) for m in (50, 30, 10, 0)]
    store.push("payments", payments(*[("a", at, 2.0) for at in minutes]))
    for past, n in ((timedelta(minutes=9), 3), (timedelta(minutes=29), 2), (timedelta(hours=2), 0)):
        values, _ = read(store, "a", now - past)
        assert values["spent__n_1h"] == n
        assert values["spent__sum_1h"] == (2.0 * n if n else None)
