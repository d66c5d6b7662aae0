"""Alerts: something is not as it should be, told once while it lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.histories import key_of, record_about
from falaj.operations.incidents import Incidents
from falaj.operations.model import MOST_LISTED, Alert, AlertState, Severity, over, told
from falaj.operations.subjects import about


class Alerts:
    """The alerts of a platform.

    Args:
        catalog: where each alert is an asset.
        incidents: where a critical alert opens an incident.
    """

    def __init__(self, catalog: Catalog, incidents: Incidents) -> None:
        self._catalog = catalog
        self._incidents = incidents

    def raise_alert(
        self,
        call: Call,
        *,
        name: str,
        subject: AssetRef,
        severity: Severity,
        message: str,
        evidence: Mapping[str, Any],
    ) -> Alert:
        """Raise an alert, or count it again while one of that name and subject is open.

        A repeat takes the new message and evidence, and the higher severity of the two;
        people are told when it opens and when it becomes more severe. A critical alert
        opens an incident, in the same transaction.

        Args:
            call: of the check that found it.
            name: what is wrong, such as ``drift.wind_speed``.
            subject: the asset with which it is wrong; it is in the catalogue.
            severity: how much it matters.
            message: one sentence with the figures.
            evidence: what was measured (JSON).

        Raises:
            NotFound: the subject is not in the catalogue.
        """
        alert_id, key = new_id("alert"), key_of(name, str(subject))
        row: dict[str, Any] = {
            "id": alert_id,
            "name": told("name", name),
            "subject_kind": subject.kind,
            "subject_key": subject.key,
            "severity": Severity(severity),
            "message": told("message", message),
            "evidence": dict(evidence),
            "state": AlertState.OPEN,
            "raised_at": call.now,
            "last_seen_at": call.now,
            "n_seen": 1,
            "resolution": "",
            "open_key": key,
        }
        while not insert_if_absent(call.connection, tables.alerts, row):
            again = self._seen_again(call, key, row)
            if again is not None:
                return again
        record_about(self._catalog, call, AssetRef("alert", alert_id), subject, row["message"])
        alert = self.get(call.connection, alert_id)
        call.note(alert=alert_id)
        _tell(call, "alert.raised", alert)
        self._escalate(call, alert)
        return alert

    def get(self, connection: Connection, alert_id: str) -> Alert:
        """One alert; raises NotFound."""
        return self._found(connection, alert_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: AlertState | None = None,
        subjects: Sequence[AssetRef] | None = None,
        named: str = "",
        limit: int = MOST_LISTED,
    ) -> list[Alert]:
        """The alerts, the newest first; of ``subjects``, or of everything without.

        Args:
            named: only those whose names begin so.
        """
        table = tables.alerts
        query = select(table).limit(limit).order_by(table.c.raised_at.desc(), table.c.id.desc())
        if state is not None:
            query = query.where(table.c.state == state)
        if subjects is not None:
            query = query.where(about(table, subjects))
        if named:
            query = query.where(table.c.name.startswith(named, autoescape=True))
        return [_alert(row) for row in connection.execute(query)]

    def seen_since(
        self, connection: Connection, subject: AssetRef, since: datetime, *, prefix: str
    ) -> list[str]:
        """The names of the alerts of a subject that were raised (or raised again) since an
        instant, and whose names begin so."""
        table = tables.alerts
        query = select(table.c.name).where(
            table.c.subject_kind == subject.kind,
            table.c.subject_key == subject.key,
            table.c.last_seen_at >= since,
            table.c.name.startswith(prefix, autoescape=True),
        )
        return list(connection.execute(query.order_by(table.c.name)).scalars())

    def acknowledge(self, call: Call, alert_id: str) -> Alert:
        """Say that one looks after it; it stays open. Raises Conflict if it is resolved."""
        alert = self._open(call, alert_id)
        if alert.state is AlertState.OPEN:
            self._set(
                call,
                alert_id,
                state=AlertState.ACKNOWLEDGED,
                acknowledged_by=call.principal.id,
                acknowledged_at=call.now,
            )
            _tell(call, "alert.acknowledged", alert)
        return self.get(call.connection, alert_id)

    def resolve(self, call: Call, alert_id: str, resolution: str) -> Alert:
        """Say that it is over and how; the next time it opens anew. Raises Conflict if it
        is resolved already."""
        alert = self._open(call, alert_id)
        self._set(
            call,
            alert_id,
            state=AlertState.RESOLVED,
            resolved_by=call.principal.id,
            resolved_at=call.now,
            resolution=told("resolution", resolution),
            open_key=None,
        )
        self._incidents.alert_ended(call, self.get(call.connection, alert_id))
        _tell(call, "alert.resolved", alert)
        return self.get(call.connection, alert_id)

    def standing(self, connection: Connection, name: str, subject: AssetRef) -> Alert | None:
        """The alert of a name and subject that is not resolved; None if there is none."""
        query = select(tables.alerts).where(tables.alerts.c.open_key == key_of(name, str(subject)))
        row = connection.execute(query).first()
        return None if row is None else _alert(row)

    def unresolved(self, connection: Connection, *, name: str | None = None) -> list[Alert]:
        """Every alert that is not resolved (of one name), the oldest first."""
        table = tables.alerts
        query = select(table).where(table.c.open_key.is_not(None))
        if name is not None:
            query = query.where(table.c.name == name)
        rows = connection.execute(query.order_by(table.c.raised_at, table.c.id))
        return [_alert(row) for row in rows]

    def about(self, connection: Connection, subject: AssetRef) -> list[Alert]:
        """Every alert about a subject that is not resolved, the oldest first."""
        table = tables.alerts
        query = select(table).where(
            table.c.open_key.is_not(None),
            table.c.subject_kind == subject.kind,
            table.c.subject_key == subject.key,
        )
        rows = connection.execute(query.order_by(table.c.raised_at, table.c.id))
        return [_alert(row) for row in rows]

    def clear(self, call: Call, *, name: str, subject: AssetRef, resolution: str) -> Alert | None:
        """Resolve the alert of a name and subject, as a check that finds it well again does.

        Returns:
            The alert; None if none was open.
        """
        standing = self.standing(call.connection, name, subject)
        return None if standing is None else self.resolve(call, standing.id, resolution)

    def _seen_again(self, call: Call, key: str, row: Mapping[str, Any]) -> Alert | None:
        """The open alert, counted once more; None if it has just been resolved."""
        standing = call.connection.execute(
            select(tables.alerts).where(tables.alerts.c.open_key == key).with_for_update()
        ).first()
        if standing is None:
            return None
        before = Severity(standing.severity)
        worse = row["severity"].level > before.level
        self._set(
            call,
            standing.id,
            severity=row["severity"] if worse else before,
            message=row["message"],
            evidence=row["evidence"],
            last_seen_at=call.now,
            n_seen=standing.n_seen + 1,
        )
        alert = self.get(call.connection, standing.id)
        if worse:
            _tell(call, "alert.escalated", alert)
            self._escalate(call, alert)
        return alert

    def _escalate(self, call: Call, alert: Alert) -> None:
        if alert.severity is Severity.CRITICAL:
            self._incidents.open_from(call, alert)

    def _open(self, call: Call, alert_id: str) -> Alert:
        alert = self._found(call.connection, alert_id, locked=True)
        if alert.state is AlertState.RESOLVED:
            raise Conflict(f"The alert {alert_id} was resolved by {alert.resolved_by} already.")
        return alert

    def _found(self, connection: Connection, alert_id: str, *, locked: bool) -> Alert:
        query = select(tables.alerts).where(tables.alerts.c.id == alert_id)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            raise NotFound(
                f"There is no alert {alert_id!r}.", hint="`falaj alerts list` shows all."
            )
        return _alert(row)

    @staticmethod
    def _set(call: Call, alert_id: str, **values: Any) -> None:
        call.connection.execute(
            update(tables.alerts).where(tables.alerts.c.id == alert_id).values(**values)
        )


def _tell(call: Call, event: str, alert: Alert) -> None:
    call.emit(
        event,
        id=alert.id,
        subject=str(alert.subject),
        title=over(alert.message) if event == "alert.resolved" else alert.message,
        text=alert.name,
        severity=str(alert.severity),
    )


def _alert(row: Row[Any]) -> Alert:
    values = {name: getattr(row, name, None) for name in Alert.model_fields}
    return Alert.model_validate(values | {"subject": AssetRef(row.subject_kind, row.subject_key)})
