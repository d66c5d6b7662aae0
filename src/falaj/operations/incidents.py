"""Incidents: opened from critical alerts, with a priority and a timeline.

The impact is read off the lineage: high when the subject is an endpoint or one lies
downstream of it, medium when anything does, else low.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Direction
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.histories import add_entry, entries, key_of, record_about
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

_URGENCY = {
    Severity.INFO: Scale.LOW,
    Severity.WARNING: Scale.MEDIUM,
    Severity.CRITICAL: Scale.HIGH,
}
_SERVES_PEOPLE = "endpoint"
_OF_OPERATIONS = ("change", "alert", "incident")


class Incidents:
    """The incidents of a platform.

    Args:
        catalog: where each incident is an asset, and where its impact is read.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def open_from(self, call: Call, alert: Alert) -> Incident:
        """The open incident of the alert's subject: a new one, or the alert joins the one
        that is open already and stands in its timeline."""
        impact, urgency = self._impact(call.connection, alert.subject), _URGENCY[alert.severity]
        incident_id, key = new_id("incident"), key_of(str(alert.subject))
        row = {
            "id": incident_id,
            "title": alert.message,
            "subject_kind": alert.subject.kind,
            "subject_key": alert.subject.key,
            "impact": impact,
            "urgency": urgency,
            "priority": priority_of(impact, urgency),
            "state": IncidentState.OPEN,
            "opened_at": call.now,
            "opened_by": call.principal.id,
            "resolution": "",
            "open_key": key,
        }
        text = f"{alert.name}: {alert.message} ({alert.id})"
        while not insert_if_absent(call.connection, tables.incidents, row):
            standing = call.connection.execute(
                select(tables.incidents.c.id)
                .where(tables.incidents.c.open_key == key)
                .with_for_update()
            ).scalar()
            if standing is not None:  # else it has just been resolved
                add_entry(call, standing, "alert", text)
                return self.get(call.connection, standing)
        add_entry(call, incident_id, "opened", text)
        ref = AssetRef("incident", incident_id)
        record_about(self._catalog, call, ref, alert.subject, alert.message)
        incident = self.get(call.connection, incident_id)
        call.note(incident=incident_id)
        _tell(call, "incident.opened", incident, f"priority {incident.priority}")
        return incident

    def get(self, connection: Connection, incident_id: str) -> Incident:
        """One incident with its timeline; raises NotFound."""
        return self._found(connection, incident_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: IncidentState | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Incident]:
        """The incidents, the most pressing first, then the newest; without timelines."""
        table = tables.incidents
        query = (
            select(table)
            .limit(limit)
            .order_by(table.c.state, table.c.priority, table.c.opened_at.desc(), table.c.id.desc())
        )
        if state is not None:
            query = query.where(table.c.state == state)
        return [_incident(row) for row in connection.execute(query)]

    def note(self, call: Call, incident_id: str, text: str) -> Incident:
        """Add a line to the timeline, also of a resolved incident."""
        self._found(call.connection, incident_id, locked=True)
        add_entry(call, incident_id, "note", told("note", text))
        return self.get(call.connection, incident_id)

    def resolve(self, call: Call, incident_id: str, resolution: str) -> Incident:
        """Close an incident with how it was resolved; raises Conflict if it is closed."""
        incident = self._found(call.connection, incident_id, locked=True)
        if incident.state is IncidentState.RESOLVED:
            raise Conflict(
                f"The incident {incident_id} was resolved by {incident.resolved_by} already.",
                hint="Add a note instead.",
            )
        words = told("resolution", resolution)
        call.connection.execute(
            update(tables.incidents)
            .where(tables.incidents.c.id == incident_id)
            .values(
                state=IncidentState.RESOLVED,
                resolved_at=call.now,
                resolved_by=call.principal.id,
                resolution=words,
                open_key=None,
            )
        )
        add_entry(call, incident_id, "resolved", words)
        resolved = self.get(call.connection, incident_id)
        _tell(call, "incident.resolved", resolved, words)
        return resolved

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
        timeline = entries(connection, incident_id)
        return _incident(row).model_copy(update={"timeline": timeline})


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
    values |= {"subject": AssetRef(row.subject_kind, row.subject_key), "timeline": []}
    return Incident.model_validate(values)
