"""The newest step, read without Alembic, is the one that Alembic would run to."""

from pathlib import Path

from alembic.script import ScriptDirectory

import falaj
from falaj.kernel.database import Database
from falaj.kernel.schema import current, head, upgrade

STEPS = Path(falaj.__file__).parent / "migrations"


def test_the_newest_step_is_the_one_that_alembic_names():
    assert head(STEPS) == ScriptDirectory(str(STEPS)).get_current_head()


def test_an_empty_database_has_no_revision_and_an_upgraded_one_the_newest(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'falaj.db'}")
    assert current(database) is None
    upgrade(database, STEPS)
    assert current(database) == head(STEPS)
    database.close()
