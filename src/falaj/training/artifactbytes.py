"""Which bytes a path of an artifact names: put under it, and let go when no path names them.

All functions work in the caller's transaction. Paths are locked before the bytes that they
name, so that two who write the same path do not wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from falaj.kernel.insertion import insert_if_absent
from falaj.training.artifacttables import dropped_rows, stream_rows
from falaj.training.loggedmodeltables import logged_artifact_rows
from falaj.training.tables import artifact_rows

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

    from falaj.training.model import Artifact

PATHS: Sequence[Table] = (artifact_rows, logged_artifact_rows)
"""The tables of paths, of every kind of owner."""


def locked(
    connection: Connection, table: Table, owner: Mapping[str, Any], artifact: Artifact
) -> str | None:
    """Lock a path; gives the digest that stands under it, or None if it was put there now.

    Args:
        table: of the paths of one kind of owner.
        owner: the column that names the owner, and its value.
    """
    values = {"path": artifact.path, "digest": artifact.digest, "size": artifact.size}
    here = [table.c[name] == value for name, value in {**owner, "path": artifact.path}.items()]
    while not insert_if_absent(connection, table, {**owner, **values}):
        # Locked, so that it is what the one before has committed, whose bytes are to go.
        before = connection.execute(select(table.c.digest).where(*here).with_for_update()).scalar()
        if before is not None:
            return str(before)
    return None


def replace(
    connection: Connection, table: Table, owner: Mapping[str, Any], artifact: Artifact
) -> None:
    """Have a path that is ``locked`` name other bytes."""
    here = [table.c[name] == value for name, value in {**owner, "path": artifact.path}.items()]
    connection.execute(
        update(table).where(*here).values(digest=artifact.digest, size=artifact.size)
    )


def log_to_run(connection: Connection, run_id: str, artifacts: Iterable[Artifact]) -> None:
    """Give paths of a run to bytes; those that a path named before are let go."""
    owner, gone = {"run_id": run_id}, []
    # Sorted, so that two calls do not wait for each other in a circle.
    for artifact in sorted(artifacts, key=lambda one: one.path):
        before = locked(connection, artifact_rows, owner, artifact)
        if before is not None and before != artifact.digest:
            replace(connection, artifact_rows, owner, artifact)
            gone.append(before)
    let_go(connection, gone)


def let_go(connection: Connection, digests: Iterable[str], paths: Sequence[Table] = PATHS) -> None:
    """Forget where bytes lie that no path names any more; they go after the commit."""
    for digest in sorted(set(digests)):
        here = stream_rows.c.digest == digest
        stream = connection.execute(
            select(stream_rows.c.stream).where(here).with_for_update()
        ).scalar()
        if stream is None or any(_names(connection, table, digest) for table in paths):
            continue
        connection.execute(delete(stream_rows).where(here))
        drop_later(connection, [stream])


def drop_later(connection: Connection, streams: Iterable[str]) -> None:
    """Have streams deleted after the commit, by ``Artifacts.clear``."""
    for stream in streams:
        insert_if_absent(connection, dropped_rows, {"stream": stream})


def _names(connection: Connection, table: Table, digest: str) -> bool:
    query = select(table.c.path).where(table.c.digest == digest).limit(1)
    return connection.execute(query).first() is not None
