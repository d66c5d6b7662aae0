"""Artifacts that arrive in parts: each part a sealed stream, put together when all are there.

Nothing is written down before that. Who sends a part is given a *receipt*, which holds where the
part lies, sealed for this sender, this upload and this artifact; who completes the upload brings
the receipts of all parts. Parts of an upload that is never completed are streams that nobody
names, which ``SealedStreams.sweep`` removes after a day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from falaj.kernel.errors import Conflict, Corrupt, InvalidInput, LimitExceeded, NotFound
from falaj.lake.streams import Kept, SealedStreams
from falaj.training.artifacts import ArtifactContent
from falaj.training.sealedtexts import SealedTexts

PURPOSE = "artifact-parts"
"""Of the key, at the key service."""
MOST_PARTS = 10_000
"""Of one upload, as with S3."""
_LONGEST_RECEIPT = 1_000


@dataclass(frozen=True)
class Upload:
    """Who sends which artifact in parts.

    Attributes:
        id: chosen at its beginning; receipts of one upload are worth nothing in another.
        principal: who may send parts and complete it.
        workspace, kind, owner, path: of the artifact.
    """

    id: str
    principal: str
    workspace: str
    kind: str
    owner: str
    path: str

    @property
    def about(self) -> str:
        """All of it, as what receipts are bound to."""
        return json.dumps(astuple(self))


class Receipts:
    """Gives receipts of parts out and takes them back.

    Args:
        key: gives 32 bytes, the same in every process of a platform.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._texts = SealedTexts(key, PURPOSE)

    def give(self, upload: Upload, number: int, part: Kept) -> str:
        """The receipt of a part."""
        told = json.dumps([number, part.stream, part.digest, part.size])
        return self._texts.close(told, upload.about)

    def take(self, upload: Upload, receipts: Sequence[tuple[int, str]]) -> list[Kept]:
        """The parts of an upload in order, by their numbers and receipts.

        Raises:
            InvalidInput: a receipt is none of this upload's, or of another number; a number
                stands twice, or is missing between 1 and the greatest.
        """
        if not 1 <= len(receipts) <= MOST_PARTS:
            raise InvalidInput(
                f"An upload has 1 to {MOST_PARTS:,} parts, not {len(receipts):,}.",
                hint="Name each part that was sent, with its number and ETag.",
            )
        parts: dict[int, Kept] = {}
        for number, receipt in receipts:
            if number in parts:
                raise InvalidInput(f"Part {number} stands twice.", hint="Name each part once.")
            parts[number] = self._part(upload, number, receipt)
        missing = [number for number in range(1, len(parts) + 1) if number not in parts]
        if missing:
            raise InvalidInput(
                f"Part {missing[0]} is missing.", hint="Send it, then name it with its ETag."
            )
        return [parts[number] for number in sorted(parts)]

    def _part(self, upload: Upload, number: int, receipt: str) -> Kept:
        try:
            told = self._texts.open(receipt.strip('"')[:_LONGEST_RECEIPT], upload.about)
        except ValueError:
            raise InvalidInput(
                f"The ETag of part {number} is not one that was given for it.",
                hint="Name the parts of this upload with the ETags that were answered.",
            ) from None
        said, stream, digest, size = json.loads(told)
        if said != number:
            raise InvalidInput(
                f"The ETag of part {number} is that of part {said}.",
                hint="Name each part with its own ETag.",
            )
        return Kept(stream, digest, size)


def joined(streams: SealedStreams, parts: Sequence[Kept], *, most_bytes: int) -> Kept:
    """The bytes of all parts, one after the other, as one stream; in constant memory.

    Raises:
        LimitExceeded: they are more than ``most_bytes``, or the disk is full.
        Conflict: a part is not there any more.
        Corrupt: a part was changed or cut.
    """
    size = sum(part.size for part in parts)
    if size > most_bytes:
        raise LimitExceeded(
            f"The parts have {size:,} bytes together, and an artifact at most {most_bytes:,}.",
            hint="Raise the setting artifacts.max_bytes.",
        )
    incoming = streams.begin()
    try:
        for number, part in enumerate(parts, 1):
            before = incoming.size
            try:
                for piece in streams.read(part.stream):
                    incoming.write(piece)
            except NotFound:
                raise Conflict(
                    f"Part {number} is not there any more.",
                    hint="Parts are kept for a day; send all of them again.",
                ) from None
            if incoming.size - before != part.size:
                raise Corrupt(
                    f"Part {number} has {incoming.size - before} bytes, not {part.size}.",
                    hint="Send all parts again.",
                )
        return incoming.finish()
    finally:
        incoming.abandon()


def is_made_of(content: ArtifactContent, parts: Sequence[Kept]) -> bool:
    """Whether an artifact has the bytes of these parts, told by their digests."""
    if len(content) != sum(part.size for part in parts):
        return False
    start = 0
    for part in parts:
        seen = hashlib.sha256()
        for piece in content.pieces(start, start + part.size):
            seen.update(piece)
        if part.digest != "sha256:" + seen.hexdigest():
            return False
        start += part.size
    return True
