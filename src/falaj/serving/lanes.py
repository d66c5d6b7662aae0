"""Lanes: the requests of one endpoint that are in a worker now.

Requests that arrive in one turn of the event loop are scored together when it ends: no
wait is added for a lonely request, and a crowd shares the cost of a run. A lane is
bounded; what does not fit is told at once to come back.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
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
        self._log = log
        self._aside = aside
        self._loop = loop
        self._waiting: list[_Waiting] = []
        self._soonest = inf
        """Not after the deadline of any request that waits."""

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
        self._soonest = min(self._soonest, request.deadline)
        if len(waiting) == 1:
            self._loop.call_soon(self._turn)
        return future

    def _turn(self) -> None:
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            self._run(waiting)
            self._soonest = inf
            return
        groups: dict[tuple[int, int | None], list[_Waiting]] = {}
        for item in waiting:
            # One run is about one release and one instant.
            groups.setdefault((id(item[0]), item[1].at_us), []).append(item)
        for group in groups.values():
            self._run(group)
        self._soonest = inf  # behind the runs: a request is never added while they go on

    def _run(self, group: list[_Waiting]) -> None:
        plan = group[0][0]
        begun = time.perf_counter()
        if self._soonest < begun:
            group = self._without_late(group, begun)
            if not group:
                return
        requests = [request for _, request, _ in group]
        n_rows = sum(len(request.rows) for request in requests)
        if n_rows > INLINE_ROWS:
            job = self._loop.run_in_executor(self._aside, _score_aside, plan, requests)
            job.add_done_callback(lambda done: self._aside_done(group, begun, done))
            return
        try:
            answers, parts = plan.score(requests)
        except Exception as error:  # noqa: BLE001 - nobody else would ever end these futures
            self._failed(group, _told(error))
        else:
            self._answered(group, answers, parts, begun)

    def _aside_done(
        self,
        group: list[_Waiting],
        begun: float,
        done: asyncio.Future[tuple[list[Told | FalajError], list[Scored]]],
    ) -> None:
        error = done.exception()
        if error is None:
            self._answered(group, *done.result(), begun)
        else:
            self._failed(group, _told(error))

    def _failed(self, group: list[_Waiting], error: FalajError) -> None:
        """One request may have spoilt the run for all: score each alone, then answer."""
        if len(group) > 1:
            for item in group:
                self._run([item])
            return
        self._end(group[0], error)

    def _without_late(self, group: list[_Waiting], now: float) -> list[_Waiting]:
        kept = []
        for item in group:
            plan, request, _ = item
            if request.deadline >= now:
                kept.append(item)
                continue
            error = DeadlineExceeded(
                f"The request waited longer than the "
                f"{request.deadline - request.started:.3g} s that {plan.release.endpoint!r} or "
                "its sender allows.",
                hint="Repeat it later, or send fewer at once.",
            )
            self._end(item, error)
        return kept

    def _end(self, item: _Waiting, answer: Told | FalajError) -> None:
        """Tell one request what became of it."""
        future = item[2]
        self.inside -= 1
        if future.done():
            return  # its client has gone
        if isinstance(answer, FalajError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _answered(
        self,
        group: list[_Waiting],
        answers: list[Told | FalajError],
        parts: list[Scored],
        begun: float,
    ) -> None:
        plan = group[0][0]
        if plan.release.durability is Durability.REQUEST and parts:
            self._answer_when_kept(group, answers, parts, begun)
            return
        for part in parts:
            if not self._log.append(part):
                self.meter.unlogged(part.n_rows, part.variant.variant.name)
        for item, answer in zip(group, answers, strict=True):
            self._end(item, answer)
        self._count(group, answers, parts, begun)

    def _count(
        self,
        group: list[_Waiting],
        answers: list[Told | FalajError],
        parts: list[Scored],
        begun: float,
    ) -> None:
        """Count a run that was answered: one write to shared memory for each variant."""
        done = time.perf_counter()
        if len(parts) == 1:
            if len(group) == 1:
                requests = [group[0][1]]
            else:
                requests = [
                    item[1]
                    for item, answer in zip(group, answers, strict=True)
                    if not isinstance(answer, FalajError)
                ]
            self._counted(parts[0], requests, begun, done)
            return
        for part, requests in zip(parts, _first_scored(parts), strict=True):
            self._counted(part, requests, begun, done)

    def _counted(self, part: Scored, requests: list[Parsed], begun: float, done: float) -> None:
        for request in requests:
            if request.trail is not None:
                request.trail.scored(part, begun)
        vectors = part.vectors
        self.meter.variant(part.variant.variant.name).answered(
            requests, begun, done, vectors.ran - vectors.read, len(part.ids)
        )

    def _answer_when_kept(
        self,
        group: list[_Waiting],
        answers: list[Told | FalajError],
        parts: list[Scored],
        begun: float,
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
                if failure is None:
                    self._count(group, answers, parts, begun)

        for part in parts:
            self._log.append_durably(part, lambda error: _soon(self._loop, kept, error))


def _first_scored(parts: list[Scored]) -> list[list[Parsed]]:
    """For each part the requests whose first row it scored: each request stands in one."""
    firsts: dict[Parsed, tuple[str, int]] = {}  # ids of one run rise with the place of the row
    for place, part in enumerate(parts):
        for one, owner in zip(part.ids, part.owners, strict=True):
            known = firsts.get(owner)
            if known is None or one < known[0]:
                firsts[owner] = (one, place)
    found: list[list[Parsed]] = [[] for _ in parts]
    for owner, (_, place) in firsts.items():
        found[place].append(owner)
    return found


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


def _score_aside(
    plan: RequestPlan, requests: list[Parsed]
) -> tuple[list[Told | FalajError], list[Scored]]:
    return plan.aside.score(requests)
