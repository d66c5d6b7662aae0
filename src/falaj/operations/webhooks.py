"""Webhooks: endpoints that are told of events, at least once each, by signed requests.

An event becomes a delivery for each endpoint that wants it in the transaction in which the
outbox's place moves on, so none is lost and none is made twice. Deliveries are sent outside of
any transaction; one that was sent and not recorded is sent again, with the same id.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from sqlalchemy import Row, insert, select, update

from falaj.kernel.call import AssetRef, Event
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.operations.model import DeliveryState
from falaj.operations.sending import Deliveries
from falaj.operations.webhooks_model import (
    OFFERED,
    SECRET_PREFIX,
    Delivery,
    Topic,
    Webhook,
    WebhookSecret,
    WebhookState,
    document,
    topic_of,
)
from falaj.operations.webhooks_tables import webhook_deliveries, webhooks
from falaj.trust.sealing import open_bytes, seal_bytes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.outgoing import Outgoing
    from falaj.trust.ports import KeyService

SUBSCRIBER = "operations.webhooks"
"""The name under which the outbox keeps this subscriber's place."""
_SECRET_BYTES = 32


def secret_context(name: str) -> str:
    """Under what the secret of an endpoint is sealed."""
    return f"webhook {name}"


class Webhooks:
    """The webhooks of a platform.

    Args:
        catalog: where each endpoint is an asset.
        keys: seals the secrets.
        outgoing: refuses addresses that lead inside.
    """

    def __init__(self, catalog: Catalog, keys: KeyService, outgoing: Outgoing) -> None:
        self._catalog = catalog
        self._keys = keys
        self._outgoing = outgoing
        hint = "`falaj webhooks deliveries` lists them."
        self._kept = Deliveries(webhook_deliveries, _delivery, "webhook", hint)

    def add(self, call: Call, name: str, url: str, topics: Sequence[Topic]) -> WebhookSecret:
        """Add an endpoint; the answer holds its secret, which is not shown again.

        Raises:
            Conflict: there is one of that name.
            InvalidInput: it is no address, or no topic is named.
            OutgoingRefused, Unavailable: the address leads inside, or its name has none.
        """
        wanted = tuple(dict.fromkeys(topics))
        if not wanted or Topic.TEST in wanted:
            raise InvalidInput(
                "Name the topics that the webhook is told of.",
                hint=f"There are: {', '.join(OFFERED)}.",
            )
        self._outgoing.check(url)
        row = call.connection.execute(select(webhooks).where(webhooks.c.name == name)).first()
        if row is not None and row.state == WebhookState.ACTIVE:
            raise Conflict(
                f"There is a webhook {name!r} already.",
                hint="Remove it first, or choose another name.",
            )
        secret, sealed = self._secret(name)
        values = {
            "url": url,
            "topics": list(wanted),
            "state": WebhookState.ACTIVE,
            "secret_sealed": sealed,
            "created_at": call.now,
            "created_by": call.principal.id,
        }
        if row is None:
            call.connection.execute(insert(webhooks).values(name=name, **values))
        else:
            call.connection.execute(
                update(webhooks).where(webhooks.c.name == name).values(**values)
            )
        self._catalog.record(call, AssetRef("webhook", name), owner=call.principal.id)
        call.emit("webhook.added", name=name, topics=list(wanted))
        return WebhookSecret(name=name, secret=secret)

    def replace_secret(self, call: Call, name: str) -> WebhookSecret:
        """A new secret, in force from the next attempt on; raises NotFound."""
        self.get(call.connection, name)
        secret, sealed = self._secret(name)
        call.connection.execute(
            update(webhooks).where(webhooks.c.name == name).values(secret_sealed=sealed)
        )
        call.emit("webhook.secret_replaced", name=name)
        return WebhookSecret(name=name, secret=secret)

    def remove(self, call: Call, name: str) -> Webhook:
        """Tell an endpoint nothing any more; what waits for it is dead. Raises NotFound."""
        found = self.get(call.connection, name)
        call.connection.execute(
            update(webhooks).where(webhooks.c.name == name).values(state=WebhookState.REMOVED)
        )
        call.connection.execute(
            update(webhook_deliveries)
            .where(
                webhook_deliveries.c.webhook == name,
                webhook_deliveries.c.state == DeliveryState.WAITING,
            )
            .values(
                state=DeliveryState.DEAD,
                next_at=None,
                ended_at=call.now,
                error="the webhook was removed",
            )
        )
        call.emit("webhook.removed", name=name)
        return found

    def get(self, connection: Connection, name: str) -> Webhook:
        """One endpoint; raises NotFound."""
        return _webhook(self._row(connection, name))

    def listed(self, connection: Connection) -> list[Webhook]:
        """All endpoints, by name."""
        query = select(webhooks).where(webhooks.c.state == WebhookState.ACTIVE)
        return [_webhook(row) for row in connection.execute(query.order_by(webhooks.c.name))]

    def secret(self, connection: Connection, name: str) -> str:
        """What deliveries to an endpoint are signed with; raises NotFound."""
        sealed = self._row(connection, name).secret_sealed
        return open_bytes(sealed, self._keys, context=secret_context(name)).decode()

    # ---- deliveries

    def handle(self, connection: Connection, event: Event) -> None:
        """Make a delivery for each endpoint that wants an event; fits ``outbox.Subscription``."""
        topic = topic_of(event)
        if topic is None:
            return
        for webhook in self.listed(connection):
            if topic in webhook.topics and event.at >= webhook.created_at:
                self._deliver(connection, webhook.name, topic, event)

    def test(self, call: Call, name: str) -> Delivery:
        """Send an endpoint an event of the topic ``webhook.test``; raises NotFound."""
        self.get(call.connection, name)
        facts = {"webhook": name, "asked_by": call.principal.id}
        event = Event(new_id("event"), Topic.TEST, call.now, facts)
        return self.delivery(
            call.connection, self._deliver(call.connection, name, Topic.TEST, event)
        )

    def resend(self, call: Call, delivery_id: str) -> Delivery:
        """Send a delivery again now, with the same id; raises NotFound.

        Raises:
            Conflict: its webhook was removed.
        """
        found = self.delivery(call.connection, delivery_id)
        try:
            self.get(call.connection, found.webhook)
        except NotFound:
            raise Conflict(
                f"The webhook {found.webhook!r} was removed.", hint="Add it again first."
            ) from None
        call.note(webhook=found.webhook)
        return self._kept.again(call, delivery_id)

    def delivery(self, connection: Connection, delivery_id: str) -> Delivery:
        """One delivery; raises NotFound."""
        return self._kept.get(connection, delivery_id)

    def deliveries(
        self,
        connection: Connection,
        *,
        webhook: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """The newest deliveries first."""
        return self._kept.listed(connection, to=webhook, state=state, limit=limit)

    def _deliver(self, connection: Connection, name: str, topic: Topic, event: Event) -> str:
        delivery_id = new_id("delivery")
        body = json.dumps(document(topic, event), ensure_ascii=False, default=str)
        connection.execute(
            insert(webhook_deliveries).values(
                id=delivery_id,
                webhook=name,
                event=event.id,
                topic=topic,
                body=body,
                state=DeliveryState.WAITING,
                attempts=0,
                created_at=event.at,
                next_at=event.at,
                error="",
            )
        )
        return delivery_id

    def _secret(self, name: str) -> tuple[SecretStr, bytes]:
        secret = SECRET_PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        sealed = seal_bytes(secret.encode(), self._keys, context=secret_context(name))
        return SecretStr(secret), sealed

    @staticmethod
    def _row(connection: Connection, name: str) -> Row[Any]:
        row = connection.execute(
            select(webhooks).where(webhooks.c.name == name, webhooks.c.state == WebhookState.ACTIVE)
        ).first()
        if row is None:
            raise NotFound(
                f"There is no webhook {name!r}.", hint="`falaj webhooks list` shows all."
            )
        return row


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook.model_validate({name: getattr(row, name) for name in Webhook.model_fields})


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery.model_validate({name: getattr(row, name) for name in Delivery.model_fields})
