"""Calls and doors for tests: a transaction as some principal, a platform of some services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from falaj.kernel.actions import Service
from falaj.kernel.call import Call, Caller, Principal, PrincipalKind
from falaj.kernel.clock import Clock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.door import Backend, LocalDoor, Services
from falaj.kernel.outbox import Outbox
from falaj.kernel.ports import AuditLog, Policy, Resources
from falaj.kernel.telemetry import Telemetry
from falaj.testing.fakes import AllowAll, MemoryAudit, MemoryResources


def make_caller(
    principal: str = "user:amina",
    *,
    roles: Sequence[str] = (),
    mfa_at: datetime | None = None,
    purpose: str | None = None,
) -> Caller:
    """A caller with that principal id (``user:…``, ``service:…``, ``system:…``)."""
    kind = PrincipalKind(principal.partition(":")[0])
    return Caller(Principal(principal, kind, tuple(roles)), mfa_at=mfa_at, purpose=purpose)


@contextmanager
def opened_call(
    database: Database,
    principal: str = "user:amina",
    *,
    roles: Sequence[str] = (),
    action: str = "test.call",
    now: datetime | None = None,
    mfa_at: datetime | None = None,
    purpose: str | None = None,
) -> Iterator[Call]:
    """A call in a transaction of its own; its events are written with the commit."""
    caller = make_caller(principal, roles=roles, mfa_at=mfa_at, purpose=purpose)
    with database.transaction() as connection:
        call = Call(caller, action, now or SystemClock().now(), connection)
        yield call
        Outbox().append(connection, call.events)


def make_door(
    database: Database,
    services: Sequence[Service],
    *,
    caller: Caller | None = None,
    policy: Policy | None = None,
    audit: AuditLog | None = None,
    resources: Resources | None = None,
    clock: Clock | None = None,
) -> LocalDoor:
    """A local door to these services; what is not given is a fake that permits everything."""
    platform = Backend(
        services=Services(list(services)),
        database=database,
        policy=policy or AllowAll(),
        audit=audit or MemoryAudit(),
        resources=resources or MemoryResources(),
        events=Outbox(),
        clock=clock or SystemClock(),
        telemetry=Telemetry(process="test"),
    )
    return LocalDoor(platform, caller or make_caller())
