"""Seven edits of the audit log by whoever owns the database; each is found over HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Table, delete, insert, select

from falaj.kernel.database import Database
from falaj.testing.audit import Tamperer
from falaj.testing.installations import ControlPlane, Installation, Person
from falaj.trust.audit_checkpoints import Checkpointer
from falaj.trust.audit_tables import audit_checkpoints, audit_records
from falaj.wiring.assembly import assemble


class Edited:
    """A platform whose log was signed three times, and its owner's hands on the database."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        with installation.near(stepped_up=True) as owner:
            link = owner.accounts.invite("nora", ["auditor"]).secret.get_secret_value()
        self.auditor: Person = installation.enrolled("nora", link)
        self.sizes = [self._signed() for _ in range(3)]
        self.database = Database(installation.settings.database_url)
        self.log = Tamperer(self.database)
        self._kept = {table: self._rows(table) for table in (audit_records, audit_checkpoints)}

    def _signed(self) -> int:
        """Do a few things, sign the log, and tell the witness; its size then."""
        with self.auditor.client() as web:
            for _ in range(4):
                assert web.get("/api/me").status_code == 200
        premises = assemble(self.installation.settings)
        try:
            signer = Checkpointer(
                premises.database,
                premises.checkpoints,
                clock=premises.clock,
                witness=premises.witness,
            )
            made = signer.run_once(force=True)
            assert made is not None
            return made.size
        finally:
            premises.close()

    def verified(self) -> dict[str, Any]:
        """What the auditor is told."""
        with self.auditor.client() as web:
            answer = web.post("/api/audit/verifications", json={})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def restore(self) -> None:
        """Put the log back as it was."""
        with self.database.transaction() as connection:
            for table, rows in self._kept.items():
                connection.execute(delete(table))
                connection.execute(insert(table), rows)

    def _rows(self, table: Table) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(select(table))]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edited]:
    installation = ControlPlane(tmp_path_factory.mktemp("edits") / "project")
    installation.init()
    installation.up()
    edited = Edited(installation)
    yield edited
    edited.database.close()
    installation.stop()


@pytest.fixture
def edited(platform: Edited) -> Iterator[Edited]:
    """The log as it was signed; put back afterwards."""
    assert platform.verified()["sound"]
    yield platform
    platform.restore()


def change(it: Edited) -> None:
    it.log.run("UPDATE audit_records SET principal = 'user:omar' WHERE seq = 3")


def remove(it: Edited) -> None:
    it.log.run("DELETE FROM audit_records WHERE seq = 3")


def add(it: Edited) -> None:
    it.log.move(4, 1)
    it.log.insert_record(4, principal="user:omar")


def reorder(it: Edited) -> None:
    for sql in (
        "UPDATE audit_records SET seq = 1000003 WHERE seq = 3",
        "UPDATE audit_records SET seq = 3 WHERE seq = 4",
        "UPDATE audit_records SET seq = 4 WHERE seq = 1000003",
    ):
        it.log.run(sql)


def truncate(it: Edited) -> None:
    it.log.run("DELETE FROM audit_records WHERE seq > :size", size=it.sizes[1])


def rechain(it: Edited) -> None:
    it.log.run("UPDATE audit_records SET principal = 'user:omar' WHERE seq = 3")
    it.log.rechain()


def roll_back(it: Edited) -> None:
    for table, column in (("audit_records", "seq"), ("audit_checkpoints", "size")):
        it.log.run(f"DELETE FROM {table} WHERE {column} > :size", size=it.sizes[0])


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (change, "altered"),
        (remove, "missing"),
        (add, "altered"),
        (reorder, "altered"),
        (truncate, "cut"),
        (rechain, "rechained"),
        (roll_back, "rolled-back"),
    ],
)
def test_each_edit_of_the_log_is_found_over_https(
    edited: Edited, edit: Callable[[Edited], None], kind: str
) -> None:
    edit(edited)
    found = edited.verified()
    assert not found["sound"]
    assert kind in {finding["kind"] for finding in found["findings"]}
    # And the finding is on record itself: the next verification tells it again.
    assert not edited.verified()["sound"]
