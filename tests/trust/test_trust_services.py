"""The actions `audit.*` and `keys.*`, through the door, on the real log."""

from datetime import UTC, datetime

import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.door import face
from falaj.kernel.errors import Conflict, NotFound, StepUpRequired
from falaj.kernel.jobs import Jobs
from falaj.kernel.outbox import outbox_events
from falaj.kernel.ports import Outcome
from falaj.testing.audit import Tamperer
from falaj.testing.calls import make_caller, make_door
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpoints
from falaj.trust.audit_proofs import verify_consistency_proof, verify_record_proof
from falaj.trust.audit_service import Audit
from falaj.trust.audit_verification import Verifier
from falaj.trust.key_uses import KeyUses
from falaj.trust.keys_service import Keys

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.fixture
def keyring(tmp_path):
    seal = MachineSeal.create(tmp_path / "secret")
    return FileKeyring.create(tmp_path / "keys.json", seal, clock=SetClock(NOW))


@pytest.fixture
def door(database, keyring, tmp_path):
    log, checkpoints = SqlAuditLog(), Checkpoints(keyring)
    jobs = Jobs(database, SetClock(NOW))
    uses = KeyUses(tmp_path / "uses", process="test", clock=SetClock(NOW))
    services = [Audit(log, checkpoints, Verifier(checkpoints)), Keys(keyring, jobs, log, uses)]
    caller = make_caller("user:omar", mfa_at=NOW)
    return make_door(database, services, caller=caller, audit=log, clock=SetClock(NOW))


@pytest.fixture
def audit(door):
    return face(Audit, door)


def test_every_call_leaves_one_record_that_search_finds(audit, door):
    keys = face(Keys, door)
    keys.list()
    made = keys.rotate("wrapping")
    assert made.version == 2
    with pytest.raises(NotFound, match="There are: wrapping"):
        keys.rotate("no-such-purpose")
    page = audit.search(principal="user:omar")
    told = [(record.action, record.resource, record.outcome) for record in page.records]
    assert told == [
        ("keys.rotate", "key:no-such-purpose", Outcome.FAILED),
        ("keys.rotate", "key:wrapping", Outcome.DONE),
        ("keys.list", "platform:*", Outcome.DONE),
    ]
    assert page.records[1].details == {"job": made.job, "key_id": made.id, "version": 2}
    assert audit.get(2) == page.records[1]
    with pytest.raises(NotFound):
        audit.get(99)


def test_keys_are_listed_without_their_secrets(door, keyring):
    keyring.sign("audit", b"m")
    listed = face(Keys, door).list()
    assert {item.purpose for item in listed} == {"audit", "wrapping"}
    assert set(listed[0].model_dump()) == {
        "id",
        "purpose",
        "version",
        "algorithm",
        "created_at",
        "state",
    }


def test_a_rotation_needs_a_fresh_second_factor(door):
    stale = face(Keys, door.as_(make_caller("user:omar")))
    with pytest.raises(StepUpRequired):
        stale.rotate("wrapping")
    assert [item.version for item in stale.list()] == [1]


def test_a_whole_log_verifies_and_a_changed_one_does_not(audit, database):
    with pytest.raises(Conflict, match="empty"):
        audit.checkpoint()
    for _ in range(3):
        audit.search()
    made = audit.checkpoint()
    assert made.size == 4
    assert audit.verify().sound
    Tamperer(database).run("UPDATE audit_records SET principal = 'user:x' WHERE seq = 2")
    found = audit.verify()
    assert (found.sound, found.findings[0].seq) == (False, 2)
    with database.reading() as connection:
        events = connection.execute(outbox_events.select()).all()
    assert [(event.type, event.payload["seq"]) for event in events] == [("audit.unsound", 2)]
    assert audit.search(action="audit.verify").records[0].details["sound"] is False


def test_proofs_come_through_the_door_and_stand_alone(audit):
    audit.search()
    with pytest.raises(Conflict):
        audit.proof(1)
    old = audit.checkpoint()
    new = audit.checkpoint()
    verify_record_proof(audit.proof(1))
    verify_consistency_proof(audit.consistency(old.size, new.size))
