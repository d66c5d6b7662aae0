"""Revocations, in force within a second in every process.

Tokens are verified without the database. What was revoked in the last hour stands in a small
table; each process keeps a copy and looks a few times a second whether one number has moved.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from falaj.kernel.database import Database
from falaj.trust.tables import revocation_epoch, revocations

KEPT_FOR = timedelta(hours=1)
"""How long a revocation is kept: longer than any access token lives, clocks' skew included."""
FRESH_FOR = timedelta(milliseconds=300)
"""A worker remembers an admission for half a second on top of it: below a second together."""
_THE_ROW = 1


@dataclass(frozen=True)
class Revoked:
    """What is revoked as of one epoch. A new object for each epoch: ``is`` compares them."""

    epoch: int = 0
    sessions: frozenset[str] = frozenset()
    account_epochs: dict[str, int] = field(default_factory=dict)
    """By principal id: tokens of a smaller account epoch are revoked."""

    def covers(self, *, session: str, principal: str, account_epoch: int) -> bool:
        """True if a token of that session, principal and epoch is revoked."""
        return session in self.sessions or account_epoch < self.account_epochs.get(principal, 0)


class Revocations(Protocol):
    """Tells what is revoked, at most a second late."""

    def current(self, now: datetime) -> Revoked:
        """The revocations in force; raises Unavailable rather than answer from an old copy."""
        ...

    def lately(self, now: datetime) -> Revoked | None:
        """As ``current``, or None if it would have to be read."""
        ...


class Epochs:
    """The revocations of a database, reread when a third of a second old.

    Safe from many threads; one of them reads, the others go on with a copy that is at most
    as old as ``fresh_for`` plus one read.
    """

    def __init__(self, database: Database, *, fresh_for: timedelta = FRESH_FOR) -> None:
        self._database = database
        self._fresh_for = fresh_for
        self._read_at: datetime | None = None
        self._revoked = Revoked()
        self._lock = threading.Lock()

    def current(self, now: datetime) -> Revoked:
        """What is revoked, as of at most ``fresh_for`` ago."""
        if not self._is_fresh(now):
            with self._lock:
                if not self._is_fresh(now):
                    self._read(now)
        return self._revoked

    def lately(self, now: datetime) -> Revoked | None:
        """What is revoked, if it was read less than ``fresh_for`` ago; else None."""
        return self._revoked if self._is_fresh(now) else None

    def _is_fresh(self, now: datetime) -> bool:
        # A clock that was set back makes the copy stale too.
        return self._read_at is not None and timedelta(0) <= now - self._read_at < self._fresh_for

    def _read(self, now: datetime) -> None:
        with self._database.reading() as connection:
            epoch = _value(connection)
            if self._read_at is None or epoch != self._revoked.epoch:
                self._revoked = _revoked(connection, epoch, now)
        self._read_at = now


def revoke(
    connection: Connection,
    *,
    now: datetime,
    session: str | None = None,
    principal: str | None = None,
    account_epoch: int | None = None,
) -> None:
    """Revoke a session, or all of a principal's tokens below an account epoch.

    In force everywhere within a second of the commit. The counter row is locked by the
    update, so that positions become visible in their order.
    """
    if not _moved(connection):
        try:
            with connection.begin_nested():
                connection.execute(insert(revocation_epoch).values(id=_THE_ROW, value=1))
        except IntegrityError:  # another process made the first row at this moment
            _moved(connection)
    connection.execute(delete(revocations).where(revocations.c.at < now - KEPT_FOR))
    connection.execute(
        insert(revocations).values(
            position=_value(connection),
            session=session,
            principal=principal,
            account_epoch=account_epoch,
            at=now,
        )
    )


def _moved(connection: Connection) -> bool:
    return bool(
        connection.execute(
            update(revocation_epoch)
            .where(revocation_epoch.c.id == _THE_ROW)
            .values(value=revocation_epoch.c.value + 1)
        ).rowcount
    )


def _value(connection: Connection) -> int:
    found = connection.execute(
        select(revocation_epoch.c.value).where(revocation_epoch.c.id == _THE_ROW)
    ).scalar()
    return int(found or 0)


def _revoked(connection: Connection, epoch: int, now: datetime) -> Revoked:
    sessions: set[str] = set()
    account_epochs: dict[str, int] = {}
    for row in connection.execute(select(revocations).where(revocations.c.at >= now - KEPT_FOR)):
        if row.session is not None:
            sessions.add(row.session)
        if row.principal is not None and row.account_epoch is not None:
            account_epochs[row.principal] = max(
                row.account_epoch, account_epochs.get(row.principal, 0)
            )
    return Revoked(epoch, frozenset(sessions), account_epochs)
