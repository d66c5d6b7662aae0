"""Load: one thousand prepared requests in turn on keep-alive connections, closed loop.

``wrk`` makes the load where it is installed (``apt-get install wrk``; ``make wrk`` does
it); otherwise a client in Python does, which needs more of its core and so can be the
slower end. Both send the same bytes, and an answer that is not 200 is an error.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from stand.processes import child_of_ours

SCRIPTS = Path(__file__).parent
HOW_TO_GET_WRK = "wrk is not installed (apt-get install wrk): the client in Python makes the load."


@dataclass(frozen=True)
class Measured:
    """One round of load."""

    n: int
    """Answers."""
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    """Answers that are not 200, and connections that broke or waited too long."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.n / self.seconds


@dataclass(frozen=True)
class Crowd:
    """One stretch of load by many clients that pause between their requests."""

    seconds: float
    accepted: int
    refused: int
    """Answers 429 or 503 that say when to come back."""
    errors: int
    """All other answers, and connections that broke or waited too long."""
    p50_ms: float
    p99_ms: float
    """Of all answers, the refusals too."""


def has_wrk() -> bool:
    """True if ``wrk`` can be run."""
    return shutil.which("wrk") is not None


def client_name() -> str:
    """Who makes the load, for the table."""
    if not has_wrk():
        return "Python client"
    told = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0].split(" [")[0] if told else "wrk"


class Renewed:
    """Requests that are made anew every two minutes: an access token lives for five.

    Args:
        make: makes them.
    """

    def __init__(self, make: Callable[[], list[bytes]]) -> None:
        self._make = make
        self._made, self._made_at = make(), time.monotonic()

    def now(self) -> list[bytes]:
        """The requests, with a token that holds for the next three minutes at least."""
        if time.monotonic() - self._made_at > 120:
            self._made, self._made_at = self._make(), time.monotonic()
        return self._made


class Load:
    """The requests of one server.

    Args:
        port: where it listens on 127.0.0.1.
        asked: whole requests as bytes, sent in turn.
        core: where the client runs.
        tls: over TLS; the server's certificate is not checked.
        python: take the client in Python even if there is wrk.
    """

    def __init__(
        self,
        port: int,
        asked: list[bytes] | Renewed,
        *,
        core: int,
        tls: bool = False,
        python: bool = False,
    ) -> None:
        self.port, self._requests, self.core, self.tls = port, asked, core, tls
        self._python = python or not has_wrk()

    @property
    def asked(self) -> list[bytes]:
        """The requests as they are sent now."""
        given = self._requests
        return given.now() if isinstance(given, Renewed) else given

    def run(self, connections: int, seconds: float) -> Measured:
        """Ask on so many connections for so long."""
        if self._python:
            return uvloop.run(self._asked(connections, seconds))
        return self._wrk(connections, seconds)

    def ask(self, place: int) -> dict[str, Any]:
        """One of the requests on a connection of its own; the answer's body."""
        return ask_once(self.port, self.asked[place], tls=self.tls)

    def crowd(self, connections: int, pause_ms: float, seconds: float) -> Crowd:
        """So many clients that each pause for a random while before each request; needs wrk."""
        return Crowd(**self._told("crowd.lua", connections, seconds, str(pause_ms)))

    def _wrk(self, connections: int, seconds: float) -> Measured:
        return Measured(**self._told("requests.lua", connections, seconds))

    def _told(self, script: str, connections: int, seconds: float, *words: str) -> dict[str, Any]:
        """What a script of wrk tells."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requests"
            with file.open("wb") as text:
                for request in self.asked:
                    text.write(b"%d\n" % len(request) + request)
            scheme = "https" if self.tls else "http"
            # wrk takes whole seconds.
            command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
            command += ["--timeout", "10s", "-s", str(SCRIPTS / script)]
            command += [f"{scheme}://127.0.0.1:{self.port}/", "--", str(file), *words]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=lambda: child_of_ours(self.core),
            )
        told = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
        if done.returncode or told is None:
            raise RuntimeError(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
        found: dict[str, Any] = json.loads(told)
        return found

    async def _asked(self, connections: int, seconds: float) -> Measured:
        loop, asked = asyncio.get_running_loop(), self.asked
        times: list[float] = []
        began = time.perf_counter()
        until = began + seconds
        context = _trusting() if self.tls else None
        askers = []
        for number in range(connections):
            place = number * len(asked) // connections
            _, asker = await loop.create_connection(
                lambda place=place: Asker(asked, place, until, times),
                "127.0.0.1",
                self.port,
                ssl=context,
                server_hostname="localhost" if context else None,
            )
            askers.append(asker)
        await asyncio.gather(*(asker.done for asker in askers))
        times.sort()
        return Measured(
            len(times),
            time.perf_counter() - began,
            times[len(times) // 2] * 1e3,
            times[int(0.99 * len(times))] * 1e3,
            sum(asker.bad for asker in askers),
        )


class Asker(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, asked: list[bytes], first: int, until: float, times: list[float]) -> None:
        self._asked, self._place, self._until, self._times = asked, first, until, times
        self._buffer = b""
        self.done = asyncio.get_running_loop().create_future()
        self.bad = 0

    def connection_made(self, transport: Any) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._place = (self._place + 1) % len(self._asked)
        self._sent = time.perf_counter()
        self._transport.write(self._asked[self._place])

    def data_received(self, data: bytes) -> None:
        """Take an answer's bytes; ask again when it is whole."""
        self._buffer = self._buffer + data if self._buffer else data
        size = whole(self._buffer)
        if size is None:
            return
        now = time.perf_counter()
        self._times.append(now - self._sent)
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.bad += 1
        self._buffer = b""
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has hung up."""
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))


def whole(buffer: bytes, start: int = 0) -> int | None:
    """Where the answer that begins at ``start`` ends; None if it is not whole yet."""
    head = buffer.find(b"\r\n\r\n", start)
    if head < 0:
        return None
    at = buffer.lower().find(b"content-length:", start, head)
    if at < 0:
        raise ValueError("the answer has no Content-Length")
    length = int(buffer[at + 15 : buffer.find(b"\r\n", at)])
    end = head + 4 + length
    return end if len(buffer) >= end else None


def request(path: str, body: object, *, headers: str = "") -> bytes:
    """A request as bytes; ``headers`` are whole lines."""
    encoded = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}"
        f"content-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n"
    )
    return head.encode() + encoded


def ask_once(port: int, asked: bytes, *, tls: bool = False) -> dict[str, Any]:
    """One request on a connection of its own; the answer's body, ``{"value": …}`` if bare."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        connection = _trusting().wrap_socket(plain, server_hostname="localhost") if tls else plain
        connection.sendall(asked)
        data = b""
        while not (b"\r\n\r\n" in data and whole(data) is not None):
            part = connection.recv(65_536)
            if not part:
                raise RuntimeError(f"the answer broke off: {data[:200]!r}")
            data += part
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the answer is not 200: {data[:600]!r}")
    told = json.loads(data.partition(b"\r\n\r\n")[2])
    return told if isinstance(told, dict) else {"value": told}


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
