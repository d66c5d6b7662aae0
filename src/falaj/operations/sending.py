"""What waits to be sent, sent: claimed, tried again with growing waits, given up with an alert.

Messages to receivers of alerts and deliveries to webhooks are rows that are written in the
transaction of what they tell. A sender claims those that are due, sends them outside of any
transaction, and writes down how each ended as it ends: so each is sent at least once, and by one
process at a time. Who was held up for longer than its claim holds writes nothing. What is sent,
how, and to whom it matters is an ``Outbound``'s; the rest is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel
from sqlalchemy import Row, Table, select, update

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.operations.model import DeliveryState

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.outgoing import Outgoing

_AT_A_TIME = 8
_CLAIM = timedelta(minutes=6)
"""Longer than one attempt can take (``outgoing.timeout_seconds`` is five minutes at most)."""
_IDLE_SECONDS = 0.5
_MOST_GROWN = 16
"""The exponent is bounded before it is taken: 5 s times 4 to the 16th are 680 years."""
Sign = Callable[[bytes], Mapping[str, str]]
"""Makes the headers that a body is sent with, such as its signature."""


@dataclass(frozen=True)
class Waits:
    """How long a delivery waits before it is tried again.

    Args:
        first: after the first attempt.
        growth: each wait is so many times the one before.
        longest: that a wait may be.
    """

    first: timedelta = timedelta(seconds=5)
    growth: int = 4
    longest: timedelta = timedelta(days=7)

    def after(self, attempts: int) -> timedelta:
        """The wait after so many attempts, from 1."""
        times: int = self.growth ** min(attempts - 1, _MOST_GROWN)
        return min(self.first * times, self.longest)


@dataclass(frozen=True)
class Answer:
    """How an attempt ended: ``error`` is empty if it was taken; ``status`` is of HTTP, if any."""

    error: str = ""
    status: int | None = None


class Outbound(Protocol):
    """One kind of what is sent."""

    rows: Table
    """With ``id``, ``state``, ``attempts``, ``next_at``, ``ended_at`` and ``error``."""
    action: str
    """The name of an attempt in the audit log."""
    sender: str
    """The principal of the attempts."""

    def due(self, now: datetime) -> Select[Any]:
        """The rows that may be sent now, the most urgent first."""
        ...

    def send(self, row: Row[Any]) -> Answer:
        """Send one, outside of any transaction.

        Raises:
            FalajError: it was not sent; its text says why and holds no secret.
        """
        ...

    def facts(self, row: Row[Any]) -> tuple[str, dict[str, Any]]:
        """The resource of an attempt and what it is of, for the audit log."""
        ...

    def kept(self, answer: Answer) -> dict[str, Any]:
        """What the row keeps of an answer beside its error."""
        ...

    def ended(self, call: Call, row: Row[Any], answer: Answer, *, dead: bool) -> None:
        """Tell whom it matters to how an attempt ended, in the transaction that says so.

        Not asked of an attempt that ended too late to count.
        """
        ...


class Sender:
    """Sends what is due of one kind.

    Args:
        outbound: what is sent.
        calls: opens the transactions, and tells the time.
        attempts: how often a delivery is tried.
        waits: how long it waits in between.
    """

    def __init__(
        self, outbound: Outbound, calls: Calls, attempts: int, waits: Waits | None = None
    ) -> None:
        self._outbound = outbound
        self._calls = calls
        self._attempts = attempts
        self._waits = waits or Waits()
        self._log = logger(__name__)

    def run_once(self) -> int:
        """Send what is due, some at a time; returns how many were tried."""
        claimed = self._claimed()
        if not claimed:
            return 0
        # One that does not answer must not hold up the others.
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="falaj-sending") as pool:
            sending = {pool.submit(self._sent, row): row for row in claimed}
            # As each ends: what was sent is sent again if this is killed before it is recorded.
            for sent in as_completed(sending):
                row = sending[sent]
                try:
                    self._record(row, sent.result())
                except Exception:  # noqa: BLE001
                    # The claim runs out, and it is sent again; the others are not.
                    what = self._outbound.action
                    self._log.exception("sent, but not recorded", what=what, id=row.id)
        return len(claimed)

    def run_until(self, stopped: threading.Event) -> None:
        """Send until ``stopped`` is set."""
        while not stopped.wait(_IDLE_SECONDS):
            try:
                while self.run_once() and not stopped.is_set():
                    pass
            except Exception:  # noqa: BLE001
                # Whatever it is: the deliveries stand, and are tried again.
                self._log.exception("not sent; it is tried again", what=self._outbound.action)

    def _claimed(self) -> list[Row[Any]]:
        """Deliveries that are due, which no other process will send meanwhile."""
        now, table = self._calls.now(), self._outbound.rows
        due = self._outbound.due(now).limit(_AT_A_TIME)
        with self._calls.database.reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._calls.database.transaction() as connection:
            rows = list(connection.execute(due.with_for_update(skip_locked=True)))
            for row in rows:
                connection.execute(
                    update(table)
                    .where(table.c.id == row.id)
                    .values(attempts=row.attempts + 1, next_at=now + _CLAIM)
                )
        return rows

    def _sent(self, row: Row[Any]) -> Answer:
        try:
            return self._outbound.send(row)
        except FalajError as error:
            return Answer(error.message)
        except Exception as error:  # noqa: BLE001
            # A library's own trouble with one message must not end the sending of others.
            self._log.exception("a delivery was not sent", what=self._outbound.action, id=row.id)
            return Answer(f"{type(error).__name__}; the log tells more")

    def _record(self, row: Row[Any], answer: Answer) -> None:
        """Write how an attempt ended, unless another one has been made since."""
        now, attempts, table = self._calls.now(), row.attempts + 1, self._outbound.rows
        dead = bool(answer.error) and attempts >= self._attempts
        values: dict[str, Any] = {"error": answer.error, **self._outbound.kept(answer)}
        if dead or not answer.error:
            state = DeliveryState.DEAD if dead else DeliveryState.DELIVERED
            values |= {"state": state, "ended_at": now, "next_at": None}
        else:
            values["next_at"] = now + self._waits.after(attempts)
        resource, facts = self._outbound.facts(row)
        with self._calls.opened(
            self._outbound.action,
            self._outbound.sender,
            resource=resource,
            arguments={**facts, "attempt": attempts},
        ) as call:
            call.note(error=answer.error, status=answer.status)
            waiting = table.c.id == row.id, table.c.state == DeliveryState.WAITING
            changed = call.connection.execute(
                update(table).where(*waiting, table.c.attempts == attempts).values(**values)
            )
            if changed.rowcount:
                self._outbound.ended(call, row, answer, dead=dead)
            else:
                call.note(late=True)


D = TypeVar("D", bound=BaseModel)


class Deliveries(Generic[D]):
    """The deliveries of one kind, as people look at them.

    Args:
        rows: the table.
        told: a row as people see it.
        to: the column that names the receiver.
        hint: says where all are listed.
    """

    def __init__(self, rows: Table, told: Callable[[Row[Any]], D], to: str, hint: str) -> None:
        self._rows = rows
        self._told = told
        self._to = to
        self._hint = hint

    def get(self, connection: Connection, delivery_id: str) -> D:
        """One delivery; raises NotFound."""
        query = select(self._rows).where(self._rows.c.id == delivery_id)
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"There is no delivery {delivery_id!r}.", hint=self._hint)
        return self._told(row)

    def listed(
        self,
        connection: Connection,
        *,
        to: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 100,
    ) -> list[D]:
        """The newest deliveries first."""
        query = select(self._rows).order_by(self._rows.c.id.desc()).limit(limit)
        if to is not None:
            query = query.where(self._rows.c[self._to] == to)
        if state is not None:
            query = query.where(self._rows.c.state == state)
        return [self._told(row) for row in connection.execute(query)]

    def again(self, call: Call, delivery_id: str) -> D:
        """Let a delivery be sent again now, with the same id; raises NotFound."""
        waiting = {"state": DeliveryState.WAITING, "attempts": 0, "next_at": call.now}
        call.connection.execute(
            update(self._rows)
            .where(self._rows.c.id == delivery_id)
            .values(**waiting, ended_at=None)
        )
        return self.get(call.connection, delivery_id)


def posted(outgoing: Outgoing, url: str, body: bytes, *, agent: str, sign: Sign) -> int:
    """Send a JSON text through the guard of outgoing calls; returns the status of the answer.

    Args:
        outgoing: refuses what leads inside, each time anew.
        url: an address that somebody else may have written.
        body: the text; it is signed as it is sent.
        agent: says who sends it.
        sign: makes further headers.

    Raises:
        OutgoingRefused, InvalidInput: the address may not be called.
        Unavailable: nobody answers.
    """
    headers = {"Content-Type": "application/json", "User-Agent": agent, **sign(body)}
    return outgoing.send("POST", url, headers=headers, content=body).status_code


def is_taken(status: int) -> bool:
    """True if an answer says that a message was taken."""
    return 200 <= status < 300
