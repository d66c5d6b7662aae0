"""MLflow's routes for uploads in parts.

MLflow's client gets an address for each part (``addresses.py``) and goes there with nothing but
the headers that it gets beside it. They are those by which the caller has signed in, so that each
part is let in as any other request: as the same principal, who still may, and whose session was
not ended meanwhile.
"""

from __future__ import annotations

import ntpath
import time
from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.http import SOON_SECONDS
from falaj.interfaces.mlflow.addresses import address, read, signed_in, told
from falaj.interfaces.mlflow.artifacts import ArtifactRoutes, Place, place_of
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Raw
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import is_id, new_id
from falaj.lake.streams import Kept, SealedStreams
from falaj.training.artifactparts import MOST_PARTS, Receipts, Upload, is_made_of, joined

_PARTS = "mlflow-artifacts/mpu/"
_KIND = "upload"
_MOST_BODY_BYTES = 16 * 2**20
"""Of a list of 10,000 parts with their addresses and ETags."""


class PartRoutes:
    """The routes that begin, fill, complete and abort an upload.

    Args:
        files: lets callers in, and takes bodies.
        receipts: of parts that have arrived.
        streams: where they lie.
        most_bytes: of an artifact.
    """

    def __init__(
        self,
        files: ArtifactRoutes,
        receipts: Receipts,
        streams: Callable[[], SealedStreams],
        *,
        most_bytes: int,
    ) -> None:
        self._files = files
        self._receipts = receipts
        self._streams = streams
        self._most_bytes = most_bytes

    def raw(self) -> tuple[Raw, ...]:
        """The routes; each reads its body itself."""
        return (
            Raw("POST", _PARTS + "create/", self.create),
            Raw("PUT", _PARTS + "parts/", self.part),
            Raw("POST", _PARTS + "complete/", self.complete),
            Raw("POST", _PARTS + "abort/", self.abort),
        )

    async def create(self, request: Request, workspace: str, rest: str) -> Response:
        """Tell where each part of an upload goes; nothing is kept of it."""
        asked = await self._asked(request, workspace)
        place, named = _named(asked, rest)
        n_parts = asked.number("num_parts")
        if not 1 <= n_parts <= MOST_PARTS:
            raise InvalidInput(
                f"An upload has 1 to {MOST_PARTS:,} parts, not {n_parts:,}.",
                hint="Send larger parts: set MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE.",
            )
        await self._files.takes(asked, place)
        upload = new_id(_KIND)
        headers = signed_in(request)
        credentials = [
            {
                "url": address(request, f"{_PARTS}parts/{upload}/{number}/{named}"),
                "part_number": number,
                "headers": headers,
            }
            for number in range(1, n_parts + 1)
        ]
        return told({"upload_id": upload, "credentials": credentials})

    async def part(self, request: Request, workspace: str, rest: str) -> Response:
        """Take a part; its receipt is the answer's ETag."""
        asked = await self._files.asked(request, workspace)
        upload_id, _, rest = rest.partition("/")
        text, _, named = rest.partition("/")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PARTS):
            raise InvalidInput(
                f"{text[:20]!r} is no number of a part.",
                hint=f"It is one from 1 to {MOST_PARTS:,}.",
            )
        place = place_of(named)
        upload = _upload(asked, upload_id, place)
        await self._files.allowed(asked, place)
        kept = await self._files.received(request)
        receipt = self._receipts.give(upload, int(text), kept)
        return Response(headers={"ETag": f'"{receipt}"', "Cache-Control": "no-store"})

    async def complete(self, request: Request, workspace: str, rest: str) -> Response:
        """Put the parts together, and keep them as the artifact."""
        begun = time.monotonic()
        asked = await self._asked(request, workspace)
        place, _ = _named(asked, rest)
        upload = _upload(asked, asked.text("upload_id"), place)
        await self._files.allowed(asked, place)
        parts = await run_in_threadpool(self._taken, asked, upload)
        try:
            kept = await run_in_threadpool(
                joined, self._streams(), parts, most_bytes=self._most_bytes
            )
        except Conflict:
            # The client has not heard that it was completed, and asks again.
            if not await run_in_threadpool(_there, asked, place, parts):
                raise
            return told({})
        late = time.monotonic() - begun > SOON_SECONDS
        await self._files.named(request, asked, place, kept, again=late)
        for part in parts:
            await run_in_threadpool(self._streams().drop, part.stream)
        return told({})

    async def abort(self, request: Request, workspace: str, rest: str) -> Response:
        """Nothing: parts that are never named go by themselves."""
        asked = await self._asked(request, workspace)
        place, _ = _named(asked, rest)
        _upload(asked, asked.text("upload_id"), place)
        return told({})

    def _taken(self, asked: Asked, upload: Upload) -> list[Kept]:
        """The parts that a body names; of ten thousand that takes half a second."""
        named = [asked.within(one, "parts") for one in asked.several("parts")]
        receipts = [(one.number("part_number"), one.text("etag")) for one in named]
        return self._receipts.take(upload, receipts)

    async def _asked(self, request: Request, workspace: str) -> Asked:
        asked = await self._files.asked(request, workspace)
        return await read(request, asked, _MOST_BODY_BYTES)


def _named(asked: Asked, folder: str) -> tuple[Place, str]:
    """The artifact that a folder and the body's ``path`` name, and its path behind the route.

    Of ``path`` only what is behind the last slash or backslash counts: clients before 3.18 sent
    where the file lies on their machine.
    """
    name = ntpath.basename(asked.text("path"))
    if name in ("", ".", ".."):
        raise InvalidInput("The path names no file.", hint="Give the name of the file.")
    whole = f"{folder.rstrip('/')}/{name}"
    return place_of(whole), whole


def _upload(asked: Asked, upload_id: str, place: Place) -> Upload:
    if not is_id(upload_id, _KIND):
        raise InvalidInput(
            f"{upload_id[:80]!r} is no id of an upload.", hint="Begin an upload; use its id."
        )
    principal = asked.caller.principal.id
    return Upload(upload_id, principal, asked.workspace, place.service, place.owner, place.path)


def _there(asked: Asked, place: Place, parts: Sequence[Kept]) -> bool:
    """Whether the artifact is there, and made of these parts."""
    try:
        content = asked.call_here(f"{place.service}.fetch_artifact", **place.arguments())
    except NotFound:
        return False
    return is_made_of(content, parts)
