"""What waits for webhooks: signed, each by itself; see ``sending``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, select

from falaj.kernel.errors import NotFound
from falaj.operations.model import DeliveryState, Severity
from falaj.operations.sending import Answer, is_taken, posted
from falaj.operations.webhooks_model import signature_headers
from falaj.operations.webhooks_tables import webhook_deliveries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerts import Alerts
    from falaj.operations.webhooks import Webhooks

ALERT = "webhook-dead"
SENDER = "system:webhooks"


class ToWebhooks:
    """Deliveries to webhooks; fulfils ``sending.Outbound``.

    Args:
        webhooks: tells addresses and secrets.
        calls: opens the transactions, and tells the time.
        outgoing: makes the requests.
        alerts: told of what is given up.
    """

    rows = webhook_deliveries
    action = "webhooks.deliver"
    sender = SENDER

    def __init__(
        self, webhooks: Webhooks, calls: Calls, outgoing: Outgoing, alerts: Alerts
    ) -> None:
        self._webhooks = webhooks
        self._calls = calls
        self._outgoing = outgoing
        self._alerts = alerts

    def due(self, now: datetime) -> Select[Any]:
        """All that wait for their time, which has come."""
        table = webhook_deliveries
        return (
            select(table)
            .where(table.c.state == DeliveryState.WAITING, table.c.next_at <= now)
            .order_by(table.c.next_at, table.c.id)
        )

    def send(self, row: Row[Any]) -> Answer:
        """Post the body under the webhook's signature of now."""
        with self._calls.database.reading() as connection:
            webhook = self._webhooks.get(connection, row.webhook)
            secret = self._webhooks.secret(connection, row.webhook)

        def signed(body: bytes) -> Mapping[str, str]:
            return signature_headers(secret, row.event, self._calls.now(), body)

        body = str(row.body).encode()
        status = posted(self._outgoing, webhook.url, body, agent="Falaj-Webhooks", sign=signed)
        return Answer("" if is_taken(status) else f"it answered {status}", status)

    def facts(self, row: Row[Any]) -> tuple[str, dict[str, Any]]:
        """The webhook, and what it is told of."""
        return f"webhook:{row.webhook}", {"webhook": row.webhook, "topic": row.topic}

    def kept(self, answer: Answer) -> dict[str, Any]:
        """The status of HTTP."""
        return {"status": answer.status}

    def ended(self, call: Call, row: Row[Any], answer: Answer, *, dead: bool) -> None:
        """Raise an alert for what is given up."""
        if not dead:
            return
        try:
            subject = self._webhooks.get(call.connection, row.webhook).ref
        except NotFound:
            return  # it was removed meanwhile
        self._alerts.raise_alert(
            call,
            name=ALERT,
            subject=subject,
            severity=Severity.WARNING,
            message=f"The webhook {row.webhook!r} was not reached in {row.attempts + 1} attempts:"
            f" {answer.error}",
            evidence={"delivery": row.id, "topic": row.topic, "status": answer.status},
        )
