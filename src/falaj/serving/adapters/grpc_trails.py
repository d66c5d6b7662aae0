"""What becomes of gRPC calls, told as of requests over HTTP: traces and the access log.

A call counts as the POST that gRPC makes of it. A call that gRPC itself refuses (no such
method, a message that is too long, more calls than a worker takes) reaches nobody here and
is not told; neither is one whose client has gone before its answer, as over HTTP.
"""

from __future__ import annotations

import time
from random import random
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from falaj.serving.heads import Head
from falaj.serving.requests import Request
from falaj.serving.trails import HEADER, Ended, Trails

if TYPE_CHECKING:
    from falaj.kernel.errors import FalajError

_TRACE_CONTEXT = HEADER.decode()


class CallTrails:
    """Gives calls their trails, and tells what became of them; on the event loop alone.

    Args:
        trails: those of the worker's requests over HTTP.
        service: the full name of the gRPC service.
    """

    def __init__(self, trails: Trails, service: str) -> None:
        self._trails = trails
        self._service = service

    def begin(self, method: str, data: bytes, context: Any) -> Request | None:
        """A message of a call as a request with a trail; None if nobody wants to know."""
        metadata = context.invocation_metadata()
        brought = any(name == _TRACE_CONTEXT for name, _ in metadata)
        if not brought and random() >= self._trails.share:  # noqa: S311 - a draw
            return None
        headers = {name.encode("latin-1"): _value(value) for name, value in metadata}
        head = Head(b"POST", f"/{self._service}/{method}".encode(), headers=headers)
        request = Request(head, data, time.perf_counter())
        request.trail = self._trails.begin(request)
        return None if request.trail is None else request

    def ended(
        self,
        request: Request | None,
        context: Any,
        *,
        status: int = 200,
        code: str = "OK",
        n_bytes: int = 0,
        error: FalajError | None = None,
    ) -> tuple[tuple[str, str], ...]:
        """Tell what became of a message; returns further trailing metadata of its call.

        Args:
            request: as ``begin`` returned it.
            context: the call's.
            status: the HTTP status that means the same.
            code: the name of the gRPC status.
            n_bytes: of the answer.
            error: why it is not what was asked for.
        """
        if request is None or request.trail is None:
            return ()
        trail, request.trail = request.trail, None
        trail.error = error
        told = self._trails.ended(
            Ended(
                request, trail, status, n_bytes, client(context.peer()), time.perf_counter(), code
            )
        )
        return tuple(
            (name, value)
            for name, _, value in (line.partition(": ") for line in told.decode().splitlines())
        )


def client(peer: str) -> str:
    """The address in what gRPC says of a peer: ``ipv4:127.0.0.1:5``, ``ipv6:%5B::1%5D:5``."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "unknown"
    return rest.rpartition(":")[0].strip("[]")


def _value(value: str | bytes) -> bytes:
    return value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)
