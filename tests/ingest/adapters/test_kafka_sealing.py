"""Records on Kafka are sealed: a broker sees nothing, and changes nothing unnoticed."""

import secrets

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from falaj.ingest.adapters.eventlog_kafka import KafkaLog
from falaj.ingest.adapters.kafka_clients import KafkaPlace
from falaj.ingest.adapters.kafka_sealing import SEALED_HEADER, UNOPENED, RecordSeal
from falaj.ingest.ports import ARROW, JSON
from falaj.kernel.errors import Corrupt
from falaj.testing.eventlog import all_of
from falaj.testing.streams import TestKeys


@pytest.fixture
def seal():
    return RecordSeal(TestKeys())


@pytest.fixture
def place(kafka_server):
    return KafkaPlace((kafka_server.address,), tls=False, prefix=f"s{secrets.token_hex(5)}.")


@pytest.fixture
def log(place):
    log = KafkaLog(place, keys=TestKeys(), seconds=10)
    yield log
    log.close()


def raw(place, topic, n):
    """What lies at the broker: (headers, value) of each record."""
    consumer = Consumer(
        {"bootstrap.servers": place.servers[0], "group.id": "spy", "auto.offset.reset": "earliest"}
    )
    consumer.assign([TopicPartition(place.prefix + topic, 0, 0)])
    found = []
    while len(found) < n:
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        found.append((dict(message.headers() or ()), message.value()))
    consumer.close()
    return found


def test_a_record_opens_where_it_was_sealed_for_and_nowhere_else(seal):
    wrapped, (value,) = seal.seal("t", 0, JSON, "m", [b"secret"])
    assert seal.opened("t", 0, JSON, "m", wrapped, value) == b"secret"
    assert b"secret" not in value
    _, (other,) = seal.seal("t", 0, JSON, "m", [b"secret"])
    assert value != other
    for topic, partition, media, mark in (
        ("u", 0, JSON, "m"), ("t", 1, JSON, "m"), ("t", 0, ARROW, "m"), ("t", 0, JSON, None),
        ("t", 0, JSON, "n"),
    ):  # fmt: skip
        with pytest.raises(Corrupt):
            seal.opened(topic, partition, media, mark, wrapped, value)
    for place in range(len(value)):
        changed = bytearray(value)
        changed[place] ^= 1
        with pytest.raises(Corrupt):
            seal.opened("t", 0, JSON, "m", wrapped, bytes(changed))
    for odd in (b"", b"x", b"key.!!", b"\xff.AAAA", b"other." + wrapped):
        with pytest.raises(Corrupt):
            seal.opened("t", 0, JSON, "m", odd, value)


def test_a_data_key_is_taken_anew_and_its_reader_asks_once():
    class Counted(TestKeys):
        wraps = unwraps = 0

        def wrap(self, data_key, *, context):
            Counted.wraps += 1
            return super().wrap(data_key, context=context)

        def unwrap(self, wrapped, *, context):
            Counted.unwraps += 1
            return super().unwrap(wrapped, context=context)

    now = [0.0]
    seal = RecordSeal(Counted(), now=lambda: now[0])
    first = {seal.seal("t", 0, JSON, None, [b"x"])[0] for _ in range(5)}
    assert len(first) == 1
    now[0] = 601.0
    wrapped, (value,) = seal.seal("t", 0, JSON, None, [b"x"])
    assert wrapped not in first
    for _ in range(3):
        seal.opened("t", 0, JSON, None, wrapped, value)
    assert (Counted.wraps, Counted.unwraps) == (2, 1)


@pytest.mark.services
def test_the_broker_holds_nothing_in_clear(log, place):
    log.ensure("orders", 1)
    log.append("orders", [b'{"who": "amina"}'], media=JSON, mark="m1")
    ((headers, value),) = raw(place, "orders", 1)
    assert b"amina" not in value
    assert SEALED_HEADER in headers
    (record,) = all_of(log, "orders")
    assert (record.payload, record.media, record.mark) == (b'{"who": "amina"}', JSON, "m1")


@pytest.mark.services
def test_a_changed_moved_or_foreign_record_is_passed_on_as_unopened_and_stops_nothing(log, place):
    log.ensure("orders", 1)
    log.append("orders", [b'{"n": 1}'], media=JSON)
    ((headers, value),) = raw(place, "orders", 1)
    attacker = Producer({"bootstrap.servers": place.servers[0]})
    name = place.prefix + "orders"
    for changed_headers, changed in (
        (headers, value[:-1] + bytes([value[-1] ^ 1])),
        ({**headers, "content-type": ARROW.encode()}, value),
        ({**headers, SEALED_HEADER: b"nobody.AAAA"}, value),
    ):
        attacker.produce(name, changed, partition=0, headers=changed_headers)
    attacker.produce(name, value, partition=0, headers={"content-type": JSON.encode()})
    attacker.flush(10)
    log.append("orders", [b'{"n": 2}'], media=JSON)
    records = all_of(log, "orders")
    assert [record.media for record in records] == [JSON, UNOPENED, UNOPENED, UNOPENED, JSON, JSON]
    assert records[4].payload == value  # stripped of its header, it is no row either
    assert records[5].payload == b'{"n": 2}'


@pytest.mark.services
def test_records_in_clear_stay_readable_and_can_be_asked_for(log, place):
    clear = KafkaLog(place, keys=TestKeys(), clear=True)
    try:
        clear.ensure("orders", 1)
        clear.append("orders", [b'{"n": 1}'], media=JSON)
        log.append("orders", [b'{"n": 2}'], media=JSON)
        assert raw(place, "orders", 1)[0][1] == b'{"n": 1}'
        for reader in (clear, log):
            assert [record.payload for record in all_of(reader, "orders")] == [
                b'{"n": 1}', b'{"n": 2}',
            ]  # fmt: skip
    finally:
        clear.close()
    without = KafkaLog(place)
    try:
        assert [record.media for record in all_of(without, "orders")] == [JSON, UNOPENED]
    finally:
        without.close()
