"""Fronts that serve on a thread, and clients that say what they like to them."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from falaj.serving.front import Bounds, Front, Request, Response, Told
from falaj.trust.certificates import ServerCertificate, client_context

LIMIT = 2_000


class Echo:
    """Answers with what it was asked; ``/later`` waits, ``/large`` is large."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.release = asyncio.Event()

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        self.asked.append(request)
        if request.path == b"/raise":
            raise ValueError("no")
        if request.path == b"/large":
            return b"x" * 1_000_000
        told = self.told(request)
        return self.later(told) if request.path == b"/later" else told

    @staticmethod
    def told(request: Request) -> bytes:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in request.headers.items()}
        return json.dumps(
            {"path": request.path.decode(), "body": request.body.decode(), "headers": headers}
        ).encode()

    async def later(self, told: bytes) -> Told:
        await self.release.wait()
        return told

    def reception(self, path: bytes) -> tuple[int, float]:
        return LIMIT, 0.3

    def refusal(self, path: bytes, status: int, message: str, client: str) -> Response:
        return Response(message.encode(), status)

    def failure(self, path: bytes, error: BaseException, client: str) -> Response:
        return Response(b"failed", 500)

    def begin(self, request: Request) -> None: ...

    def answered(self, request: Request, answer: Response, client: str) -> bytes:
        return b""

    def drain(self) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Served:
    """A front on a thread, and raw connections to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        front: Front,
        port: int,
        trusting: ssl.SSLContext | None = None,
    ) -> None:
        assert isinstance(front.application, Echo)
        self.loop, self.front, self.echo, self.port = loop, front, front.application, port
        self.trusting = trusting
        """How clients reach it over TLS; None for clear text."""

    def do(self, work: Callable[[], Any]) -> None:
        self.loop.call_soon_threadsafe(work)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece is a piece
            if self.trusting is None:
                yield plain
                return
            with self.trusting.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                yield connection

    def say(self, *parts: bytes) -> bytes:
        """Everything that is answered until the other side hangs up, or is silent."""
        with self.connected() as connection:
            for part in parts:
                connection.sendall(part)
            return heard(connection)


def heard(connection: socket.socket, seconds: float = 0.4) -> bytes:
    connection.settimeout(seconds)
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except (TimeoutError, ConnectionResetError):
        pass
    return data


def until(met: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def serving(
    certificate: ServerCertificate | None = None,
    bounds: Bounds = Bounds(head=0.3, idle=0.6, handshake=5.0, farewell=1.0),  # noqa: B008
) -> Iterator[Served]:
    """A front that serves, over TLS if there is a certificate."""
    ready, found = threading.Event(), list[Served]()
    stop: list[asyncio.Event] = []

    async def main() -> None:
        bound = socket.create_server(("127.0.0.1", 0))
        front = Front(Echo(), bounds=bounds)
        await front.listen([bound], certificate and certificate.server_context())
        stop.append(asyncio.Event())
        trusting = certificate and client_context(certificate.ca_path)
        loop, port = asyncio.get_running_loop(), bound.getsockname()[1]
        found.append(Served(loop, front, port, trusting))
        ready.set()
        await stop[0].wait()
        await front.close(grace_seconds=2.0)

    thread = threading.Thread(target=lambda: uvloop.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield found[0]
    found[0].do(stop[0].set)
    thread.join(10)
    assert not thread.is_alive()


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def post(body: bytes, *headers: bytes, path: bytes = b"/") -> bytes:
    lines = b"".join(one + b"\r\n" for one in headers)
    return (
        b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n%b\r\n" % (path, len(body), lines)
    ) + body
