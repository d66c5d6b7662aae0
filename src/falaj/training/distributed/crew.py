"""A crew: several workers that fit together, and begin anew from the last state without a loser.

A *stretch* is the work of one crew until it is done or loses a worker. Every stretch asks for
all workers again: it begins with those that come within some seconds, so that a fit shrinks
when a machine is gone, and grows when there is one again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import Plain, TaskLost
from falaj.kernel.errors import ErrorKind, FalajError
from falaj.kernel.resources import Resources, Used
from falaj.kernel.telemetry import logger
from falaj.training.distributed.members import GATHER, JOIN, KEEP, REPORT
from falaj.training.plainly import plainly, rebuilt_from

if TYPE_CHECKING:
    from falaj.kernel.compute import Task
    from falaj.kernel.limits import Check, LimitedCompute
    from falaj.training.ports import Report

ATTEMPTS = 3
"""So many stretches in a row may end without a new state."""
PLACE_SECONDS = 20.0
"""So long does a stretch wait for the others once the first worker is there."""
_LOOK_SECONDS = 0.05


class CrewBroken(FalajError):
    """A worker of the crew was lost, so that the others end too and it begins anew."""

    code = "crew-broken"
    retryable = True


class TooFewWorkers(FalajError):
    """Fewer workers than a fit needs found a place in time."""

    code = "too-few-workers"
    kind = ErrorKind.UNAVAILABLE
    retryable = True


@dataclass
class CrewWork:
    """What a crew does.

    Args:
        task: what each worker runs; it begins with ``members.join``.
        item: given to each, plain data.
        part: the rows of the worker of that rank, of so many.
        shared: given to all.
        last: the state to begin with.
        keep: takes the states that the worker of rank 0 keeps.
    """

    task: Task
    item: Plain
    part: Callable[[int, int], Any]
    shared: dict[str, Any]
    last: Any = None
    keep: Callable[[int, Any], None] = lambda _n_done, _state: None
    place_seconds: float = PLACE_SECONDS
    sizes: list[int] = field(default_factory=list)
    """With how many workers each stretch has begun."""


def fitted_by_crew(
    compute: LimitedCompute,
    work: CrewWork,
    resources: Resources,
    *,
    report: Report,
    check: Check,
    measured: Callable[[Used], None],
) -> Any:
    """What the worker of rank 0 returns, when all have done their work.

    Args:
        resources: of each worker, how many of them, and with how few it goes on.
        measured: told what all workers of all stretches used together, once.

    Raises:
        TaskLost: workers were lost three times without a new state.
        TooFewWorkers: fewer than ``least_workers`` found a place.
        Whatever else a worker, ``report``, ``check`` or ``work.keep`` raises.
    """
    used, failures = Used(), 0
    began = monotonic()
    try:
        while True:
            stretch = _Stretch(compute, work, resources, report, check)
            try:
                return stretch.done()
            except (TaskLost, CrewBroken) as error:
                failures = 1 if stretch.kept else failures + 1
                if failures >= ATTEMPTS:
                    raise
                logger(__name__).warning("a worker was lost; begun anew", error=str(error))
            finally:
                used = _after(used, stretch.used)
    finally:
        measured(used.model_copy(update={"wall_seconds": monotonic() - began}))


def _after(before: Used, stretch: Used) -> Used:
    """Both one after the other: times add up, the most memory is the higher one."""
    added = before.with_more(stretch)
    peak = max(before.peak_memory_bytes, stretch.peak_memory_bytes)
    return added.model_copy(update={"peak_memory_bytes": peak})


class _Stretch:
    """One crew."""

    def __init__(
        self,
        compute: LimitedCompute,
        work: CrewWork,
        resources: Resources,
        report: Report,
        check: Check,
    ) -> None:
        self._compute = compute
        self._work = work
        self._resources = resources
        self._report = report
        self._check = check
        self._first_at: float | None = None
        self._lock = threading.Condition()
        self._ranks: dict[int, int] = {}
        """The rank of each worker that came in time, by its number."""
        self._complete = False
        self._gathered: list[dict[int, Plain]] = []
        self._turn: dict[int, int] = {}
        self._over = threading.Event()
        self._reason: BaseException | None = None
        self.kept = False
        self.used = Used()

    def done(self) -> Any:
        """What the worker of rank 0 returns."""
        n_wanted = self._resources.workers
        with ThreadPoolExecutor(n_wanted, thread_name_prefix="falaj-crew") as threads:
            running = [threads.submit(self._member, number) for number in range(n_wanted)]
            try:
                self._follow(running)
            except BaseException as error:
                self._break(error)
                raise
            finally:
                self._over.set()
        first = next(number for number, rank in self._ranks.items() if rank == 0)
        return rebuilt_from(running[first].result())

    def _follow(self, running: Sequence[Future[Plain]]) -> None:
        """Wait until all that joined have ended; raise what the first one raised that failed."""
        while True:
            wait_for(running, timeout=_LOOK_SECONDS)
            self._check()
            self._complete_if_late(running)
            with self._lock:
                reason, crew = self._reason, list(self._ranks)
                complete = self._complete
            if reason is not None:
                raise reason
            if complete and all(running[number].done() for number in crew):
                return

    def _member(self, number: int) -> Plain:
        one = self._resources.model_copy(update={"workers": 1, "least_workers": 1})
        try:
            return self._compute.limited(
                self._work.task,
                self._work.item,
                one,
                heard=self._heard,
                check=self._go_on,
                measured=self._measured,
                asked=lambda what: self._asked(number, what),
            )
        except BaseException as error:
            with self._lock:
                outside = self._complete and number not in self._ranks
            if not outside and not self._over.is_set():
                self._break(error)
            raise

    def _break(self, reason: BaseException) -> None:
        with self._lock:
            if self._reason is None:
                self._reason = reason
            self._over.set()
            self._lock.notify_all()

    def _go_on(self) -> None:
        if self._over.is_set():
            raise CrewBroken("Another worker of the crew was lost, or it is done.")

    def _measured(self, used: Used) -> None:
        with self._lock:
            self.used = self.used.with_more(used)

    def _heard(self, told: Plain) -> None:
        self._go_on()
        if told[0] == REPORT:
            self._report(told[1], told[2])
        elif told[0] == KEEP:
            state = rebuilt_from(told[2])
            self._work.keep(told[1], state)
            self._work.last = state
            self.kept = True

    def _asked(self, number: int, what: Plain) -> Plain:
        if what[0] == JOIN:
            return self._joined(number)
        if what[0] == GATHER:
            return self._gathering(number, what[1])
        raise CrewBroken(f"A worker asked for {what[0]!r}, which nobody knows.")

    def _joined(self, number: int) -> Plain:
        with self._lock:
            if not self._complete:
                self._first_at = self._first_at or monotonic()
                self._ranks[number] = len(self._ranks)
                if len(self._ranks) == self._resources.workers:
                    self._begin()
            self._await(lambda: self._complete)
            rank, n_workers = self._ranks.get(number), len(self._ranks)
        if rank is None:
            raise CrewBroken("It came too late for this stretch.")
        return {
            "rank": rank,
            "n_workers": n_workers,
            "part": plainly(self._work.part(rank, n_workers)),
            "shared": plainly(self._work.shared),
            "last": plainly(self._work.last),
        }

    def _complete_if_late(self, running: Sequence[Future[Plain]]) -> None:
        with self._lock:
            if self._complete or self._first_at is None:
                return  # nobody has a place yet: they wait for machines, as the job does
            if monotonic() - self._first_at < self._work.place_seconds:
                return
            if len(self._ranks) >= self._resources.least_workers:
                self._begin()
                return
        raise TooFewWorkers(
            f"Only {len(self._ranks)} of {self._resources.least_workers} workers found a place"
            f" within {self._work.place_seconds:g} s.",
            hint="Ask for fewer (resources.least_workers), or wait for machines.",
        )

    def _begin(self) -> None:
        self._complete = True
        self._work.sizes.append(len(self._ranks))
        self._lock.notify_all()

    def _gathering(self, number: int, value: Plain) -> Plain:
        with self._lock:
            turn = self._turn.get(number, 0)
            self._turn[number] = turn + 1
            if len(self._gathered) <= turn:
                self._gathered.append({})
            found = self._gathered[turn]
            found[self._ranks[number]] = value
            self._lock.notify_all()
            self._await(lambda: len(found) == len(self._ranks))
        return [found[rank] for rank in range(len(found))]

    def _await(self, true: Callable[[], bool]) -> None:
        """Wait with the lock; raises CrewBroken if the stretch is over."""
        while not true():
            self._go_on()
            self._lock.wait(_LOOK_SECONDS)
