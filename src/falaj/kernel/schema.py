"""Brings the metadata database to the schema that this version of Falaj needs.

Every process asks at its start whether the schema is the newest. Alembic takes a quarter
of a second to import, so it is only when there is something to do.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, text

from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection


class SchemaNewer(Conflict):
    """The database was written by a newer version of Falaj."""

    code = "schema-newer"


def upgrade(database: Database, steps: Path) -> str:
    """Run the steps that the database lacks, all in one transaction; returns the revision.

    Args:
        database: the metadata database; may be empty.
        steps: the folder of the migration steps.

    Raises:
        SchemaNewer: its revision is unknown here; nothing is changed.
    """
    from alembic import command

    with database.transaction() as connection:
        _check_known(connection, steps)
        command.upgrade(_config(connection, steps), "head")
    return head(steps)


def head(steps: Path) -> str:
    """The newest revision that this version of Falaj knows: the one that no step follows.

    Raises:
        ValueError: the steps are not one line.
    """
    found = [_named(file) for file in sorted((steps / "versions").glob("[0-9]*.py"))]
    followed = {before for _, before in found}
    (newest,) = {revision for revision, _ in found} - followed
    return str(newest)


def _named(step: Path) -> tuple[Any, Any]:
    """The ``revision`` and the ``down_revision`` that a step's file assigns."""
    told = {
        target.id: statement.value.value
        for statement in ast.parse(step.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return told["revision"], told["down_revision"]


def current(database: Database) -> str | None:
    """The revision that the database has, or None for an empty one."""
    with database.reading() as connection:
        return _revision(connection)


def differences(database: Database) -> list[Any]:
    """What the database lacks or has too much, compared with the declared tables."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from falaj.kernel.database import metadata

    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _check_known(connection: Connection, steps: Path) -> None:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    revision = _revision(connection)
    if revision is None:
        return
    try:
        ScriptDirectory(str(steps)).get_revision(revision)
    except CommandError:
        raise SchemaNewer(
            f"The database has the schema {revision}, which this version of Falaj does not know.",
            hint="Install the version of Falaj that wrote it, or a newer one.",
        ) from None


def _config(connection: Connection, steps: Path) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(steps))
    config.attributes["connection"] = connection
    return config
