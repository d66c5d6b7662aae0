"""Lanes: the requests of one endpoint that are in a worker now.

Requests that arrive in one turn of the event loop are scored together when it ends: no
wait is added for a lonely request, and a crowd shares the cost of a run. A lane is
bounded; what does not fit is told at once to come back.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.serving.errors import DeadlineExceeded, Overloaded, ScoringFailed
from falaj.serving.model import Durability

if TYPE_CHECKING:
    from falaj.serving.front import Told
    from falaj.serving.meters import Meter
    from falaj.serving.plan import Parsed, RequestPlan, Scored
    from falaj.serving.predictionlog import PredictionLog

INLINE_ROWS = 256
"""More rows than these are scored on a thread, so that other requests are not held up."""

_Waiting = tuple["RequestPlan", "Parsed", "asyncio.Future[Told]"]


class Lane:
    """One endpoint's requests in one worker; belongs to the event loop's thread."""

    def __init__(
        self,
        endpoint: str,
        meter: Meter,
        log: PredictionLog,
        aside: ThreadPoolExecutor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.endpoint = endpoint
        self.meter = meter
        self.inside = 0
        """Whole requests that wait for their answer."""
        self.longest_wait = 0.0
        """Seconds; the longest that a request waited to be scored. Who reads it sets it to 0."""
        self._log = log
        self._aside = aside
        self._loop = loop
        self._waiting: list[_Waiting] = []

    def scored(self, plan: RequestPlan, request: Parsed) -> asyncio.Future[Told]:
        """The answer to a request, once this turn of the loop is over.

        The future fails with a FalajError if there is no answer.

        Raises:
            Overloaded: as many requests as the endpoint allows wait already.
        """
        if self.inside >= plan.limits.concurrency:
            raise Overloaded(
                f"{self.endpoint!r} has {self.inside} requests in work, which is its limit.",
                hint="Repeat the request after the time that Retry-After names.",
            )
        self.inside += 1
        future: asyncio.Future[Told] = self._loop.create_future()
        waiting = self._waiting
        waiting.append((plan, request, future))
        if len(waiting) == 1:
            self._loop.call_soon(self._turn)
        return future

    def _turn(self) -> None:
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            self._run(waiting)
            return
        groups: dict[tuple[int, int | None], list[_Waiting]] = {}
        for item in waiting:
            # One run is about one release and one instant.
            groups.setdefault((id(item[0]), item[1].at_us), []).append(item)
        for group in groups.values():
            self._run(group)

    def _run(self, group: list[_Waiting]) -> None:
        plan = group[0][0]
        now = time.perf_counter()
        self.longest_wait = max(self.longest_wait, now - group[0][1].started)
        late = now - plan.limits.deadline_seconds
        if group[0][1].started < late:
            group = self._without_late(group, late)
            if not group:
                return
        requests = [request for _, request, _ in group]
        n_rows = sum(len(request.rows) for request in requests)
        if n_rows > INLINE_ROWS:
            job = self._loop.run_in_executor(self._aside, self._score_aside, plan, requests)
            job.add_done_callback(lambda done: self._aside_done(group, done))
            return
        try:
            answers, parts = plan.score(requests)
        except Exception as error:  # noqa: BLE001 - nobody else would ever end these futures
            self._failed(group, _told(error))
        else:
            self._answered(group, answers, parts)

    def _score_aside(
        self, plan: RequestPlan, requests: list[Parsed]
    ) -> tuple[list[Told | FalajError], list[Scored]]:
        waited = time.perf_counter() - requests[0].started
        self.longest_wait = max(self.longest_wait, waited)
        return plan.aside.score(requests)

    def _aside_done(
        self,
        group: list[_Waiting],
        done: asyncio.Future[tuple[list[Told | FalajError], list[Scored]]],
    ) -> None:
        error = done.exception()
        if error is None:
            self._answered(group, *done.result())
        else:
            self._failed(group, _told(error))

    def _failed(self, group: list[_Waiting], error: FalajError) -> None:
        """One request may have spoilt the run for all: score each alone, then answer."""
        if len(group) > 1:
            for item in group:
                self._run([item])
            return
        self._end(group[0], error)

    def _without_late(self, group: list[_Waiting], late: float) -> list[_Waiting]:
        kept = []
        for item in group:
            plan, request, _ = item
            if request.started >= late:
                kept.append(item)
                continue
            error = DeadlineExceeded(
                f"The request waited longer than the {plan.limits.deadline_seconds:g} s that "
                f"{self.endpoint!r} allows.",
                hint="Repeat it later, or send fewer at once.",
            )
            self._end(item, error)
        return kept

    def _end(self, item: _Waiting, answer: Told | FalajError) -> None:
        """Tell one request what became of it, and count it."""
        _, request, future = item
        self.inside -= 1
        if future.done():
            return  # its client has gone
        if isinstance(answer, FalajError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
            self.meter.answered(len(request.rows), time.perf_counter() - request.started)

    def _answered(
        self, group: list[_Waiting], answers: list[Told | FalajError], parts: list[Scored]
    ) -> None:
        plan = group[0][0]
        if plan.release.durability is Durability.REQUEST and parts:
            self._answer_when_kept(group, answers, parts)
            return
        for part in parts:
            if not self._log.append(part):
                self.meter.unlogged(part.n_rows)
        for item, answer in zip(group, answers, strict=True):
            self._end(item, answer)

    def _answer_when_kept(
        self, group: list[_Waiting], answers: list[Told | FalajError], parts: list[Scored]
    ) -> None:
        """Answer when every part of the run is on disk."""
        left = len(parts)
        failure: FalajError | None = None

        def kept(error: FalajError | None) -> None:
            nonlocal left, failure
            left -= 1
            failure = failure or error
            if left == 0:
                for item, answer in zip(group, answers, strict=True):
                    self._end(item, failure or answer)

        for part in parts:
            self._log.append_durably(part, lambda error: _soon(self._loop, kept, error))


def _told(error: BaseException) -> FalajError:
    """What the client is told of an error; what it should not see goes to the worker's log."""
    if isinstance(error, FalajError):
        return error
    logger(__name__).error("scoring failed", error=repr(error))
    return ScoringFailed(
        "The request could not be scored, by a fault of the platform.",
        hint="See the worker's log; other requests go on.",
    )


def _soon(loop: asyncio.AbstractEventLoop, call: object, error: FalajError | None) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, error)  # type: ignore[arg-type]
