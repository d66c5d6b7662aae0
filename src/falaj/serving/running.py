"""Runs a front in a process of its own, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.serving.front import Front

if TYPE_CHECKING:
    import socket
    import ssl

    from falaj.serving.requests import Application


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
        if threading.current_thread() is threading.main_thread():
            # What a server holds from its start is no garbage; it need not be looked at again.
            gc.collect()
            gc.freeze()
        try:
            ready()
            await stopped.wait()
            if drained.is_set():
                await front.leave(linger_seconds)
        finally:
            await front.close(grace_seconds=grace_seconds)

    uvloop.run(served())
