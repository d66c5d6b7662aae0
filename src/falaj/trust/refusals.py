"""Requests that nobody vouches for leave a record: without a token, or with a bad one.

They never reach the door, which records who asked for what. The first of each (address, kind
of refusal) is recorded at once; those that follow are counted and recorded as a sum once a
minute. Memory is bounded whatever a stranger sends: addresses are kept up to a number (IPv6 by
its /64, which one customer has), later ones are counted together.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from falaj.kernel.clock import Clock
from falaj.kernel.errors import FalajError, Unauthenticated
from falaj.kernel.ids import new_id
from falaj.kernel.ports import AuditEntry, Outcome
from falaj.kernel.telemetry import logger

ACTION: Final = "auth.token"
"""What the records name as the action: proving who asks, by a token."""
OTHERS = "others"
"""Stands in the place of the address once too many are known."""
MOST = 1_000
SUM_SECONDS = 60.0
_LONGEST = 200
_log = logger(__name__)


@dataclass(slots=True)
class _Count:
    """What came of one address and kind since it was last recorded."""

    n: int
    since: datetime
    until: datetime
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
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, str], _Count] = {}
        self._wanted = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def told(self, error: BaseException, address: str | None, asked: str) -> None:
        """Take in that a request was refused; anything but ``Unauthenticated`` is not counted.

        Args:
            error: why.
            address: of who asked.
            asked: the method and path, or the like.
        """
        if not isinstance(error, Unauthenticated):
            return
        now = self._clock.now()
        key = (_network(address), error.code, error.message[:_LONGEST])
        with self._lock:
            count = self._counts.get(key)
            if count is None and len(self._counts) >= self._most:
                key = (OTHERS, error.code, "")
                count = self._counts.get(key)
            if count is None:
                self._counts[key] = _Count(1, now, now, asked[:_LONGEST], first=True)
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
        while True:
            due = not self._wanted.wait(self._sum_seconds)
            self._wanted.clear()
            self.flush(sums=due or self._ended)
            if self._ended:
                return

    def flush(self, *, sums: bool) -> None:
        """Record the first ones, and with ``sums`` all that is counted."""
        with self._lock:
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

    def _entry(self, key: tuple[str, str, str], count: _Count) -> AuditEntry:
        address, code, message = key
        details = {"message": message, "n": count.n}
        if count.first:
            details["asked"] = count.asked
        if count.n > 1:
            details["since"] = count.since.isoformat()
        return AuditEntry(
            call_id=new_id("call"),
            parent=None,
            at=count.until,
            principal="unknown",
            via=self._via,
            address=address,
            action=ACTION,
            resource="platform:*",
            outcome=Outcome.REFUSED,
            reasons=(code,),
            arguments={},
            details=details,
        )


def _network(address: str | None) -> str:
    """The address, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
