"""Retention: old records go into archives, the log still verifies, and archives prove them."""

from __future__ import annotations

import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Corrupt, FalajError, NotFound
from falaj.kernel.outbox import Outbox
from falaj.testing.audit import START, Tamperer, fill
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.witness_file import FileWitness
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_archive import read_archive
from falaj.trust.audit_checkpoints import PURPOSE, Checkpointer, Checkpoints
from falaj.trust.audit_model import FindingKind, Verification
from falaj.trust.audit_proofs import verify_record_proof
from falaj.trust.audit_retention import Retention
from falaj.trust.audit_tables import audit_horizons, audit_records
from falaj.trust.audit_verification import Verifier


class World:
    """A log of 40 records, one a second; signed at 10, 20, 30 and 40."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder / "archive"
        self.clock = SetClock(START)
        seal = MachineSeal.create(folder / "seal")
        keys = FileKeyring.create(folder / "keys.json", seal, clock=SystemClock())
        self.checkpoints = Checkpoints(keys)
        self.witness = FileWitness(folder / "witness")
        self.signer = Checkpointer(
            database, self.checkpoints, clock=self.clock, witness=self.witness
        )
        for first in (1, 11, 21, 31):
            fill(database, 10, first=first)
            self.signer.run_once(force=True)
        calls = Calls(database, SqlAuditLog(), Outbox(), self.clock)
        self.retention = Retention(
            database,
            self.checkpoints,
            calls.opened,
            folder=self.folder,
            keep_for=timedelta(seconds=60),
            clock=self.clock,
        )

    def run(self, seconds: int) -> Any:
        """Look at an instant after the start."""
        self.clock.move(START + timedelta(seconds=seconds) - self.clock.now())
        return self.retention.run_once()

    def verified(self) -> Verification:
        with self.database.reading() as connection:
            return Verifier(self.checkpoints, witness=self.witness).verify(connection)

    def numbers(self) -> list[int]:
        with self.database.reading() as connection:
            query = select(audit_records.c.seq).order_by(audit_records.c.seq)
            return list(connection.execute(query).scalars())

    @property
    def key(self) -> bytes:
        return next(iter(self.checkpoints.keys.public_keys(PURPOSE).values()))


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


def kinds(found: Verification) -> list[FindingKind]:
    return [one.kind for one in found.findings]


def test_nothing_goes_before_it_is_old_enough(world: World) -> None:
    assert world.run(60) is None
    assert world.numbers() == list(range(1, 41))
    assert not world.folder.exists()


def test_old_records_go_up_to_a_checkpoint_and_the_log_still_verifies(world: World) -> None:
    horizon = world.run(85)  # the first 24 are older than a minute
    assert horizon.size == 20
    assert world.numbers() == list(range(21, 42))  # with the record of the archiving itself
    found = world.verified()
    assert found.sound, found.findings
    assert (found.archived, found.n_records, found.signed) == (20, 21, 40)
    with world.database.reading() as connection:
        last = SqlAuditLog().get(connection, 41)
    assert last.action == "audit.archive"
    assert last.arguments["sha256"] == horizon.digest


def test_the_log_goes_on_behind_its_horizon(world: World) -> None:
    world.run(85)
    fill(world.database, 10, first=42)
    world.signer.run_once(force=True)
    horizon = world.run(95)
    assert horizon.size == 30
    assert world.verified().sound
    assert sorted(file.name for file in world.folder.iterdir()) == [
        "audit-000000000001-000000000020.jsonl.gz",
        "audit-000000000021-000000000030.jsonl.gz",
    ]


def test_an_archive_proves_each_of_its_records(world: World) -> None:
    with world.database.reading() as connection:
        before = {seq: world.checkpoints.record_proof(connection, seq) for seq in range(1, 31)}
    world.run(85)
    fill(world.database, 1, first=42)
    world.run(95)
    for name, numbers in (("001-000000000020", range(1, 21)), ("021-000000000030", range(21, 31))):
        archive = read_archive(
            world.folder / f"audit-000000000{name}.jsonl.gz", public_key=world.key
        )
        for seq in numbers:
            proof = archive.proof(seq)
            verify_record_proof(proof, public_key=world.key)
            assert (proof.record, proof.previous) == (before[seq].record, before[seq].previous)
    with pytest.raises(NotFound, match="21 to 30"):
        archive.proof(20)


def test_records_behind_the_horizon_are_proven_as_before(world: World) -> None:
    world.run(85)
    with world.database.reading() as connection:
        for seq in (21, 30, 40):
            verify_record_proof(world.checkpoints.record_proof(connection, seq))
        with pytest.raises(NotFound, match="archive"):
            world.checkpoints.record_proof(connection, 20)
        with pytest.raises(NotFound, match="archive"):
            world.checkpoints.consistency_proof(connection, 10, 40)
        world.checkpoints.consistency_proof(connection, 30, 40)


def test_a_crash_between_horizon_and_deletion_is_made_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(world.retention, "_let_go", lambda _horizon: None)
        world.run(85)
    assert world.numbers()[0] == 1
    assert world.verified().sound
    assert world.run(85) is None
    assert world.numbers()[0] == 21
    assert world.verified().sound


def test_a_tampered_log_is_not_archived(world: World) -> None:
    Tamperer(world.database).run("UPDATE audit_records SET principal = 'x' WHERE seq = 5")
    with pytest.raises(Corrupt):
        world.run(85)
    assert world.numbers() == list(range(1, 41))


def test_an_archive_that_cannot_be_written_lets_nothing_go(world: World) -> None:
    world.folder.write_text("no folder")
    with pytest.raises(FalajError):
        world.run(85)
    assert world.numbers() == list(range(1, 41))


# Attacks.


@pytest.mark.parametrize("seq", [21, 40])
def test_the_database_lets_go_of_nothing_behind_the_horizon(world: World, seq: int) -> None:
    world.run(85)
    with pytest.raises(DBAPIError), world.database.transaction() as connection:
        connection.execute(delete(audit_records).where(audit_records.c.seq == seq))
    with pytest.raises(DBAPIError), world.database.transaction() as connection:
        connection.execute(update(audit_records).values(principal="x"))
    with pytest.raises(DBAPIError), world.database.transaction() as connection:
        connection.execute(delete(audit_horizons))


def test_a_horizon_that_nobody_signed_is_found(world: World) -> None:
    with world.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO audit_horizons (size, statement, key_id, algorithm, signature) "
                "SELECT size, statement, key_id, algorithm, signature FROM audit_checkpoints "
                "WHERE size = 30"
            )
        )
        connection.execute(delete(audit_records).where(audit_records.c.seq <= 30))
    found = world.verified()
    assert not found.sound
    assert FindingKind.CHECKPOINT in kinds(found)
    assert FindingKind.MISSING in kinds(found)


def test_records_let_go_without_a_horizon_are_found(world: World) -> None:
    world.run(85)
    log = Tamperer(world.database)
    log.run("DELETE FROM audit_records WHERE seq = 21")
    assert FindingKind.MISSING in kinds(world.verified())


def test_a_changed_archive_is_found(world: World) -> None:
    world.run(85)
    (path,) = world.folder.iterdir()
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    for at, changed in (
        (5, lines[5].replace(b"user:u", b"user:v")),
        (5, None),
        (0, lines[0].replace(b'"after":0', b'"after":1')),
        (-2, lines[-2].replace(b"20", b"21")),
    ):
        edited = list(lines)
        if changed is None:
            del edited[at]
        else:
            assert changed != lines[at]
            edited[at] = changed
        other = path.with_name("other.gz")
        other.write_bytes(gzip.compress(b"\n".join(edited)))
        with pytest.raises(Corrupt):
            read_archive(other, public_key=world.key)
    other.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Corrupt):
        read_archive(other)
    with pytest.raises(Corrupt):
        read_archive(path, public_key=bytes(32))
