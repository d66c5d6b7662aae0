"""What was where at an instant, and how it came to that: stages, aliases, deletions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.models.aliases import alias_moves
from falaj.models.model import Deletion, History, Stage
from falaj.models.reading import no_model
from falaj.models.tables import model_rows, version_rows

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.models.registry import Registry


def history(connection: Connection, registry: Registry, model: str, at: datetime) -> History:
    """The history of a model until an instant, with where its versions stood then.

    It is made from the moves alone, which are never changed; of a deleted model as well.

    Raises:
        NotFound: there never was such a model.
    """
    there = select(model_rows.c.name).where(model_rows.c.name == model)
    if connection.execute(there).first() is None:
        raise no_model(model)
    moves = registry.history(connection, model, at=at)
    deleted = deletions(connection, model, at)
    stages: dict[int, Stage] = {}
    for move in reversed(moves):
        if move.replaced is not None:
            stages[move.replaced] = Stage.ARCHIVED
        stages[move.version] = move.to_stage
    for one in deleted:
        stages.pop(one.version, None)
    aliases: dict[str, int] = {}
    of_aliases = list(alias_moves(connection, model, at=at))
    for step in reversed(of_aliases):
        if step.to_version is None:
            aliases.pop(step.alias, None)
        else:
            aliases[step.alias] = step.to_version
    standing = [number for number, stage in stages.items() if stage is Stage.PRODUCTION]
    return History(
        model=model,
        at=at,
        production=standing[0] if standing else None,
        staging=tuple(sorted(n for n, stage in stages.items() if stage is Stage.STAGING)),
        aliases=aliases,
        moves=moves,
        alias_moves=of_aliases,
        deletions=deleted,
    )


def deletions(connection: Connection, model: str, at: datetime) -> list[Deletion]:
    """The versions of a model that were deleted until an instant, the newest first."""
    rows = connection.execute(
        select(version_rows)
        .where(version_rows.c.model == model, version_rows.c.deleted_at <= at)
        .order_by(version_rows.c.deleted_at.desc(), version_rows.c.version.desc())
    )
    return [
        Deletion(
            model=model,
            version=row.version,
            at=row.deleted_at,
            by=row.deleted_by,
            reason=row.deletion_reason or "",
        )
        for row in rows
    ]
