"""Forgets values of steps that no run has needed for long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select

from falaj.training.pipelines.tables import pipeline_cache, pipeline_runs, pipeline_steps

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.lake.blobs import SealedBlobs

TELLER = "system:pipelines"
_PART = 500
"""After so many values is looked anew what is kept."""


class Forgetting:
    """Deletes values that stand in no run of late and were not taken from the cache of late.

    What a run gave stays on record; a run that needs a value which is gone makes it again.

    Args:
        calls: opens transactions, and tells the time.
        blobs: holds the values, and nothing else.
        keep: so long after the end of its last run is a value kept.
    """

    def __init__(self, calls: Calls, blobs: Callable[[], SealedBlobs], keep: timedelta) -> None:
        self._calls = calls
        self._blobs = blobs
        self._keep = keep

    def run_once(self) -> int:
        """Forget what is due; returns how many values that were.

        What the cache has not given for long is taken out of it first, so that no run begins to
        take it; what runs have begun to take by then is looked for after that. A run between
        finding a value and recording it is told that it is gone, and makes it again.
        """
        since = self._calls.now() - self._keep
        runs, cache = pipeline_runs.c, pipeline_cache.c
        steps = select(pipeline_steps.c.outputs).join(
            pipeline_runs, runs.id == pipeline_steps.c.run
        )
        with self._calls.database.reading() as connection:
            old = _digests(connection.execute(steps.where(runs.ended_at < since)).scalars())
        old -= self._kept(since)
        blobs = self._blobs()
        due = old & set(blobs.digests()) if old else set()
        if not due:
            return 0
        with self._calls.opened("pipelines.forget", TELLER) as call:
            call.connection.execute(delete(pipeline_cache).where(cache.used_at < since))
            call.note(n_values=len(due))
        ordered, n_forgotten = sorted(due), 0
        for start in range(0, len(ordered), _PART):
            for digest in set(ordered[start : start + _PART]) - self._kept(since):
                blobs.forget(digest)
                n_forgotten += 1
        return n_forgotten

    def _kept(self, since: datetime) -> set[str]:
        """The values of runs that have not ended long ago, and those that the cache gives."""
        runs, cache = pipeline_runs.c, pipeline_cache.c
        steps = select(pipeline_steps.c.outputs).join(
            pipeline_runs, runs.id == pipeline_steps.c.run
        )
        recent = steps.where(or_(runs.ended_at.is_(None), runs.ended_at >= since))
        taken = select(cache.outputs).where(cache.used_at >= since)
        with self._calls.database.reading() as connection:
            kept = _digests(connection.execute(recent).scalars())
            return kept | _digests(connection.execute(taken).scalars())


def _digests(outputs: Iterable[dict[str, Any]]) -> set[str]:
    return {
        str(value["digest"]) for one in outputs for value in one.values() if value.get("digest")
    }
