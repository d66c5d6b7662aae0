"""An answer that comes in parts: sent as it is made, as fast as it is read.

In HTTP/1.1 the parts are chunks; in HTTP/1.0 the end of the connection is the end of the
answer. The next part is asked for when the one before has left for the client, so that a
slow client holds up its own answer and no memory. Whoever hangs up ends the making.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

Chunks = AsyncGenerator[bytes, None]


class Stream:
    """The sending of one answer.

    Args:
        chunks: makes the parts; closed in any case.
        part_seconds: how long one part may take to be made.
        total_seconds: how long the whole answer may take.
    """

    def __init__(self, chunks: Chunks, *, part_seconds: float, total_seconds: float) -> None:
        self._chunks = chunks
        self._part_seconds = part_seconds
        self._total_seconds = total_seconds
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        write: Callable[[bytes], None],
        ended: Callable[[BaseException | None], None],
        *,
        chunked: bool,
    ) -> None:
        """Begin; ``ended`` is told of the error that cut the answer short, or None."""

        def done(task: asyncio.Task[None]) -> None:
            ended(asyncio.CancelledError() if task.cancelled() else task.exception())

        self._task = asyncio.get_running_loop().create_task(self._send(write, chunked=chunked))
        self._task.add_done_callback(done)

    def close(self) -> None:
        """Make nothing more; what was not begun is closed as well."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._task = asyncio.get_running_loop().create_task(self._chunks.aclose())

    def hold(self) -> None:
        """Ask for no further part until ``release``."""
        self._writable.clear()

    def release(self) -> None:
        """Go on."""
        self._writable.set()

    async def _send(self, write: Callable[[bytes], None], *, chunked: bool) -> None:
        chunks = self._chunks
        try:
            async with asyncio.timeout(self._total_seconds):
                while True:
                    async with asyncio.timeout(self._part_seconds):
                        part = await anext(chunks, None)
                    if part is None:
                        break
                    if part:
                        write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    await asyncio.sleep(0)  # other requests, and the news that nobody reads
                    await self._writable.wait()
            if chunked:
                write(b"0\r\n\r\n")
        finally:
            await chunks.aclose()
