"""What the door stands on, fulfilled by trust and catalog and joined in ``wiring``.

The kernel knows no capability: it asks a policy, writes to an audit log and reads the
attributes of resources, and does not know who answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from sqlalchemy.engine import Connection

from falaj.kernel.call import AssetRef, Call, Caller, Event


@dataclass(frozen=True, slots=True)
class Resource:
    """What a call is about, as the policy sees it."""

    ref: AssetRef
    attributes: Mapping[str, str] = field(default_factory=dict)
    """``owner``, ``classification``, ``region``, ``stage``; absent means unknown."""
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer, with the ids of the policies that decided."""

    allowed: bool
    reasons: tuple[str, ...] = ()


class Outcome(StrEnum):
    """How a call ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One record of what was asked, by whom, and how it ended."""

    call_id: str
    parent: str | None
    at: datetime
    principal: str
    via: str
    address: str | None
    action: str
    resource: str
    outcome: Outcome
    reasons: tuple[str, ...]
    arguments: Mapping[str, Any]
    details: Mapping[str, Any]


class Policy(Protocol):
    """Decides. Pure for the same policy epoch: no I/O, safe from many threads."""

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision: ...


class AuditLog(Protocol):
    """Keeps every entry for good, in the transaction that it is given, in order.

    Both raise when an entry cannot be kept; the caller's work is then rolled back. Append
    last: a log may hold a lock until the transaction ends.
    """

    def append(self, connection: Connection, entry: AuditEntry) -> None: ...

    def append_many(self, connection: Connection, entries: Sequence[AuditEntry]) -> None: ...


TurnedAway: TypeAlias = Callable[[BaseException, str | None, str], None]
"""Told of each request that is refused before the door: why, the address, and what it asked."""


class Resources(Protocol):
    """Finds the attributes of what a call is about; a missing one has ``exists=False``."""

    def load(self, connection: Connection, ref: AssetRef) -> Resource: ...


class Events(Protocol):
    """Keeps events in the caller's transaction, to be delivered after its commit.

    Append last: it may hold a lock until the transaction ends.
    """

    def append(self, connection: Connection, events: Sequence[Event]) -> None: ...


class Transactions(Protocol):
    """Opens transactions on the metadata database."""

    @contextmanager
    def transaction(self) -> Iterator[Connection]: ...


class Door(Protocol):
    """Takes a call to where it is served, near or far, as one caller.

    Raises the same ``FalajError`` classes near and far.
    """

    def call(
        self, action: Any, arguments: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any: ...

    def with_purpose(self, purpose: str | None) -> Door:
        """A door for the same caller, who states a purpose; None leaves what was stated."""
        ...


class Work(Protocol):
    """A piece of work inside a call's transaction."""

    def __call__(self, call: Call) -> Any: ...
