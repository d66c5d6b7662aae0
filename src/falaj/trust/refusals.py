"""Requests that are refused before the door leave a record.

Two kinds: nobody vouches for them (no token, or a bad one), or the front turned them away (for
another host, from another site's page, a forged form, a body too large or too deep to read).
They never reach the door, which records who asked for what. The first of each (address, kind
of refusal) is recorded at once; those that follow are counted and recorded as a sum once a
minute. Memory and disk are bounded whatever a stranger sends: addresses are kept up to a number
(IPv6 by its /64, which one customer has), later ones are counted together, and while so many
addresses ask, sums come twice as late each time, up to an hour.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from falaj.kernel.clock import Clock, monotonic
from falaj.kernel.errors import FalajError, Unauthenticated
from falaj.kernel.ids import new_id
from falaj.kernel.ports import AuditEntry, Outcome
from falaj.kernel.telemetry import logger
from falaj.trust.networks import network_of

ACTION: Final = "auth.token"
"""What the records name as the action: proving who asks, by a token."""
FRONT: Final = "front.request"
"""What they name as the action where the front turned a request away, whoever asked."""
UNKNOWN: Final = "unknown"
"""The principal of a request that nobody vouches for."""
OTHERS = "others"
"""Stands in the place of the address once too many are known."""
MOST = 1_000
SUM_SECONDS = 60.0
_LONGEST_ROUND = 3600.0
"""Seconds between sums while more addresses ask than are told apart."""
_LONGEST = 200
_log = logger(__name__)


class _Kind(NamedTuple):
    """What is counted together."""

    address: str
    principal: str
    action: str
    reason: str
    message: str
    """Of a bad token: why. Elsewhere a stranger could make it differ each time; empty."""


@dataclass(slots=True)
class _Count:
    """What came of one address and kind since it was last recorded."""

    n: int
    since: datetime
    until: datetime
    message: str
    asked: str
    first: bool


class Refusals:
    """Counts refused requests and records them, on a thread of its own.

    Args:
        keep: keeps audit entries durably (``Commits.record``).
        clock: tells the time.
        via: the interface, as the records name it.
        most: how many addresses are told apart until the next sum.
        sum_seconds: how often sums are recorded.

    ``told`` costs a microsecond, waits for nothing and never raises. What cannot be recorded
    (a full disk) stays counted, and is recorded when it can be again.
    """

    def __init__(
        self,
        keep: Callable[[Sequence[AuditEntry]], None],
        *,
        clock: Clock,
        via: str,
        most: int = MOST,
        sum_seconds: float = SUM_SECONDS,
    ) -> None:
        self._keep = keep
        self._clock = clock
        self._via = via
        self._most = most
        self._sum_seconds = sum_seconds
        self.pause = sum_seconds
        """Seconds until the next sums."""
        self._lock = threading.Lock()
        self._counts: dict[_Kind, _Count] = {}
        self._wanted = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def told(self, error: BaseException, address: str | None, asked: str) -> None:
        """Take in that a request was refused, if that is one of those that are counted here.

        Args:
            error: why: ``Unauthenticated``, or an error whose details say what was ``refused``.
            address: of who asked.
            asked: the method and path, or the like.
        """
        if isinstance(error, Unauthenticated):
            self._count(_Kind(network_of(address), UNKNOWN, ACTION, error.code, ""), error, asked)
        elif isinstance(error, FalajError) and error.details.get("refused"):
            self.turned_away(error, address, asked)

    def turned_away(
        self, error: FalajError, address: str | None, asked: str, *, principal: str = UNKNOWN
    ) -> None:
        """Take in that the front turned a request away.

        Args:
            error: why; its details may give the reason as ``refused``, else its code is one.
            address, asked: as for ``told``.
            principal: who asked, if that was known already.
        """
        reason = str(error.details.get("refused") or error.code)
        self._count(_Kind(network_of(address), principal, FRONT, reason, ""), error, asked)

    def _count(self, kind: _Kind, error: FalajError, asked: str) -> None:
        now, message = self._clock.now(), error.message[:_LONGEST]
        if kind.action == ACTION:
            kind = kind._replace(message=message)
        with self._lock:
            count = self._counts.get(kind)
            if count is None and len(self._counts) >= self._most:
                kind = _Kind(OTHERS, UNKNOWN, kind.action, kind.reason, "")
                count = self._counts.get(kind)
            if count is None:
                self._counts[kind] = _Count(1, now, now, message, asked[:_LONGEST], first=True)
                self._begin()
                self._wanted.set()
            else:
                if not count.n:
                    count.since = now
                count.n += 1
                count.until = now

    def close(self) -> None:
        """Record what is counted and end the thread."""
        self._ended = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(10)

    def _begin(self) -> None:
        if self._thread is None and not self._ended:
            self._thread = threading.Thread(target=self._run, name="falaj-refusals", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        due = monotonic() + self.pause
        while True:
            self._wanted.wait(max(0.0, due - monotonic()))
            self._wanted.clear()
            sums = self._ended or monotonic() >= due
            self.flush(sums=sums)
            if self._ended:
                return
            if sums:
                due = monotonic() + self.pause

    def flush(self, *, sums: bool) -> None:
        """Record the first ones, and with ``sums`` all that is counted."""
        with self._lock:
            if sums:
                crowded = len(self._counts) >= self._most
                self.pause = min(2 * self.pause, _LONGEST_ROUND) if crowded else self._sum_seconds
            taken = {
                key: (count.n, count.first)
                for key, count in self._counts.items()
                if count.n and (sums or count.first)
            }
            entries = [self._entry(key, self._counts[key]) for key in taken]
            if sums:  # who was quiet for a whole round is forgotten, and is a first one again
                for key in [key for key, count in self._counts.items() if not count.n]:
                    del self._counts[key]
        if not entries:
            return
        try:
            self._keep(entries)
        except Exception as error:  # noqa: BLE001 - whatever it is, the counts stay
            told = str(error) if isinstance(error, FalajError) else type(error).__name__
            _log.error("refusals are not recorded yet", error=told, n=len(entries))
            return
        with self._lock:
            for key, (n, _first) in taken.items():
                count = self._counts[key]
                count.n -= n
                count.first = False
                count.since = count.until

    def _entry(self, kind: _Kind, count: _Count) -> AuditEntry:
        details: dict[str, Any] = {"message": count.message, "n": count.n}
        if count.first:
            details["asked"] = count.asked
        if count.n > 1:
            details["since"] = count.since.isoformat()
        return AuditEntry(
            call_id=new_id("call"),
            parent=None,
            at=count.until,
            principal=kind.principal,
            via=self._via,
            address=kind.address,
            action=kind.action,
            resource="platform:*",
            outcome=Outcome.REFUSED,
            reasons=(kind.reason,),
            arguments={},
            details=details,
        )
