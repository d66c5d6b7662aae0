"""Models and versions as they stand, put together from their rows in a few queries for many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select, tuple_

from falaj.kernel.errors import NotFound
from falaj.models.model import Model, ModelVersion, Stage
from falaj.models.tables import (
    alias_rows,
    model_rows,
    report_rows,
    tag_rows,
    version_rows,
    version_tag_rows,
)

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

ALIVE = model_rows.c.deleted_at.is_(None)
"""Of models that were not deleted."""
PRESENT = version_rows.c.deleted_at.is_(None)
"""Of versions that were not deleted."""
_CHUNK = 200
_ELSEWHERE = frozenset({"gates_passed", "tags", "aliases"})


def no_model(name: str) -> NotFound:
    """What to raise where there is no model of that name."""
    return NotFound(f"There is no model {name!r}.", hint="`falaj models list` shows all.")


def assembled_models(connection: Connection, rows: Sequence[Row[Any]]) -> list[Model]:
    """The models of rows of ``models``, in the same order, with tags and aliases."""
    names = [row.name for row in rows]
    at: dict[tuple[str, str], int] = {}
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    aliases: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for chunk in _chunks(names):
        staged = connection.execute(
            select(version_rows.c.model, version_rows.c.version, version_rows.c.stage)
            .where(
                version_rows.c.stage.in_([Stage.PRODUCTION, Stage.STAGING]),
                version_rows.c.model.in_(chunk),
                PRESENT,
            )
            .order_by(version_rows.c.version)
        )
        at |= {(row.model, row.stage): row.version for row in staged}
        for row in _of_models(connection, tag_rows, chunk):
            tags[row.model][row.key] = row.value
        for row in _of_models(connection, alias_rows, chunk):
            aliases[row.model][row.alias] = row.version
    return [
        Model(
            name=row.name,
            created_at=row.created_at,
            latest=row.latest,
            production=at.get((row.name, Stage.PRODUCTION)),
            staging=at.get((row.name, Stage.STAGING)),
            description=row.description or "",
            tags=tags[row.name],
            aliases=aliases[row.name],
            updated_at=row.updated_at or row.created_at,
        )
        for row in rows
    ]


def assembled_versions(connection: Connection, rows: Sequence[Row[Any]]) -> list[ModelVersion]:
    """The versions of rows of ``model_versions``, in the same order, with what others keep."""
    keys = [(row.model, row.version) for row in rows]
    tags: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    aliases: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    passed: dict[tuple[str, int], bool] = {}
    for chunk in _chunks(keys):
        for row in _of_versions(connection, version_tag_rows, chunk, "key"):
            tags[row.model, row.version][row.key] = row.value
        for row in _of_versions(connection, alias_rows, chunk, "alias"):
            aliases[row.model, row.version].append(row.alias)
        for row in _of_versions(connection, report_rows, chunk, "at", "id"):
            passed[row.model, row.version] = row.passed
    found = []
    for row in rows:
        key = (row.model, row.version)
        values = {name: getattr(row, name) for name in set(ModelVersion.model_fields) - _ELSEWHERE}
        for text in ("bundle", "description", "source", "source_run", "run_link"):
            values[text] = values[text] or ""
        values["updated_at"] = values["updated_at"] or row.created_at
        found.append(
            ModelVersion(
                **values,
                gates_passed=passed.get(key),
                tags=tags[key],
                aliases=tuple(aliases[key]),
            )
        )
    return found


def _chunks(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _of_models(connection: Connection, table: Table, names: Sequence[str]) -> list[Row[Any]]:
    query = select(table).where(table.c.model.in_(names)).order_by(*table.primary_key.columns)
    return list(connection.execute(query).all())


def _of_versions(
    connection: Connection, table: Table, keys: Sequence[tuple[str, int]], *order: str
) -> list[Row[Any]]:
    query = select(table).where(tuple_(table.c.model, table.c.version).in_(keys))
    return list(connection.execute(query.order_by(*(table.c[name] for name in order))).all())
