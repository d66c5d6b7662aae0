"""Clients that were told to come back are not read until it is their turn.

A refusal costs a worker less than an answer, but not nothing: who is refused and asks again
at once, many times over, would leave no time for those who can be answered. So all refusals
together may take a twentieth of a worker's time. Where they would take more, a connection that
was refused twice in a row rests: what it sends waits in the kernel until its turn, a second at the
longest, which is what ``Retry-After`` says.

Twice, because what waited in the kernel is refused when it is read at last: its answer would come
late. The request behind it has not waited, and gets its chance. And a client of an endpoint that is
seldom full does not wait behind the crowd of another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

_SHARE = 0.05
_SECONDS, _SECONDS_PER_BYTE = 25e-6, 0.5e-9
"""What a refusal takes, and the reading of what is refused; within a factor of two."""
_BURST_SECONDS = 0.02
"""So much may be refused at once before anybody rests."""
_LONGEST_SECONDS = 1.0
_TICK_SECONDS = 0.005
_ON_TIME_SECONDS = 0.001
_QUIET_TICKS = 4
"""So many timers in a row must fire on time: one does so by chance in a loop that is busy."""
_AT_ONCE = 64


class Connection(Protocol):
    """One that can rest."""

    def rest(self) -> None:
        """Read nothing."""
        ...

    def wake(self) -> None:
        """Read again."""
        ...

    def rested(self) -> None:
        """All that was sent meanwhile is read: what comes now is new."""
        ...


class BackPressure:
    """Lets refused connections rest, in the order in which they were refused.

    Timers that fire on time, one after the other, say that the loop has nothing to do; then some
    may wake before their turn.

    Args:
        loop: the event loop that serves the connections.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn = 0.0
        """When the next refusal would be within the share."""
        self._resting: deque[tuple[float, Connection]] = deque()
        self._due = 0.0
        self._n_on_time = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def n_resting(self) -> int:
        """How many connections rest now."""
        return len(self._resting)

    def refused(self, connection: Connection, n_bytes: int, *, again: bool = True) -> None:
        """A request of so many bytes was refused: let its connection rest if need be.

        Args:
            connection: who sent it.
            n_bytes: the length of its body.
            again: the one before on this connection was refused too; the first is only counted.
        """
        now = self._loop.time()
        cost = (_SECONDS + n_bytes * _SECONDS_PER_BYTE) / _SHARE
        turn = max(self._turn, now - _BURST_SECONDS) + cost
        self._turn = turn = min(turn, now + _LONGEST_SECONDS)
        if turn <= now or not again:
            return
        connection.rest()
        self._resting.append((turn, connection))
        if self._timer is None:
            self._n_on_time = 0
            self._schedule(now)

    def close(self) -> None:
        """Wake everybody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._resting:
            self._resting.popleft()[1].wake()

    def _schedule(self, now: float) -> None:
        self._due = now + _TICK_SECONDS
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now, resting = self._loop.time(), self._resting
        on_time = now - self._due < _ON_TIME_SECONDS
        self._n_on_time = self._n_on_time + 1 if on_time else 0
        early = _AT_ONCE if self._n_on_time >= _QUIET_TICKS else 0
        woken = []
        while resting and (resting[0][0] <= now or early > 0):
            if resting[0][0] > now:
                early -= 1
            woken.append(resting.popleft()[1])
            woken[-1].wake()
        self._timer = None
        if woken:
            # The loop reads between the first call and the second.
            self._loop.call_soon(self._loop.call_soon, _all_rested, woken)
        if resting:
            self._schedule(now)


def _all_rested(connections: list[Connection]) -> None:
    for one in connections:
        one.rested()
