"""A whole request and its answer, as a front hands them over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from falaj.serving.credentials import Credentials

if TYPE_CHECKING:
    from falaj.kernel.errors import FalajError
    from falaj.serving.heads import Head
    from falaj.serving.streaming import Chunks
    from falaj.serving.trails import Trail

_JSON = b"application/json"


def shown_certificate(transport: asyncio.BaseTransport) -> bytes | None:
    """The client certificate (DER) that a connection has shown and TLS has checked, if any."""
    secure = transport.get_extra_info("ssl_object")
    found: bytes | None = secure.getpeercert(binary_form=True) if secure is not None else None
    return found


class Asker(Protocol):
    """The connection that a request came by."""

    certificate: str | None
    """Thumbprint of the client certificate that it has shown."""
    shown: bytes | None
    """That certificate, in DER."""

    def answered(self) -> None:
        """Called when a request of it has its answer."""
        ...


class Request:
    """One whole request.

    ``headers`` has lower-case names; of a header that stands twice, the last (those that say
    who asks or what the body is may stand only once); trailers are not told. ``query`` is
    what stands behind the question mark. ``started`` is ``time.perf_counter()`` when its
    head was complete, or since when it may have waited to be read; then ``rested`` is that
    too, and else 0. ``head`` may be shared with other requests of the same bytes.
    """

    __slots__ = (
        "_connection", "body", "certificate", "head", "headers", "keep_alive", "method", "path",
        "query", "rested", "started", "task", "told", "trail",
    )  # fmt: skip

    def __init__(
        self, head: Head, body: bytes, started: float, connection: Asker | None = None
    ) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.keep_alive = head.keep_alive
        self.body = body
        self.started = started
        self.rested = 0.0
        self.told: Told | BaseException | None = None
        """The answer, or why there is none; None while it is not known."""
        self.task: asyncio.Future[Told] | None = None
        self.trail: Trail | None = None
        """Set by an application that wants to know what becomes of the request."""
        self._connection = connection
        self.certificate = None if connection is None else connection.certificate

    @property
    def credentials(self) -> Credentials:
        """What it shows of who asks."""
        return Credentials(self.headers.get(b"authorization", b""), self.certificate)

    @property
    def shown(self) -> bytes | None:
        """The client certificate (DER) that its connection has shown."""
        return None if self._connection is None else self._connection.shown

    def answer(self, told: Told | BaseException) -> None:
        """Answer it; for an application that returned None. Call it once, on the event loop."""
        self.told = told
        if self._connection is not None:
            self._connection.answered()

    def ended(self, task: asyncio.Future[Told]) -> None:
        """Answer it with what a task came to."""
        if task.cancelled():
            self.answer(asyncio.CancelledError())
        else:
            self.answer(task.exception() or task.result())


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
    chunks: Chunks | None = None
    """Makes an answer that comes in parts; then ``body`` is not looked at."""
    error: FalajError | None = None
    """Why it is not what was asked for."""


Told = Response | bytes
"""An answer; bytes alone are JSON with status 200."""


class Application(Protocol):
    """What stands behind a front."""

    def __call__(self, request: Request) -> Told | Awaitable[Told] | None:
        """Answer a request, at once or later; it is called on the event loop.

        None says that ``request.answer`` will be called: the cheapest way to answer later.
        """
        ...

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body that a path takes, and the seconds in which it must arrive."""
        ...

    def refusal(self, path: bytes, status: int, message: str, client: str) -> Response:
        """The answer to a request from there that is refused before it is whole."""
        ...

    def failure(self, path: bytes, error: BaseException, client: str) -> Response:
        """The answer to a request whose answering has raised, to whoever asked from there."""
        ...

    def begin(self, request: Request) -> None:
        """Called with a request that is refused before it is whole: give it its trail."""
        ...

    def answered(self, request: Request, answer: Response, client: str) -> bytes:
        """Called with each answer to a request with a trail; returns further header lines."""
        ...

    def drain(self) -> None:
        """Called when the end has been asked for: what is asked is still answered."""
        ...

    async def start(self) -> None:
        """Called before the first request."""
        ...

    async def stop(self) -> None:
        """Called behind the last answer."""
        ...
