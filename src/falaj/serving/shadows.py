"""Shadows: challengers that run behind answers, on a thread that nobody waits for.

A shadow is given rows when their answers are written. What it says goes to the prediction log
and to counters of its own, and into no answer. It never holds a request up: where more comes
than its thread can do, or while requests wait to be scored, rows are dropped, and counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from falaj.kernel.telemetry import logger
from falaj.serving.counted import ERRED, SHADOW, SHED, UNLOGGED
from falaj.serving.predictions import Parsed, PredictionIds, Scored
from falaj.serving.yielding import yielding

if TYPE_CHECKING:
    from falaj.serving.meters import Meter
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictionlog import PredictionLog

MOST_ROWS = 2_048
"""So many rows may wait for a worker's shadows."""
_TELL_SECONDS = 10.0


class _Due(NamedTuple):
    """Rows that one shadow is to run on."""

    plan: RequestPlan
    which: int
    """The shadow's place among those of the plan."""
    part: Scored
    places: list[int]
    """Of the rows, in the part."""
    meter: Meter


class Shadows:
    """Runs the shadows of one worker.

    Args:
        log: takes what they say, on the event loop.
        most_rows: may wait at once.
    """

    def __init__(self, log: PredictionLog, *, most_rows: int = MOST_ROWS) -> None:
        self._log = log
        self._most = most_rows
        self._waiting: deque[_Due] = deque()
        self._n_rows = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._ids = PredictionIds()
        self._told = -_TELL_SECONDS

    def take(self, plan: RequestPlan, parts: list[Scored], meter: Meter, *, busy: bool) -> None:
        """Let the shadows of a plan run on rows that were answered; call it on the event loop.

        Args:
            plan: that answered.
            parts: the rows, by the variant that scored them.
            meter: of the endpoint.
            busy: requests wait to be scored, so nothing is begun.
        """
        assigner = plan.assigner
        if assigner is None or not assigner.on:
            return
        for which, shadow in enumerate(plan.shadows):
            for part in parts:
                places = assigner.shadowed(part.rows, part.ids, which)
                if places and (busy or not self._put(_Due(plan, which, part, places, meter))):
                    owners = {id(part.owners[place]) for place in places}
                    meter.shadow(shadow.variant.name).count(SHED, len(owners))

    def stop(self) -> None:
        """Drop what waits, and end; may block while a shadow runs."""
        with self._wake:
            self._stopped = True
            self._waiting.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(10)

    def _put(self, due: _Due) -> bool:
        n = len(due.places)
        with self._wake:
            if self._stopped or self._n_rows + n > self._most:
                return False
            self._n_rows += n
            self._waiting.append(due)
            self._wake.notify()
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="falaj-shadow", daemon=True)
            self._thread.start()
        return True

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._stopped:
                    self._wake.wait()
                if self._stopped:
                    return
                due = self._waiting.popleft()
            try:
                with yielding():
                    self._run(due)
            except Exception as error:  # noqa: BLE001 - without this thread no shadow runs any more
                self._failed(due, error)
            finally:
                with self._wake:
                    self._n_rows -= len(due.places)

    def _run(self, due: _Due) -> None:
        plan, part = due.plan, due.part
        if plan.assigner is None or plan.assigner.present[due.which] <= 0:
            return  # it was taken out of the rollout meanwhile
        variant = plan.shadows[due.which]
        mine = part if len(due.places) == part.n_rows else part.only(due.places)
        at = mine.at_us if mine.instants is None else mine.instants
        vectors = variant.run(mine.rows, at)
        done = time.perf_counter()
        scored = replace(
            mine,
            variant=variant,
            vectors=vectors,
            ids=self._ids.block(mine.n_rows, mine.requested_us),
            done=done,
            failed=None,
            shadow=True,
        )
        begun = [Parsed([], None, None, 0, "", vectors.begun)] * _n_owners(mine)
        section = due.meter.shadow(variant.variant.name)
        section.answered(begun, vectors.begun, done, vectors.ran - vectors.read, mine.n_rows)
        if vectors.judged is not None:
            section.tagged(mine.n_rows, int(vectors.judged.anomalous.sum()))
        cells = due.meter.units(SHADOW + variant.variant.name)
        for request, row in _firsts(mine, range(mine.n_rows)):
            cells.ran(row, request, plan.unit, done - vectors.begun)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._logged, scored, due.meter)

    def _logged(self, scored: Scored, meter: Meter) -> None:
        for part in scored.by_instant():
            if not self._log.append(part):
                meter.shadow(part.variant.variant.name).count(UNLOGGED, part.n_rows)

    def _failed(self, due: _Due, error: Exception) -> None:
        name = due.plan.shadows[due.which].variant.name
        firsts = _firsts(due.part, due.places)
        due.meter.shadow(name).count(ERRED, len(firsts))
        cells = due.meter.units(SHADOW + name)
        for request, row in firsts:
            cells.erred(row, request, due.plan.unit)
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            logger(__name__).error("shadow failed", variant=name, error=str(error) or repr(error))


def _firsts(part: Scored, places: Iterable[int]) -> list[tuple[Parsed, Any]]:
    """The requests of some rows, each with the first of these."""
    found: dict[int, tuple[Parsed, Any]] = {}
    for place in places:
        owner = part.owners[place]
        if id(owner) not in found:
            found[id(owner)] = owner, part.rows[place]
    return list(found.values())


def _n_owners(part: Scored) -> int:
    return len({id(owner) for owner in part.owners})
