"""Pools of workers, and what keeps their number right.

A pool is where workers run: the processes of this machine, or actors on Ray. It knows how
to count them, to look at them, and to have more or fewer; ``Autoscaler`` asks the policy
(``falaj.serving.scaling``) and writes down every decision that changes something.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from falaj.kernel.telemetry import logger
from falaj.serving.scaling import Decision, Observation, ScalingSettings, decide
from falaj.serving.scalingrecords import ScalingRecord


class WorkerPool(Protocol):
    """Where the workers of one front door run.

    Guarantees of an adapter: ``resize`` returns without waiting for a worker to start or to
    end; a worker that is taken away answers what it has been asked, and refuses nothing.
    """

    name: str
    """Names the pool in the records of decisions."""

    def observe(self, at: float) -> Observation | None:
        """What the workers did since the last call.

        Returns:
            None while a worker starts, or when nothing is known yet.
        """
        ...

    def resize(self, workers: int) -> None:
        """Have so many workers from now on."""
        ...


class Autoscaler:
    """Keeps the number of workers in a pool right.

    Args:
        pool: the workers.
        settings: what is aimed at.
        record: keeps a decision; an OSError of it is logged, and the decision stands.
    """

    def __init__(
        self,
        pool: WorkerPool,
        settings: ScalingSettings,
        record: Callable[[ScalingRecord], None],
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._record = record
        self._window: deque[Observation] = deque()

    def tick(self, at: float) -> Decision | None:
        """Look, decide, and act on it; call it about every second.

        Args:
            at: now, in seconds of a clock that never goes back.

        Returns:
            the decision, if it changed the number.
        """
        seen = self._pool.observe(at)
        if seen is None:
            return None
        window = self._window
        window.append(seen)
        while window[0].at < at - self._settings.kept_seconds - 1:
            window.popleft()
        decision = decide(window, self._settings)
        if decision.workers == seen.workers:
            return None
        self._pool.resize(decision.workers)
        self._write_down(seen, decision)
        return decision

    def _write_down(self, seen: Observation, decision: Decision) -> None:
        record = ScalingRecord(
            pool=self._pool.name,
            at=datetime.now(UTC),
            before=seen.workers,
            after=decision.workers,
            reason=decision.reason,
            utilisation=[round(one, 3) for one in seen.utilisation],
            queue_p90_ms=round(seen.queue_p90 * 1000, 3),
            queue_p99_ms=round(seen.queue_p99 * 1000, 3),
            inside=seen.inside,
            shed=seen.shed,
        )
        told = record.model_dump(mode="json", exclude={"at", "machine"})
        logger(__name__).info("workers scaled", **told)
        try:
            self._record(record)
        except OSError as error:  # a full disk must not stop the workers that are needed
            logger(__name__).error("scaling not recorded", error=str(error))
