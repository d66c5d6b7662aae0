"""Calls that the platform makes itself: a job's handler works through these.

A person's submission was authorised at the door; the steps of the job that follow are
done on that person's behalf, each in a transaction of its own, with an audit record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
        kind = PrincipalKind(principal_id.partition(":")[0])
        caller = Caller(Principal(principal_id, kind), via="job")
        with self.database.transaction() as connection:
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
