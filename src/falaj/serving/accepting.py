"""Connections that wait to be accepted are taken many at a time.

The event loop accepts one connection a turn, and in a worker with much to do a turn takes
several milliseconds: of a thousand clients that came together under full load the last ones
were first read after four seconds. So whoever is accepted brings in those behind.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_MOST_AT_ONCE = 64
"""Each costs the turn about 0.1 ms."""


class Accepting:
    """Serves the connections of a listening socket.

    Args:
        listener: listens already, or will when ``start`` is called.
        factory: makes the protocol of a connection.
        loop: the event loop that serves them.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._loop = loop
        self._server: asyncio.Server | None = None
        self._taken: set[asyncio.Task[object]] = set()

    async def start(self, backlog: int) -> None:
        """Take connections; of those that wait to be taken the kernel keeps ``backlog``."""
        self._server = await self._loop.create_server(
            self._first, sock=self._listener, backlog=backlog
        )

    def close(self) -> None:
        """Take no more."""
        if self._server is not None:
            self._server.close()

    def _first(self) -> asyncio.Protocol:
        """The protocol of a connection that the loop accepts; those behind it are accepted too."""
        for _ in range(_MOST_AT_ONCE - 1):
            try:
                one, _address = self._listener.accept()
            except OSError:  # nobody waits, one has gone again, or too many files are open:
                break  # the loop finds out which, and knows what to do
            task: asyncio.Task[object] = self._loop.create_task(self._served(one))
            self._taken.add(task)
            task.add_done_callback(self._taken.discard)
        return self._factory()

    async def _served(self, one: socket.socket) -> None:
        try:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                # uvloop does so for those that it accepts; small answers must not wait for more.
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._factory, one)
        except OSError:
            one.close()  # its client has gone
