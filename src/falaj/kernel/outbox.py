"""Events that are written with the work that caused them, and delivered after its commit.

Delivery is at least once and in order of commit for each subscriber; a subscriber is
identified by name and keeps its place, so that a killed process goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    String,
    Table,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection

from falaj.kernel.call import Event
from falaj.kernel.clock import microseconds
from falaj.kernel.commitorder import take_turn
from falaj.kernel.database import Database, Instant, Json, metadata
from falaj.kernel.statements import Statement, json_text

outbox_events = Table(
    "outbox_events",
    metadata,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("id", String(64), nullable=False, unique=True),
    Column("type", String(100), nullable=False),
    Column("at", Instant, nullable=False),
    Column("payload", Json, nullable=False),
    sqlite_autoincrement=True,
)
outbox_places = Table(
    "outbox_places",
    metadata,
    Column("subscriber", String(100), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)
_APPEND = Statement("INSERT INTO outbox_events (id, type, at, payload) VALUES (?, ?, ?, ?)")


class Outbox:
    """Keeps events in the caller's transaction."""

    def append(self, connection: Connection, events: Sequence[Event]) -> None:
        """Write events; they become visible with the commit, in the order of their numbers.

        Append last: on PostgreSQL the transaction keeps the turn (``take_turn``) to its end, so
        that no subscriber sees an event before all those with smaller numbers.
        """
        if not events:
            return
        take_turn(connection)
        _APPEND.many(
            connection,
            [
                (event.id, event.type, microseconds(event.at), json_text(event.payload))
                for event in events
            ],
        )


class Subscription:
    """One named reader of the outbox.

    Args:
        database: where the outbox lives.
        name: the subscriber's name, which keeps its place over restarts.
        handle: called with each event and the transaction in which the place moves on:
            what it writes there happens exactly once.
        begin: where a new subscriber begins: ``first`` with the oldest event, ``now`` with the
            first one after its first ``deliver``.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        handle: Callable[[Connection, Event], None],
        *,
        begin: Literal["first", "now"] = "first",
    ) -> None:
        self._database = database
        self._name = name
        self._handle = handle
        self._begin = begin

    def deliver(self, *, limit: int = 100) -> int:
        """Deliver the next events, each in its own transaction; returns how many."""
        delivered = 0
        while delivered < limit and self._deliver_one():
            delivered += 1
        return delivered

    def _deliver_one(self) -> bool:
        with self._database.transaction() as connection:
            place = connection.execute(
                select(outbox_places.c.seq)
                .where(outbox_places.c.subscriber == self._name)
                .with_for_update()
            ).scalar()
            if place is None:
                place = self._first_place(connection)
                connection.execute(insert(outbox_places).values(subscriber=self._name, seq=place))
            row = connection.execute(
                select(outbox_events)
                .where(outbox_events.c.seq > place)
                .order_by(outbox_events.c.seq)
                .limit(1)
            ).first()
            if row is None:
                return False
            self._handle(connection, Event(row.id, row.type, row.at, row.payload))
            connection.execute(
                update(outbox_places)
                .where(outbox_places.c.subscriber == self._name)
                .values(seq=row.seq)
            )
            return True

    def _first_place(self, connection: Connection) -> int:
        if self._begin == "first":
            return 0
        return int(connection.execute(select(func.max(outbox_events.c.seq))).scalar() or 0)
