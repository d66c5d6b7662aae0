"""HTTP/1.1 in front of the data plane: whole requests in, whole answers out.

A server with many small requests spends most of its time between the socket and the work.
Here a connection parses with httptools and hands whole requests to one function, which
answers at once, or gives a future; there is no task, no queue and no event for a request.
Requests that arrive in one turn of the event loop are handed over in that turn, so that
the work behind can be done for all of them together.

What it takes: HTTP/1.0 and 1.1, keep-alive, pipelining (answers in order), chunked bodies,
``Expect: 100-continue``, HEAD. What it bounds: the bytes and the time of a head, the bytes
and the time of a body, idle connections, and requests of one connection that wait.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import httptools

if TYPE_CHECKING:
    import socket
    import ssl

LONGEST_HEAD = 64 * 1024
LONGEST_PATH = 8 * 1024
MOST_HEADERS = 100
MOST_WAITING = 64
"""Pipelined requests of one connection that may wait for their answers."""
_ONCE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"falaj-purpose",
        b"host",
        b"idempotency-key",
    }
)
"""Headers that stand once, so that nobody in front of us can have read another one."""
_SWEEP_SECONDS = 0.5
_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_JSON = b"application/json"


class Request:
    """One whole request.

    ``headers`` has lower-case names; of a header that stands twice, the last (those that say
    who asks or what the body is may stand only once); trailers are not told. ``query`` is
    what stands behind the question mark. ``started`` is ``time.perf_counter()`` when its
    head was complete.
    """

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "started")

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keep_alive = True
        self.started = 0.0


@dataclass(slots=True)
class Response:
    """One whole answer."""

    body: bytes
    status: int = 200
    media: bytes = _JSON
    more: Mapping[bytes, bytes] = field(default_factory=dict)
    """Further headers."""
    close: bool = False
    """True to end the connection behind it."""


Told = Response | bytes
"""An answer; bytes alone are JSON with status 200."""


class Application(Protocol):
    """What stands behind a front."""

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a request, at once or later; it is called on the event loop."""
        ...

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body that a path takes, and the seconds in which it must arrive."""
        ...

    def refusal(self, path: bytes, status: int, message: str) -> Response:
        """The answer to a request that is refused before it is whole."""
        ...

    def failure(self, path: bytes, error: BaseException) -> Response:
        """The answer to a request whose answering has raised."""
        ...

    async def start(self) -> None:
        """Called before the first request."""
        ...

    async def stop(self) -> None:
        """Called behind the last answer."""
        ...


@dataclass(frozen=True)
class Bounds:
    """How long a front waits, in seconds."""

    head: float = 10.0
    idle: float = 75.0


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, front: Front) -> None:
        self._front = front
        front.opening.add(self)
        self._application = front.application
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._parts: list[bytes] = []
        self._n_bytes = 0
        self._limit = 0
        self._head_bytes = 0
        self._in_head = True
        self._refused = False
        self._waiting: deque[tuple[Request, asyncio.Future[Told]]] = deque()
        self._held = False
        self._choked = False
        self._half_closed = False
        self.until = time.perf_counter() + front.bounds.head
        """When the connection is ended if nothing comes; 0 while it is being answered."""

    # -- transport ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._front.opening.discard(self)
        self._front.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.opening.discard(self)
        self._front.connections.discard(self)
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            if not self._head_bytes:
                self.until = time.perf_counter() + self._front.bounds.head
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as HTTP/1.1, as a server that does not upgrade may; then closed
        except httptools.HttpParserError:
            if not self._refused:
                self._refuse(400, "The request is not HTTP.")
        else:
            if self._in_head and self._head_bytes > LONGEST_HEAD:
                self._refuse(431, "The head of the request is too long.")

    def eof_received(self) -> bool:
        # Who says that it has no more to ask still waits for the answers. (TLS knows no half.)
        self._half_closed = bool(self._waiting) and not self._front.secure
        return self._half_closed

    def pause_writing(self) -> None:
        self._choked = True
        self._hold()

    def resume_writing(self) -> None:
        self._choked = False
        self._release()
        if self.until:
            self.until = time.perf_counter() + self._front.bounds.idle

    # -- parser ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._request = Request()
        self._parts = []
        self._n_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._request.path += url
        if len(self._request.path) > LONGEST_PATH and not self._refused:
            self._refuse(414, "The path of the request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it came behind the body and must not say what a header says
        headers = self._request.headers
        name = name.lower()
        if name in headers and name in _ONCE and not self._refused:
            self._refuse(400, f"The header {name.decode('latin-1')} stands twice.")
        headers[name] = value
        if len(headers) > MOST_HEADERS and not self._refused:
            self._refuse(431, "The request has too many headers.")

    def on_headers_complete(self) -> None:
        request = self._request
        now = request.started = time.perf_counter()
        self._in_head = False
        request.method = self._parser.get_method()
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        path, mark, query = request.path.partition(b"?")
        if mark:
            request.path, request.query = path, query
        if self._refused:
            return
        self._limit, seconds = self._application.reception(request.path)
        length = request.headers.get(b"content-length")
        if length is not None and int(length[:20]) > self._limit:
            self._refuse(413, f"The body is longer than {self._limit} bytes.")
            return
        self.until = now + seconds
        if b"expect" in request.headers and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._n_bytes += len(body)
        if self._n_bytes > self._limit:
            if not self._refused:
                self._refuse(413, f"The body is longer than {self._limit} bytes.")
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        request, parts = self._request, self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._in_head = True
        self._head_bytes = 0
        self.until = 0.0
        try:
            answer = self._application(request)
        except Exception as error:  # noqa: BLE001 - one request must not end the others
            answer = self._application.failure(request.path, error)
        if not self._waiting and isinstance(answer, (Response, bytes)):
            self._write(request, answer)
            return
        future: asyncio.Future[Told]
        if isinstance(answer, (Response, bytes)):
            future = self._front.loop.create_future()
            future.set_result(answer)
        else:
            future = asyncio.ensure_future(answer)
        self._waiting.append((request, future))
        if len(self._waiting) >= MOST_WAITING:
            self._hold()
        future.add_done_callback(self._done)

    # -- answers --------------------------------------------------------------------

    def _done(self, _future: asyncio.Future[Told]) -> None:
        """Write every answer whose turn has come."""
        waiting = self._waiting
        while waiting and waiting[0][1].done() and self._transport is not None:
            request, future = waiting.popleft()
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            answer = (
                future.result() if error is None else self._application.failure(request.path, error)
            )
            self._write(request, answer)
        if self._held and len(waiting) < MOST_WAITING:
            self._release()

    def _write(self, request: Request, answer: Told) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if isinstance(answer, bytes):
            answer = Response(answer)
        keep = request.keep_alive and not answer.close
        if (self._half_closed or self._front.closing) and not self._waiting:
            keep = False  # behind what is owed; what waits is answered first
        body = answer.body
        head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n" % (
            _LINES[answer.status],
            answer.media,
            len(body),
        )
        for name, value in answer.more.items():
            head += name + b": " + value + b"\r\n"
        head += b"\r\n" if keep else b"connection: close\r\n\r\n"
        transport.write(head if request.method == b"HEAD" else head + body)
        if not keep:
            self._refused = True
            self._close()
        elif not self._waiting:
            self.until = time.perf_counter() + self._front.bounds.idle

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that never became whole, and end the connection."""
        self._refused = True
        answer = self._application.refusal(self._request.path, status, message)
        answer.close = True
        if self._waiting:
            future: asyncio.Future[Told] = self._front.loop.create_future()
            future.set_result(answer)
            self._waiting.append((self._request, future))
            return  # those before it are answered first
        self._refused = False
        self._write(self._request, answer)
        self._refused = True

    def too_slow(self) -> None:
        """The time that the client had is over."""
        self.until = 0.0
        if self._transport is None:
            return
        if self._choked or self._transport.is_closing():
            self._transport.abort()  # it does not read what it asked for
        elif self._in_head and not self._head_bytes:
            self._close()  # it was idle
        else:
            self._refuse(408, "The request took too long to arrive.")

    def _close(self) -> None:
        """Close behind what is written; but do not wait for ever that it is read."""
        self.until = time.perf_counter() + self._front.bounds.idle
        self._transport.close()

    def end(self) -> None:
        """Close as soon as nothing is owed."""
        if self._transport is not None and not self._waiting and self._in_head:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def _hold(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _release(self) -> None:
        if self._held and not self._choked and self._transport is not None:
            self._held = False
            self._transport.resume_reading()


class Front:
    """Serves an application on sockets.

    Args:
        application: answers the requests.
        bounds: how long it waits for a client.
    """

    def __init__(self, application: Application, *, bounds: Bounds | None = None) -> None:
        self.application = application
        self.bounds = bounds or Bounds()
        self.connections: set[_Connection] = set()
        self.opening: WeakSet[_Connection] = WeakSet()
        """Accepted connections that cannot be read yet: their TLS handshake goes on."""
        self.closing = False
        self.secure = False
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    async def listen(
        self, sockets: list[socket.socket], context: ssl.SSLContext | None = None
    ) -> None:
        """Begin to serve; with a context over TLS."""
        await self.application.start()
        self.secure = context is not None
        for one in sockets:
            server = await self.loop.create_server(
                lambda: _Connection(self), sock=one, ssl=context, backlog=2048
            )
            self._servers.append(server)
        self._sweep()

    def _sweep(self) -> None:
        now = time.perf_counter()
        for connection in list(self.connections):
            if connection.until and connection.until < now:
                connection.too_slow()
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    async def drain(self, linger_seconds: float) -> None:
        """Take no new connection, and let those that there are find another worker.

        Whatever is asked is answered, and the answer says that the connection ends. A client
        that is silent for ``linger_seconds`` is left to ``close``: to close a silent connection
        at once might cross a request on its way. Call ``close`` behind it.
        """
        self.closing = True
        for server in self._servers:
            server.close()
        until = time.perf_counter() + linger_seconds
        while (self.connections or self.opening) and time.perf_counter() < until:
            await asyncio.sleep(0.01)

    async def close(self, *, grace_seconds: float = 5.0) -> None:
        """Take no new connection, answer what was asked, then end."""
        self.closing = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.end()
        until = time.perf_counter() + grace_seconds
        while self.connections and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.application.stop()


def run(
    application: Application,
    sockets: list[socket.socket],
    *,
    context: ssl.SSLContext | None = None,
    ready: Callable[[], None] = lambda: None,
    begun: Callable[[Callable[[], None]], None] = lambda _: None,
    grace_seconds: float = 5.0,
    linger_seconds: float = 5.0,
    drainable: Callable[[Callable[[], None]], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP drains first, so that no connection is dropped.

    Args:
        application: answers the requests.
        sockets: bound to where it is to be reached.
        context: of TLS.
        ready: called when the first request can come.
        begun: is given a function that ends the serving, from any thread.
        grace_seconds: how long open requests may take when it ends.
        linger_seconds: how long a drained front waits for silent clients.
        drainable: is given a function that drains and then ends it, from any thread.
    """
    import uvloop

    async def served() -> None:
        stopped, drained = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def drain() -> None:
            drained.set()
            stopped.set()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopped.set)
            loop.add_signal_handler(signal.SIGHUP, drain)

        def stop() -> None:
            loop.call_soon_threadsafe(stopped.set)

        def drain_soon() -> None:
            loop.call_soon_threadsafe(drain)

        begun(stop)
        drainable(drain_soon)
        front = Front(application)
        await front.listen(sockets, context)
        try:
            ready()
            await stopped.wait()
            if drained.is_set():
                await front.drain(linger_seconds)
        finally:
            await front.close(grace_seconds=grace_seconds)

    uvloop.run(served())
