"""Files over HTTP: bodies into sealed streams and out of them, with memory that stays flat.

The event loop only moves bytes; hashing, encryption and the disk are work of a thread, one
piece at a time, so that neither a slow client nor a slow disk holds a thread or a transaction.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from falaj.kernel.errors import InvalidInput, LimitExceeded
from falaj.kernel.settings_artifacts import ArtifactSettings
from falaj.lake.streams import Incoming, Kept, SealedStreams, abandoned
from falaj.training.artifacts import ArtifactContent

_PIECE = 2 * 2**20
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_CHECK_SECONDS = 30.0


class Transfers:
    """Takes bodies of requests in.

    Args:
        streams: where they go.
        limits: how large, and how slow.
    """

    def __init__(self, streams: Callable[[], SealedStreams], limits: ArtifactSettings) -> None:
        self._streams = streams
        self._limits = limits

    async def received(self, request: Request, still_good: Callable[[], None]) -> Kept:
        """The body of a request as a sealed stream.

        Args:
            still_good: raises if the caller may no longer send; asked every 30 seconds.

        Raises:
            LimitExceeded: it is too large or too slow, or the disk is full.
            InvalidInput: the client broke it off.

        In every case but success nothing of it is left.
        """
        self._check_length(request)
        incoming = await run_in_threadpool(self._streams().begin)
        try:
            await self._filled(incoming, request, still_good)
            return await run_in_threadpool(incoming.finish)
        finally:
            # After ``finish`` this does nothing; it is no work of a thread, so that it is done
            # even where this task is being cancelled.
            abandoned(incoming)

    def drop(self, stream: str) -> None:
        """Delete a stream that got no name."""
        self._streams().drop(stream)

    async def _filled(
        self, incoming: Incoming, request: Request, still_good: Callable[[], None]
    ) -> None:
        """Write all of a body; one piece is sealed while the next one arrives."""
        clock = asyncio.get_running_loop().time
        checked = clock()
        waiting = bytearray()
        arrived = 0
        sealing: asyncio.Task[int] | None = None
        try:
            async for part in self._parts(request):
                waiting += part
                arrived += len(part)
                if arrived > self._limits.max_bytes:
                    raise self._too_large()
                if clock() - checked > _CHECK_SECONDS:
                    checked = clock()
                    await run_in_threadpool(still_good)
                if len(waiting) >= _PIECE:
                    if sealing is not None:
                        await sealing
                    sealing = asyncio.create_task(
                        run_in_threadpool(incoming.write, memoryview(waiting))
                    )
                    waiting = bytearray()
            if sealing is not None:
                await sealing
                sealing = None
            if waiting:
                await run_in_threadpool(incoming.write, memoryview(waiting))
        finally:
            if sealing is not None:  # its thread must be done before what it writes is removed
                await asyncio.shield(asyncio.gather(sealing, return_exceptions=True))

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        parts = request.stream().__aiter__()
        seconds = self._limits.idle_seconds
        while True:
            try:
                async with asyncio.timeout(seconds):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise InvalidInput(
                    "The upload was broken off; nothing of it is kept.", hint="Send it again."
                ) from None
            except TimeoutError:
                raise LimitExceeded(
                    f"Nothing of the upload arrived for {seconds:g} seconds.",
                    hint="Send it again, or raise the setting artifacts.idle_seconds.",
                    refused="body-too-slow",
                ) from None
            yield part

    def _check_length(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._limits.max_bytes:
            raise self._too_large()

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"The artifact is larger than {self._limits.max_bytes} bytes.",
            hint="Raise the setting artifacts.max_bytes.",
            refused="body-too-large",
        )


async def sent(content: ArtifactContent, request: Request) -> Response:
    """An answer that streams an artifact, or the range of it that the request names.

    Raises:
        Corrupt, NotFound: the first bytes cannot be read. What is wrong further on breaks the
            connection before the announced length is reached, so that the client notices.
    """
    size = content.artifact.size
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{content.artifact.digest}"',
        "Content-Disposition": "attachment",
    }
    asked = _range(request.headers, size, headers["ETag"])
    if asked is not None and asked[0] >= asked[1]:
        headers["Content-Range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers)
    start, end = asked or (0, size)
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    source = content.pieces(start, end)
    first = await run_in_threadpool(_next, source)
    return StreamingResponse(
        flowing(first, source),
        status_code=200 if asked is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )


async def flowing(first: bytes, source: Iterator[bytes | memoryview]) -> AsyncIterator[bytes]:
    """The pieces; one is made by a thread while the one before it is on its way to the client."""
    coming: asyncio.Task[bytes] | None = None
    try:
        piece = first
        while piece:
            coming = asyncio.create_task(run_in_threadpool(_next, source))
            yield piece
            piece = await coming
            coming = None
    finally:
        if coming is not None:
            await asyncio.shield(asyncio.gather(coming, return_exceptions=True))
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _next(source: Iterator[bytes | memoryview]) -> bytes:
    """A copy of the next piece, which is good for longer; empty at the end."""
    return bytes(next(source, b""))


def _range(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """The range (from, up to) of ``Range: bytes=…``; None for all (RFC 9110, 14.2).

    More than one range, or none that makes sense, is answered with the whole.
    """
    match = _RANGE.match(headers.get("range", "").strip())
    if match is None or headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if len(first) > 18 or len(last) > 18 or not (first or last):
        return None
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
