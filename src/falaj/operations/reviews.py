"""Watches that emergency changes are reviewed in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.operations.model import Change, ChangeState, Severity

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts
    from falaj.operations.changes import Changes

ALERT = "change-review-overdue"
WATCHER = "system:operations"


class OverdueReviews:
    """Raises an alert for each emergency change that nobody has reviewed within 24 hours.

    Args:
        changes: tells which are overdue.
        alerts: told of them; the alert is resolved once the change is reviewed.
        calls: opens the transactions, and tells the time.
    """

    def __init__(self, changes: Changes, alerts: Alerts, calls: Calls) -> None:
        self._changes = changes
        self._alerts = alerts
        self._calls = calls

    def run_once(self) -> int:
        """Raise and resolve what is due; returns how many alerts were touched."""
        with self._calls.database.reading() as connection:
            late = [
                change
                for change in self._changes.overdue(connection, self._calls.now())
                if self._alerts.standing(connection, ALERT, change.ref) is None
            ]
            told = self._alerts.unresolved(connection, name=ALERT)
            about = [self._changes.get(connection, alert.subject.key) for alert in told]
        reviewed = [change for change in about if change.state is not ChangeState.IN_REVIEW]
        for change in late:
            self._raise(change)
        for change in reviewed:
            with self._calls.opened(
                "changes.watch_reviews", WATCHER, resource=str(change.ref)
            ) as call:
                words = f"{change.decided_by} has reviewed it: {change.verdict}."
                self._alerts.clear(call, name=ALERT, subject=change.ref, resolution=words)
        return len(late) + len(reviewed)

    def _raise(self, change: Change) -> None:
        due = "" if change.review_due_at is None else change.review_due_at.isoformat("T", "minutes")
        with self._calls.opened("changes.watch_reviews", WATCHER, resource=str(change.ref)) as call:
            self._alerts.raise_alert(
                call,
                name=ALERT,
                subject=change.ref,
                severity=Severity.WARNING,
                message=f"The emergency change {change.id} ({change.title}) was to be reviewed"
                f" by {due}, and nobody has.",
                evidence={"due_at": due, "requested_by": change.requested_by},
            )
