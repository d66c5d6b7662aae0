"""The actions of service management: changes, alerts, incidents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from falaj.catalog.assets import Catalog
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.ports import Resource
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incidents import Incidents
from falaj.operations.model import (
    Alert,
    AlertState,
    Change,
    ChangeState,
    Incident,
    IncidentState,
    Verdict,
)

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Facts = dict[str, Any]
ChangeList = list[Change]
AlertList = list[Alert]
IncidentList = list[Incident]


class _Guarded(Service):
    """A service whose lists show what the caller may see."""

    def __init__(self, catalog: Catalog, visible: Visible) -> None:
        self._catalog = catalog
        self._visible = visible

    def _may_see(self, ref: AssetRef) -> bool:
        return self._visible(self.call, self._catalog.load(self.call.connection, ref))


class ChangeService(_Guarded):
    """Changes: what waits for an approval, who decided what, and on which evidence."""

    name = "changes"

    def __init__(self, changes: Changes, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._changes = changes

    @action(get="/changes")
    def list(self, state: ChangeState | None = None) -> ChangeList:
        """The changes, the newest first."""
        listed = self._changes.listed(self.call.connection, state=state)
        return [change for change in listed if self._may_see(change.ref)]

    @action(get="/changes/{id}", on="change")
    def get(self, id: str) -> Change:
        """One change with its evidence and its whole history."""
        return self._changes.get(self.call.connection, id)

    @action(post="/changes/{id}/approval", on="change", step_up=True)
    def approve(self, id: str, *, reason: str) -> Change:
        """Approve a change that another has asked for, and carry it out."""
        return self._changes.approve(self.call, id, reason)

    @action(post="/changes/{id}/rejection", on="change", step_up=True)
    def reject(self, id: str, *, reason: str) -> Change:
        """Reject a change that another has asked for."""
        return self._changes.reject(self.call, id, reason)

    @action(post="/changes/{id}/withdrawal", on="change")
    def withdraw(self, id: str, *, reason: str = "") -> Change:
        """Take back a change that one has asked for."""
        return self._changes.withdraw(self.call, id, reason)

    @action(post="/emergency-changes", step_up=True)
    def record_emergency(
        self,
        subject: str,
        *,
        title: str,
        reason: str,
        kind: Kind = "by_hand",
        evidence: Facts | None = None,
    ) -> Change:
        """Record what one did because it could not wait; another person reviews it in 24 hours.

        ``subject`` is the asset that was changed, as ``kind:key``.
        """
        try:
            about = AssetRef.parse(subject)
        except ValueError:
            raise InvalidInput(
                f"{subject!r} is no asset.", hint="Write kind:key, such as endpoint:flight-delay."
            ) from None
        if not self._may_see(about):
            raise NotFound(f"There is no {about.kind} {about.key!r} in the catalogue.")
        return self._changes.record_emergency(
            self.call,
            kind=kind,
            subject=about,
            title=title,
            reason=reason,
            evidence=evidence or {},
            payload={},
        )

    @action(post="/changes/{id}/review", on="change", step_up=True)
    def review(self, id: str, *, verdict: Verdict, reason: str) -> Change:
        """Say whether an emergency change of somebody else was justified."""
        return self._changes.review(self.call, id, verdict, reason)


class AlertService(_Guarded):
    """Alerts: what is not as it should be, and who looks after it."""

    name = "alerts"

    def __init__(self, alerts: Alerts, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._alerts = alerts

    @action(get="/alerts")
    def list(self, state: AlertState | None = None) -> AlertList:
        """The alerts, the newest first."""
        listed = self._alerts.listed(self.call.connection, state=state)
        return [alert for alert in listed if self._may_see(alert.ref)]

    @action(get="/alerts/{id}", on="alert")
    def get(self, id: str) -> Alert:
        """One alert with what was measured."""
        return self._alerts.get(self.call.connection, id)

    @action(post="/alerts/{id}/acknowledgement", on="alert")
    def acknowledge(self, id: str) -> Alert:
        """Say that one looks after an alert; it stays open."""
        return self._alerts.acknowledge(self.call, id)

    @action(post="/alerts/{id}/resolution", on="alert")
    def resolve(self, id: str, *, resolution: str) -> Alert:
        """Say that an alert is over, and how."""
        return self._alerts.resolve(self.call, id, resolution)


class IncidentService(_Guarded):
    """Incidents: disturbances, their priority, and what was done about them."""

    name = "incidents"

    def __init__(self, incidents: Incidents, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._incidents = incidents

    @action(get="/incidents")
    def list(self, state: IncidentState | None = None) -> IncidentList:
        """The incidents, the most pressing first."""
        listed = self._incidents.listed(self.call.connection, state=state)
        return [incident for incident in listed if self._may_see(incident.ref)]

    @action(get="/incidents/{id}", on="incident")
    def get(self, id: str) -> Incident:
        """One incident with its timeline."""
        return self._incidents.get(self.call.connection, id)

    @action(post="/incidents/{id}/notes", on="incident")
    def note(self, id: str, *, text: str) -> Incident:
        """Add a line to the timeline of an incident."""
        return self._incidents.note(self.call, id, text)

    @action(post="/incidents/{id}/resolution", on="incident")
    def resolve(self, id: str, *, resolution: str) -> Incident:
        """Close an incident with how it was resolved."""
        return self._incidents.resolve(self.call, id, resolution)
