"""Sends what receivers are to be told: in order, tried again with growing waits, given up
with an alert."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.errors import Conflict, FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.operations.alerting_model import AlertDelivery, AlertDeliveryState, GroupMessage
from falaj.operations.alerting_tables import alert_deliveries
from falaj.operations.model import Severity
from falaj.operations.routing import AlertReceiver

if TYPE_CHECKING:
    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts
    from falaj.operations.ports import AlertNotifier

ALERT = "alert-receiver-dead"
SENDER = "system:alerts"
FIRST_WAIT, GROWTH, LONGEST_WAIT = timedelta(seconds=5), 4, timedelta(hours=1)
_AT_A_TIME = 8
_CLAIM = timedelta(minutes=6)
"""Longer than one attempt can take (``outgoing.timeout_seconds`` is five minutes at most)."""
_IDLE_SECONDS = 0.5
MakeNotifier = Callable[[AlertReceiver], "AlertNotifier"]


class Deliveries:
    """What is on its way to receivers."""

    def get(self, connection: Connection, delivery_id: str) -> AlertDelivery:
        """One delivery; raises NotFound."""
        row = connection.execute(
            select(alert_deliveries).where(alert_deliveries.c.id == delivery_id)
        ).first()
        if row is None:
            raise NotFound(
                f"There is no delivery {delivery_id!r}.",
                hint="`falaj receivers deliveries` lists them.",
            )
        return _delivery(row)

    def listed(
        self,
        connection: Connection,
        *,
        receiver: str | None = None,
        state: AlertDeliveryState | None = None,
        limit: int = 100,
    ) -> list[AlertDelivery]:
        """The newest deliveries first."""
        table = alert_deliveries.c
        query = select(alert_deliveries).order_by(table.id.desc()).limit(limit)
        if receiver is not None:
            query = query.where(table.receiver == receiver)
        if state is not None:
            query = query.where(table.state == state)
        return [_delivery(row) for row in connection.execute(query)]

    def resend(self, call: Call, delivery_id: str) -> AlertDelivery:
        """Send a dead delivery again now; raises NotFound, or Conflict if it is not dead."""
        found = self.get(call.connection, delivery_id)
        if found.state is not AlertDeliveryState.DEAD:
            raise Conflict(f"The delivery {delivery_id} is {found.state}, not dead.")
        call.connection.execute(
            update(alert_deliveries)
            .where(alert_deliveries.c.id == delivery_id)
            .values(state=AlertDeliveryState.WAITING, attempts=0, next_at=call.now, ended_at=None)
        )
        call.note(receiver=found.receiver)
        return self.get(call.connection, delivery_id)


class AlertSender:
    """Sends deliveries that are due; of each group the oldest that waits.

    Args:
        definitions: tells the receivers as they are declared now.
        notifier: what tells a receiver.
        calls: opens the transactions, and tells the time.
        alerts: told of what is given up.
        attempts: how often a delivery is tried.
    """

    def __init__(
        self,
        definitions: Definitions,
        notifier: MakeNotifier,
        calls: Calls,
        alerts: Alerts,
        attempts: int,
    ) -> None:
        self._definitions = definitions
        self._notifier = notifier
        self._calls = calls
        self._alerts = alerts
        self._attempts = attempts
        self._log = logger(__name__)

    def run_once(self) -> int:
        """Send what is due, some at a time; returns how many were tried."""
        claimed = self._claimed()
        if not claimed:
            return 0
        # One that does not answer must not hold up the others.
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="falaj-alerts") as pool:
            for row, error in zip(claimed, pool.map(self._tried, claimed), strict=True):
                self._record(row, error)
        return len(claimed)

    def run_until(self, stopped: threading.Event) -> None:
        """Send until ``stopped`` is set."""
        while not stopped.wait(_IDLE_SECONDS):
            try:
                while self.run_once() and not stopped.is_set():
                    pass
            except Exception:  # noqa: BLE001
                # Whatever it is: the deliveries stand, and are tried again.
                self._log.exception("alerts were not sent; it is tried again")

    def _claimed(self) -> list[Row[Any]]:
        """Deliveries that are due, which no other process will send meanwhile."""
        now, table = self._calls.now(), alert_deliveries
        oldest = (
            select(func.min(table.c.id))
            .where(table.c.state == AlertDeliveryState.WAITING)
            .group_by(table.c.receiver, table.c.group_key)
        )
        due = (
            select(table)
            .where(table.c.id.in_(oldest), table.c.next_at <= now)
            .where(table.c.state == AlertDeliveryState.WAITING)
            .order_by(table.c.next_at, table.c.id)
            .limit(_AT_A_TIME)
        )
        with self._calls.database.reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._calls.database.transaction() as connection:
            rows = list(connection.execute(due.with_for_update(skip_locked=True)))
            for row in rows:
                connection.execute(
                    update(table)
                    .where(table.c.id == row.id)
                    .values(attempts=row.attempts + 1, next_at=now + _CLAIM)
                )
        return rows

    def _tried(self, row: Row[Any]) -> str:
        """Send one; returns why it was not taken, empty if it was."""
        try:
            with self._calls.database.reading() as connection:
                receiver = self._definitions.definition(
                    connection, AlertReceiver.kind, row.receiver
                )
            assert isinstance(receiver, AlertReceiver)  # noqa: S101 - its kind says so
            self._notifier(receiver).tell(GroupMessage.model_validate_json(row.body))
        except FalajError as error:
            return error.message
        except Exception as error:  # noqa: BLE001
            # A library's own trouble with one message must not end the sending of others.
            self._log.exception("a receiver was not told", receiver=row.receiver)
            return f"{type(error).__name__}; the log tells more"
        return ""

    def _record(self, row: Row[Any], error: str) -> None:
        """Write how an attempt ended; given up, an alert is raised in the same transaction."""
        now, attempts = self._calls.now(), row.attempts + 1
        values: dict[str, Any] = {"error": error}
        dead = bool(error) and attempts >= self._attempts
        if dead or not error:
            state = AlertDeliveryState.DEAD if dead else AlertDeliveryState.DELIVERED
            values |= {"state": state, "ended_at": now, "next_at": None}
        else:
            # Its exponent is bounded before it is taken: the wait is one hour at most.
            wait = FIRST_WAIT * GROWTH ** min(attempts - 1, 6)
            values["next_at"] = now + min(wait, LONGEST_WAIT)
        facts = {"receiver": row.receiver, "group": row.group_key, "attempt": attempts}
        ref = f"{AlertReceiver.kind}:{row.receiver}"
        with self._calls.opened("alerts.tell", SENDER, resource=ref, arguments=facts) as call:
            call.note(error=error, status=row.status)
            call.connection.execute(
                update(alert_deliveries)
                .where(
                    alert_deliveries.c.id == row.id,
                    alert_deliveries.c.state == AlertDeliveryState.WAITING,
                )
                .values(**values)
            )
            self._tell_state(call, row, error, dead=dead)

    def _tell_state(self, call: Call, row: Row[Any], error: str, *, dead: bool) -> None:
        subject = self._definitions.version(call.connection, AlertReceiver.kind, row.receiver)
        ref = self._definitions.parsed(subject).ref
        if not error:
            self._alerts.clear(call, name=ALERT, subject=ref, resolution="It takes messages again.")
        elif dead:
            self._alerts.raise_alert(
                call,
                name=ALERT,
                subject=ref,
                severity=Severity.WARNING,
                message=f"The receiver {row.receiver!r} was not reached in {self._attempts}"
                f" attempts: {error}",
                evidence={"delivery": row.id, "status": row.status},
            )


def _delivery(row: Row[Any]) -> AlertDelivery:
    values = {name: getattr(row, name, None) for name in AlertDelivery.model_fields}
    return AlertDelivery.model_validate(values | {"group": row.group_key})
