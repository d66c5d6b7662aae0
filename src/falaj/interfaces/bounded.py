"""HTTP/1.1 with an end to the head of a request: so many bytes, so many seconds.

Each request also tells which client certificate its connection has shown, if any.

The parser below accepts heads of any length and waits for them for ever, and all of that
comes before anybody is asked who he is.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from falaj.interfaces.http import CERTIFICATE
from falaj.interfaces.turnedaway import Recorder
from falaj.kernel.errors import LimitExceeded
from falaj.serving.requests import shown_certificate

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's first line and headers."""
HEAD_SECONDS = 10.0
"""From the connection, or from the first byte of a later request, to the head's end."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose head is too long or too slow."""

    recorder: ClassVar[Recorder | None] = None
    """Told of heads that are too long, if anything is."""
    _in_head = True
    _head_bytes = 0
    _waiting: asyncio.TimerHandle | None = None
    _certificate: bytes | None = None

    @classmethod
    def telling(cls, recorder: Recorder) -> type[Self]:
        """This protocol, which has heads that are too long recorded."""
        return type(cls.__name__, (cls,), {"recorder": recorder})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._certificate = shown_certificate(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that has grown too long without coming to its end."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._waiting is None:
                self._wait()
        super().data_received(data)
        if self._in_head and self._head_bytes > LONGEST_HEAD:
            self._too_long()

    def on_message_begin(self) -> None:
        """A request begins: it came by this connection."""
        super().on_message_begin()
        if self._certificate is not None:
            scope: Any = self.scope  # ASGI lets a server add names of its own
            scope[CERTIFICATE] = self._certificate

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte belongs to the next head."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_long(self) -> None:
        told = "The head of the request is too long."
        if self.recorder is not None:
            error = LimitExceeded(told, refused="head-too-long")
            address = self.client[0] if self.client else None
            self.recorder.turned_away(error, address, "a head that did not end")
        self.send_400_response(told)

    def _too_slow(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()
