"""Fakes of the door's ports: they keep the ports' promises, in memory.

They pass the same conformance suites as the real ones (``falaj.testing.conformance``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection

from falaj.kernel.call import AssetRef, Caller
from falaj.kernel.errors import Unavailable
from falaj.kernel.ports import AuditEntry, Decision, Resource


class AllowAll:
    """A policy that permits everything."""

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision:
        """Yes."""
        return Decision(True, ("allow-all",))


class DenyAll:
    """A policy that permits nothing."""

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision:
        """No."""
        return Decision(False, ("deny-all",))


class RulePolicy:
    """A policy that a function decides.

    Args:
        rule: given the caller, the action's name, the resource and whether a fresh second
            factor was presented; True permits.
    """

    def __init__(self, rule: Callable[[Caller, str, Resource, bool], bool]) -> None:
        self._rule = rule

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision:
        """What the rule says."""
        return Decision(self._rule(caller, action, resource, stepped_up), ("rule",))


class MemoryAudit:
    """An audit log in memory that, as a real one, keeps an entry only with its transaction."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.broken = False
        """Set it to True, and no entry can be kept any more."""
        self._pending: dict[int, list[AuditEntry]] = {}

    def append(self, connection: Connection, entry: AuditEntry) -> None:
        """Keep the entry when the transaction commits.

        Raises:
            Unavailable: ``broken`` is set.
        """
        if self.broken:
            raise Unavailable("The audit log does not answer.", hint="Nothing was done.")
        waiting = self._pending.setdefault(id(connection), [])
        if not waiting:
            event.listen(connection, "commit", self._committed, once=True)
            event.listen(connection, "rollback", self._rolled_back, once=True)
        waiting.append(entry)

    def append_many(self, connection: Connection, entries: Sequence[AuditEntry]) -> None:
        """Keep the entries when the transaction commits; see ``append``."""
        for entry in entries:
            self.append(connection, entry)

    def _committed(self, connection: Connection) -> None:
        self.entries += self._pending.pop(id(connection), [])

    def _rolled_back(self, connection: Connection) -> None:
        self._pending.pop(id(connection), None)


class MemoryResources:
    """Resources whose attributes stand in a dictionary; all others are missing."""

    def __init__(self, known: Mapping[AssetRef, Mapping[str, str]] | None = None) -> None:
        self.known: dict[AssetRef, Mapping[str, str]] = dict(known or {})

    def load(self, connection: Connection, ref: AssetRef) -> Resource:
        """The known attributes, or a resource with ``exists=False``."""
        attributes = self.known.get(ref)
        return Resource(ref, attributes or {}, exists=attributes is not None)


class MemoryNotifier:
    """A notifier that remembers what it was told to send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def notify(self, message: Any) -> None:
        """Remember the message."""
        self.sent.append(message)
