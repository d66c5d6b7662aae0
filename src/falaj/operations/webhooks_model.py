"""The words of webhooks: endpoints, deliveries, what they tell and how that is signed.

The scheme is that of Standard Webhooks 1.0 (https://www.standardwebhooks.com): the headers
``webhook-id``, ``webhook-timestamp`` (Unix seconds) and ``webhook-signature``, which holds
``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``. The key is what stands in base64
behind ``whsec_`` in the secret. The id stays the same when a delivery is repeated.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.kernel.call import AssetRef, Event
from falaj.operations.model import DeliveryState
from falaj.trust.model import OneTimeSecret

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with


class Topic(StrEnum):
    """What a webhook can be told of."""

    PROMOTION_ASKED = "promotion.asked"
    PROMOTION_APPROVED = "promotion.approved"
    PROMOTION_REJECTED = "promotion.rejected"
    GATES_FAILED = "gates.failed"
    DRIFT_FOUND = "drift.found"
    INCIDENT_OPENED = "incident.opened"
    PIPELINE_FAILED = "pipeline.failed"
    TEST = "webhook.test"


OFFERED = tuple(topic for topic in Topic if topic is not Topic.TEST)
PROMOTION = "model_promotion"
"""The kind of change that is a promotion."""
_CHANGES = {
    "change.opened": Topic.PROMOTION_ASKED,
    "change.approved": Topic.PROMOTION_APPROVED,
    "change.rejected": Topic.PROMOTION_REJECTED,
}
_OTHERS = {
    "monitor.drifted": Topic.DRIFT_FOUND,
    "incident.opened": Topic.INCIDENT_OPENED,
    "pipeline.failed": Topic.PIPELINE_FAILED,
}


class WebhookState(StrEnum):
    """Whether an endpoint is sent to."""

    ACTIVE = "active"
    REMOVED = "removed"


class Webhook(BaseModel):
    """An endpoint that is told of events."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    topics: tuple[Topic, ...]
    created_at: datetime
    created_by: str

    @property
    def ref(self) -> AssetRef:
        """The endpoint as an asset."""
        return AssetRef("webhook", self.name)


class WebhookSecret(BaseModel):
    """The secret that deliveries to an endpoint are signed with; shown once, kept sealed."""

    model_config = ConfigDict(frozen=True)

    name: str
    secret: OneTimeSecret


class Delivery(BaseModel):
    """One event on its way to one endpoint."""

    model_config = ConfigDict(frozen=True)

    id: str
    webhook: str
    event: str
    """The event's id: the header ``webhook-id``, the same with every attempt."""
    topic: Topic
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_at: datetime | None = None
    ended_at: datetime | None = None
    status: int | None = None
    """Of the last answer; None if there was none."""
    error: str = ""


def topic_of(event: Event) -> Topic | None:
    """What an event of the outbox is for webhooks; None if it is nothing to them."""
    if event.type in _CHANGES:
        is_promotion = event.payload.get("kind") == PROMOTION
        return _CHANGES[event.type] if is_promotion else None
    if event.type == "gates.run":
        return Topic.GATES_FAILED if event.payload.get("passed") is False else None
    return _OTHERS.get(event.type)


def document(topic: Topic, event: Event) -> dict[str, Any]:
    """The body of a delivery, JSON-ready: ``type``, ``id``, ``at`` and the event's facts."""
    return {
        "type": topic.value,
        "id": event.id,
        "at": event.at.isoformat(),
        "data": dict(event.payload),
    }


def signature_headers(secret: str, event: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """The headers that prove who sent a body and when.

    Args:
        secret: of the endpoint.
        event: its id.
        at: of this attempt.
        body: as it is sent.
    """
    timestamp = str(int(at.timestamp()))
    key = b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.digest(key, b".".join((event.encode(), timestamp.encode(), body)), "sha256")
    return {
        "webhook-id": event,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{b64encode(signed).decode()}",
    }
