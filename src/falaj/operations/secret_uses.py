"""Which receiver may be given which secret: the one that the operator's settings bind it to.

Whoever may declare things names the server of a receiver and the secret that it is given.
Without a bond between the two they could have any secret of the operator sent to a server of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from falaj.catalog.planning import Step
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings_receivers import ReceiverSettings
from falaj.operations.routing import AlertReceiver

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition

PAGERDUTY_HOST = "events.pagerduty.com"
_PORTS = {"https": 443, "smtp": 587, "smtps": 465}


def takes_secret(receiver: AlertReceiver) -> bool:
    """True if a receiver is sent the secret of its name, if there is one."""
    return receiver.channel != "email" or bool(receiver.user)


def check_use(receiver: AlertReceiver, settings: ReceiverSettings) -> None:
    """Return if a receiver may be given its secret; what the secret is, is not asked.

    Raises:
        InvalidInput: the settings bind it to another channel or server, or to none while the
            declaration names the server.
    """
    name = receiver.secret_name
    use = settings.uses.get(name)
    needed = _needed(receiver)
    if use is None:
        if receiver.channel in ("alertmanager", "email") or receiver.url:
            raise InvalidInput(
                f"The secret {name!r} is bound to no server, so the receiver"
                f" {receiver.name!r} is not given it.",
                hint=f"The operator binds it: [receivers.uses.{name}] with"
                f' channel = "{receiver.channel}" and host = "{needed}".',
            )
        return
    if use.channel != receiver.channel or (needed and _whole(use.host, receiver.url) != needed):
        bound = f"{use.channel} {use.host}".strip()
        raise InvalidInput(
            f"The secret {name!r} is for {bound}, not for the receiver {receiver.name!r}"
            f" ({receiver.channel} {needed}).".replace(" )", ")"),
            hint=f"Name another secret, or let the operator change receivers.uses.{name}.",
        )


def check_shape(receiver: AlertReceiver, secret: str) -> None:
    """Return if a secret can be one of the receiver's channel; raises InvalidInput.

    The secret addresses of other channels are no keys of PagerDuty: they are not sent there.
    """
    if receiver.channel == "pagerduty" and not secret.isalnum():
        raise InvalidInput(
            f"The secret {receiver.secret_name!r} is no integration key of PagerDuty.",
            hint="Such a key has letters and digits alone.",
        )


class ReceiverReview:
    """Judges each plan that changes receivers; fulfils ``catalog.definitions.Review``.

    Args:
        settings: which secrets there are, and what they are for.
    """

    def __init__(self, settings: ReceiverSettings) -> None:
        self._settings = settings

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises InvalidInput if a secret is not for its receiver."""
        for item in items:
            if item.kind == AlertReceiver.kind and item.step in (Step.CREATE, Step.UPDATE):
                receiver = resulting.get(item.kind, item.name)
                if isinstance(receiver, AlertReceiver) and self._knows(receiver):
                    check_use(receiver, self._settings)
        return list(items)

    def _knows(self, receiver: AlertReceiver) -> bool:
        """A secret may be set later, and then sending asks once more."""
        name = receiver.secret_name
        known = self._settings.holds(name) or name in self._settings.uses
        return known and takes_secret(receiver)


def _needed(receiver: AlertReceiver) -> str:
    """The server that the declaration names, with its port; empty if the secret does."""
    if receiver.channel in ("slack", "teams", "apprise"):
        return ""
    url = receiver.url or f"https://{PAGERDUTY_HOST}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host = port = None
    if not host or port is None or "@" in parts.netloc:
        raise InvalidInput(
            f"The address of the receiver {receiver.name!r} names no server.",
            hint="https://name:port, smtp://name:port or smtps://name:port",
        )
    return f"{host}:{port}"


def _whole(host: str, url: str) -> str:
    """A host of the settings with its port."""
    scheme = urlsplit(url).scheme or "https"
    name, _, port = (host or PAGERDUTY_HOST).partition(":")
    return f"{name}:{port or _PORTS.get(scheme, 443)}"
