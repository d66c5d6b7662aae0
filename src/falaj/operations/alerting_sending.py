"""What receivers are to be told of alerts: of each group in order; see ``sending``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, func, select

from falaj.kernel.errors import Conflict
from falaj.operations.alerting_model import AlertDelivery, GroupMessage
from falaj.operations.alerting_tables import alert_deliveries
from falaj.operations.model import DeliveryState, Severity
from falaj.operations.routing import AlertReceiver
from falaj.operations.sending import Answer, Deliveries, Waits

if TYPE_CHECKING:
    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts
    from falaj.operations.ports import AlertNotifier

ALERT = "alert-receiver-dead"
SENDER = "system:alerts"
WAITS = Waits(longest=timedelta(hours=1))
"""An alert that stands is tried each hour in the end."""
MakeNotifier = Callable[[AlertReceiver], "AlertNotifier"]


def _told(row: Row[Any]) -> AlertDelivery:
    values = {name: getattr(row, name, None) for name in AlertDelivery.model_fields}
    return AlertDelivery.model_validate(values | {"group": row.group_key})


class AlertDeliveries(Deliveries[AlertDelivery]):
    """What is on its way to receivers."""

    def __init__(self) -> None:
        hint = "`falaj receivers deliveries` lists them."
        super().__init__(alert_deliveries, _told, "receiver", hint)

    def resend(self, call: Call, delivery_id: str) -> AlertDelivery:
        """Send a dead delivery again now; raises NotFound, or Conflict if it is not dead."""
        found = self.get(call.connection, delivery_id)
        if found.state is not DeliveryState.DEAD:
            raise Conflict(f"The delivery {delivery_id} is {found.state}, not dead.")
        call.note(receiver=found.receiver)
        return self.again(call, delivery_id)


class ToReceivers:
    """Messages to receivers; fulfils ``sending.Outbound``.

    Args:
        definitions: tells the receivers as they are declared now.
        notifier: what tells a receiver.
        calls: opens the transactions.
        alerts: told of what is given up.
    """

    rows = alert_deliveries
    action = "alerts.tell"
    sender = SENDER

    def __init__(
        self, definitions: Definitions, notifier: MakeNotifier, calls: Calls, alerts: Alerts
    ) -> None:
        self._definitions = definitions
        self._notifier = notifier
        self._calls = calls
        self._alerts = alerts

    def due(self, now: datetime) -> Select[Any]:
        """Of each group the oldest that waits."""
        table = alert_deliveries
        oldest = (
            select(func.min(table.c.id))
            .where(table.c.state == DeliveryState.WAITING)
            .group_by(table.c.receiver, table.c.group_key)
        )
        return (
            select(table)
            .where(table.c.id.in_(oldest), table.c.next_at <= now)
            .where(table.c.state == DeliveryState.WAITING)
            .order_by(table.c.next_at, table.c.id)
        )

    def send(self, row: Row[Any]) -> Answer:
        """Tell a receiver by its own channel."""
        with self._calls.database.reading() as connection:
            receiver = self._definitions.definition(connection, AlertReceiver.kind, row.receiver)
        assert isinstance(receiver, AlertReceiver)  # noqa: S101 - its kind says so
        self._notifier(receiver).tell(GroupMessage.model_validate_json(row.body))
        return Answer()

    def facts(self, row: Row[Any]) -> tuple[str, dict[str, Any]]:
        """The receiver, and which group is told."""
        facts = {"receiver": row.receiver, "group": row.group_key, "status": row.status}
        return f"{AlertReceiver.kind}:{row.receiver}", facts

    def kept(self, answer: Answer) -> dict[str, Any]:
        """Nothing: of an answer the text may repeat the secret that it was sent."""
        return {}

    def ended(self, call: Call, row: Row[Any], answer: Answer, *, dead: bool) -> None:
        """Raise an alert for a receiver that is given up; end it when one takes messages again."""
        subject = self._definitions.version(call.connection, AlertReceiver.kind, row.receiver)
        ref = self._definitions.parsed(subject).ref
        if not answer.error:
            self._alerts.clear(call, name=ALERT, subject=ref, resolution="It takes messages again.")
        elif dead:
            self._alerts.raise_alert(
                call,
                name=ALERT,
                subject=ref,
                severity=Severity.WARNING,
                message=f"The receiver {row.receiver!r} was not reached in {row.attempts + 1}"
                f" attempts: {answer.error}",
                evidence={"delivery": row.id, "status": row.status},
            )
