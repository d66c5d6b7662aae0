"""HTTP/1.1 in front of the data plane: whole requests in, whole answers out.

A server with many small requests spends most of its time between the socket and the work.
Here a connection parses with httptools and hands whole requests to one function, which
answers at once, or gives a future; there is no task, no queue and no event for a request.
Requests that arrive in one turn of the event loop are handed over in that turn, so that
the work behind can be done for all of them together.

What it takes: HTTP/1.0 and 1.1, keep-alive, pipelining (answers in order), chunked bodies,
``Expect: 100-continue``, HEAD, answers that come in parts. What it bounds: the bytes and the
time of a head, the bytes and the time of a body, idle connections, requests of one connection
that wait, and the time of an answer in parts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import httptools

from falaj.serving.accepting import Accepting
from falaj.serving.backpressure import BackPressure
from falaj.serving.heads import Head, KnownHeads
from falaj.serving.requests import Application, Request, Response, Told, shown_certificate
from falaj.serving.secured import Secured
from falaj.serving.streaming import Chunks, Stream
from falaj.trust.bindings import thumbprint

if TYPE_CHECKING:
    import socket
    import ssl


__all__ = ["Application", "Bounds", "Front", "Request", "Response", "Told"]

LONGEST_HEAD = 64 * 1024
LONGEST_PATH = 8 * 1024
MOST_HEADERS = 100
MOST_WAITING = 64
"""Pipelined requests of one connection that may wait for their answers."""
MOST_WAITING_BYTES = 256 * 1024
"""Of their bodies together; beyond it the next one is read when some are answered."""
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
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_MOST_PARTS = 64
"""Of a body that are kept apart."""
_COME_BACK = frozenset({429, 503})
_UNKNOWN_METHOD = b"_OTHER"
"""Of a request whose head never became whole, as OpenTelemetry names it."""


@dataclass(frozen=True)
class Bounds:
    """How long a front waits, in seconds."""

    head: float = 10.0
    idle: float = 75.0
    part: float = 30.0
    """For one part of an answer that comes in parts to be made."""
    stream: float = 900.0
    """For such an answer as a whole."""
    handshake: float = 60.0
    """For TLS to be agreed on."""
    farewell: float = 30.0
    """For a client to say over TLS that it has seen our end."""


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, front: Front) -> None:
        self._front = front
        front.opening.add(self)
        self._application = front.application
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._raw: bytes | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head = Head()
        self._started = 0.0
        self._parts: list[bytes | bytearray] = []
        """Of a body; the first may be many joined into one, and then it is not the only one."""
        self._n_bytes = 0
        self._limit = 0
        self._head_bytes = 0
        """Of a head or a trailer, since it or the last piece of a body began."""
        self._in_head = True
        self._between = True
        self._refused = False
        self._waiting: deque[Request] = deque()
        self._held = False
        self._choked = False
        self._half_closed = False
        self._stream: Stream | None = None
        self._address = ""
        self._resting = False
        self._rested = 0.0
        """Since when what is read now may have waited in the kernel; 0 if it has not."""
        self._spared = False
        """The last answer was a refusal, and the connection did not rest for it."""
        self.certificate: str | None = None
        self.shown: bytes | None = None
        self.until = time.perf_counter() + front.bounds.head
        """When the connection is ended if nothing comes; 0 while it is being answered."""

    # -- transport ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._front.secure:
            self.shown = shown = shown_certificate(transport)
            self.certificate = thumbprint(shown) if shown is not None else None
        self._front.opening.discard(self)
        self._front.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.opening.discard(self)
        self._front.connections.discard(self)
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        if self._stream is not None:
            self._stream.close()
        for request in waiting:
            if request.task is not None:
                request.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        known = self._front.known
        while self._between:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            now = time.perf_counter()
            head = known.found(data[:end], now)
            if head is None:
                self._raw = data[:end]
                break
            rest = end + 4 + head.length
            if len(data) < rest:
                break
            self.until = 0.0
            self._ask(Request(head, data[end + 4 : rest], now, self))
            if len(data) == rest or self._refused:
                return
            data = data[rest:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._in_head and not self._head_bytes:
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
            if self._head_bytes > LONGEST_HEAD and not self._refused:
                where = "head" if self._in_head else "trailer"
                self._refuse(431, f"The {where} of the request is too long.")
        self._raw = None

    def eof_received(self) -> bool:
        # Who says that it has no more to ask still waits for the answers. (TLS knows no half.)
        owed = self._waiting or self._stream
        self._half_closed = bool(owed) and not self._front.secure
        return self._half_closed

    def pause_writing(self) -> None:
        self._choked = True
        self._hold()
        if self._stream is not None:
            self._stream.hold()
            self.until = time.perf_counter() + self._front.bounds.idle

    def resume_writing(self) -> None:
        self._choked = False
        self._release()
        if self._stream is not None:
            self._stream.release()
            self.until = 0.0
        elif self.until:
            self.until = time.perf_counter() + self._front.bounds.idle

    # -- parser ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._between = False
        if self._refused:
            return
        self._url = b""
        self._headers = {}
        self._parts = []
        self._n_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > LONGEST_PATH and not self._refused:
            self._refuse(414, "The path of the request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it came behind the body and must not say what a header says
        headers = self._headers
        name = name.lower()
        if name in headers and name in _ONCE and not self._refused:
            self._refuse(400, f"The header {name.decode('latin-1')} stands twice.")
        headers[name] = value
        if len(headers) > MOST_HEADERS and not self._refused:
            self._refuse(431, "The request has too many headers.")

    def on_headers_complete(self) -> None:
        raw, self._raw = self._raw, None  # of the first request in what arrived
        now = self._started = time.perf_counter()
        self._in_head = False
        self._head_bytes = 0
        parser, headers = self._parser, self._headers
        path, _, query = self._url.partition(b"?")
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        head = self._head = Head(parser.get_method(), path, query, headers, keep_alive=keep_alive)
        head.old = parser.get_http_version() == "1.0"
        if self._refused:
            return
        self._limit, seconds = self._application.reception(path)
        length = headers.get(b"content-length")
        if length is not None and int(length[:20]) > self._limit:
            self._refuse(413, f"The body is longer than {self._limit} bytes.")
            return
        self.until = now + seconds
        if raw is not None:
            self._front.known.keep(raw, head, now, self._limit)
        if b"expect" in headers and not self._waiting and self._stream is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._n_bytes += len(body)
        self._head_bytes = 0
        if self._n_bytes > self._limit:
            if not self._refused:
                self._refuse(413, f"The body is longer than {self._limit} bytes.")
            return
        parts = self._parts
        if len(parts) == _MOST_PARTS:  # an object for each of many small ones is the larger cost
            whole = parts[0] if isinstance(parts[0], bytearray) else bytearray(parts[0])
            whole += b"".join(parts[1:])
            parts[:] = [whole]
        parts.append(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        parts, head = self._parts, self._head
        first = parts[0] if len(parts) == 1 else None
        body = first if isinstance(first, bytes) else b"".join(parts)
        self._parts = []  # the connection may stay for long; what it was sent need not
        self._in_head = True
        self._head_bytes = 0
        self._between = head.keep_alive
        self.until = 0.0
        self._ask(Request(head, body, self._started, self))

    # -- answers --------------------------------------------------------------------

    def _ask(self, request: Request) -> None:
        """Hand a whole request over; its answer is written when its turn has come."""
        waiting = self._waiting
        waiting.append(request)
        if self._rested:
            request.started = request.rested = self._rested
        told: Told | Awaitable[Told] | BaseException | None
        try:
            told = self._application(request)
        except Exception as error:  # noqa: BLE001 - one request must not end the others
            told = error
        if told is not None:
            if isinstance(told, (bytes, Response, BaseException)):
                request.told = told
                self.answered()
            else:
                request.task = task = asyncio.ensure_future(told)
                task.add_done_callback(request.ended)
        if len(waiting) > 1 and self._crowded():
            self._hold()

    def answered(self) -> None:
        """Write every answer whose turn has come."""
        waiting = self._waiting
        while waiting and self._transport is not None and self._stream is None:
            request = waiting[0]
            told = request.told
            if told is None:
                break
            waiting.popleft()
            if (
                type(told) is bytes
                and request.head.length  # of a kept head: a POST, on a connection that is kept
                and request.trail is None
                and not self._front.closing
                and not self._half_closed
            ):
                self._transport.write(_OK % (len(told), told))
                self._spared = False
                continue
            if isinstance(told, BaseException):
                told = self._application.failure(request.path, told, self._client())
            self._write(request, told)
        if (
            not waiting and self._stream is None
            and self._in_head and self._transport is not None and not self.until
        ):  # fmt: skip
            self.until = time.perf_counter() + self._front.bounds.idle
        if self._held:
            self._release()

    def _crowded(self) -> bool:
        """True if no more should be read before some of what waits is answered."""
        waiting = self._waiting
        return len(waiting) >= MOST_WAITING or (
            len(waiting) > 1 and sum(len(one.body) for one in waiting) > MOST_WAITING_BYTES
        )

    def _write(self, request: Request, answer: Told) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if isinstance(answer, bytes):
            answer = Response(answer)
        keep = request.keep_alive and not answer.close
        if (self._half_closed or self._front.closing) and not self._waiting:
            keep = False  # behind what is owed; what waits is answered first
        chunks, body = answer.chunks, answer.body
        if chunks is None:
            length = b"content-length: %d\r\n" % len(body)
        elif request.head.old:
            length, keep = b"", False
        else:
            length = b"transfer-encoding: chunked\r\n"
        head = b"%bcontent-type: %b\r\n%b" % (_LINES[answer.status], answer.media, length)
        for name, value in answer.more.items():
            head += name + b": " + value + b"\r\n"
        if request.trail is not None:
            head += self._application.answered(request, answer, self._client())
        head += b"\r\n" if keep else b"connection: close\r\n\r\n"
        if chunks is not None:
            transport.write(head)
            self._send(request, chunks, keep=keep)
            return
        transport.write(head if request.method == b"HEAD" else head + body)
        if not keep:
            self._refused = True
            self._close()
        elif answer.status in _COME_BACK:
            again, self._spared = self._spared, not self._spared
            self._front.pressure.refused(self, len(request.body), again=again)
        else:
            self._spared = False

    def _send(self, request: Request, chunks: Chunks, *, keep: bool) -> None:
        """Send an answer that comes in parts; those behind it wait until it has ended."""
        bounds = self._front.bounds
        self.until = 0.0
        stream = Stream(chunks, part_seconds=bounds.part, total_seconds=bounds.stream)
        if request.method == b"HEAD":
            stream.close()
            if not keep:
                self._refused = True
                self._close()
            return

        def ended(error: BaseException | None) -> None:
            self._stream = None
            if self._transport is None:
                return
            if error is not None:
                self._application.failure(request.path, error, self._client())  # counted and logged
                self._transport.abort()  # the client sees that the answer is not whole
            elif keep and not self._front.closing:
                self.answered()
            else:
                self._refused = True
                self._close()

        self._stream = stream
        if self._choked:
            stream.hold()
        stream.start(self._transport.write, ended, chunked=not request.head.old)

    def _client(self) -> str:
        """The address of who asks."""
        if not self._address:
            peer = self._transport.get_extra_info("peername")
            self._address = str(peer[0]) if isinstance(peer, tuple) and peer else "unknown"
        return self._address

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that never became whole, and end the connection."""
        self._refused = True
        path, _, query = self._url.partition(b"?")
        head = Head(_UNKNOWN_METHOD, path, query) if self._in_head else self._head
        request = Request(head, b"", self._started or time.perf_counter(), self)
        self._application.begin(request)
        answer = self._application.refusal(path, status, message, self._client())
        answer.close = True
        request.told = answer
        self._waiting.append(request)  # those before it are answered first
        self.answered()

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
        owed = self._waiting or self._stream
        if self._transport is not None and not owed and self._in_head:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def rest(self) -> None:
        """Read nothing until ``wake``; see ``backpressure``."""
        self._resting = True
        self._rested = time.perf_counter()
        self._hold()

    def wake(self) -> None:
        """Read again, unless something else keeps it from that."""
        self._resting = False
        self._release()

    def rested(self) -> None:
        """What is read from now on has not waited."""
        if not self._resting:
            self._rested = 0.0

    def _hold(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _release(self) -> None:
        if not self._held or self._choked or self._resting or self._crowded():
            return
        if self._transport is not None:
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
        self.known = KnownHeads()
        self.opening: WeakSet[_Connection] = WeakSet()
        """Accepted connections that cannot be read yet: their TLS handshake goes on."""
        self.closing = False
        self.secure = False
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.pressure = BackPressure(self.loop)
        self._servers: list[Accepting] = []
        self._sweeper: asyncio.TimerHandle | None = None

    async def listen(
        self, sockets: list[socket.socket], context: ssl.SSLContext | None = None
    ) -> None:
        """Begin to serve; with a context over TLS."""
        await self.application.start()
        self.secure = context is not None
        for one in sockets:
            server = Accepting(one, lambda: self._connection(context), self.loop)
            await server.start(backlog=2048)
            self._servers.append(server)
        self._sweep()

    def _connection(self, context: ssl.SSLContext | None) -> asyncio.Protocol:
        connection = _Connection(self)
        if context is None:
            return connection
        return Secured(
            context,
            connection,
            self.loop,
            handshake_seconds=self.bounds.handshake,
            farewell_seconds=self.bounds.farewell,
        )

    def _sweep(self) -> None:
        now = time.perf_counter()
        for connection in list(self.connections):
            if connection.until and connection.until < now:
                connection.too_slow()
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def drain(self) -> None:
        """Be no longer ready, and end each connection behind its next answer.

        Who wants load balancers to see it calls it some time before ``close``: until then
        new connections are taken and everything is answered.
        """
        self.closing = True
        self.application.drain()

    async def leave(self, linger_seconds: float) -> None:
        """Drain, take no new connection, and let those that there are find another worker.

        Whatever is asked is answered, and the answer says that the connection ends. A client
        that is silent for ``linger_seconds`` is left to ``close``: to close a silent connection
        at once might cross a request on its way. Call ``close`` behind it.
        """
        self.drain()
        for server in self._servers:
            server.close()
        until = time.perf_counter() + linger_seconds
        while (self.connections or self.opening) and time.perf_counter() < until:
            await asyncio.sleep(0.01)

    async def close(self, *, grace_seconds: float = 5.0) -> None:
        """Take no new connection, answer what was asked, then end."""
        self.drain()
        self.pressure.close()
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
