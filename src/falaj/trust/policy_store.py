"""The operator's own policies, in force within a second in every process.

They stand in the database beside a number that grows with each change. Each process looks at
the number four times a second, when it is asked to decide, and takes the policies in when it
has moved. A process that cannot look decides nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from falaj.kernel.actions import Action
from falaj.kernel.call import Caller
from falaj.kernel.clock import Clock, monotonic
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.kernel.ports import Decision, Resource
from falaj.trust.policy import CedarPolicy
from falaj.trust.policy_tables import operator_policies, policy_epoch

FRESH_SECONDS = 0.25
_THE_ROW = 1


def put(connection: Connection, name: str, text: str | None, *, now: datetime) -> None:
    """Put a policy in force in the caller's transaction, or out of force (None).

    In force everywhere within a second of the commit. The counter's row is locked by the
    update, so that two changes become visible one after the other.
    """
    if not _moved(connection):
        try:
            with connection.begin_nested():
                connection.execute(insert(policy_epoch).values(id=_THE_ROW, value=1))
        except IntegrityError:  # another process made the first row at this moment
            _moved(connection)
    connection.execute(delete(operator_policies).where(operator_policies.c.name == name))
    if text is not None:
        connection.execute(insert(operator_policies).values(name=name, text=text, at=now))


def epoch(connection: Connection) -> int:
    """How often the operator's policies have changed."""
    found = connection.execute(
        select(policy_epoch.c.value).where(policy_epoch.c.id == _THE_ROW)
    ).scalar()
    return int(found or 0)


def in_force(connection: Connection) -> dict[str, str]:
    """The text of each policy in force, by name."""
    rows = connection.execute(select(operator_policies).order_by(operator_policies.c.name))
    return {row.name: row.text for row in rows}


def _moved(connection: Connection) -> bool:
    return bool(
        connection.execute(
            update(policy_epoch)
            .where(policy_epoch.c.id == _THE_ROW)
            .values(value=policy_epoch.c.value + 1)
        ).rowcount
    )


class LivePolicy(CedarPolicy):
    """Decides by the built-in policies and those of the operator, as they stand now.

    Args:
        actions: all actions of the platform.
        database: where the operator's policies stand.
        environment: what this installation is for (``production``), if anything is said.
        clock: tells how old a second factor is.
        fresh_seconds: how old the look at the database may be when a decision is made.
        ticks: seconds that only grow.
    """

    def __init__(
        self,
        actions: Iterable[Action],
        database: Database,
        *,
        environment: str = "",
        clock: Clock | None = None,
        fresh_seconds: float = FRESH_SECONDS,
        ticks: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(actions, environment=environment, clock=clock)
        self._database = database
        self._fresh_seconds = fresh_seconds
        self._ticks = ticks
        self._fresh_until = float("-inf")
        self._looking = threading.Lock()
        self.epoch = -1
        """Of the policies in force here."""

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision:
        """May this caller do this? With the ids of the policies that decided.

        Raises:
            Unavailable: the policies in force cannot be known.
        """
        if self._ticks() >= self._fresh_until:
            self.look()
        return super().decide(caller, action, resource, stepped_up=stepped_up)

    def tells_apart(self, caller: Caller, action: str) -> bool:
        """As ``CedarPolicy`` has it, of the policies of now."""
        self.look()
        return super().tells_apart(caller, action)

    def look(self) -> None:
        """Take in what has changed; raises Unavailable rather than go on with old policies."""
        with self._looking:
            begun = self._ticks()
            if begun < self._fresh_until:
                return  # another thread has just looked
            with self._database.reading() as connection:
                now = epoch(connection)
                texts = in_force(connection) if now != self.epoch else {}
            if now != self.epoch:
                self._take_in(texts)
                self.epoch = now
            self._fresh_until = begun + self._fresh_seconds

    def _take_in(self, texts: Mapping[str, str]) -> None:
        try:
            self.replace(texts)
        except InvalidInput as error:
            # Without it, what it forbids would be permitted.
            raise Unavailable(
                f"A policy of the operator cannot be put in force: {error.message}",
                hint="Nothing is decided until it can be; it was valid for the version of Falaj "
                "that took it in.",
            ) from error
