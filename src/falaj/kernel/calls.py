"""Calls that the platform makes itself: a job's handler works through these.

A person's submission was authorised at the door; the steps of the job that follow are
done on that person's behalf, each in a transaction of its own, with an audit record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from falaj.kernel.call import Call, Caller, Principal, PrincipalKind
from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.ports import AuditEntry, AuditLog, Events, Outcome


class Calls:
    """Opens calls outside a door, for work that was authorised when it was submitted."""

    def __init__(self, database: Database, audit: AuditLog, events: Events, clock: Clock) -> None:
        self.database = database
        self._audit = audit
        self._events = events
        self._clock = clock

    def now(self) -> datetime:
        """The platform's time."""
        return self._clock.now()

    @contextmanager
    def opened(
        self,
        action: str,
        principal_id: str,
        *,
        resource: str = "platform:*",
        arguments: Mapping[str, Any] | None = None,
    ) -> Iterator[Call]:
        """One transaction with its audit record and events, as the named principal.

        Args:
            action: what is done, as the audit record will name it (``training.train``).
            principal_id: on whose behalf (``user:amina``).
            resource: the asset that the work is about, ``kind:key``.
            arguments: what the audit record keeps of the input; JSON-ready, no secret.

        Any exception rolls everything back and is raised again.
        """
        with (
            self.database.transaction() as connection,
            self.joined(
                connection, action, principal_id, resource=resource, arguments=arguments
            ) as call,
        ):
            yield call

    @contextmanager
    def joined(
        self,
        connection: Connection,
        action: str,
        principal_id: str,
        *,
        resource: str = "platform:*",
        arguments: Mapping[str, Any] | None = None,
    ) -> Iterator[Call]:
        """As ``opened``, within a transaction that stands already: what reads the outbox has one.

        An exception leaves it to the transaction's owner to roll back.
        """
        kind = PrincipalKind(principal_id.partition(":")[0])
        caller = Caller(Principal(principal_id, kind), via="job")
        call = Call(caller=caller, action=action, now=self._clock.now(), connection=connection)
        yield call
        self._events.append(connection, call.events)
        own = AuditEntry(
            call_id=call.id,
            parent=None,
            at=call.now,
            principal=principal_id,
            via="job",
            address=None,
            action=action,
            resource=resource,
            outcome=Outcome.DONE,
            reasons=(),
            arguments=dict(arguments or {}),
            details=call.notes,
        )
        self._audit.append_many(connection, [*call.records, own])
