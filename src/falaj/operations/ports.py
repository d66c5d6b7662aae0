"""What ``operations`` needs from the outside."""

from __future__ import annotations

from typing import Protocol

from falaj.operations.alerting_model import GroupMessage
from falaj.operations.model import Notification


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
