"""Sends what waits for webhooks: signed, tried again with growing waits, given up with an alert."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select, update

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.operations.model import Severity
from falaj.operations.webhooks_model import DeliveryState, signature_headers
from falaj.operations.webhooks_tables import webhook_deliveries

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerts import Alerts
    from falaj.operations.webhooks import Webhooks

ALERT = "webhook-dead"
SENDER = "system:webhooks"
_FIRST_WAIT = timedelta(seconds=5)
_GROWTH = 4
_AT_A_TIME = 8
_CLAIM = timedelta(minutes=6)
"""Longer than one attempt can take (``outgoing.timeout_seconds`` is five minutes at most)."""
_IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class _Answer:
    status: int | None
    error: str

    @property
    def is_good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class WebhookSender:
    """Sends deliveries that are due.

    Args:
        webhooks: tells addresses and secrets.
        calls: opens the transactions, and tells the time.
        outgoing: makes the requests; it refuses what leads inside, each time anew.
        alerts: told of what is given up.
        attempts: how often a delivery is tried.
    """

    def __init__(
        self, webhooks: Webhooks, calls: Calls, outgoing: Outgoing, alerts: Alerts, attempts: int
    ) -> None:
        self._webhooks = webhooks
        self._calls = calls
        self._outgoing = outgoing
        self._alerts = alerts
        self._attempts = attempts
        self._log = logger(__name__)

    def run_once(self) -> int:
        """Send what is due, some at a time; returns how many were tried."""
        claimed = self._claimed()
        if not claimed:
            return 0
        # One that does not answer must not hold up the others.
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="falaj-webhooks") as pool:
            for row, answer in zip(claimed, pool.map(self._sent, claimed), strict=True):
                self._record(row, answer)
        return len(claimed)

    def run_until(self, stopped: threading.Event) -> None:
        """Send until ``stopped`` is set."""
        while not stopped.wait(_IDLE_SECONDS):
            try:
                while self.run_once() and not stopped.is_set():
                    pass
            except Exception:  # noqa: BLE001
                # Whatever it is: the deliveries stand, and are tried again.
                self._log.exception("webhooks were not sent; it is tried again")

    def _claimed(self) -> list[Row[Any]]:
        """Deliveries that are due, which no other process will send meanwhile."""
        now, table = self._calls.now(), webhook_deliveries
        due = (
            select(table)
            .where(table.c.state == DeliveryState.WAITING, table.c.next_at <= now)
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

    def _sent(self, row: Row[Any]) -> _Answer:
        try:
            with self._calls.database.reading() as connection:
                webhook = self._webhooks.get(connection, row.webhook)
                secret = self._webhooks.secret(connection, row.webhook)
            body = str(row.body).encode()
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "Falaj-Webhooks",
                **signature_headers(secret, row.event, self._calls.now(), body),
            }
            answer = self._outgoing.send("POST", webhook.url, headers=headers, content=body)
        except FalajError as error:
            return _Answer(None, error.message)
        told = "" if 200 <= answer.status_code < 300 else f"it answered {answer.status_code}"
        return _Answer(answer.status_code, told)

    def _record(self, row: Row[Any], answer: _Answer) -> None:
        """Write how an attempt ended; given up, an alert is raised in the same transaction."""
        now, attempts = self._calls.now(), row.attempts + 1
        values: dict[str, Any] = {"status": answer.status, "error": answer.error}
        dead = not answer.is_good and attempts >= self._attempts
        if answer.is_good:
            values |= {"state": DeliveryState.DELIVERED, "ended_at": now, "next_at": None}
        elif dead:
            values |= {"state": DeliveryState.DEAD, "ended_at": now, "next_at": None}
        else:
            values["next_at"] = now + _FIRST_WAIT * _GROWTH ** (attempts - 1)
        facts = {"webhook": row.webhook, "topic": row.topic, "attempt": attempts}
        with self._calls.opened(
            "webhooks.deliver", SENDER, resource=f"webhook:{row.webhook}", arguments=facts
        ) as call:
            call.note(status=answer.status, error=answer.error)
            call.connection.execute(
                update(webhook_deliveries)
                .where(
                    webhook_deliveries.c.id == row.id,
                    webhook_deliveries.c.state == DeliveryState.WAITING,
                )
                .values(**values)
            )
            if dead:
                self._give_up(call, row, answer)

    def _give_up(self, call: Any, row: Row[Any], answer: _Answer) -> None:
        try:
            subject = self._webhooks.get(call.connection, row.webhook).ref
        except NotFound:
            return  # it was removed meanwhile
        self._alerts.raise_alert(
            call,
            name=ALERT,
            subject=subject,
            severity=Severity.WARNING,
            message=f"The webhook {row.webhook!r} was not reached in {self._attempts} attempts:"
            f" {answer.error}",
            evidence={"delivery": row.id, "topic": row.topic, "status": answer.status},
        )
