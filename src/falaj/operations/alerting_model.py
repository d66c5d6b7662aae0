"""What receivers of alerts are told, silences, and deliveries."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from falaj.kernel.call import AssetRef
from falaj.operations.dispatching import Status
from falaj.operations.model import DeliveryState, Severity
from falaj.operations.routing import Matchers

MOST_TOLD = 100
"""No message holds more alerts than this: it is kept until long after it was sent."""


class ToldAlert(BaseModel):
    """One alert as a receiver is told of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    subject: AssetRef
    severity: Severity
    message: str
    labels: dict[str, str]
    raised_at: datetime
    resolved_at: datetime | None = None
    """None while it stands."""
    acknowledged_by: str | None = None


class GroupMessage(BaseModel):
    """What one receiver is told of one group of alerts."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Of the delivery: a repeat carries the same one."""
    at: datetime
    group: str
    """The same for all messages of a group: what PagerDuty calls the deduplication key."""
    route: str
    receiver: str
    status: Status
    labels: dict[str, str]
    """The labels that the group's alerts share."""
    alerts: tuple[ToldAlert, ...]
    n_more_standing: int = 0
    """Alerts of the group that stand and are not among ``alerts``."""
    n_more_over: int = 0
    """Those that are over and not among them."""
    address: str = ""
    """Where people read more: the platform's own page; empty if it has no known address."""

    @property
    def severity(self) -> Severity:
        """The highest of its alerts that stand, or of all if none does."""
        standing = [one for one in self.alerts if one.resolved_at is None] or list(self.alerts)
        return max((one.severity for one in standing), key=lambda one: one.level)

    @property
    def title(self) -> str:
        """One line: the status, how many stand, and the first one's message."""
        n_standing = sum(one.resolved_at is None for one in self.alerts) + self.n_more_standing
        counted = f"{self.status.upper()}:{n_standing}" if n_standing else "RESOLVED"
        n_rest = len(self.alerts) - 1 + self.n_more_standing + self.n_more_over
        rest = f" (and {n_rest} more)" if n_rest else ""
        return _one_line(f"[{counted}] {self.alerts[0].name}: {self.alerts[0].message}{rest}")

    def lines(self, most: int = MOST_TOLD + 1) -> list[str]:
        """One line for each alert; if there are more than ``most``, the last line says so."""
        lines = [
            _one_line(
                f"{'resolved' if one.resolved_at else one.severity}: {one.name} of {one.subject}:"
                f" {one.message} (since {one.raised_at.isoformat(timespec='seconds')}, {one.id})"
            )
            for one in self.alerts
        ]
        n_more = self.n_more_standing + self.n_more_over
        if len(lines) + bool(n_more) > most:
            n_more += len(lines) - (most - 1)
            lines = lines[: most - 1]
        return [*lines, f"and {n_more} more: `falaj alerts list` shows all"] if n_more else lines


def _one_line(text: str) -> str:
    """The text without breaks and control characters: data must not forge lines or headers,
    nor turn the direction of what follows."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Silence(BaseModel):
    """Alerts that nobody is told of for a time."""

    model_config = ConfigDict(frozen=True)

    id: str
    matchers: Matchers
    """All fit the labels of the alerts."""
    starts_at: datetime
    ends_at: datetime
    reason: str
    created_by: str
    created_at: datetime
    expired_by: str | None = None
    """Who ended it before its time."""

    def active(self, at: datetime) -> bool:
        """True while it keeps alerts quiet."""
        return self.starts_at <= at < self.ends_at


class AlertDelivery(BaseModel):
    """One message on its way to one receiver."""

    model_config = ConfigDict(frozen=True)

    id: str
    receiver: str
    group: str
    status: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
