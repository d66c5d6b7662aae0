"""Alerts by apprise, which knows more than a hundred channels (extra ``notify``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from falaj.operations.alerting_model import GroupMessage


class AppriseNotifier:
    """Sends one message for each news of a group.

    Apprise makes its own connections, so the guard on addresses does not see them: where they
    lead is what the operator has written in the secret, and nothing that a user declares.

    Args:
        url: apprise's address of the channel (``ntfys://…``, ``matrix://…``); a secret.

    Raises:
        InvalidInput: the package is missing, or apprise knows no such channel.
    """

    def __init__(self, url: str) -> None:
        try:
            import apprise
        except ImportError:
            raise InvalidInput(
                "Receivers of the channel apprise need the package apprise.",
                hint="Install the extra: pip install 'falaj[notify]'.",
            ) from None
        self._apprise: Any = apprise.Apprise()
        self._types = {
            "info": apprise.NotifyType.INFO,
            "warning": apprise.NotifyType.WARNING,
            "critical": apprise.NotifyType.FAILURE,
        }
        self._well = apprise.NotifyType.SUCCESS
        self._plain = apprise.NotifyFormat.TEXT
        if not self._apprise.add(url):
            raise InvalidInput("Apprise knows no channel of this address.", hint="See its guide.")

    def tell(self, message: GroupMessage) -> None:
        """Send the message."""
        kind = self._well if message.status == "resolved" else self._types[message.severity]
        body = "\n".join([*message.lines(), message.address]).strip()
        taken = self._apprise.notify(
            title=message.title, body=body, notify_type=kind, body_format=self._plain
        )
        if not taken:
            raise Unavailable("Apprise's channel did not take the message.")

    def check(self) -> None:
        """Return: apprise has no way to ask a channel without sending; its address was read."""
