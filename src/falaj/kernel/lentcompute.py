"""One compute for all jobs of a process, kept for a while between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import Compute, Plain, Task
from falaj.kernel.limits import Asked, Check, Heard, LimitedCompute, no_answers
from falaj.kernel.resources import Resources, Used


class AnyCompute(Compute, LimitedCompute, Protocol):
    """Runs many small tasks in order, and single runs under limits."""


class LentCompute:
    """One compute for all jobs of a process, started when it is first needed.

    A Ray that was started for them is stopped after some time without a job.

    Args:
        start: begins one.
        idle_seconds: how long one that is not needed is kept; 0: not at all.
    """

    def __init__(self, start: Callable[[], AnyCompute], idle_seconds: float) -> None:
        self._start = start
        self._idle_seconds = idle_seconds
        self._lock = threading.RLock()
        self._compute: AnyCompute | None = None
        self._n_lent = 0
        self._free_since = 0.0

    def opened(self) -> Lent:
        """The compute; to be closed when it is not needed any more.

        Raises as ``stores.compute`` does.
        """
        with self._lock:
            if self._compute is None:
                self._compute = self._start()
            self._n_lent += 1
            return Lent(self, self._compute)

    def given_back(self) -> None:
        """One borrower less; called by ``Lent``."""
        with self._lock:
            self._n_lent -= 1
            self._free_since = monotonic()
        self.stop_if_idle()

    def stop_if_idle(self) -> bool:
        """Stop what was not needed for long enough; True if something was stopped."""
        with self._lock:
            idle = self._compute is not None and self._n_lent == 0
            if not idle or monotonic() - self._free_since < self._idle_seconds:
                return False
            self.close()
            return True

    def close(self) -> None:
        """Stop it, needed or not."""
        with self._lock:
            compute, self._compute = self._compute, None
        if compute is not None:
            compute.close()


class Lent:
    """A compute that belongs to others: to close it is to give it back."""

    def __init__(self, lender: LentCompute, compute: AnyCompute) -> None:
        self._lender = lender
        self._compute = compute
        self._closed = False
        self.n_slots = compute.n_slots

    def ordered(self, task: Task, items: Iterable[Plain]) -> Iterator[Plain]:
        """See ``Compute.ordered``."""
        return self._compute.ordered(task, items)

    def limited(
        self,
        task: Task,
        item: Plain,
        resources: Resources,
        *,
        heard: Heard,
        check: Check,
        measured: Callable[[Used], None],
        asked: Asked = no_answers,
    ) -> Plain:
        """See ``LimitedCompute.limited``."""
        return self._compute.limited(
            task, item, resources, heard=heard, check=check, measured=measured, asked=asked
        )

    def close(self) -> None:
        """Give it back."""
        if not self._closed:
            self._closed = True
            self._lender.given_back()
