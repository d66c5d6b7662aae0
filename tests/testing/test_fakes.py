"""The fakes keep the ports' promises: they pass the suites of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.door import face
from falaj.kernel.errors import Forbidden, NotFound, Unavailable
from falaj.kernel.outbox import outbox_events
from falaj.testing.calls import make_caller, make_door
from falaj.testing.conformance import AuditLogConformance, Keep, Kept, ResourcesConformance
from falaj.testing.fakes import DenyAll, MemoryAudit, MemoryNotifier, MemoryResources, RulePolicy


class TestMemoryResources(ResourcesConformance):
    @pytest.fixture
    def resources(self) -> MemoryResources:
        return MemoryResources()

    @pytest.fixture
    def keep(self, resources: MemoryResources) -> Keep:
        def keep(database: Database, ref: AssetRef, attributes: dict[str, str]) -> None:
            resources.known[ref] = attributes

        return keep


class TestMemoryAudit(AuditLogConformance):
    @pytest.fixture
    def audit(self) -> MemoryAudit:
        return MemoryAudit()

    @pytest.fixture
    def kept(self, audit: MemoryAudit) -> Kept:
        return lambda database: [entry.call_id for entry in audit.entries]


class Bells(Service):
    """Rings."""

    name = "bells"

    @action(post="/bells")
    def ring(self) -> int:
        """Ring once."""
        self.call.emit("bell.rung")
        return 1


def _rung(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(outbox_events)).scalar_one()


def test_a_door_of_fakes_serves_records_and_tells(sqlite_database: Database) -> None:
    audit = MemoryAudit()
    door = make_door(sqlite_database, [Bells()], audit=audit)
    assert face(Bells, door).ring() == 1
    assert [entry.action for entry in audit.entries] == ["bells.ring"]
    assert _rung(sqlite_database) == 1


def test_a_broken_audit_log_stops_the_work(sqlite_database: Database) -> None:
    audit = MemoryAudit()
    audit.broken = True
    with pytest.raises(Unavailable):
        face(Bells, make_door(sqlite_database, [Bells()], audit=audit)).ring()
    assert _rung(sqlite_database) == 0


@pytest.mark.parametrize("policy", [DenyAll(), RulePolicy(lambda *_: False)])
def test_a_policy_that_says_no_is_obeyed(sqlite_database: Database, policy: Any) -> None:
    with pytest.raises((Forbidden, NotFound)):
        face(Bells, make_door(sqlite_database, [Bells()], policy=policy)).ring()


def test_a_rule_sees_the_caller_and_the_action(sqlite_database: Database) -> None:
    policy = RulePolicy(
        lambda caller, name, resource, stepped_up: "ringer" in caller.principal.roles
    )
    caller = make_caller("service:bell", roles=["ringer"])
    assert face(Bells, make_door(sqlite_database, [Bells()], caller=caller, policy=policy)).ring()


def test_a_call_of_a_test_commits_its_events(
    database: Database, make_call: Callable[..., Any]
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with make_call(database, "user:omar", now=at) as call:
        call.emit("x.happened", n=1)
    assert (call.principal.name, call.now) == ("omar", at)
    assert _rung(database) == 1


def test_a_notifier_remembers() -> None:
    notifier = MemoryNotifier()
    notifier.notify("hello")
    assert notifier.sent == ["hello"]
