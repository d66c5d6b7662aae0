"""Views about persons: their online rows stand under the person's key, and go with it."""

from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.adapters.online_redis import RedisOnlineStore
from falaj.features.adapters.redis_connection import RedisPlace
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView, Status
from falaj.features.store import FeatureStore
from falaj.features.subjectrows import OnlineRows
from falaj.features.subjectsealing import PURPOSE
from falaj.features.views import ViewPlan
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt, InvalidInput, Unavailable
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.guarded import ServerUnavailable
from falaj.testing.killable import own_redis
from falaj.testing.scanning import files_with
from falaj.testing.servers import services_required
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjectciphers import SubjectCiphers
from falaj.trust.subjects import Subject

HOUR = timedelta(hours=1)
CARD = Entity(name="card", keys={"card": "int64", "shop": "string"})
BALANCE = FeatureView(
    name="balance", entity=CARD, source="payments", event_time="at", subject="card",
    features=[Feature("amount", "float64"), Feature("holder", "string")],
)  # fmt: skip
SPENT = FeatureView(
    name="spent", entity=CARD, source="payments", event_time="at", subject="card",
    aggregates=[Aggregate("n", "count", window=HOUR),
                Aggregate("sum", "sum", "amount", window=HOUR),
                Aggregate("kinds", "distinct", "holder", dtype="string", window=HOUR)],
)  # fmt: skip
BOTH = FeatureService(name="both", features=["balance", "spent"])
GIVEN = GivenDefinitions(
    CARD, BALANCE, SPENT, BOTH, FeatureService(name="last", features=["balance"])
)
NOTHING = {"balance__amount": None, "balance__holder": None, "spent__n": 0, "spent__sum": None,
           "spent__kinds": 0}  # fmt: skip


class Seconds:
    """A steady clock that is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def keys():
    return MemorySubjectKeys()


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def online(tmp_path):
    opened = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    yield opened
    opened.close()


@pytest.fixture
def open_store(keys, online, now, seconds):
    def opened(**values):
        ciphers = SubjectCiphers(keys, PURPOSE, now=seconds)
        return FeatureStore(
            GIVEN, MemoryLake(), online, FixedSecrets(), SetClock(now), subjects=ciphers, **values
        )

    return opened


@pytest.fixture
def store(open_store, now):
    store = open_store()
    store.push("payments", payments(now, (1, "a", 10.0), (1, "b", 11.0), (2, "a", 20.0)))
    return store


def payments(now, *rows):
    cards, shops, amounts = zip(*rows, strict=True)
    times = [now - timedelta(minutes=50 - i) for i in range(len(rows))]
    return pa.table({"card": pa.array(cards, pa.int64()), "shop": pa.array(shops),
                     "at": pa.array(times, pa.timestamp("us", "UTC")),
                     "amount": pa.array(amounts, pa.float64()),
                     "holder": [f"holder of {card}" for card in cards]})  # fmt: skip


def read(store, card, shop="a", service="both"):
    found = store.read_online(service, [{"card": card, "shop": shop}])
    return dict(zip(found.names, found.values[0], strict=True))


def test_a_view_about_persons_reads_what_was_pushed_by_row_and_by_column(store):
    wanted = {"balance__amount": 10.0, "balance__holder": "holder of 1", "spent__n": 1,
              "spent__sum": 10.0, "spent__kinds": 1}  # fmt: skip
    assert read(store, 1) == wanted
    many = [{"card": 1 + i % 3, "shop": "a"} for i in range(12)] + [{"card": None, "shop": "a"}]
    found = store.read_online("both", many)
    assert found.values[0] == list(wanted.values())
    assert found.values[2] == list(NOTHING.values())
    assert found.statuses[2][:2] == [Status.MISSING] * 2
    assert set(found.statuses[-1]) == {Status.MISSING}
    last = store.read_online("last", many)
    assert [row[0] for row in last.values[:3]] == [10.0, 20.0, None]


def test_neither_values_nor_names_stand_in_the_store_only_the_pseudonym_does(store, keys, online):
    (key,) = keys.of([Subject("person", "1")], make=False)
    rows = {one: online.read([one])[0] for one in online.keys(b"")}
    own = [one for one in rows if key.pseudonym.to_bytes(8, "big") in one]
    assert len(own) == 2 + 2 + 2 * 2  # latest rows, heads, chunks of numbers and of words
    everything = b"".join([*rows, *rows.values()])
    for told in (b"holder", (1).to_bytes(8, "big"), b"\0\1a"):
        assert told not in b"".join(own) + everything.replace(b"payments", b"")


def test_an_erased_person_reads_as_one_who_was_never_known_and_nobody_else_does(
    store, keys, seconds
):
    before = read(store, 2)
    assert read(store, 1) != NOTHING
    keys.destroy(Subject("person", "1"))
    seconds.now += 0.5
    assert read(store, 1) == read(store, 1, "b") == NOTHING
    found = store.read_online("both", [{"card": 1, "shop": "a"}, {"card": 99, "shop": "a"}])
    assert found.statuses[0] == found.statuses[1]
    assert found.values[0] == found.values[1]
    assert found.statuses[0][:2] == [Status.MISSING] * 2
    assert read(store, 2) == before


def test_a_key_that_is_in_use_is_asked_for_once_and_forgotten_within_half_a_second(
    store, keys, seconds
):
    read(store, 1)
    asked = keys.n_asked
    for _ in range(10):
        assert read(store, 1)["spent__n"] == 1
    assert keys.n_asked == asked
    keys.destroy(Subject("person", "1"))
    seconds.now += 0.31
    assert read(store, 1) == NOTHING


def test_a_person_who_is_named_again_begins_anew(store, keys, seconds, now):
    keys.destroy(Subject("person", "1"))
    seconds.now += 0.5
    store.push("payments", payments(now, (1, "a", 5.0)))
    assert read(store, 1) == {"balance__amount": 5.0, "balance__holder": "holder of 1",
                              "spent__n": 1, "spent__sum": 5.0, "spent__kinds": 1}  # fmt: skip
    assert read(store, 1, "b") == NOTHING


def test_what_another_process_pushed_is_read_at_once_though_its_key_is_new(store, open_store, now):
    other = open_store()
    assert read(other, 3) == NOTHING
    store.push("payments", payments(now, (3, "a", 30.0)))
    assert read(other, 3)["balance__amount"] == 30.0


def test_a_persons_rows_are_counted_and_removed_from_every_view(store, keys, online):
    rows = OnlineRows(GIVEN, online)
    (key,) = keys.of([Subject("person", "1")], make=False)
    n_all = len(list(online.keys(b"")))
    assert rows.count(key) == {"balance": 2, "spent": 6}
    keys.destroy(key.subject)
    assert rows.forget(key) == 8
    assert (rows.count(key), rows.forget(key)) == ({}, 0)
    assert len(list(online.keys(b""))) == n_all - 8


def test_a_materialisation_makes_the_rows_anew_under_the_same_key(store, keys, now):
    before = read(store, 1)
    (key,) = keys.of([Subject("person", "1")], make=False)
    for view in ("balance", "spent"):
        store.materialize(view)
    assert read(store, 1) == before
    assert keys.of([Subject("person", "1")], make=False) == [key]


def test_a_row_that_was_moved_to_another_person_is_refused(store, keys, online):
    plan = ViewPlan.of(BALANCE, CARD)
    mine, other = [
        next(iter(online.keys(plan.storage_id + key.pseudonym.to_bytes(8, "big"))))
        for key in keys.of([Subject("person", "1"), Subject("person", "2")], make=False)
    ]
    from falaj.features.ports import Merge, Write

    (row,) = online.read([other])
    online.write(Write(merges=[Merge([mine], lambda _: [row])]))
    with pytest.raises(Corrupt):
        read(store, 1, "a", "last"), read(store, 1, "b", "last")


def test_a_subject_must_be_a_key_of_the_entity():
    view = BALANCE.model_copy(update={"subject": "holder"})
    with pytest.raises(InvalidInput, match="is no key of the entity"):
        ViewPlan.of(view, CARD)


def test_without_keys_of_persons_such_a_view_is_neither_written_nor_read(online, now):
    store = FeatureStore(GIVEN, MemoryLake(), online, FixedSecrets(), SetClock(now))
    with pytest.raises(Unavailable, match="keys are not at hand"):
        read(store, 1)
    with pytest.raises(Unavailable, match="keys are not at hand"):
        store.push("payments", payments(now, (1, "a", 10.0)))


def test_a_view_without_a_subject_keeps_its_place_in_the_store():
    plain = BALANCE.model_copy(update={"subject": None})
    of_subject = ViewPlan.of(BALANCE, CARD).storage_id
    kept = ViewPlan.of(plain, CARD).storage_id
    other_kind = plain.model_copy(update={"subject_kind": "patient"})
    assert kept == ViewPlan.of(other_kind, CARD).storage_id == bytes.fromhex("9d14d848d350f577")
    assert of_subject != kept


@pytest.mark.services
def test_on_redis_too_nothing_of_a_person_stands_in_clear_and_all_of_it_is_removed(
    tmp_path, keys, now
):
    try:
        server, broker = own_redis(tmp_path / "redis", "appendonly yes", "appendfsync always")
    except ServerUnavailable as error:
        if services_required():
            raise
        pytest.skip(str(error))
    server.start()
    try:
        place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
        online = RedisOnlineStore(place)
        store = FeatureStore(
            GIVEN, MemoryLake(), online, FixedSecrets(), SetClock(now),
            subjects=SubjectCiphers(keys, PURPOSE, fresh_seconds=0.0),
        )  # fmt: skip
        store.push("payments", payments(now, (1, "a", 10.0), (2, "a", 20.0)))
        assert read(store, 1)["balance__holder"] == "holder of 1"
        assert files_with(tmp_path / "redis", b"holder of 1") == []
        (key,) = keys.of([Subject("person", "1")], make=False)
        keys.destroy(key.subject)
        assert OnlineRows(GIVEN, online).forget(key) == 4
        assert read(store, 1) == NOTHING
        assert read(store, 2)["balance__holder"] == "holder of 2"
        online.close()
    finally:
        server.close()
