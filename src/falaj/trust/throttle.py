"""Failed attempts, counted for each account and each address, with waits that grow.

An attempt at what can be guessed (a password, a code) is counted before the credential is
looked at and forgiven when it was right, so that a thousand guesses at once are a thousand
attempts, not one. An attempt with a 256-bit secret is counted when it has failed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from falaj.trust.model import TooManyAttempts
from falaj.trust.networks import UNKNOWN, network_of
from falaj.trust.tables import attempts


@dataclass(frozen=True)
class Limits:
    """After ``free`` failures the wait is ``first_wait``, and doubles up to ``longest_wait``."""

    free: int
    first_wait: timedelta = timedelta(seconds=1)
    longest_wait: timedelta = timedelta(minutes=15)
    forgotten_after: timedelta = timedelta(hours=1)

    def wait(self, failures: int) -> timedelta:
        """How long to wait after that many failures in a row."""
        if failures < self.free:
            return timedelta(0)
        doublings = min(failures - self.free, 30)
        return min(self.first_wait * (1 << doublings), self.longest_wait)


PER_ACCOUNT = Limits(free=5)
PER_ADDRESS = Limits(free=20)
"""Many people may stand behind one address, so it may fail more often."""


@dataclass(frozen=True)
class Wait:
    """Why an attempt may not be made now."""

    seconds: int
    first: bool
    """True for the first attempt that this wait refuses: that one is worth a record, the
    thousands after it would only fill the audit log."""

    def error(self) -> TooManyAttempts:
        """What the caller is told."""
        return TooManyAttempts(
            "Too many failed attempts.",
            hint=f"Wait {self.seconds} seconds and try again.",
            retry_after_seconds=self.seconds,
        )


class Throttle:
    """Counts attempts. Works in the caller's transaction, which must commit also on failure."""

    def __init__(
        self, *, per_account: Limits = PER_ACCOUNT, per_address: Limits = PER_ADDRESS
    ) -> None:
        self._limits = {"account": per_account, "address": per_address}

    def begin(
        self, connection: Connection, *, name: str | None, address: str | None, now: datetime
    ) -> Wait | None:
        """Count one attempt for a name (whether or not such an account exists) and an address.

        Returns None if it may be made, or how long to wait; then nothing was counted.
        """
        wait = self.wait(connection, name=name, address=address, now=now)
        if wait is None:
            self.count(connection, name=name, address=address, now=now)
        return wait

    def wait(
        self, connection: Connection, *, name: str | None, address: str | None, now: datetime
    ) -> Wait | None:
        """How long this name and address have to wait, or None; counts no attempt."""
        subjects = _subjects(name, address)
        states = {kind: self._state(connection, kind, subject, now) for kind, subject in subjects}
        waiting = [state for state in states.values() if state.locked_until > now]
        if waiting:
            longest = max(waiting, key=lambda state: state.locked_until)
            for _, subject in subjects:
                connection.execute(
                    update(attempts)
                    .where(attempts.c.subject == subject)
                    .values(refused=attempts.c.refused + 1)
                )
            seconds = int((longest.locked_until - now).total_seconds()) + 1
            return Wait(seconds, first=longest.refused == 0)
        return None

    def count(
        self, connection: Connection, *, name: str | None, address: str | None, now: datetime
    ) -> None:
        """Count one failure of a name and of an address."""
        for kind, subject in _subjects(name, address):
            failures = self._state(connection, kind, subject, now).failures + 1
            wait = self._limits[kind].wait(failures)
            self._keep(connection, subject, failures, now, now + wait if wait else None)

    def forgive(self, connection: Connection, *, name: str, address: str | None) -> None:
        """Take back the attempt that proved right.

        The account starts anew. The address loses this one attempt only: whoever holds one
        good account must not be able to reset the count for guesses at others.
        """
        for kind, subject in _subjects(name, address):
            if kind == "account":
                connection.execute(delete(attempts).where(attempts.c.subject == subject))
            else:
                connection.execute(
                    update(attempts)
                    .where(attempts.c.subject == subject, attempts.c.failures > 0)
                    .values(failures=attempts.c.failures - 1, locked_until=None)
                )

    def _state(self, connection: Connection, kind: str, subject: str, now: datetime) -> _State:
        row = connection.execute(
            select(attempts).where(attempts.c.subject == subject).with_for_update()
        ).first()
        if row is None or now - row.last_at > self._limits[kind].forgotten_after:
            return _State(0, 0, now)
        return _State(row.failures, row.refused, row.locked_until or now)

    def _keep(
        self,
        connection: Connection,
        subject: str,
        failures: int,
        now: datetime,
        locked_until: datetime | None,
    ) -> None:
        values = {
            "failures": failures,
            "refused": 0,
            "last_at": now,
            "locked_until": locked_until,
        }
        changed = connection.execute(
            update(attempts).where(attempts.c.subject == subject).values(**values)
        )
        if changed.rowcount:
            return
        oldest = now - max(limit.forgotten_after for limit in self._limits.values())
        connection.execute(delete(attempts).where(attempts.c.last_at < oldest))
        try:
            with connection.begin_nested():
                connection.execute(insert(attempts).values(subject=subject, **values))
        except IntegrityError:  # another worker counted the first attempt at this moment
            connection.execute(
                update(attempts)
                .where(attempts.c.subject == subject)
                .values(failures=attempts.c.failures + 1, last_at=now, locked_until=locked_until)
            )


@dataclass(frozen=True)
class _State:
    failures: int
    refused: int
    locked_until: datetime


def _subjects(name: str | None, address: str | None) -> list[tuple[str, str]]:
    """What is counted, as hashes: people type passwords into the field for the name."""
    found = []
    if name is not None:
        found.append(("account", _digest(f"account\n{name.strip().lower()}")))
    if address:
        known = network_of(address)
        found.append(("address", _digest(f"address\n{address if known == UNKNOWN else known}")))
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
