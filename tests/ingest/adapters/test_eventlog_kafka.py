"""The event log on Kafka keeps the port's promises, over rebalances, kills and refusals."""

import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from falaj.ingest.adapters.eventlog_kafka import KafkaLog
from falaj.ingest.adapters.kafka_clients import KafkaPlace
from falaj.ingest.ports import JSON
from falaj.kernel.errors import (
    ComponentRefused,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    Unavailable,
)
from falaj.testing.eventlog import EventLogSuite, all_of, settled
from falaj.testing.guarded import free_ports
from falaj.testing.killable import MockKafka, TlsFront, own_kafka
from falaj.testing.streamprocesses import StreamKillSuite
from falaj.testing.streams import TestKeys

pytestmark = pytest.mark.services


@pytest.fixture
def place(kafka_server):
    return KafkaPlace((kafka_server.address,), tls=False, prefix=f"t{secrets.token_hex(5)}.")


class TestKafkaLog(EventLogSuite):
    @pytest.fixture
    def reopen(self, place):
        opened = []

        def again():
            for log in opened:
                log.close()
            opened[:] = [KafkaLog(place, keys=TestKeys(), session_seconds=6)]
            return opened[0]

        yield again
        for log in opened:
            log.close()


@pytest.fixture
def log(place):
    log = KafkaLog(place, seconds=10, session_seconds=6)
    yield log
    log.close()


def client(place, **more):
    return {"bootstrap.servers": ",".join(place.servers), **more}


def test_strangers_messages_are_rows_as_json_unless_they_say_what_they_are(log, place):
    log.ensure("orders", 1)
    stranger = Producer(client(place))
    name = f"{place.prefix}orders"
    stranger.produce(name, b'{"a": 1}', key=b"k", partition=0)
    stranger.produce(name, None, partition=0, headers=[("trace", b"\xff"), ("content-type", None)])
    stranger.produce(name, b"\x00", partition=0, headers={"content-type": "application/avro"})
    stranger.flush(10)
    one, none, avro = all_of(log, "orders")
    assert (one.payload, one.media, one.mark) == (b'{"a": 1}', JSON, None)
    assert (none.payload, none.media) == (b"", JSON)
    assert avro.media == "application/avro"


def test_what_a_transaction_gave_up_is_never_read_and_its_marks_hold_nobody_up(log, place):
    log.ensure("orders", 1)
    name = f"{place.prefix}orders"
    stranger = Producer(client(place, **{"transactional.id": place.prefix}))
    stranger.init_transactions(20)
    for payload, keep in ((b"1", True), (b"2", False), (b"3", True)):
        stranger.begin_transaction()
        stranger.produce(name, payload, partition=0)
        stranger.flush(10)
        (stranger.commit_transaction if keep else stranger.abort_transaction)(20)
    found = all_of(log, "orders")
    assert [record.payload for record in found] == [b"1", b"3"]
    started = time.monotonic()
    assert log.read("orders", 0, found[-1].offset + 1) == []  # a mark stands there
    assert time.monotonic() - started < 5


def test_a_topic_that_was_made_anew_is_not_taken_for_the_old_one(log):
    log.append("orders", [b"1"], media=JSON)
    with pytest.raises(Corrupt, match="ends at 1") as caught:
        log.read("orders", 0, 7)
    assert caught.value.hint


def test_records_that_kafka_has_forgotten_are_passed_over(log, place):
    log.append("orders", [b"%d" % n for n in range(9)], media=JSON)
    admin = AdminClient(client(place))
    gone = TopicPartition(f"{place.prefix}orders", 0, 4)
    admin.delete_records([gone])[gone].result(10)
    assert log.begin("orders", 0) == 4
    assert [one.payload for one in log.read("orders", 0, 0)] == [b"%d" % n for n in range(4, 9)]


def test_a_topics_own_limit_is_told_before_anything_is_added(log, place):
    name = f"{place.prefix}narrow"
    wanted = NewTopic(name, 1, -1, config={"max.message.bytes": "200000"})
    admin = AdminClient(client(place))
    admin.create_topics([wanted])[name].result(10)
    with pytest.raises(LimitExceeded, match="narrow") as caught:
        log.append("narrow", [b"small", b"x" * 200_000], media=JSON)
    assert "max.message.bytes" in caught.value.hint
    assert log.read("narrow", 0, 0) == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 201, "; DROP TABLE x", "..", "ä"])
def test_a_name_that_kafka_cannot_have_is_refused(log, name):
    for work in (
        lambda: log.append(name, [b"x"], media=JSON),
        lambda: log.partitions(name),
        lambda: log.share("workers", [name]),
    ):
        with pytest.raises(InvalidInput, match="topic or group"):
            work()


MEMBER = """
import sys, time
from falaj.ingest.adapters.eventlog_kafka import KafkaLog
from falaj.ingest.adapters.kafka_clients import KafkaPlace
log = KafkaLog(KafkaPlace(tuple(sys.argv[1].split(",")), tls=False), session_seconds=3)
share = log.share("workers", ["orders"])
while True:
    print(len(share.held()), flush=True)
    time.sleep(0.05)
"""


@pytest.mark.nightly
def test_the_partitions_of_a_killed_process_are_taken_over():
    """On librdkafka's mock cluster: noida-db never gives up a member that is gone."""
    with MockKafka("orders") as servers:
        log = KafkaLog(KafkaPlace(servers, tls=False), session_seconds=3)
        assert log.partitions("orders") == 4
        program = [sys.executable, "-c", MEMBER, ",".join(servers)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        other = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)
        bounded = threading.Timer(60, other.kill)
        bounded.start()
        try:
            assert any(int(line) == 4 for line in other.stdout)
            share = log.share("workers", ["orders"])
            assert len(settled(share, 2)) == 2
            assert any(int(line) == 2 for line in other.stdout)
            other.kill()
            assert len(settled(share, 4)) == 4
            share.close()
        finally:
            bounded.cancel()
            other.kill()
            other.communicate()
            log.close()


@pytest.mark.nightly
def test_after_a_broker_was_killed_everything_goes_on_and_nothing_is_doubled(tmp_path):
    """noida-db writes to disk once in a second only, and forgets producers when it is killed."""
    server, broker = own_kafka(tmp_path / "kafka")
    server.start()
    log = KafkaLog(KafkaPlace((broker.address,), tls=False), seconds=5)
    acknowledged, unknown = [], []

    def append(numbers):
        for number in numbers:
            payload = b"%d" % number
            try:
                log.append("orders", [payload] * 3, media=JSON)
                acknowledged.append(payload)
            except Unavailable:
                unknown.append(payload)

    try:
        append(range(20))
        saved = tmp_path / "kafka" / "data" / "kafka.json"
        until = time.monotonic() + 10
        while not (saved.exists() and b"MTk=" in saved.read_bytes()) and time.monotonic() < until:
            time.sleep(0.05)
        server.kill()
        server.start()
        append(range(20, 40))
        told = Counter(record.payload for record in all_of(log, "orders"))
        assert len(acknowledged) >= 35
        assert all(told[payload] == 3 for payload in acknowledged)
        assert all(told[payload] <= 3 for payload in unknown)
    finally:
        log.close()
        server.close()


def test_records_go_through_tls_and_the_brokers_must_be_who_they_say(kafka_server, tmp_path):
    """noida-db speaks no TLS: a front decrypts before it, and says its own address instead."""
    front = TlsFront(tmp_path / "front", kafka_server.port, is_kafka=True)
    stranger = TlsFront(tmp_path / "stranger", kafka_server.port, names=["other"], is_kafka=True)
    prefix = f"t{secrets.token_hex(5)}."
    try:
        where = KafkaPlace((f"127.0.0.1:{front.port}",), ca_file=front.ca_file, prefix=prefix)
        log = KafkaLog(where)
        log.append("orders", [b"secret"], media=JSON)
        assert [record.payload for record in log.read("orders", 0, 0)] == [b"secret"]
        log.close()
        for port, ca_file in [
            (front.port, None), (front.port, stranger.ca_file), (stranger.port, stranger.ca_file)
        ]:  # fmt: skip
            place = KafkaPlace((f"127.0.0.1:{port}",), ca_file=ca_file)
            log = KafkaLog(place, seconds=1.5)
            with pytest.raises(ComponentRefused, match="certificate") as caught:
                log.partitions("orders")
            assert "event_log_ca_file" in caught.value.hint
            log.close()
    finally:
        front.close()
        stranger.close()


def test_a_wrong_password_is_told(kafka_server, tmp_path):
    with SaslRefusing(kafka_server.port) as port:
        place = KafkaPlace(
            (f"127.0.0.1:{port}",), tls=False, user="falaj", password="hush", mechanism="PLAIN"
        )
        log = KafkaLog(place, seconds=1.5)
        with pytest.raises(ComponentRefused, match="does not let 'falaj' in") as caught:
            log.append("orders", [b"x"], media=JSON)
        assert "FALAJ_EVENT_LOG_PASSWORD" in caught.value.hint
        assert "hush" not in str(caught.value)
        log.close()


class SaslRefusing:
    """A broker that speaks SASL just so far as to say that a password is wrong."""

    def __init__(self, real_port):
        self._real = real_port

    def __enter__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self._listening.getsockname()[1]

    def __exit__(self, *_):
        self._listening.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, socket.create_connection(("127.0.0.1", self._real)) as real:
            while head := connection.recv(4, socket.MSG_WAITALL):
                body = connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                key, version, number = struct.unpack_from(">hhi", body)
                if key == 36:  # SaslAuthenticate: error 58, a message, no bytes, no lifetime
                    text = b"Authentication failed"
                    if version >= 2:
                        answer = b"\0" + struct.pack(">hB", 58, len(text) + 1) + text + b"\1"
                        answer += bytes(8) + b"\0"
                    else:
                        answer = struct.pack(">hh", 58, len(text)) + text + bytes(4)
                        answer += bytes(8) if version == 1 else b""
                    answer = struct.pack(">i", number) + answer
                    connection.sendall(struct.pack(">i", len(answer)) + answer)
                    return
                real.sendall(head + body)
                size = real.recv(4, socket.MSG_WAITALL)
                connection.sendall(
                    size + real.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                )


def test_a_cluster_that_is_gone_is_told_in_time(tmp_path):
    (port,) = free_ports(1)
    log = KafkaLog(KafkaPlace((f"127.0.0.1:{port}",), tls=False), seconds=1)
    with pytest.raises(Unavailable, match="does not answer") as caught:
        log.append("orders", [b"x"], media=JSON)
    assert caught.value.retryable
    assert caught.value.hint
    log.close()


def test_a_closed_log_is_not_used_again(place):
    log = KafkaLog(place)
    log.close()
    with pytest.raises(Unavailable, match="closed"):
        log.partitions("orders")


@pytest.mark.parametrize(
    "url",
    ["kafka:", "kafka://", "kafka://h:x", "kafkas://h/topic", "kafkas://h?mechanism=GSSAPI",
     "kafkas://h?acks=1", "kafka://h?replication=x", "http://h", "kafka://h,,i"],
)  # fmt: skip
def test_a_setting_that_names_no_cluster_is_refused_with_what_to_write(url):
    with pytest.raises(InvalidInput, match="event_log") as caught:
        KafkaPlace.of(url)
    assert "kafkas://user@host" in caught.value.hint


def test_a_url_names_brokers_user_and_mechanism():
    place = KafkaPlace.of(
        "kafkas://fa%40laj@k1.internal:9093,[::1],k3:1?mechanism=PLAIN&replication=3&prefix=a.",
        password="hush",
    )
    assert place.servers == ("k1.internal:9093", "[::1]:9092", "k3:1")
    assert (place.tls, place.user, place.mechanism) == (True, "fa@laj", "PLAIN")
    assert (place.replication, place.prefix, place.password) == (3, "a.", "hush")
    told = place.client()
    assert (told["security.protocol"], told["sasl.password"]) == ("SASL_SSL", "hush")
    assert "hush" not in f"{place} {place.shown}"
    assert not place.is_this_machine
    assert KafkaPlace.of("kafka://localhost,127.0.0.1:1").is_this_machine
    with pytest.raises(InvalidInput, match="password") as caught:
        KafkaPlace.of("kafkas://u:hush@h")
    assert "FALAJ_EVENT_LOG_PASSWORD" in caught.value.hint
    with pytest.raises(InvalidInput, match="certificate"):
        KafkaLog(KafkaPlace(("h:1",), ca_file=Path("no such file"))).partitions("orders")


def test_one_broker_alone_is_a_weakness(log):
    ((what, hint),) = log.weaknesses()
    assert "one broker" in what
    assert "min.insync.replicas" in hint


def on_kafka(servers):
    """The program that opens the log on these brokers."""
    return (
        "from falaj.ingest.adapters.eventlog_kafka import KafkaLog\n"
        "from falaj.ingest.adapters.kafka_clients import KafkaPlace\n"
        f"def make_log(): return KafkaLog(KafkaPlace({servers!r}, tls=False), session_seconds=3)\n"
    )


class TestStreamKillsOnKafka(StreamKillSuite):
    """On noida-db: nothing lost, nothing twice. It never gives up a member that is gone, so
    that a worker which was killed is not replaced by another one of its group there."""

    n_kills = 3

    @pytest.fixture
    def log_program(self, tmp_path):
        server, broker = own_kafka(tmp_path / "kafka")
        server.start()
        yield on_kafka((broker.address,))
        server.close()


@pytest.mark.nightly
@pytest.mark.timeout(1200)
class TestStreamKillsOnTheMockCluster(StreamKillSuite):
    """On librdkafka's mock cluster, where workers that are killed are replaced."""

    n_kills = 30

    @pytest.fixture
    def log_program(self):
        with MockKafka("payments") as servers:
            yield on_kafka(servers)
