"""Artifacts: the files that runs and logged models carry, kept encrypted, each under a path.

All functions work in the caller's transaction. The bytes arrive before it, as a sealed
stream (``lake/streams.py``); here a path is given to them. Bytes that are kept under two
paths lie once, and go with the last path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic_core.core_schema import (
    CoreSchema,
    any_schema,
    plain_serializer_function_ser_schema,
)
from sqlalchemy import delete, func, or_, select

from falaj.kernel.binary import whole_of
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, Corrupt, InvalidInput, LimitExceeded, NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.lake.streams import Kept
from falaj.training.artifactbytes import drop_later, let_go, locked, replace
from falaj.training.artifactpaths import artifact_path
from falaj.training.artifacttables import dropped_rows, stream_rows
from falaj.training.model import Artifact, ArtifactEntry
from falaj.training.tables import artifact_rows

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.kernel.database import Database
    from falaj.lake.blobs import SealedBlobs
    from falaj.lake.streams import SealedStreams

MOST_AT_ONCE = 64 * 2**20
"""So many bytes are given or taken in one piece; more are streamed."""


@dataclass(frozen=True)
class Shelf:
    """Where paths of one kind of owner are kept."""

    kind: str
    """Of the owner, as the catalogue names it."""
    table: Table
    owner: str
    """The column that names the owner."""

    def of(self, owner: str) -> ColumnElement[bool]:
        """The rows of one owner."""
        return self.table.c[self.owner] == owner


RUNS = Shelf("run", artifact_rows, "run_id")


@dataclass(frozen=True)
class Hold:
    """A folder (or a file) of artifacts that must stay as it is.

    ``by`` says what needs it, in words for people.
    """

    path: str
    by: str


Held = Callable[["Connection", AssetRef], Sequence[Hold]]
"""What must stay of the artifacts of a run or a logged model."""


def nothing_held(_connection: Connection, _owner: AssetRef) -> Sequence[Hold]:
    """Where no registry is that needs a folder."""
    return ()


class ArtifactHeld(Conflict):
    """The artifact is part of a registered version, and stays as it is."""

    code = "artifact-held"


class ArtifactContent:
    """The bytes of one artifact, read when they are asked for.

    ``bytes(content)`` gives all of them, ``pieces`` streams them.
    """

    def __init__(
        self, artifact: Artifact, read: Callable[[int], Iterator[bytes | memoryview]]
    ) -> None:
        self.artifact = artifact
        self._read = read

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        """An answer of an action as it is; in JSON its bytes in base64."""
        return any_schema(
            serialization=plain_serializer_function_ser_schema(whole_of, when_used="json")
        )

    def __len__(self) -> int:
        return self.artifact.size

    def __bytes__(self) -> bytes:
        """All bytes, proven to be those of the digest.

        Raises:
            LimitExceeded: there are more than 64 MiB. Corrupt: they were changed.
        """
        if self.artifact.size > MOST_AT_ONCE:
            raise LimitExceeded(
                f"{self.artifact.path!r} has {self.artifact.size} bytes, which are too many for"
                " one answer.",
                hint="Download it through the routes of MLflow's API, which stream it.",
            )
        whole = b"".join(map(bytes, self.pieces()))
        if "sha256:" + hashlib.sha256(whole).hexdigest() != self.artifact.digest:
            raise _changed(self.artifact)
        return whole

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes | memoryview]:
        """The bytes from ``start`` up to, not including, ``end``.

        Each piece is valid until the next one is asked for; close the iterator if you leave
        it early.

        Raises:
            NotFound, Corrupt: as ``SealedStreams.read`` does, or fewer bytes are there.
        """
        left = (self.artifact.size if end is None else end) - start
        source = self._read(start)
        try:
            for piece in source:
                if len(piece) >= left:
                    if left:
                        yield piece[:left]
                    return
                left -= len(piece)
                yield piece
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        if left:
            raise _changed(self.artifact)


class Artifacts:
    """Paths and bytes of the artifacts of runs and logged models.

    Args:
        streams: holds what was uploaded.
        blobs: holds what trainers of the platform keep.
        shelves: every kind of owner; bytes go when none of them names them.
        held: tells what of an owner's artifacts must stay.
    """

    def __init__(
        self,
        streams: SealedStreams,
        blobs: SealedBlobs,
        shelves: Sequence[Shelf] = (RUNS,),
        held: Held = nothing_held,
    ) -> None:
        self._held = held
        self.streams = streams
        self._blobs = blobs
        self._shelves = shelves

    def listed(
        self, connection: Connection, shelf: Shelf, owner: str, path: str = ""
    ) -> list[ArtifactEntry]:
        """What lies directly in a folder, by path; nothing if it is none."""
        folder = artifact_path(path, empty=True)
        rows = connection.execute(select(shelf.table).where(shelf.of(owner), _below(shelf, folder)))
        skipped = len(folder) + 1 if folder else 0
        found: dict[str, ArtifactEntry] = {}
        for row in rows:
            name, slash, _ = row.path[skipped:].partition("/")
            whole = row.path[:skipped] + name
            if slash:
                found[whole] = ArtifactEntry(path=whole, is_folder=True)
            else:
                found[whole] = ArtifactEntry(path=whole, size=row.size, digest=row.digest)
        return [found[name] for name in sorted(found)]

    def all(
        self, connection: Connection, shelf: Shelf, owner: str, path: str = ""
    ) -> list[Artifact]:
        """Every artifact in a folder and below, by path."""
        folder = artifact_path(path, empty=True)
        rows = connection.execute(select(shelf.table).where(shelf.of(owner), _below(shelf, folder)))
        found = [Artifact(path=row.path, digest=row.digest, size=row.size) for row in rows]
        return sorted(found, key=lambda one: one.path)

    def content(
        self, connection: Connection, shelf: Shelf, owner: str, path: str
    ) -> ArtifactContent:
        """One artifact, to be read; raises NotFound, InvalidInput for what is no path."""
        row = connection.execute(
            select(shelf.table).where(shelf.of(owner), shelf.table.c.path == artifact_path(path))
        ).first()
        if row is None:
            raise _missing(shelf, owner, path)
        artifact = Artifact(path=row.path, digest=row.digest, size=row.size)
        stream = connection.execute(
            select(stream_rows.c.stream).where(stream_rows.c.digest == row.digest)
        ).scalar()
        if stream is None:
            return ArtifactContent(artifact, lambda start: self._of_blob(artifact, start))
        return ArtifactContent(artifact, lambda start: self.streams.read(stream, start=start))

    def _of_blob(self, artifact: Artifact, start: int) -> Iterator[bytes | memoryview]:
        yield memoryview(self._blobs.fetch(artifact.digest))[start:]

    def keep(
        self,
        call: Call,
        shelf: Shelf,
        owner: str,
        path: str,
        kept: Kept,
        *,
        replaces: bool = True,
    ) -> Artifact:
        """Give a path to bytes that have arrived; what was under it before is replaced.

        Args:
            replaces: False if what is there must stay; the same bytes again are good.

        Raises:
            InvalidInput: no path, or a file would stand in the place of a folder or the reverse.
            Conflict: other bytes are there, and must stay.
            ArtifactHeld: a registered version is made of the folder.
        """
        connection = call.connection
        self.check_place(connection, shelf, owner, path)
        artifact = Artifact(path=path, digest=kept.digest, size=kept.size)
        before = locked(connection, shelf.table, {shelf.owner: owner}, artifact)
        if before is not None and before != kept.digest and not replaces:
            raise Conflict(
                f"The artifact {path!r} of {owner} is there already, and the {_word(shelf)} has"
                " ended.",
                hint="What an ended run has kept stays as it is; use another path.",
            )
        self._hold(call, kept)
        if before is not None and before != kept.digest:
            replace(connection, shelf.table, {shelf.owner: owner}, artifact)
            self._let_go(call, [before])
        return artifact

    def remove(self, call: Call, shelf: Shelf, owner: str, path: str = "") -> int:
        """Remove an artifact, or a folder with all in it; returns how many artifacts went.

        Raises:
            NotFound: nothing is there.
            ArtifactHeld: a registered version is made of it.
        """
        whole = artifact_path(path, empty=True)
        self.check_free(call.connection, shelf, owner, whole)
        here = (shelf.of(owner), or_(shelf.table.c.path == whole, _below(shelf, whole)))
        removed = delete(shelf.table).where(*here).returning(shelf.table.c.digest)
        digests = list(call.connection.execute(removed).scalars())
        if not digests and path:
            raise _missing(shelf, owner, path)
        self._let_go(call, digests)
        return len(digests)

    def check_place(self, connection: Connection, shelf: Shelf, owner: str, path: str) -> None:
        """Return if a file may be kept under a path, as far as other files go.

        Raises:
            InvalidInput: no path, or a file would stand in the place of a folder or the reverse.
            ArtifactHeld: a registered version is made of the folder.
        """
        self._check_beside(connection, shelf, owner, artifact_path(path))
        self.check_free(connection, shelf, owner, path)

    def check_free(self, connection: Connection, shelf: Shelf, owner: str, path: str = "") -> None:
        """Return if nothing needs a path, what is below it, or a folder that it lies in.

        Raises:
            ArtifactHeld: a registered version does; says which.
        """
        for hold in self._held(connection, AssetRef(shelf.kind, owner)):
            if _within(path, hold.path) or _within(hold.path, path):
                raise ArtifactHeld(
                    f"The files in {hold.path or 'the whole folder'!r} of the {_word(shelf)}"
                    f" {owner} stay as they are: {hold.by} is made of them.",
                    hint="Log the changed model anew, and register that; or delete the version.",
                )

    def known(self, connection: Connection, streams: Sequence[str]) -> set[str]:
        """Of some ids of streams, those that an artifact needs."""
        column = stream_rows.c.stream
        return set(connection.execute(select(column).where(column.in_(streams))).scalars())

    def clear(self, database: Database) -> int:
        """Delete the bytes that lost their last path; returns how many streams went."""
        with database.reading() as connection:
            streams = list(connection.execute(select(dropped_rows.c.stream).limit(500)).scalars())
        for stream in streams:
            self.streams.drop(stream)
        if streams:
            with database.transaction() as connection:
                connection.execute(delete(dropped_rows).where(dropped_rows.c.stream.in_(streams)))
        return len(streams)

    def _hold(self, call: Call, kept: Kept) -> None:
        """Remember where the bytes lie; if they lie somewhere already, the new ones go."""
        values = {"digest": kept.digest, "stream": kept.stream, "size": kept.size}
        # Tried again when they were let go between the two statements.
        while not insert_if_absent(call.connection, stream_rows, values):
            # Locked, so that whoever lets the last path of these bytes go waits for this one.
            row = call.connection.execute(
                select(stream_rows.c.stream)
                .where(stream_rows.c.digest == kept.digest)
                .with_for_update()
            ).scalar()
            if row is not None:
                if row != kept.stream:
                    drop_later(call.connection, [kept.stream])
                return

    def _let_go(self, call: Call, digests: Iterable[str]) -> None:
        let_go(call.connection, digests, [shelf.table for shelf in self._shelves])

    @staticmethod
    def _check_beside(connection: Connection, shelf: Shelf, owner: str, path: str) -> None:
        parts = path.split("/")
        folders = ["/".join(parts[:n]) for n in range(1, len(parts))]
        taken = connection.execute(
            select(shelf.table.c.path).where(
                shelf.of(owner),
                or_(shelf.table.c.path.in_(folders), _below(shelf, path)),
            )
        ).first()
        if taken is None:
            return
        if taken.path in folders:
            raise InvalidInput(
                f"{path!r} cannot be kept: {taken.path!r} is a file, not a folder.",
                hint="Use another path, or remove the file first.",
            )
        raise InvalidInput(
            f"{path!r} cannot be kept as a file: it is a folder.",
            hint="Use another path, or remove the folder first.",
        )


def _below(shelf: Shelf, folder: str) -> ColumnElement[bool]:
    """The paths inside a folder. Not by LIKE, for which SQLite takes A and a for one."""
    path = shelf.table.c.path
    if not folder:
        return path != ""
    return func.substr(path, 1, len(folder) + 1) == folder + "/"


def _within(path: str, folder: str) -> bool:
    """True if a path is the folder, or lies in it."""
    return not folder or path == folder or path.startswith(folder + "/")


def _missing(shelf: Shelf, owner: str, path: str) -> NotFound:
    return NotFound(
        f"The {_word(shelf)} {owner} has no artifact {path[:200]!r}.",
        hint="List its artifacts to see what is there.",
    )


def _word(shelf: Shelf) -> str:
    return shelf.kind.replace("_", " ")


def _changed(artifact: Artifact) -> Corrupt:
    return Corrupt(
        f"The artifact {artifact.path!r} does not hold {artifact.digest}.",
        hint="Restore it from a backup; do not use it.",
    )
