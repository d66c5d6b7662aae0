"""The actions on webhooks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.operations.model import DeliveryState
from falaj.operations.webhooks import Webhooks
from falaj.operations.webhooks_model import (
    Delivery,
    Topic,
    Webhook,
    WebhookSecret,
)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Address = Annotated[str, Field(max_length=2000)]
Limit = Annotated[int, Field(ge=1, le=1000)]
WebhookList = list[Webhook]
DeliveryList = list[Delivery]
Topics = list[Topic]


class WebhookService(Service):
    """Webhooks: other programs that are told of events, by signed requests."""

    name = "webhooks"

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    @action(post="/webhooks", step_up=True)
    def add(self, name: Name, url: Address, topics: Topics) -> WebhookSecret:
        """Add a webhook; the answer holds the secret that signs, which is shown this once."""
        return self._webhooks.add(self.call, name, url, topics)

    @action(get="/webhooks")
    def list(self) -> WebhookList:
        """All webhooks with the topics that they are told of."""
        return self._webhooks.listed(self.call.connection)

    @action(post="/webhooks/{name}/secret", on="webhook", step_up=True)
    def replace_secret(self, name: Name) -> WebhookSecret:
        """Give a webhook a new secret; the old one signs nothing any more."""
        return self._webhooks.replace_secret(self.call, name)

    @action(delete="/webhooks/{name}", on="webhook", step_up=True)
    def remove(self, name: Name) -> Webhook:
        """Tell a webhook nothing any more; what waits for it is given up."""
        return self._webhooks.remove(self.call, name)

    @action(post="/webhooks/{name}/tests", on="webhook")
    def test(self, name: Name) -> Delivery:
        """Send a webhook an event of the topic ``webhook.test``."""
        return self._webhooks.test(self.call, name)

    @action(get="/webhook-deliveries")
    def deliveries(
        self,
        webhook: str | None = None,
        *,
        state: DeliveryState | None = None,
        limit: Limit = 50,
    ) -> DeliveryList:
        """The newest deliveries first: attempts, last answer, and when the next one is due."""
        return self._webhooks.deliveries(
            self.call.connection, webhook=webhook, state=state, limit=limit
        )

    @action(post="/webhook-deliveries/{delivery}/attempts", on="webhook_delivery")
    def resend(self, delivery: str) -> Delivery:
        """Send a delivery again now, with the same id, whatever became of it."""
        return self._webhooks.resend(self.call, delivery)
