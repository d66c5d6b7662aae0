"""What ``operations`` needs from the outside."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from falaj.operations.alerting_model import GroupMessage
from falaj.operations.budgets import Served, ServiceLevel
from falaj.operations.model import Notification

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


class Notifier(Protocol):
    """Tells people. Called after the commit, at least once for each notification.

    A repeat carries the same ``id``; a channel that can, sends it once. Raises
    ``Unavailable`` when the channel does not answer: it is then tried again later.
    """

    def notify(self, message: Notification) -> None: ...


class AlertNotifier(Protocol):
    """Tells one receiver of groups of alerts, by one technology.

    Called outside of any transaction, at least once for each message; a repeat carries the
    same ``id``. Messages of one group come in order, and carry the same ``group``: a channel
    that can, shows them as one. No error's text holds a secret.
    """

    def tell(self, message: GroupMessage) -> None:
        """Send a message; returns when the channel has taken it.

        Raises:
            FalajError: it was not taken, for which the text says why; it is tried again.
        """

    def check(self) -> None:
        """Return if the channel can be reached; sends nothing that people would see.

        Raises:
            FalajError: it cannot, or its secret is missing.
        """


class ServedSeries(Protocol):
    """What endpoints served over time, as the indicators of service levels count it."""

    def served(
        self, connection: Connection, level: ServiceLevel, start: datetime, end: datetime
    ) -> Served:
        """The requests of the minutes that begin from ``start`` to before ``end``.

        A minute is told at the latest one minute after it ended; what was never counted (the
        platform was down, or the level was not declared yet) is as if nothing had been asked.
        """
        ...
