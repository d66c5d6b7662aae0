"""Brings the metadata database to the schema that this version of Falaj needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """The newest revision that this version of Falaj knows."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(steps)).get_current_head() or ""


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
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


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
