"""Lanes: the requests of one endpoint that are in a worker now.

Requests that arrive in one turn of the event loop are scored together when it ends: no
wait is added for a lonely request, and a crowd shares the cost of a run. A run that would
hold the loop up goes to a thread, and what arrives meanwhile is its successor. A lane is
bounded by the requests and by the time that wait in it; what does not fit is told at once
to come back. Lanes take turns, so a crowded one does not starve another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.serving.batching import Costs, Linger
from falaj.serving.errors import DeadlineExceeded, ModelFailed, Overloaded, ScoringFailed
from falaj.serving.model import Durability
from falaj.serving.standingin import StandInFailed

if TYPE_CHECKING:
    from falaj.serving.front import Response, Told
    from falaj.serving.meters import Meter
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.predictions import Failed, Parsed, Scored
    from falaj.serving.shadows import Shadows

INLINE_ROWS = 256
"""More rows than these are scored on a thread, so that other requests are not held up."""
_INLINE_SECONDS = 0.02
"""So is a run that takes longer than this."""
_TURN_SECONDS = 0.0015
"""One turn of a lane scores about so much; the rest waits until others had theirs."""
_ASIDE_ROWS = 4_096
"""The most rows of several requests that are scored in one run on a thread."""
_LEAST_WAITING = 32
"""So many rows may always wait, however slow the model is."""
Tell = Callable[["Told | FalajError"], None]
"""Takes the answer to one request; called on the event loop, once."""
_Waiting = tuple["RequestPlan", "Parsed", Tell]


class Lane:
    """One endpoint's requests in one worker; belongs to the event loop's thread."""

    def __init__(
        self,
        endpoint: str,
        meter: Meter,
        log: PredictionLog,
        aside: ThreadPoolExecutor,
        loop: asyncio.AbstractEventLoop,
        *,
        patient: ThreadPoolExecutor | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.meter = meter
        self.inside = 0
        """Whole requests that wait for their answer."""
        self.shed: Response | None = None
        """The answer to a request that does not fit, once it was made."""
        self.costs = Costs()
        self.linger = Linger()
        self.longest_wait = 0.0
        """Seconds; the longest that a request waited to be scored. Who reads it sets it to 0."""
        self._log = log
        self._aside = aside
        self._patient = patient or aside
        """Threads for runs that wait for another process: they keep none of ``aside`` waiting."""
        self._shadows = shadows
        self._loop = loop
        self._waiting: list[_Waiting] = []
        self._n_rows = 0
        self._scheduled = False
        self._running = False
        self._soonest = inf
        """Not after the deadline of any request that waits."""
        self._begun = 0.0
        """``time.perf_counter()`` of the last run."""
        self._pace = 0.0
        """Seconds from turn to turn for each row scored, with all that the loop did besides, in
        the faster of the last two turns; 0 unless rows were left waiting."""
        self._latest = 0.0
        self._turned = 0.0
        self._n_scored = 0

    def scored(self, plan: RequestPlan, request: Parsed) -> asyncio.Future[Told]:
        """The answer to a request, once this turn of the loop is over.

        The future fails with a FalajError if there is no answer.

        Raises:
            Overloaded: as for ``ask``.
        """
        future: asyncio.Future[Told] = self._loop.create_future()

        def tell(answer: Told | FalajError) -> None:
            if future.done():
                return  # its client has gone
            if isinstance(answer, FalajError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.ask(plan, request, tell)
        return future

    def ask(self, plan: RequestPlan, request: Parsed, tell: Tell) -> None:
        """Have a request scored when this turn of the loop is over; ``tell`` takes the answer.

        Raises:
            Overloaded: as many requests as the endpoint allows wait already, or so many that
                this one would wait too long.
        """
        if self.full(plan):
            raise self.overloaded()
        self.take(plan, request, tell)

    def take(self, plan: RequestPlan, request: Parsed, tell: Tell) -> None:
        """``ask`` for who has just found that the lane is not full."""
        self.inside += 1
        plan.n_asked += 1
        self._n_rows += len(request.rows)
        self._soonest = min(self._soonest, request.deadline)
        self._waiting.append((plan, request, tell))
        if not self._scheduled and not self._running:
            self._schedule()

    def full(self, plan: RequestPlan, rested: float = 0.0) -> bool:
        """True if the next request is told to come back.

        Args:
            plan: which one it asks.
            rested: ``time.perf_counter()`` since when it may have waited to be read (see
                ``backpressure``); 0 if it did not.
        """
        limits = plan.limits
        if self.inside >= limits.concurrency:
            return True
        most, n_rows = limits.queue_seconds, self._n_rows
        if n_rows >= _LEAST_WAITING and n_rows * max(self.costs.per_row, self._pace) > most:
            return True
        # What has waited for long makes room for what has not, while the endpoint is asked much.
        return bool(rested) and (
            self._begun - rested > most and time.perf_counter() - self._begun <= most
        )

    def overloaded(self) -> Overloaded:
        """What a request is told that does not fit."""
        return Overloaded(
            f"{self.endpoint!r} has as many requests in work as its limits allow.",
            hint="Repeat the request after the time that Retry-After names.",
        )

    # -- turns ----------------------------------------------------------------------

    def _schedule(self) -> None:
        self._scheduled = True
        wait = self.linger.seconds(self.costs)
        if wait:
            self._loop.call_later(wait, self._turn)
        else:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Score what waits, or as much of it as one turn may take."""
        self._scheduled = False
        now = time.perf_counter()
        if self._n_scored:  # and some were left waiting then
            latest = (now - self._turned) / self._n_scored
            self._pace, self._latest = min(latest, self._latest), latest
        n_waiting = self._n_rows
        waiting, self._waiting = self._waiting, []
        self._n_rows = 0
        pending, until = _groups(waiting), now + _TURN_SECONDS
        while pending:
            rest = self._run_part(pending.pop(0))
            if rest:
                pending.append(rest)
            if pending and (self._running or time.perf_counter() > until):
                self._back([item for group in pending for item in group])
                break
        self._turned, self._n_scored = now, n_waiting - self._n_rows
        if not self._waiting:
            self._soonest = inf
            self._pace, self._latest, self._n_scored = 0.0, 0.0, 0
        elif not self._running and not self._scheduled:
            self._schedule()

    def _run_part(self, group: list[_Waiting]) -> list[_Waiting]:
        """Run a group, or as much of it as one run may take; returns the rest."""
        n_rows, costs, rest = 0, self.costs, []
        if max(costs.fixed, costs.per_row) > _TURN_SECONDS / 2:
            most = _ASIDE_ROWS  # one run of many is what a slow model is best at
        else:
            most = min(INLINE_ROWS, costs.rows_within(_TURN_SECONDS))
        for place, item in enumerate(group):
            n_rows += len(item[1].rows)
            if n_rows > most and place:
                group, rest = group[:place], group[place:]
                break
        self._run(group)
        return rest

    def _back(self, items: list[_Waiting]) -> None:
        self._waiting = items + self._waiting
        for _, request, _ in items:
            self._n_rows += len(request.rows)
            self._soonest = min(self._soonest, request.deadline)

    def _run(self, group: list[_Waiting]) -> None:
        plan = group[0][0]
        begun = self._begun = time.perf_counter()
        waited = begun - group[0][1].started
        self.longest_wait = max(self.longest_wait, waited)
        if self._soonest < begun:
            group = self._without_late(group, begun)
            if not group:
                return
        requests = [request for _, request, _ in group]
        n_rows = len(requests)
        if n_rows > 1 or len(requests[0].rows) > 1:
            n_rows = sum(len(request.rows) for request in requests)
        if (
            n_rows > INLINE_ROWS
            or self.costs.expected(n_rows) > _INLINE_SECONDS
            or plan.waits
            or requests[0].explain > 1
        ):
            self._run_aside(plan, group, requests, n_rows, begun)
            return
        try:
            answers, parts = plan.score(requests)
        except Exception as error:  # noqa: BLE001 - nobody else would ever end these requests
            self._failed(group, error)
        else:
            ended = time.perf_counter()
            self.costs.saw(n_rows, ended - begun)
            self.linger.saw(n_rows, self.costs, ended)
            self._answered(group, answers, parts, begun)

    def _run_aside(
        self,
        plan: RequestPlan,
        group: list[_Waiting],
        requests: list[Parsed],
        n_rows: int,
        begun: float,
    ) -> None:
        """Run on a thread; the lane's next run waits for it, and gathers what comes."""
        if self._running:
            self._back(group)
            return
        self._running = True
        threads = self._patient if plan.waits else self._aside
        job = self._loop.run_in_executor(threads, _score_aside, plan, requests)

        def ended(done: asyncio.Future[_Aside]) -> None:
            self._running = False
            error = done.exception()
            if error is None:
                self._ended_aside(group, n_rows, begun, done.result())
            else:
                self._failed(group, error)
            if self._waiting and not self._scheduled and not self._running:
                self._schedule()

        job.add_done_callback(ended)

    def _ended_aside(self, group: list[_Waiting], n_rows: int, begun: float, run: _Aside) -> None:
        """Answer the requests of a run on a thread, and those that were late when it began."""
        if run.n_late:
            group = self._without_late(group, run.began)
            n_rows = sum(len(request.rows) for _, request, _ in group)
        if run.error is not None:
            self._failed(group, run.error)
        elif group:
            if group[0][1].explain <= 1:  # what contributions cost says nothing of a score
                self.costs.saw(n_rows, run.seconds)
                self.linger.saw(n_rows, self.costs, time.perf_counter())
            self._answered(group, run.answers, run.parts, begun)

    def _failed(self, group: list[_Waiting], error: BaseException) -> None:
        """One request may have spoilt the run for all: score each alone, then answer."""
        if len(group) > 1:
            for item in group:
                self._run([item])
            return
        plan, request, _ = group[0]
        if isinstance(error, StandInFailed):
            self._stood_in(plan, error.failed)
            error = error.cause
        told = _told(error)
        if isinstance(told, ModelFailed) and told.variant:
            self.meter.erred(told.variant)
            if told.failed is not None:
                self._stood_in(plan, told.failed)
            assigner = plan.assigner
            # Whom it stood in for are units of others, unless it has none of its own.
            if assigner is not None and (told.failed is None or not assigner.leaves_champion):
                self.meter.units(told.variant).erred(request.rows[0], request, plan.unit)
        self._end(group[0], told)

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
        self.inside -= 1
        item[2](answer)

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
        for run in parts:
            for part in run.by_instant():
                if not self._log.append(part):
                    self.meter.unlogged(part.n_rows, part.variant.variant.name)
        self.inside -= len(group)
        for (_, _, tell), answer in zip(group, answers, strict=True):
            tell(answer)
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
        if self._shadows is not None and group[0][0].shadows:
            busy = self._n_rows >= _LEAST_WAITING
            self._shadows.take(group[0][0], parts, self.meter, busy=busy)
        if len(parts) == 1:
            requests = [
                item[1]
                for item, answer in zip(group, answers, strict=True)
                if not isinstance(answer, FalajError)
            ]
            self._counted(group[0][0], parts[0], requests, begun, done)
            return
        refused = {
            id(item[1])
            for item, answer in zip(group, answers, strict=True)
            if isinstance(answer, FalajError)
        }
        lone = sum(len(part.ids) for part in parts) == len(group)  # each has one row
        scored = [part.owners for part in parts] if lone else _first_scored(parts)
        for part, requests in zip(parts, scored, strict=True):
            told = [one for one in requests if id(one) not in refused] if refused else requests
            self._counted(group[0][0], part, told, begun, done)

    def _counted(
        self,
        plan: RequestPlan,
        part: Scored,
        requests: list[Parsed],
        begun: float,
        done: float,
    ) -> None:
        for request in requests:
            if request.trail is not None:
                request.trail.scored(part, begun)
        if part.failed is not None:
            self._stood_in(plan, part.failed)
        vectors, name = part.vectors, part.variant.variant.name
        section = self.meter.variant(name)
        section.answered(requests, begun, done, vectors.ran - vectors.read, len(part.ids))
        if vectors.judged is not None:
            section.tagged(len(part.ids), int(vectors.judged.anomalous.sum()))
        if plan.assigner is not None:
            if part.stood_in:
                requests = [one for one in requests if id(one) not in part.stood_in]
            self.meter.units(name).answered(requests, plan.unit, done)

    def _stood_in(self, plan: RequestPlan, of_variants: Failed) -> None:
        """Count the failures of those for whom the champion stood in, whatever it came to."""
        for variant, failed in of_variants.items():
            self.meter.erred(variant, len(failed))
            cells = self.meter.units(variant)
            for request, row in failed:
                cells.erred(row, request, plan.unit)

    def _answer_when_kept(
        self,
        group: list[_Waiting],
        answers: list[Told | FalajError],
        parts: list[Scored],
        begun: float,
    ) -> None:
        """Answer when every part of the run is on disk."""
        kept_parts = [part for run in parts for part in run.by_instant()]
        left = len(kept_parts)
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
                    return
                for one in parts:  # what failed has failed, though no answer was given
                    if one.failed is not None:
                        self._stood_in(group[0][0], one.failed)

        for part in kept_parts:
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


def _groups(waiting: list[_Waiting]) -> list[list[_Waiting]]:
    """What can be scored in one run each: one release, all with or without contributions."""
    plan = waiting[0][0]
    for other in waiting:
        if other[0] is not plan or other[1].explain > 1:
            break
    else:
        return [waiting]
    groups: dict[tuple[int, bool], list[_Waiting]] = {}
    for item in waiting:
        groups.setdefault((id(item[0]), item[1].explain > 1), []).append(item)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Aside:
    """What became of a run on a thread."""

    began: float
    """``time.perf_counter()`` when a thread took it up."""
    n_late: int
    """Requests whose deadline had passed by then; they were not scored."""
    answers: list[Told | FalajError] = field(default_factory=list)
    """Of the others, as ``parts``."""
    parts: list[Scored] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None


def _score_aside(plan: RequestPlan, requests: list[Parsed]) -> _Aside:
    began = time.perf_counter()  # it may have waited for a thread: the deadlines count again
    kept = [request for request in requests if request.deadline >= began]
    n_late = len(requests) - len(kept)
    if not kept:
        return _Aside(began, n_late)
    try:
        answers, parts = plan.aside.score(kept)
    except Exception as error:  # noqa: BLE001 - told to those that were scored, and to no other
        return _Aside(began, n_late, error=error)
    return _Aside(began, n_late, answers, parts, time.perf_counter() - began)
