"""Notifications: the events that people should hear of, sent after the commit."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Event
from falaj.operations.model import Notification, Severity
from falaj.operations.ports import Notifier

SUBSCRIBER = "operations.notifications"
"""The name under which the outbox keeps this subscriber's place."""
_MOST_PRESSING = 2
_TOPICS = (
    "change.opened", "change.approved", "change.rejected", "change.withdrawn",
    "change.carried_out", "change.emergency", "change.reviewed",
    "alert.raised", "alert.escalated", "alert.resolved",
    "incident.opened", "incident.escalated", "incident.assigned", "incident.resolved",
    "problem.opened", "problem.resolved",
)  # fmt: skip


class Notifications:
    """Turns events of the outbox into notifications for every channel.

    ``handle`` fits ``kernel.outbox.Subscription``. A channel that fails stops the event
    from being marked as delivered, so it is sent again, to all channels, with the same id.

    Args:
        catalog: tells who owns the subject.
        notifiers: the channels.
    """

    def __init__(self, catalog: Catalog, notifiers: Sequence[Notifier]) -> None:
        self._catalog = catalog
        self._notifiers = list(notifiers)

    def handle(self, connection: Connection, event: Event) -> None:
        """Send what this event has to tell; nothing for events of other topics."""
        if event.type not in _TOPICS:
            return
        message = self._message(connection, event)
        for notifier in self._notifiers:
            notifier.notify(message)

    def _message(self, connection: Connection, event: Event) -> Notification:
        payload = event.payload
        subject = AssetRef.parse(payload["subject"])
        recipients = [payload["requested_by"]] if "requested_by" in payload else []
        if self._catalog.exists(connection, subject):
            recipients.append(self._catalog.get(connection, subject).owner)
        return Notification(
            id=event.id,
            at=event.at,
            topic=event.type,
            subject=subject,
            title=payload["title"],
            text=payload["text"],
            severity=_severity(event),
            recipients=tuple(dict.fromkeys(recipients)),
        )


def _severity(event: Event) -> Severity:
    if event.type in ("incident.opened", "incident.escalated"):
        pressing = event.payload["priority"] <= _MOST_PRESSING
        return Severity.CRITICAL if pressing else Severity.WARNING
    if event.type == "change.emergency":
        return Severity.WARNING
    if event.type in ("alert.raised", "alert.escalated"):
        return Severity(event.payload["severity"])
    return Severity.INFO
