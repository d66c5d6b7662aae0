"""The parts of webhooks, joined."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.kernel.outgoing import Outgoing
from falaj.operations.webhooks import Webhooks

if TYPE_CHECKING:
    from falaj.kernel.outbox import Subscription
    from falaj.operations.sending import Sender
    from falaj.wiring.assembly import Premises


def outgoing(made: Premises) -> Outgoing:
    """What sends to webhooks; raises InvalidInput if the file of authorities cannot be read."""
    file = made.settings.webhooks.ca_file
    if file is None:
        return Outgoing(made.settings.outgoing)
    try:
        verify = ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The setting webhooks.ca_file names no certificates: {error}.",
            hint="It is a PEM file of authorities.",
        ) from None
    return Outgoing(made.settings.outgoing, verify=verify)


def webhooks(made: Premises) -> Webhooks:
    """The webhooks."""
    return Webhooks(made.catalog, made.keys, outgoing(made))


def sender(made: Premises) -> Sender:
    """What sends deliveries."""
    from falaj.operations.sending import Sender
    from falaj.operations.webhooks_sending import ToWebhooks

    deliveries = ToWebhooks(webhooks(made), made.calls, outgoing(made), made.alerts)
    return Sender(deliveries, made.calls, made.settings.webhooks.attempts)


def events(made: Premises) -> Subscription:
    """Reads the outbox for what webhooks are told."""
    from falaj.kernel.outbox import Subscription
    from falaj.operations.webhooks import SUBSCRIBER

    return Subscription(made.database, SUBSCRIBER, webhooks(made).handle, begin="now")
