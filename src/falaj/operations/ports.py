"""What ``operations`` needs from the outside."""

from __future__ import annotations

from typing import Protocol

from falaj.operations.model import Notification


class Notifier(Protocol):
    """Tells people. Called after the commit, at least once for each notification.

    A repeat carries the same ``id``; a channel that can, sends it once. Raises
    ``Unavailable`` when the channel does not answer: it is then tried again later.
    """

    def notify(self, message: Notification) -> None: ...
