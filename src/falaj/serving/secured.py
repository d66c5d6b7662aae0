"""TLS between the socket of a connection and what reads it.

The event loop's own TLS asks the library for more after each piece that it reads, and is told
each time by an exception that there is none: for a small request that costs more than the
ciphers do. Here the rest of what arrived is counted instead, so that the library is asked
only for what it has; and what is written goes out in the same call. Everything about
the socket, the buffers and their limits stays with the event loop's TCP transport.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

_PIECE_BYTES = 64 * 1024
"""Of an answer, that are encrypted before they are handed on."""
_RECORD_BYTES = 16 * 1024
"""Of plain text, at most, in one record of TLS."""


class Secured(asyncio.Protocol):
    """The server's end of one TLS connection: a protocol to the socket, a transport to its reader.

    The reader sees what it would see on a plain connection: ``connection_made`` when the
    handshake is done, one ``data_received`` for whatever arrived together, ``eof_received`` when
    the client has said its end, and ``connection_lost`` once (also when there never was a
    handshake).

    Args:
        context: of the server.
        reader: reads what is decrypted.
        loop: that serves the socket.
        handshake_seconds: for the client to end the handshake.
        farewell_seconds: for the client to answer that it has seen our end.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        reader: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
        *,
        handshake_seconds: float,
        farewell_seconds: float,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._reader = reader
        self._loop = loop
        self._handshake_seconds = handshake_seconds
        self._farewell_seconds = farewell_seconds
        self._socket: Any = None
        self._open = False
        self._ended = False
        """True when the client has said that it sends no more."""
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    # -- to the socket --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._socket = transport
        self._timer = self._loop.call_later(self._handshake_seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        """Hand on whatever can be decrypted."""
        self._incoming.write(data)
        if not self._open and not self._shaken():
            return
        if self._closing:
            self._discard()
            return
        if self._incoming.pending:
            found = self._plain(len(data))
            if found:
                self._reader.data_received(found)
            if self._ended and not self._closing:
                self._reader.eof_received()
                self.close()
        if self._outgoing.pending:
            self._flush()  # keys that the client asked to change, an alert

    def eof_received(self) -> bool:
        """Tell the reader that nothing more comes, and let the socket be closed."""
        if self._open and not self._closing:
            self._reader.eof_received()
        return False  # then the socket is closed

    def pause_writing(self) -> None:
        """Tell the reader that the client does not read."""
        if self._open:
            self._reader.pause_writing()

    def resume_writing(self) -> None:
        """Tell the reader that the client reads again."""
        if self._open:
            self._reader.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reader, also where there never was a handshake."""
        self._rest()
        self._socket = None
        self._closing = True
        self._reader.connection_lost(exc)

    def _shaken(self) -> bool:
        """Go on with the handshake; true when it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            self._fail()  # it is the client's; what was wrong stands in the alert that it gets
            return False
        self._rest()
        self._open = True
        self._flush()
        self._reader.connection_made(cast("asyncio.Transport", self))  # as far as it is used
        return self._socket is not None

    def _plain(self, n_bytes: int) -> bytes:
        """Whatever can be decrypted now that ``n_bytes`` more have arrived."""
        read, incoming, pending, parts = self._tls.read, self._incoming, self._tls.pending, []
        try:
            # Plain text is shorter than what carries it: what came whole needs one reading.
            found = read(n_bytes)
            while found and (incoming.pending or pending()):
                parts.append(found)
                found = read(_RECORD_BYTES)
            self._ended = not found
        except ssl.SSLWantReadError:
            found = b""  # the rest of a record is on its way
        except ssl.SSLError:
            found = b""
            self._fail()
        return b"".join((*parts, found)) if parts else found

    def _discard(self) -> None:
        """Read what a client still sends behind our end, until it has said its own."""
        try:
            while self._tls.read(_RECORD_BYTES):
                pass
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError:
            pass
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the socket behind what is written; but do not wait for ever that it is read."""
        if self._socket is not None:
            self._await_farewell()
            self._socket.close()

    def _await_farewell(self) -> None:
        """Give the client its time: to answer our end, or to read some of what is written."""
        self._rest()
        n_unread = self._socket.get_write_buffer_size()
        self._timer = self._loop.call_later(self._farewell_seconds, self._out_of_time, n_unread)

    def _out_of_time(self, n_unread: int) -> None:
        self._timer = None
        if self._socket is not None and self._socket.get_write_buffer_size() < n_unread:
            self._await_farewell()  # it reads
        else:
            self.abort()

    def _flush(self) -> None:
        if self._socket is not None and self._outgoing.pending:
            self._socket.write(self._outgoing.read())

    def _fail(self) -> None:
        """End a connection whose bytes are not TLS, or not by its rules."""
        self._closing = True
        self._flush()
        self._hang_up()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- to the reader --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send this; nothing if the connection is closing."""
        if self._closing:
            return
        try:
            n_written = self._tls.write(data if len(data) <= _PIECE_BYTES else data[:_PIECE_BYTES])
            while n_written < len(data):
                if self._outgoing.pending > _PIECE_BYTES:
                    self._flush()  # the buffer never shrinks: it need not hold a whole answer
                n_written += self._tls.write(memoryview(data)[n_written : n_written + _PIECE_BYTES])
        except ssl.SSLError:
            self.abort()
            return
        self._socket.write(self._outgoing.read())

    def close(self) -> None:
        """Say the end behind what is written, and close when the client has said it too."""
        if self._closing:
            return
        self._closing = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # "want read": the client has not said its end yet
        else:
            self._flush()
            self._hang_up()
            return
        self._flush()
        self._await_farewell()
        self._socket.resume_reading()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        if self._socket is not None:
            self._socket.abort()

    def is_closing(self) -> bool:
        """True if nothing more is written."""
        return self._closing

    def pause_reading(self) -> None:
        """Let what the client sends wait in the kernel."""
        if not self._closing:
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._closing:
            self._socket.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of an asyncio transport; ``ssl_object`` is the connection's TLS."""
        return self._tls if name == "ssl_object" else self._socket.get_extra_info(name, default)
