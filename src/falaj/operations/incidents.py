"""Incidents: opened from critical alerts, with a priority and a timeline.

The impact is read off the lineage: high when the subject is an endpoint or one lies
downstream of it, medium when anything does, else low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Direction, checked_owner
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.histories import (
    add_entry,
    add_link,
    entries,
    key_of,
    linked,
    linked_each,
    record_about,
)
from falaj.operations.model import (
    MOST_LISTED,
    Alert,
    Incident,
    IncidentState,
    Scale,
    Severity,
    priority_of,
    told,
)
from falaj.operations.subjects import concerning

_URGENCY = {
    Severity.INFO: Scale.LOW,
    Severity.WARNING: Scale.MEDIUM,
    Severity.CRITICAL: Scale.HIGH,
}
_SERVES_PEOPLE = "endpoint"
_OF_OPERATIONS = ("change", "alert", "incident", "problem", "silence")
_LINKED = ("alert", "change", "problem")


class Incidents:
    """The incidents of a platform.

    Args:
        catalog: where each incident is an asset, and where its impact is read.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def open_from(self, call: Call, alert: Alert) -> Incident:
        """The open incident of the alert's subject: a new one, or the alert joins the one
        that is open already, stands in its timeline, and makes it more pressing if it is so.

        The disturbance began when the alert's evidence says (``began_at``, an instant in ISO
        8601), or else when the alert was raised.
        """
        impact, urgency = self._impact(call.connection, alert.subject), _URGENCY[alert.severity]
        opened = self._opened(
            call,
            alert.subject,
            alert.message,
            impact,
            urgency,
            began_at=_began(alert),
            text=f"{alert.name}: {alert.message} ({alert.id})",
        )
        add_link(call, opened.id, alert.id, "alert")
        return self.get(call.connection, opened.id)

    def open(
        self,
        call: Call,
        subject: AssetRef,
        title: str,
        *,
        urgency: Scale,
        impact: Scale | None = None,
        began_at: datetime | None = None,
    ) -> Incident:
        """Open an incident by hand, or join the one of that subject that is open already.

        Args:
            call: of the one who saw it.
            subject: the configuration item: an asset of the catalogue.
            title: one line.
            urgency: how soon it must be mended.
            impact: how wide it is; read off the lineage, if None.
            began_at: when it began, if that is known.

        Raises:
            NotFound: the subject is not in the catalogue.
            InvalidInput: an empty title, or it is to have begun in the future.
        """
        if began_at is not None and began_at > call.now:
            raise InvalidInput(f"It cannot have begun at {began_at.isoformat()}: that is to come.")
        wide = self._impact(call.connection, subject) if impact is None else impact
        words = told("title", title)
        opened = self._opened(call, subject, words, wide, urgency, began_at=began_at, text=words)
        return self.get(call.connection, opened.id)

    def _opened(
        self,
        call: Call,
        subject: AssetRef,
        title: str,
        impact: Scale,
        urgency: Scale,
        *,
        began_at: datetime | None,
        text: str,
    ) -> Incident:
        incident_id, key = new_id("incident"), key_of(str(subject))
        row = {
            "id": incident_id,
            "title": title,
            "subject_kind": subject.kind,
            "subject_key": subject.key,
            "impact": impact,
            "urgency": urgency,
            "priority": priority_of(impact, urgency),
            "state": IncidentState.OPEN,
            "opened_at": call.now,
            "opened_by": call.principal.id,
            "began_at": began_at,
            "n_escalations": 0,
            "resolution": "",
            "open_key": key,
        }
        while not insert_if_absent(call.connection, tables.incidents, row):
            standing = call.connection.execute(
                select(tables.incidents.c.id)
                .where(tables.incidents.c.open_key == key)
                .with_for_update()
            ).scalar()
            if standing is not None:  # else it has just been resolved
                add_entry(call, standing, "alert", text)
                return self._raised_to(call, standing, impact, urgency)
        add_entry(call, incident_id, "opened", text)
        record_about(self._catalog, call, AssetRef("incident", incident_id), subject, title)
        incident = self.get(call.connection, incident_id)
        call.note(incident=incident_id)
        _tell(call, "incident.opened", incident, f"priority {incident.priority}")
        return incident

    def _raised_to(self, call: Call, incident_id: str, impact: Scale, urgency: Scale) -> Incident:
        """The incident, with the higher impact and urgency of what it had and these."""
        before = self.get(call.connection, incident_id)
        wide = max(before.impact, impact, key=lambda one: one.level)
        soon = max(before.urgency, urgency, key=lambda one: one.level)
        if (wide, soon) == (before.impact, before.urgency):
            return before
        return self._prioritised(call, before, wide, soon, "joined by what is more pressing")

    def _prioritised(
        self, call: Call, incident: Incident, impact: Scale, urgency: Scale, text: str
    ) -> Incident:
        priority = priority_of(impact, urgency)
        self._set(call, incident.id, impact=impact, urgency=urgency, priority=priority)
        add_entry(call, incident.id, f"priority {priority}", text)
        return self.get(call.connection, incident.id)

    def acknowledge(self, call: Call, incident_id: str) -> Incident:
        """Say that one looks after it, and take it on if nobody has. Raises Conflict if it is
        resolved."""
        incident = self._open(call, incident_id)
        if incident.acknowledged_at is None:
            taken = incident.assigned_to or call.principal.id
            self._set(
                call,
                incident_id,
                acknowledged_at=call.now,
                acknowledged_by=call.principal.id,
                assigned_to=taken,
            )
            add_entry(call, incident_id, "acknowledged")
        acknowledged = self.get(call.connection, incident_id)
        _tell(call, "incident.acknowledged", acknowledged, f"by {call.principal.id}")
        return acknowledged

    def assign(self, call: Call, incident_id: str, to: str) -> Incident:
        """Give it to a person or a team (``user:amina``, ``team:delays``).

        Raises:
            Conflict: it is resolved.
            InvalidInput: ``to`` is neither.
        """
        self._open(call, incident_id)
        self._set(call, incident_id, assigned_to=checked_owner(to))
        add_entry(call, incident_id, "assigned", to)
        assigned = self.get(call.connection, incident_id)
        _tell(call, "incident.assigned", assigned, f"to {to}")
        return assigned

    def escalate(
        self, call: Call, incident_id: str, reason: str, to: str | None = None
    ) -> Incident:
        """Make it more urgent by a step, and give it to somebody else if one is named.

        Raises:
            Conflict: it is resolved.
            InvalidInput: no reason; ``to`` is no person or team.
        """
        incident = self._open(call, incident_id)
        words = told("reason", reason)
        higher = list(Scale)[min(incident.urgency.level + 1, Scale.HIGH.level)]
        values: dict[str, Any] = {"n_escalations": incident.n_escalations + 1}
        if to is not None:
            values["assigned_to"] = checked_owner(to)
        self._set(call, incident_id, **values)
        add_entry(call, incident_id, "escalated", words if to is None else f"{words} (to {to})")
        escalated = self._prioritised(call, incident, incident.impact, higher, words)
        _tell(call, "incident.escalated", escalated, words)
        return escalated

    def prioritise(
        self, call: Call, incident_id: str, impact: Scale, urgency: Scale, reason: str
    ) -> Incident:
        """Correct impact and urgency; the priority follows. Raises Conflict if it is resolved."""
        incident = self._open(call, incident_id)
        return self._prioritised(call, incident, impact, urgency, told("reason", reason))

    def link(self, call: Call, incident_id: str, to: AssetRef) -> Incident:
        """Note that an alert, a change or a problem belongs to it, also when it is resolved.

        Raises:
            NotFound: there is no such thing.
            InvalidInput: it is of another kind.
            Conflict: it has a problem already.
        """
        incident = self._found(call.connection, incident_id, locked=True)
        if to.kind not in _LINKED:
            raise InvalidInput(
                f"A {to.kind} does not belong to an incident.",
                hint=f"These do: {', '.join(_LINKED)}.",
            )
        if not self._catalog.exists(call.connection, to):
            raise NotFound(f"There is no {to.kind} {to.key!r}.")
        if to.kind == "problem" and incident.problem not in (None, to.key):
            raise Conflict(f"The incident {incident_id} belongs to {incident.problem} already.")
        if add_link(call, incident_id, to.key, to.kind):
            add_entry(call, incident_id, f"{to.kind} linked", to.key)
            if to.kind == "problem":
                add_link(call, to.key, incident_id, "incident")
        return self.get(call.connection, incident_id)

    def alert_ended(self, call: Call, alert: Alert) -> None:
        """Say in the timelines of the open incidents that an alert belongs to that it is over,
        and how; they stay open, for whoever looks after them to close."""
        incident, link = tables.incidents.c, tables.links.c
        mine = select(link.of).where(link.to == alert.id, link.kind == "alert")
        query = select(incident.id).where(incident.id.in_(mine), incident.open_key.is_not(None))
        for row in call.connection.execute(query.order_by(incident.id).with_for_update()).all():
            add_entry(call, row.id, "alert resolved", f"{alert.resolution} ({alert.id})")

    def get(self, connection: Connection, incident_id: str) -> Incident:
        """One incident with its timeline; raises NotFound."""
        return self._found(connection, incident_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: IncidentState | None = None,
        subjects: Sequence[AssetRef] | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Incident]:
        """The incidents, the most pressing first, then the newest; without timelines.

        With ``subjects``: those about one, or to which an alert or a change about one belongs.
        """
        table = tables.incidents
        query = (
            select(table)
            .limit(limit)
            .order_by(table.c.state, table.c.priority, table.c.opened_at.desc(), table.c.id.desc())
        )
        if state is not None:
            query = query.where(table.c.state == state)
        if subjects is not None:
            query = query.where(concerning(subjects))
        found = [_incident(row) for row in connection.execute(query)]
        links = linked_each(connection, [one.id for one in found])
        return [one.model_copy(update=_links(links[one.id])) for one in found]

    def note(self, call: Call, incident_id: str, text: str) -> Incident:
        """Add a line to the timeline, also of a resolved incident."""
        self._found(call.connection, incident_id, locked=True)
        add_entry(call, incident_id, "note", told("note", text))
        return self.get(call.connection, incident_id)

    def resolve(self, call: Call, incident_id: str, resolution: str) -> Incident:
        """Close an incident with how it was resolved; raises Conflict if it is closed."""
        self._open(call, incident_id)
        words = told("resolution", resolution)
        self._set(
            call,
            incident_id,
            state=IncidentState.RESOLVED,
            resolved_at=call.now,
            resolved_by=call.principal.id,
            resolution=words,
            open_key=None,
        )
        add_entry(call, incident_id, "resolved", words)
        resolved = self.get(call.connection, incident_id)
        _tell(call, "incident.resolved", resolved, words)
        return resolved

    def opened_between(
        self, connection: Connection, start: datetime, end: datetime
    ) -> list[Incident]:
        """The incidents that were opened from ``start`` to before ``end``, the oldest first."""
        table = tables.incidents
        query = (
            select(table)
            .where(table.c.opened_at >= start, table.c.opened_at < end)
            .order_by(table.c.opened_at, table.c.id)
        )
        return [_incident(row) for row in connection.execute(query)]

    def _open(self, call: Call, incident_id: str) -> Incident:
        incident = self._found(call.connection, incident_id, locked=True)
        if incident.state is IncidentState.RESOLVED:
            raise Conflict(
                f"The incident {incident_id} was resolved by {incident.resolved_by} already.",
                hint="Add a note instead.",
            )
        return incident

    @staticmethod
    def _set(call: Call, incident_id: str, **values: Any) -> None:
        call.connection.execute(
            update(tables.incidents).where(tables.incidents.c.id == incident_id).values(**values)
        )

    def _impact(self, connection: Connection, subject: AssetRef) -> Scale:
        if subject.kind == _SERVES_PEOPLE:
            return Scale.HIGH
        if not self._catalog.exists(connection, subject):
            return Scale.LOW
        beyond = self._catalog.walk(connection, subject, Direction.DOWNSTREAM).refs()
        kinds = {ref.kind for ref in beyond} - set(_OF_OPERATIONS)
        if _SERVES_PEOPLE in kinds:
            return Scale.HIGH
        return Scale.MEDIUM if kinds else Scale.LOW

    def _found(self, connection: Connection, incident_id: str, *, locked: bool) -> Incident:
        query = select(tables.incidents).where(tables.incidents.c.id == incident_id)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            raise NotFound(
                f"There is no incident {incident_id!r}.", hint="`falaj incidents list` shows all."
            )
        links = linked(connection, incident_id)
        return _incident(row).model_copy(
            update={"timeline": entries(connection, incident_id), **_links(links)}
        )


def _tell(call: Call, event: str, incident: Incident, text: str) -> None:
    call.emit(
        event,
        id=incident.id,
        subject=str(incident.subject),
        title=incident.title,
        text=text,
        priority=incident.priority,
    )


def _incident(row: Row[Any]) -> Incident:
    values = {name: getattr(row, name, None) for name in Incident.model_fields}
    values |= {"subject": AssetRef(row.subject_kind, row.subject_key)}
    values |= {"timeline": [], "alerts": [], "changes": []}
    return Incident.model_validate(values)


def _links(links: Mapping[str, list[str]]) -> dict[str, Any]:
    """What belongs to an incident, as its fields."""
    return {
        "alerts": links.get("alert", []),
        "changes": links.get("change", []),
        "problem": next(iter(links.get("problem", [])), None),
    }


def _began(alert: Alert) -> datetime:
    """When the disturbance began, as the alert's evidence says; never after it was raised."""
    try:
        began = datetime.fromisoformat(str(alert.evidence.get("began_at", "")))
    except ValueError:
        return alert.raised_at
    return min(began, alert.raised_at) if began.tzinfo is not None else alert.raised_at
