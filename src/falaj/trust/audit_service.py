"""The actions of the audit log."""

from __future__ import annotations

from datetime import datetime

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import Conflict
from falaj.kernel.ports import Outcome
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpoints
from falaj.trust.audit_formats import AuditFormat, formatted
from falaj.trust.audit_model import (
    AuditLines,
    AuditPage,
    AuditRecord,
    Checkpoint,
    ConsistencyProof,
    RecordProof,
    Verification,
)
from falaj.trust.audit_verification import Verifier


class Audit(Service):
    """What was done by whom, and proof that the record of it is whole."""

    name = "audit"

    def __init__(self, log: SqlAuditLog, checkpoints: Checkpoints, verifier: Verifier) -> None:
        self._log = log
        self._checkpoints = checkpoints
        self._verifier = verifier

    @action(get="/audit/records")
    def search(
        self,
        *,
        principal: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        outcome: Outcome | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Find records, newest first.

        ``action`` and ``resource`` may end in ``*``; ``since`` is included, ``until`` is
        not; give a page's ``next`` as ``before`` for the page after it.
        """
        return self._log.search(
            self.call.connection,
            principal=principal,
            action=action,
            resource=resource,
            outcome=outcome,
            since=since,
            until=until,
            before=before,
            limit=limit,
        )

    @action(get="/audit/lines")
    def lines(
        self,
        *,
        format: AuditFormat = AuditFormat.JSON,
        after: int = 0,
        upto: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1_000,
    ) -> AuditLines:
        """Records as lines of JSON, CEF or OCSF, oldest first, in pages.

        Give a page's ``next`` as ``after`` for the page behind it; at the end it stays as it
        was given.
        """
        records = self._log.following(
            self.call.connection, after=after, upto=upto, since=since, until=until, limit=limit
        )
        return AuditLines(
            lines=[formatted(record, format) for record in records],
            next=records[-1].seq if records else max(after, upto or after),
        )

    @action(get="/audit/records/{seq}")
    def get(self, seq: int) -> AuditRecord:
        """Show one record."""
        return self._log.get(self.call.connection, seq)

    @action(get="/audit/records/{seq}/proof")
    def proof(self, seq: int) -> RecordProof:
        """Prove to a third party that a record stands in the log, under a signed checkpoint."""
        return self._checkpoints.record_proof(self.call.connection, seq)

    @action(get="/audit/consistency/{old}/{new}")
    def consistency(self, old: int, new: int) -> ConsistencyProof:
        """Prove that the log at one checkpoint is the beginning of the log at a later one."""
        return self._checkpoints.consistency_proof(self.call.connection, old, new)

    @action(post="/audit/verifications")
    def verify(self) -> Verification:
        """Check every record, checkpoint and sighting; says what is wrong and where."""
        found = self._verifier.verify(self.call.connection)
        self.call.note(
            sound=found.sound,
            n_records=found.n_records,
            signed=found.signed,
            n_findings=found.n_findings,
        )
        if not found.sound:
            first = found.findings[0]
            self.call.emit("audit.unsound", kind=first.kind, seq=first.seq, message=first.message)
        return found

    @action(post="/audit/checkpoints")
    def checkpoint(self) -> Checkpoint:
        """Sign the log as it stands before this call."""
        made = self._checkpoints.make(self.call.connection, self.call.now)
        if made is None:
            raise Conflict("The audit log is empty.", hint="Do something first.")
        self.call.note(size=made.size, root=made.root)
        return made
