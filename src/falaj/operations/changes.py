"""Changes: asked for by one, approved by another, carried out with the approval.

The handler of a change's kind runs in the transaction of the approval: either the change
is approved and done, or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.histories import add_entry, entries, key_of, record_about
from falaj.operations.model import MOST_LISTED, Change, ChangeState, told

ChangeHandler = Callable[[Call, Change], None]
"""Carries an approved change out, in the call of the approval."""


class Changes:
    """The changes of a platform.

    Args:
        catalog: where each change is an asset, with an edge to what it approved.
        handlers: who carries out which kind of change.
    """

    def __init__(self, catalog: Catalog, handlers: Mapping[str, ChangeHandler]) -> None:
        self._catalog = catalog
        self._handlers = dict(handlers)

    def open(
        self,
        call: Call,
        *,
        kind: str,
        subject: AssetRef,
        title: str,
        reason: str,
        evidence: Mapping[str, Any],
        payload: Mapping[str, Any],
    ) -> Change:
        """Ask for a change; it waits for another principal's approval.

        Args:
            call: of the one who asks.
            kind: names the handler that will carry it out.
            subject: the asset that would change; it is in the catalogue.
            title: one line for a list.
            reason: why, in the words of the one who asks.
            evidence: what was measured (JSON).
            payload: what the handler needs (JSON).

        Raises:
            InvalidInput: no handler for this kind, or an empty title or reason.
            NotFound: the subject is not in the catalogue.
            AlreadyExists: the same change waits already.
        """
        if kind not in self._handlers:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise InvalidInput(f"{kind!r} is not a kind of change; there are: {known}.")
        change_id = new_id("change")
        row: dict[str, Any] = {
            "id": change_id,
            "kind": kind,
            "subject_kind": subject.kind,
            "subject_key": subject.key,
            "title": told("title", title),
            "reason": told("reason", reason),
            "evidence": dict(evidence),
            "payload": dict(payload),
            "state": ChangeState.WAITING,
            "requested_by": call.principal.id,
            "requested_at": call.now,
            "decision": "",
            "waiting_key": key_of(kind, str(subject), dict(payload)),
        }
        if not insert_if_absent(call.connection, tables.changes, row):
            raise AlreadyExists(
                f"The same change of {subject} waits already.",
                hint="`falaj changes list` shows it; approve, reject or withdraw that one.",
            )
        add_entry(call, change_id, "asked", row["reason"])
        record_about(self._catalog, call, AssetRef("change", change_id), subject, row["title"])
        change = self.get(call.connection, change_id)
        call.note(change=change_id)
        _tell(call, "change.opened", change)
        return change

    def get(self, connection: Connection, change_id: str) -> Change:
        """One change with its history; raises NotFound."""
        return self._found(connection, change_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: ChangeState | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Change]:
        """The changes, the newest first, without their histories."""
        table = tables.changes
        query = select(table).limit(limit).order_by(table.c.requested_at.desc(), table.c.id.desc())
        if state is not None:
            query = query.where(table.c.state == state)
        return [_change(row) for row in connection.execute(query)]

    def approve(self, call: Call, change_id: str, reason: str) -> Change:
        """Approve a change and carry it out, both or neither.

        Raises:
            Forbidden: the caller asked for it.
            Conflict: it does not wait any more.
            FalajError: whatever its handler raises; it then waits as before.
        """
        change = self._found(call.connection, change_id, locked=True)
        self._not_own(call, change)
        approved = self._decide(call, change, ChangeState.APPROVED, told("reason", reason))
        self._catalog.link(call, approved.ref, approved.subject, Relation.APPROVED)
        self._handlers[change.kind](call, approved)
        _tell(call, "change.approved", approved)
        return approved

    def reject(self, call: Call, change_id: str, reason: str) -> Change:
        """Reject a change; it stays on record with the reason.

        Raises:
            Forbidden: the caller asked for it (who asked withdraws).
            Conflict: it does not wait any more.
        """
        change = self._found(call.connection, change_id, locked=True)
        self._not_own(call, change)
        rejected = self._decide(call, change, ChangeState.REJECTED, told("reason", reason))
        _tell(call, "change.rejected", rejected)
        return rejected

    def withdraw(self, call: Call, change_id: str, reason: str = "") -> Change:
        """Take back a change that one has asked for.

        Raises:
            Forbidden: somebody else asked for it.
            Conflict: it does not wait any more.
        """
        change = self._found(call.connection, change_id, locked=True)
        if change.requested_by != call.principal.id:
            raise Forbidden(
                f"The change {change_id} was asked for by {change.requested_by}.",
                hint="Only who asked may withdraw it; others reject it.",
            )
        words = told("reason", reason, required=False)
        withdrawn = self._decide(call, change, ChangeState.WITHDRAWN, words)
        _tell(call, "change.withdrawn", withdrawn)
        return withdrawn

    def _found(self, connection: Connection, change_id: str, *, locked: bool) -> Change:
        query = select(tables.changes).where(tables.changes.c.id == change_id)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            raise NotFound(
                f"There is no change {change_id!r}.", hint="`falaj changes list` shows all."
            )
        change = _change(row)
        return change.model_copy(update={"history": entries(connection, change_id)})

    @staticmethod
    def _not_own(call: Call, change: Change) -> None:
        if change.requested_by == call.principal.id:
            raise Forbidden(
                f"You asked for the change {change.id} yourself.",
                hint="Another person must decide on it; you may withdraw it.",
            )

    def _decide(self, call: Call, change: Change, state: ChangeState, reason: str) -> Change:
        if change.state is not ChangeState.WAITING:
            raise Conflict(
                f"The change {change.id} was {change.state} by {change.decided_by} already."
            )
        call.connection.execute(
            update(tables.changes)
            .where(tables.changes.c.id == change.id)
            .values(
                state=state,
                decided_by=call.principal.id,
                decided_at=call.now,
                decision=reason,
                waiting_key=None,
            )
        )
        add_entry(call, change.id, str(state), reason)
        call.note(change=change.id)
        return self.get(call.connection, change.id)


def _tell(call: Call, event: str, change: Change) -> None:
    call.emit(
        event,
        id=change.id,
        subject=str(change.subject),
        title=change.title,
        text=change.decision or change.reason,
        requested_by=change.requested_by,
        kind=change.kind,
    )


def _change(row: Row[Any]) -> Change:
    values = {name: getattr(row, name, None) for name in Change.model_fields}
    values |= {"subject": AssetRef(row.subject_kind, row.subject_key), "history": []}
    return Change.model_validate(values)
