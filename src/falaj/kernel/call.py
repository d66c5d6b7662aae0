"""One call through the door: who asks, for what, and the one transaction it works in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from falaj.kernel.ids import new_id

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.ports import AuditEntry

_ACTING: ContextVar[str] = ContextVar("acting", default="")

STEP_UP_WINDOW = timedelta(minutes=5)
"""How long a presented second factor counts as fresh."""


class PrincipalKind(StrEnum):
    """What sort of thing acts."""

    USER = "user"
    SERVICE = "service"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Principal:
    """A person, a program or the platform itself.

    ``id`` is unique and stable (``user:amina``, ``service:ci``, ``system:worker``);
    ``roles`` are role names that the policy knows.
    """

    id: str
    kind: PrincipalKind
    roles: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The id without its kind: ``amina`` of ``user:amina``."""
        return self.id.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal as it stands before the door: with its factors, purpose and address."""

    principal: Principal
    mfa_at: datetime | None = None
    """When this session last presented a second factor (UTC), or never."""
    purpose: str | None = None
    """Why data is asked for, where a classification demands a reason."""
    via: str = "local"
    """The interface: local, http, cli, job."""
    address: str | None = None
    session: str | None = None
    """The session whose token it holds; None for a caller without a token."""
    epoch: int | None = None
    """The account's epoch when that token was issued."""

    def stepped_up(self, now: datetime) -> bool:
        """True if a second factor was presented within the step-up window."""
        return self.mfa_at is not None and timedelta(0) <= now - self.mfa_at <= STEP_UP_WINDOW

    def with_factor(self, at: datetime) -> Caller:
        """The same caller, having presented a second factor at an instant."""
        return replace(self, mfa_at=at)


@dataclass(frozen=True, slots=True)
class AssetRef:
    """The stable name of an asset: its kind and its key, written ``kind:key``."""

    kind: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.key}"

    @classmethod
    def parse(cls, text: str) -> AssetRef:
        """Read ``kind:key``; raises ValueError without a colon."""
        kind, colon, key = text.partition(":")
        if not colon or not kind or not key:
            raise ValueError(f"{text!r} is not an asset name of the form kind:key")
        return cls(kind, key)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, to be told to those whom it concerns after the commit."""

    id: str
    type: str
    at: datetime
    payload: Mapping[str, Any]


@dataclass(slots=True)
class Call:
    """One unit of work: everything a domain function needs to know of its call.

    The door makes it, opens its transaction, and commits or rolls back. Domain functions
    read and write through ``connection``, emit events and note facts for the audit record.
    """

    caller: Caller
    action: str
    now: datetime
    connection: Connection
    id: str = field(default_factory=lambda: new_id("call"))
    parent: str | None = None
    events: list[Event] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    records: list[AuditEntry] = field(default_factory=list)
    """Audit records of the calls made inside this one; kept with its own, at the end."""
    waiting: list[Callable[[], None]] | None = None
    """What an action that reads first will write; None as soon as it may write."""

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.caller.principal

    def emit(self, event_type: str, **payload: Any) -> None:
        """Tell of something that happened; delivered after the commit, at least once."""
        self.events.append(Event(new_id("event"), event_type, self.now, payload))

    def after_reading(self, write: Callable[[], None]) -> None:
        """Write something: at once, or, of an action that reads first, when it has read.

        ``write`` finds the connection and the time to write with in this call.
        """
        if self.waiting is None:
            write()
        else:
            self.waiting.append(write)

    def begin_writing(
        self, connection: Connection, records: list[AuditEntry], now: datetime
    ) -> None:
        """Write what waits, in its order, through the connection of a transaction."""
        self.connection, self.records, self.now = connection, records, now
        waiting, self.waiting = self.waiting or [], None
        for write in waiting:
            write()

    def note(self, **facts: Any) -> None:
        """Add JSON-ready facts to this call's audit record."""
        self.notes.update(facts)


@contextmanager
def acting(principal_id: str) -> Iterator[None]:
    """Within it, what this thread does is done on a principal's behalf."""
    token = _ACTING.set(principal_id)
    try:
        yield
    finally:
        _ACTING.reset(token)


def acting_principal() -> str:
    """On whose behalf this thread works now; empty if it serves nobody."""
    return _ACTING.get()
