"""The actions on changes and alerts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from falaj.catalog.assets import Catalog
from falaj.kernel.actions import action
from falaj.kernel.errors import NotFound
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.guarded import Guarded, Subjects, Visible, asset
from falaj.operations.model import (
    MOST_LISTED,
    Alert,
    AlertState,
    Change,
    ChangeState,
    Verdict,
)

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Facts = dict[str, Any]
ChangeList = list[Change]
AlertList = list[Alert]
Ids = Annotated[list[str], Field(max_length=MOST_LISTED)]


class ChangeService(Guarded):
    """Changes: what waits for an approval, who decided what, and on which evidence."""

    name = "changes"

    def __init__(self, changes: Changes, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._changes = changes

    @action(get="/changes")
    def list(
        self,
        state: ChangeState | None = None,
        *,
        subjects: Subjects | None = None,
        ids: Ids | None = None,
    ) -> ChangeList:
        """The changes, the newest first.

        Args:
            state: in which they are.
            subjects: only those about one of these assets (``kind:key``).
            ids: only those with one of these ids.
        """
        listed = self._changes.listed(
            self.call.connection, state=state, subjects=self.subjects(subjects), ids=ids
        )
        return [change for change in listed if self.may_see(change.ref)]

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
        about = asset(subject)
        if not self.may_see(about):
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


class AlertService(Guarded):
    """Alerts: what is not as it should be, and who looks after it."""

    name = "alerts"

    def __init__(self, alerts: Alerts, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._alerts = alerts

    @action(get="/alerts")
    def list(
        self,
        state: AlertState | None = None,
        *,
        subjects: Subjects | None = None,
        named: Annotated[str, Field(max_length=200)] = "",
    ) -> AlertList:
        """The alerts, the newest first.

        Args:
            state: in which they are.
            subjects: only those about one of these assets (``kind:key``).
            named: only those whose names begin so.
        """
        listed = self._alerts.listed(
            self.call.connection, state=state, subjects=self.subjects(subjects), named=named
        )
        return [alert for alert in listed if self.may_see(alert.ref)]

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
