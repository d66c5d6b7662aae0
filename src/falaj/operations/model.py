"""The words of service management: changes, alerts, incidents, notifications."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput

LONGEST_TEXT = 4_000
MOST_LISTED = 1_000
"""As many rows as a list reads; a caller's share of them is chosen by what it may see."""


class ChangeType(StrEnum):
    """How a change comes to be carried out, in ITIL's sense."""

    NORMAL = "normal"  # asked for, then approved by another person
    STANDARD = "standard"  # at once, inside the bounds of an approved template
    EMERGENCY = "emergency"  # carried out first, reviewed by another person afterwards


class ChangeState(StrEnum):
    """Where a change stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    IN_REVIEW = "in_review"  # an emergency change that nobody has reviewed yet
    REVIEWED = "reviewed"


class Verdict(StrEnum):
    """What a review of an emergency change found."""

    JUSTIFIED = "justified"
    UNJUSTIFIED = "unjustified"


class Severity(StrEnum):
    """How much an alert matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def level(self) -> int:
        """0 for info to 2 for critical."""
        return list(Severity).index(self)


class AlertState(StrEnum):
    """Where an alert stands; it is open until it is resolved."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Scale(StrEnum):
    """How wide the impact is, or how soon it must be mended."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def level(self) -> int:
        """0 for low to 2 for high."""
        return list(Scale).index(self)


class IncidentState(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    RESOLVED = "resolved"


class Entry(BaseModel):
    """One line of a history: who did what, when, and in which words."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    by: str
    what: str
    text: str = ""


class Change(BaseModel):
    """A change that waits for an approval, or has been decided."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str
    """What sort of change it is; says who carries it out."""
    subject: AssetRef
    title: str
    reason: str
    evidence: dict[str, Any]
    """What was measured that speaks for it (or against it), for the eyes of the approver."""
    payload: dict[str, Any]
    """What is carried out on approval."""
    state: ChangeState
    requested_by: str
    requested_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    decision: str = ""
    """The reason of the one who decided or reviewed."""
    type: ChangeType = ChangeType.NORMAL
    template: str | None = None
    """Of a standard change: the template's name and version, ``retraining@3``. Who approved
    the template stands in ``decided_by``."""
    review_due_at: datetime | None = None
    """Of an emergency change: until when another person must have reviewed it."""
    verdict: Verdict | None = None
    """Of an emergency change that was reviewed."""
    history: list[Entry] = []

    @property
    def ref(self) -> AssetRef:
        """The change as an asset."""
        return AssetRef("change", self.id)


class Alert(BaseModel):
    """Something is not as it should be."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    subject: AssetRef
    severity: Severity
    message: str
    evidence: dict[str, Any]
    """What was measured, the last time."""
    state: AlertState
    raised_at: datetime
    last_seen_at: datetime
    n_seen: int
    """How often it was raised since it opened."""
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None
    resolved_by: str | None = None
    resolved_at: datetime | None = None
    resolution: str = ""

    @property
    def ref(self) -> AssetRef:
        """The alert as an asset."""
        return AssetRef("alert", self.id)


class Incident(BaseModel):
    """A disturbance that people work on until it is resolved."""

    model_config = ConfigDict(frozen=True)

    id: str
    title: str
    subject: AssetRef
    impact: Scale
    urgency: Scale
    priority: int
    """From 1 (at once) to 5 (when there is time)."""
    state: IncidentState
    opened_at: datetime
    """When it was detected."""
    opened_by: str
    began_at: datetime | None = None
    """When the disturbance began, as far as is known."""
    assigned_to: str | None = None
    """The person or team that works on it."""
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    n_escalations: int = 0
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    resolution: str = ""
    alerts: list[str] = []
    """The alerts that belong to it, the oldest first."""
    problem: str | None = None
    """Its cause, if one was opened."""
    changes: list[str] = []
    """The changes that caused or mended it."""
    timeline: list[Entry] = []

    @property
    def seconds_to_detect(self) -> float | None:
        """From the beginning of the disturbance to the opening; None if nobody knows."""
        return None if self.began_at is None else (self.opened_at - self.began_at).total_seconds()

    @property
    def seconds_to_acknowledge(self) -> float | None:
        """From the opening to the acknowledgement; None before."""
        at = self.acknowledged_at
        return None if at is None else (at - self.opened_at).total_seconds()

    @property
    def seconds_to_resolve(self) -> float | None:
        """From the opening to the resolution; None before."""
        at = self.resolved_at
        return None if at is None else (at - self.opened_at).total_seconds()

    @property
    def ref(self) -> AssetRef:
        """The incident as an asset."""
        return AssetRef("incident", self.id)


class ProblemState(StrEnum):
    """Where a problem stands."""

    OPEN = "open"
    KNOWN_ERROR = "known_error"  # the cause is known, and how to work around it
    RESOLVED = "resolved"


class Problem(BaseModel):
    """The cause, known or not yet, of one or more incidents."""

    model_config = ConfigDict(frozen=True)

    id: str
    title: str
    subject: AssetRef
    state: ProblemState
    root_cause: str = ""
    workaround: str = ""
    opened_at: datetime
    opened_by: str
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    resolution: str = ""
    incidents: list[str] = []
    """The incidents that it caused, the oldest first."""
    change: str | None = None
    """The change that resolved it."""
    timeline: list[Entry] = []

    @property
    def ref(self) -> AssetRef:
        """The problem as an asset."""
        return AssetRef("problem", self.id)


class Notification(BaseModel):
    """A message for the people whom it concerns."""

    model_config = ConfigDict(frozen=True)

    id: str
    """The id of the event that it tells of: a repeated delivery has the same one."""
    at: datetime
    topic: str
    """The type of the event, such as ``alert.raised``."""
    subject: AssetRef
    title: str
    text: str = ""
    severity: Severity = Severity.INFO
    recipients: tuple[str, ...] = ()
    """Principals or teams; empty for everyone who watches the topic."""


def priority_of(impact: Scale, urgency: Scale) -> int:
    """The priority of an incident from 1 to 5: ITIL's matrix of impact and urgency.

    High with high is 1, and each step down on either side adds one; so low with low is 5.
    """
    return 1 + (Scale.HIGH.level - impact.level) + (Scale.HIGH.level - urgency.level)


def over(message: str) -> str:
    """What an alert said, as news of its end: nobody shall read that it goes on."""
    return f"It is over. Before: {message}"


def told(what: str, text: str, *, required: bool = True) -> str:
    """The text without the blanks around it.

    Raises:
        InvalidInput: it is empty (and required), or longer than 4,000 characters.
    """
    stripped = text.strip()
    if required and not stripped:
        raise InvalidInput(f"The {what} is empty.", hint="Say it in a sentence.")
    if len(stripped) > LONGEST_TEXT:
        raise InvalidInput(
            f"The {what} has {len(stripped)} characters.", hint=f"At most {LONGEST_TEXT} are kept."
        )
    return stripped


class DeliveryState(StrEnum):
    """Where a message to a receiver or a webhook stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"  # tried as often as may be; it can be sent again by hand
