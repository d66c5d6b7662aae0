"""Forgets what was sent long ago: deliveries to receivers of alerts and to webhooks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Table, delete, func, select

from falaj.operations.alerting_tables import alert_deliveries
from falaj.operations.model import DeliveryState
from falaj.operations.webhooks_tables import webhook_deliveries

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls

KEPT = timedelta(days=30)
_AT_A_TIME = 500
"""Rows in one transaction: others are not to wait for it."""


class EndedDeliveries:
    """Deletes deliveries that ended more than 30 days ago; what waits stays.

    The audit log holds of each attempt when it was made and how it ended.

    Args:
        calls: opens the transactions, and tells the time.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def run_once(self) -> int:
        """Forget what is due; returns how many deliveries that were."""
        return sum(self._forget(table) for table in (alert_deliveries, webhook_deliveries))

    def _forget(self, table: Table) -> int:
        # Of a webhook that was removed early on, what waited has no end of its own.
        ended_at = func.coalesce(table.c.ended_at, table.c.created_at)
        old = (
            select(table.c.id)
            .where(table.c.state != DeliveryState.WAITING, ended_at < self._calls.now() - KEPT)
            .limit(_AT_A_TIME)
        )
        n_forgotten = 0
        while True:
            with self._calls.database.reading() as connection:
                ids = list(connection.execute(old).scalars())
            if not ids:
                return n_forgotten
            with self._calls.database.transaction() as connection:
                gone = connection.execute(
                    # One that is sent again meanwhile waits, and stays.
                    delete(table).where(table.c.id.in_(ids), table.c.state != DeliveryState.WAITING)
                )
            n_forgotten += gone.rowcount
