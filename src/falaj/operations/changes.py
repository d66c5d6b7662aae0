"""Changes of three types: normal, standard and emergency.

A normal change is asked for by one and approved by another. A standard change is carried out
at once inside the bounds of a template, which another person has approved. The handler of a
change's kind runs in the transaction of the approval (or of the standard change): either the
change is approved and done, or neither. An emergency change is done already when it is
recorded; another person reviews it within 24 hours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef, Call, PrincipalKind
from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.histories import add_entry, entries, key_of, record_about
from falaj.operations.model import (
    MOST_LISTED,
    Change,
    ChangeState,
    ChangeType,
    Verdict,
    told,
)
from falaj.operations.standard import ChangeTemplate, OutsideBounds
from falaj.operations.subjects import about

if TYPE_CHECKING:
    from falaj.catalog.definitions import Definitions

ChangeHandler = Callable[[Call, Change], None]
"""Carries an approved change out, in the call of the approval."""
REVIEW_WITHIN = timedelta(hours=24)
"""So soon must an emergency change have been reviewed."""
_DAY = timedelta(hours=24)


class Changes:
    """The changes of a platform.

    Args:
        catalog: where each change is an asset, with an edge to what it approved.
        handlers: who carries out which kind of change.
        definitions: where templates of standard changes are declared; None for none.
    """

    def __init__(
        self,
        catalog: Catalog,
        handlers: Mapping[str, ChangeHandler],
        definitions: Definitions | None = None,
    ) -> None:
        self._catalog = catalog
        self._handlers = dict(handlers)
        self._definitions = definitions

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
        self._known(kind)
        change = self._kept(
            call,
            kind=kind,
            subject=subject,
            title=title,
            reason=reason,
            evidence=evidence,
            payload=payload,
            state=ChangeState.WAITING,
            waiting_key=key_of(kind, str(subject), dict(payload)),
        )
        _tell(call, "change.opened", change)
        return change

    def carry_out_standard(
        self,
        call: Call,
        template: str,
        *,
        kind: str,
        subject: AssetRef,
        title: str,
        reason: str,
        evidence: Mapping[str, Any],
        payload: Mapping[str, Any],
    ) -> Change:
        """Carry a change out at once, inside the bounds of an approved template.

        Its handler runs in this call. The record names the template's version, who proposed
        it and who approved it.

        Args:
            call: of the one on whose behalf it is done.
            template: the name of a ``change_template``.
            kind, subject, title, reason, evidence, payload: as for ``open``; the bounds are
                on ``evidence`` and ``payload``.

        Raises:
            InvalidInput: no handler for this kind, or an empty title or reason.
            NotFound: no such template is in force, or the subject is not in the catalogue.
            OutsideBounds: the change is outside; ``open`` asks another person for it.
            FalajError: whatever its handler raises; nothing is then recorded.
        """
        self._known(kind)
        approved, version, approved_by = self._template(call.connection, template)
        facts = {"evidence": dict(evidence), "payload": dict(payload)}
        broken = approved.broken(
            kind, subject, facts, now=call.now, n_today=self._n_today(call, template)
        )
        if broken:
            raise OutsideBounds(
                f"The change of {subject} is not inside the template {template!r}:"
                f" {'; '.join(broken)}.",
                hint="Ask for it as a normal change; another person decides.",
                broken=broken,
            )
        change = self._kept(
            call,
            kind=kind,
            subject=subject,
            title=title,
            reason=reason,
            evidence=evidence,
            payload=payload,
            state=ChangeState.APPROVED,
            type=ChangeType.STANDARD,
            template=f"{template}@{version}",
            decided_by=approved_by,
            decided_at=call.now,
            decision=f"Approved in advance: the template {template}, version {version},"
            f" proposed by {approved.owner} and approved by {approved_by}.",
        )
        self._catalog.link(call, approved.ref, change.ref, Relation.APPROVED)
        self._catalog.link(call, change.ref, subject, Relation.APPROVED)
        self._handlers[kind](call, change)
        _tell(call, "change.carried_out", change)
        return change

    def record_emergency(
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
        """Record what was done already, because it could not wait.

        Another person reviews it within 24 hours (``review``); later than that an alert is
        raised. No handler is run.

        Args:
            call: of the one who did it: the platform or somebody on call.
            kind: what sort of change it was, such as ``rollback``.
            subject, title, reason: as for ``open``.
            evidence: what was seen that could not wait (JSON).
            payload: what was done (JSON).

        Raises:
            InvalidInput: an empty kind, title or reason.
            NotFound: the subject is not in the catalogue.
        """
        change = self._kept(
            call,
            kind=told("kind", kind),
            subject=subject,
            title=title,
            reason=reason,
            evidence=evidence,
            payload=payload,
            state=ChangeState.IN_REVIEW,
            type=ChangeType.EMERGENCY,
            review_due_at=call.now + REVIEW_WITHIN,
        )
        _tell(call, "change.emergency", change)
        return change

    def review(self, call: Call, change_id: str, verdict: Verdict, reason: str) -> Change:
        """Say whether an emergency change was justified. What was done stays done.

        Raises:
            Forbidden: the caller did it, or is no person.
            Conflict: it is no emergency change, or was reviewed already.
        """
        change = self._found(call.connection, change_id, locked=True)
        if change.type is not ChangeType.EMERGENCY:
            raise Conflict(
                f"The change {change_id} is of the type {change.type}, not an emergency change.",
                hint="A change that waits is approved or rejected.",
            )
        if call.principal.kind is not PrincipalKind.USER:
            raise Forbidden(
                f"{call.principal.id} is no person.", hint="A person reviews emergency changes."
            )
        self._not_own(call, change)
        words = told("reason", reason)
        reviewed = self._decide(
            call,
            change,
            ChangeState.REVIEWED,
            words,
            since=ChangeState.IN_REVIEW,
            verdict=Verdict(verdict),
        )
        _tell(call, "change.reviewed", reviewed)
        return reviewed

    def overdue(self, connection: Connection, now: datetime) -> list[Change]:
        """The emergency changes whose review is overdue, the oldest first."""
        table = tables.changes
        query = (
            select(table)
            .where(table.c.state == ChangeState.IN_REVIEW, table.c.review_due_at < now)
            .order_by(table.c.review_due_at, table.c.id)
        )
        return [_change(row) for row in connection.execute(query)]

    def get(self, connection: Connection, change_id: str) -> Change:
        """One change with its history; raises NotFound."""
        return self._found(connection, change_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: ChangeState | None = None,
        subjects: Sequence[AssetRef] | None = None,
        ids: Collection[str] | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Change]:
        """The changes, the newest first, without their histories; of ``subjects`` and with one
        of the ``ids``, or of everything without."""
        table = tables.changes
        query = select(table).limit(limit).order_by(table.c.requested_at.desc(), table.c.id.desc())
        if state is not None:
            query = query.where(table.c.state == state)
        if subjects is not None:
            query = query.where(about(table, subjects))
        if ids is not None:
            query = query.where(table.c.id.in_(ids))
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

    def _known(self, kind: str) -> None:
        if kind not in self._handlers:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise InvalidInput(f"{kind!r} is not a kind of change; there are: {known}.")

    def _kept(self, call: Call, *, subject: AssetRef, **given: Any) -> Change:
        """Write a new change down, with its asset and the first line of its history."""
        change_id = new_id("change")
        row: dict[str, Any] = {
            "id": change_id,
            "subject_kind": subject.kind,
            "subject_key": subject.key,
            "type": ChangeType.NORMAL,
            "requested_by": call.principal.id,
            "requested_at": call.now,
            "decision": "",
            **given,
            "title": told("title", given["title"]),
            "reason": told("reason", given["reason"]),
            "evidence": dict(given["evidence"]),
            "payload": dict(given["payload"]),
        }
        if not insert_if_absent(call.connection, tables.changes, row):
            raise AlreadyExists(
                f"The same change of {subject} waits already.",
                hint="`falaj changes list` shows it; approve, reject or withdraw that one.",
            )
        first = {ChangeState.WAITING: "asked", ChangeState.APPROVED: "carried out"}
        add_entry(call, change_id, first.get(row["state"], "recorded"), row["reason"])
        record_about(self._catalog, call, AssetRef("change", change_id), subject, row["title"])
        call.note(change=change_id)
        return self.get(call.connection, change_id)

    def _template(self, connection: Connection, name: str) -> tuple[ChangeTemplate, int, str]:
        """A template that is in force, its version, and who approved that; raises NotFound."""
        if self._definitions is None:
            raise NotFound(f"There is no change_template {name!r} among the definitions.")
        self._definitions.alone(connection)  # neither it nor the count of its uses moves meanwhile
        kept = self._definitions.version(connection, ChangeTemplate.kind, name)
        template = self._definitions.parsed(kept)
        if not isinstance(template, ChangeTemplate):
            raise InvalidInput(f"{name!r} is no template of changes.")
        return template, kept.version, kept.by

    @staticmethod
    def _n_today(call: Call, template: str) -> int:
        table = tables.changes.c
        query = select(func.count()).where(
            table.template.startswith(f"{template}@", autoescape=True),
            table.requested_at > call.now - _DAY,
        )
        return int(call.connection.execute(query).scalar_one())

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
                f"You asked for the change {change.id} yourself, or carried it out.",
                hint="Another person must decide on it; you may withdraw it.",
            )

    def _decide(
        self,
        call: Call,
        change: Change,
        state: ChangeState,
        reason: str,
        *,
        since: ChangeState = ChangeState.WAITING,
        verdict: Verdict | None = None,
    ) -> Change:
        if change.state is ChangeState.IN_REVIEW and since is ChangeState.WAITING:
            raise Conflict(
                f"The change {change.id} was carried out in an emergency; it does not wait.",
                hint="Review it: `falaj changes review`.",
            )
        if change.state is not since:
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
                verdict=verdict,
                waiting_key=None,
            )
        )
        what = str(state) if verdict is None else f"{state}: {verdict}"
        add_entry(call, change.id, what, reason)
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
        change_type=str(change.type),
    )


def _change(row: Row[Any]) -> Change:
    values = {name: getattr(row, name, None) for name in Change.model_fields}
    values |= {"subject": AssetRef(row.subject_kind, row.subject_key), "history": []}
    return Change.model_validate(values)
