"""What the process of a custom model does while it is asked nothing.

A model may leave threads behind that compute on between its calls, outside of the time that
a call may take. What the process uses then is measured at each call's begin and end, and by a
thread that looks in twice a second; who uses too much of it is ended.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from falaj.kernel.telemetry import logger

LOOK_SECONDS = 0.5
_SHARE = 0.1
"""Of one core: so much a process may use while it is asked nothing, however long."""
_BEHIND_SECONDS = 0.001
"""Of CPU time behind each call: to let go of what the call needed."""


class IdleUse:
    """The CPU time that one process uses between its calls, beyond a small share.

    Its caller must know that the process has not been waited for: its id is its own.

    Args:
        pid: of the process, which is asked nothing now.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = ~pid << 3 | 2  # as clock_getcpuclockid(3) makes it: of all its threads
        self._at = time.monotonic()
        self._used = _cpu_seconds(self._clock)
        self._n_threads = _threads_of(pid)
        self._behind = 0.0
        self.seconds = 0.0
        """Of CPU time beyond the share, lately; it is forgotten as fast as the share grows."""

    def look(self) -> float:
        """Measure while the process is asked nothing; returns ``seconds``."""
        now, used = time.monotonic(), _cpu_seconds(self._clock)
        more = used - self._used - _SHARE * (now - self._at)
        granted = min(self._behind, max(0.0, more))
        self._behind -= granted
        more -= granted
        self.seconds = max(0.0, self.seconds + more)
        self._at, self._used = now, used
        return self.seconds

    def rest(self) -> None:
        """The process has answered: what it has used in its call does not count."""
        self._at, self._used = time.monotonic(), _cpu_seconds(self._clock)
        self._behind = _BEHIND_SECONDS

    def more_threads(self) -> int:
        """Threads that it has now beyond those that it began with, or that were told before."""
        n_threads = _threads_of(self._pid)
        more = n_threads - self._n_threads
        self._n_threads = max(self._n_threads, n_threads)
        return max(0, more)


class Idle(Protocol):
    """What can be looked at between its calls."""

    def look(self) -> None:
        """Called twice a second, on a thread."""
        ...


class IdleWatch:
    """Looks at models twice a second, on one thread, as long as there are any.

    It keeps none of them from being let go.
    """

    def __init__(self) -> None:
        self._watched: WeakSet[Idle] = WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, one: Idle) -> None:
        """Look at this one too."""
        with self._lock:
            self._watched.add(one)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="falaj-python-idle", daemon=True
                )
                self._thread.start()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
            self._look()

    def _look(self) -> None:
        with self._lock:
            found = list(self._watched)
        while found:
            one = found.pop()
            try:
                one.look()
            except Exception as error:  # noqa: BLE001 - the others are still to be looked at
                logger(__name__).error("idle models not watched", error=repr(error))
            del one  # what is let go must not wait for the next look


def _cpu_seconds(clock: int) -> float:
    """That a process has used so far; 0 where it has gone, or where that is not told."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def _threads_of(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[17])
