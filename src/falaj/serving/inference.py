"""The inference application: what stands behind the front of a worker.

Routes: ``POST /v1/endpoints/{name}/predict`` (``?explain=features,contributions``; JSON or an
Arrow stream, answered by events where they are asked for),
``GET /v1/endpoints/{name}/openapi.json``, the Open Inference Protocol below ``/v2``, what
the planes that it is given answer, ``GET /healthz``, ``GET /readyz``, ``GET /metrics``.
Every request but those of health is authenticated.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import random
from typing import TYPE_CHECKING, Any

import msgspec

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.ports import TurnedAway
from falaj.kernel.problems import MEDIA_TYPE, problem, public
from falaj.kernel.telemetry import logger
from falaj.serving.admission import Admission
from falaj.serving.arrowpredictions import request_of as arrow_request
from falaj.serving.asking import Asking
from falaj.serving.credentials import Credentials
from falaj.serving.deadlines import HEADER as DEADLINE
from falaj.serving.deadlines import deadline_of
from falaj.serving.endpointopenapi import document as openapi_document
from falaj.serving.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    MethodNotAllowed,
    ModelFailed,
    NotReady,
    Overloaded,
    ScoringFailed,
    SlowClient,
    UnsupportedMedia,
)
from falaj.serving.eventstreams import EVENTS, EventStreams
from falaj.serving.explain import asked
from falaj.serving.explaining import Explained, Explaining
from falaj.serving.exposition import MEDIA
from falaj.serving.featurebodies import ARROW
from falaj.serving.front import Request, Response, Told
from falaj.serving.lanes import Lane
from falaj.serving.model import Limits
from falaj.serving.openinference import V2, OpenInference, asked_model, error_body
from falaj.serving.plans import Keeper, Plans
from falaj.serving.question import Question
from falaj.serving.shadows import Shadows
from falaj.serving.sleeping import Sleeping
from falaj.serving.trails import HEADER as TRACE_CONTEXT
from falaj.serving.trails import Ended, Trails
from falaj.serving.workload import Sampler, exposition

if TYPE_CHECKING:
    from falaj.kernel.ports import Policy
    from falaj.serving.meters import Meters
    from falaj.serving.plan import RequestPlan
    from falaj.serving.planes import Companion, Plane
    from falaj.serving.ports import Verifier
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.predictions import Parsed
    from falaj.serving.workload import Workload

_PREFIX, _SUFFIX, _OPENAPI = b"/v1/endpoints/", b"/predict", b"/openapi.json"
_STATUS = {
    BadRequest.code: 400,
    BodyTooLarge.code: 413,
    UnsupportedMedia.code: 415,
    SlowClient.code: 408,
    DeadlineExceeded.code: 504,
    MethodNotAllowed.code: 405,
    ScoringFailed.code: 500,
    ModelFailed.code: 500,
}
_EARLY = {408: SlowClient, 413: BodyTooLarge}
_TOO_MUCH = {413: "body-too-large", 431: "head-too-long"}
"""What such a refusal is called in the audit log."""
_GENERATING = 16
"""Parts of generated answers that are made at once in a worker; others wait for their turn."""
_WAITING = 16
"""Endpoints whose runs wait for another process at once; one that hangs keeps no other waiting."""
_MOST_BYTES, _SECONDS = 64 * 1024, 10.0
"""What paths without a plan of their own take."""
_AHEAD_SECONDS = 0.2
"""So long before it runs out, an admission in use is asked for again."""
_UNKNOWN = Limits()
"""Of an endpoint whose plan this worker may have to build yet."""
_encoded = msgspec.json.Encoder(enc_hook=str).encode


class _Admitted:
    """What is known of a head: who asks which endpoint, and until when they may."""

    __slots__ = ("asking", "caller", "certificate", "explain", "lane", "name", "until")

    def __init__(
        self,
        name: str,
        caller: str,
        until: float,
        lane: Lane,
        *,
        explain: int,
        certificate: str | None,
    ) -> None:
        self.name = name
        self.caller = caller
        self.until = until
        self.lane = lane
        self.explain = explain
        self.certificate = certificate
        """Of the connection that was admitted; another one may send the very same head."""
        self.asking = False


class InferenceApp:
    """The application of one inference worker; fulfils ``front.Application``.

    Args:
        plans: the compiled plans.
        keeper: keeps them in step with the routing table.
        admission: who may do what, remembered for a second.
        aside: threads for what would hold up the event loop.
        log: takes what was predicted.
        meters: counts.
        trails: notes what becomes of requests that are traced or told to the access log.
        workload: where to tell how much there is to do; None if nobody asks.
        sleeping: wakes the models that sleep.
        turned_away: told of each error that is answered, its client's address and the path.
        metrics_guard: is given the certificate that a reader of metrics has shown; may refuse.
        explained: asks whether a caller may be told features.
        planes: answer what stands below their prefixes.
    """

    def __init__(
        self,
        *,
        plans: Plans,
        keeper: Keeper,
        verifier: Verifier,
        policy: Policy,
        log: PredictionLog,
        meters: Meters,
        trails: Trails | None = None,
        workload: Workload | None = None,
        sleeping: Sleeping | None = None,
        turned_away: TurnedAway | None = None,
        metrics_guard: Callable[[bytes | None], None] | None = None,
        explained: Explained = lambda _caller, _release: None,
    ) -> None:
        self._plans = plans
        self._metrics_guard = metrics_guard
        self._turned_away = turned_away
        self._keeper = keeper
        self._log = log
        self._meters = meters
        self._trails = trails or Trails()
        keeper.add(self._look)
        self._workload = workload
        self._sampler: Sampler | None = None
        self._sleeping = sleeping or Sleeping(plans)
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="falaj-score")
        self._patient = ThreadPoolExecutor(_WAITING, thread_name_prefix="falaj-wait")
        self._asking = ThreadPoolExecutor(2, thread_name_prefix="falaj-ask")
        self.admission = Admission(verifier, policy, self._asking)
        self._explaining = Explaining(self.admission, plans.release, explained)
        self._shadows = Shadows(log)
        self._lanes: dict[str, Lane] = {}
        self.asking = Asking(
            plans=plans,
            admission=self.admission,
            admitted=self._admitted,
            woken=self._sleeping.woken,
            lane=lambda name: self._lanes.get(name) or self._lane(name),
            aside=self._asking,
            problem_of=self.problem_of,
            unready=self._unready,
        )
        self._planes: list[Plane] = [OpenInference(self.asking)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._companions: list[Companion] = []
        self._generating = ThreadPoolExecutor(_GENERATING, thread_name_prefix="falaj-generate")
        self._events = EventStreams(
            self._generating,
            lambda error, name: self.problem_of(error, endpoint=name, what="events"),
        )
        self._ready = self._draining = False

    def accompany(self, companions: Sequence[Companion]) -> None:
        """Let companions begin and end with this worker."""
        self._companions += companions

    def add(self, planes: Sequence[Plane]) -> None:
        """Let further planes answer what stands below their prefixes."""
        self._planes += planes

    def __call__(self, request: Request) -> Told | Awaitable[Told] | None:
        """Answer a request; see ``front.Application``."""
        if TRACE_CONTEXT in request.headers or random() < self._trails.share:  # noqa: S311 - a draw
            request.trail = self._trails.begin(request)
        memo = request.head.memo
        if (
            type(memo) is _Admitted
            and memo.until > request.started
            and memo.certificate == request.certificate
            and request.trail is None
            and not self._plans.behind
        ):
            plan = self._plans.active.get(memo.name)
            if plan is not None:
                return self._ask_again(memo, plan, request)
        path = request.path
        if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
            return self._predict(_text(path[14:-8]), request)
        for plane in self._planes:
            if path.startswith(plane.prefix):
                return plane(request)
        return self._other(request)

    def _ask_again(self, memo: _Admitted, plan: RequestPlan, request: Request) -> Response | None:
        """A request whose head was admitted a moment ago: no more than parse and score."""
        lane = memo.lane
        if lane.full(plan, request.rested):
            return self._shed(lane, request)
        if memo.until - request.started < _AHEAD_SECONDS and not memo.asking:
            memo.asking = True
            task = asyncio.get_running_loop().create_task(self._admit_again(memo, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        parsed = plan.parse(
            request.body, caller=memo.caller, started=request.started, explain=memo.explain
        )
        lane.take(plan, parsed, request.answer)
        return None

    def _shed(self, lane: Lane, request: Request) -> Response:
        """The answer to a request that does not fit. Ask before the body is looked at: it must
        cost little."""
        if lane.shed is None:
            lane.shed = self.failure(request.path, lane.overloaded())
        else:
            lane.meter.refused(lane.shed.status)
            if self._workload is not None:
                self._workload.shed()
        return lane.shed

    async def _admit_again(self, memo: _Admitted, request: Request) -> None:
        """Ask again who may, before what is remembered runs out under load."""
        credentials = request.credentials
        plan = self._plans.active.get(memo.name)
        try:
            kept = self.admission.remembered_until(credentials, memo.name, request.started)
            if plan is not None and (kept is None or kept[0] <= memo.until):
                await self.admission.admitted(credentials, memo.name, plan.release.attributes)
            kept = self.admission.remembered_until(credentials, memo.name, time.perf_counter())
            if kept is not None:
                memo.until, memo.caller = kept
        except FalajError:
            pass  # it is told to the next request, when what is remembered has run out
        finally:
            memo.asking = False

    def reception(self, path: bytes) -> tuple[int, float]:
        """What a path takes; see ``front.Application``."""
        if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
            release = self._plans.release(_text(path[14:-8]))
            limits = _UNKNOWN if release is None else release.limits
            return limits.body_bytes, limits.deadline_seconds
        for plane in self._planes:
            if path.startswith(plane.prefix):
                return plane.reception(path)
        return _MOST_BYTES, _SECONDS

    def refusal(self, path: bytes, status: int, message: str, client: str = "") -> Response:
        """The answer to a request that never became whole."""
        kind = _EARLY.get(status, BadRequest)
        on_record = {"refused": _TOO_MUCH[status]} if status in _TOO_MUCH else {}
        refused = kind(message, hint="Send it faster, smaller, or as HTTP/1.1 says.", **on_record)
        answer = self.failure(path, refused, client)
        answer.status = status
        return answer

    def failure(self, path: bytes, error: BaseException, client: str = "") -> Response:
        """The answer to a request whose answering has raised."""
        known = _known(error, _text(path))
        if self._turned_away is not None:
            self._turned_away(known, client, _text(path))
        document = self.problem_of(known, endpoint=_endpoint_of(path), what=_text(path))
        code = int(document["status"])
        more = {}
        if code in (429, 503):
            more[b"retry-after"] = b"1"
        if code == 401:
            more[b"www-authenticate"] = b"Bearer"
        close = code in (408, 413)
        if path.startswith(V2):
            body, media = error_body(document), b"application/json"
        else:
            body, media = _encoded(document), MEDIA_TYPE.encode()
        return Response(body, code, media, more, close=close, error=known)

    def problem_of(self, error: BaseException, *, endpoint: str, what: str) -> dict[str, Any]:
        """The problem document of an error; see ``question.Predictions``."""
        known = _known(error, what)
        if self._workload is not None and isinstance(known, (Overloaded, DeadlineExceeded)):
            self._workload.shed()
        document = problem(public(known))
        code = document["status"] = _STATUS.get(known.code) or int(document["status"])
        lane = self._lanes.get(endpoint)
        if lane is not None:
            lane.meter.refused(code)
        return document

    def begin(self, request: Request) -> None:
        """Give a request that never became whole its trail; see ``front.Application``."""
        if self._trails.share >= 1:
            request.trail = self._trails.begin(request)

    def answered(self, request: Request, answer: Response, client: str) -> bytes:
        """Tell what became of a request; see ``front.Application``."""
        trail = request.trail
        if trail is None:
            return b""
        trail.error = answer.error
        return self._trails.ended(
            Ended(request, trail, answer.status, len(answer.body), client, time.perf_counter())
        )

    # -- predict --------------------------------------------------------------------

    def _predict(self, name: str, request: Request) -> Told | Awaitable[Told]:
        plans = self._plans
        credentials = request.credentials
        if request.trail is not None:
            request.trail.endpoint = name
        arrow = request.headers.get(b"content-type", b"").lower().startswith(ARROW)
        events = EVENTS in request.headers.get(b"accept", b"")
        if self._explaining.wanted(request):
            return self._predict_explained(name, request, arrow=arrow, events=events)
        if arrow or events:
            return self._predict_otherwise(name, request, arrow=arrow, events=events)
        kept = self.admission.remembered_until(credentials, name, request.started)
        if kept is None or plans.behind:
            return self._predict_later(name, request, credentials)
        until, caller = kept
        answer = self._scored(name, request, caller)
        if DEADLINE in request.headers:
            return answer
        # The next request of the same head need not ask all this again, while it holds.
        explain = asked(request.query)
        lane = self._lanes.get(name)
        if lane is not None:  # there is none yet while a model wakes
            request.head.memo = _Admitted(
                name, caller, until, lane, explain=explain, certificate=request.certificate
            )
        return answer

    def _predict_otherwise(
        self, name: str, request: Request, *, arrow: bool, events: bool
    ) -> Awaitable[Told]:
        """A prediction that is asked by Arrow, or to be answered by events."""
        _check_kind(name, request)

        def parse(plan: RequestPlan, caller: str) -> Parsed:
            if arrow:
                parsed = arrow_request(plan, request, caller)
            else:
                parsed = plan.parse(
                    request.body,
                    caller=caller,
                    started=request.started,
                    explain=asked(request.query),
                )
            return self._events.answering(plan, parsed) if events else parsed

        return self.asking.ask(Question.of(request, name, parse))

    async def _predict_explained(
        self, name: str, request: Request, *, arrow: bool, events: bool
    ) -> Told:
        """A prediction that tells its features, to those alone who may read them."""
        credentials = request.credentials
        await self._admitted(name, credentials)
        await self._explaining.admit(name, request)
        if arrow or events:
            return await self._predict_otherwise(name, request, arrow=arrow, events=events)
        return await self._predict_later(name, request, credentials)

    async def _predict_later(self, name: str, request: Request, credentials: Credentials) -> Told:
        caller = await self._admitted(name, credentials)
        told = self._scored(name, request, caller)
        return told if isinstance(told, Response) else await told

    async def _admitted(self, name: str, credentials: Credentials) -> str:
        """The caller's id, of one who may ask this endpoint; the plans are up to date then."""
        plans = self._plans
        if plans.behind:
            await self._catch_up()
        # Also of a release that cannot be loaded: a policy may go by its attributes. Where they
        # are not known, nobody is admitted, and nothing of that is remembered.
        release = plans.release(name)
        attributes = None if release is None else release.attributes
        caller = await self.admission.admitted(credentials, name, attributes)
        if plans.behind:
            await self._catch_up()
        return caller

    async def _scored_awake(self, name: str, request: Request, caller: str) -> Told:
        _check_kind(name, request)
        await self._sleeping.woken(name, request.started)
        told = self._scored(name, request, caller)
        return told if isinstance(told, Response) else await told

    def _scored(self, name: str, request: Request, caller: str) -> Response | Awaitable[Told]:
        plan = self._plans.active.get(name)
        if plan is None:
            if name in self._plans.asleep:
                return self._scored_awake(name, request, caller)
            plan = self._plans.named(name)
        _check_kind(name, request)
        lane = self._lanes.get(name) or self._lane(name)
        trail = request.trail
        if trail is not None:
            trail.caller = caller
        if lane.full(plan, request.rested):
            return self._shed(lane, request)
        until = deadline_of(request)
        explain = asked(request.query)
        parsed = plan.parse(request.body, caller=caller, started=request.started, explain=explain)
        if until is not None:
            parsed.deadline = min(parsed.deadline, until)
        if trail is not None:
            trail.understood(parsed)
        return lane.scored(plan, parsed)

    def _look(self) -> None:
        """Note how many requests are in work; about every second, from the keeper's thread."""
        for lane in list(self._lanes.values()):
            lane.meter.in_flight(lane.inside)

    async def _catch_up(self) -> None:
        if not self._plans.switch():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._asking, self._plans.catch_up)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes[name] = Lane(
            name,
            self._meters.of(name),
            self._log,
            self._scoring,
            asyncio.get_running_loop(),
            patient=self._patient,
            shadows=self._shadows,
        )
        return lane

    # -- all else -------------------------------------------------------------------

    def _other(self, request: Request) -> Told | Awaitable[Told]:
        path = request.path
        if request.method not in (b"GET", b"HEAD"):
            raise NotFound(f"There is nothing to call at {_text(path)[:200]!r}.")
        if path == b"/healthz":
            return b'{"status":"ok"}'
        if path == b"/readyz":
            return self._tell_ready()
        if path == b"/metrics":
            return self._tell_metrics(request)
        if path.startswith(_PREFIX) and path.endswith(_OPENAPI):
            return self._tell_openapi(_text(path[len(_PREFIX) : -len(_OPENAPI)]), request)
        raise NotFound(
            f"There is nothing at {_text(path)[:200]!r}.",
            hint="Predictions are asked at POST /v1/endpoints/NAME/predict.",
        )

    def _tell_ready(self) -> Told:
        reasons = self._unready()
        if not reasons:
            return b'{"status":"ready"}'
        raise NotReady(
            f"The worker is not ready: {', '.join(reasons.values())}.",
            hint="Its log and `falaj endpoints status NAME` say more.",
            reasons=list(reasons),
        )

    def _unready(self) -> dict[str, str]:
        """Why no request should come here, by a word for programs.

        Anybody may ask, so it names no endpoint and tells no error's text.
        """
        reasons = {}
        if self._draining:
            reasons["draining"] = "it is being ended"
        elif not self._ready:
            reasons["starting"] = "it is starting"
        if self._log.failed is not None:
            reasons["log-failing"] = "the prediction log cannot be written"
        broken = len(self._plans.broken)
        if broken:
            reasons["release-not-loaded"] = f"{broken} active release(s) cannot be loaded"
        return reasons

    async def _tell_openapi(self, name: str, request: Request) -> Told:
        plan = await self.asking.plan_for(name, request.credentials)
        return _encoded(openapi_document(plan.release))

    async def _tell_metrics(self, request: Request) -> Told:
        if self._metrics_guard is not None:
            self._metrics_guard(request.shown)
        credentials = request.credentials
        if self.admission.remembered(credentials, "", time.perf_counter()) is None:
            await self.admission.admitted(credentials, "", {})
        loop = asyncio.get_running_loop()
        told = await loop.run_in_executor(self._asking, self._exposition)
        return Response(told, media=MEDIA)

    def drain(self) -> None:
        """Be no longer ready, and answer what is asked; see ``front.Application``."""
        self._draining = True

    def _exposition(self) -> bytes:
        told = self._meters.exposition()
        return told if self._workload is None else told + exposition(self._workload.folder)

    async def start(self) -> None:
        """Load the active releases, begin to log and to report."""
        loop = asyncio.get_running_loop()
        self._log.start()
        await loop.run_in_executor(self._asking, self._keeper.start)
        for plane in self._planes:
            await plane.start()
        if self._workload is not None:
            scoring = await loop.run_in_executor(self._scoring, threading.get_ident)
            self._sampler = Sampler(self._workload, self._lanes.values, [scoring])
        self._ready = True
        for companion in self._companions:
            await companion.start()

    async def stop(self) -> None:
        """Write what waits to be logged, and say goodbye to the routing table."""
        self._ready = False
        for companion in self._companions:
            await companion.stop()
        if self._sampler is not None:
            self._sampler.stop()
        for plane in self._planes:
            await plane.stop()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._asking, self._shadows.stop)
        await loop.run_in_executor(self._asking, self._keeper.stop)
        await loop.run_in_executor(self._asking, self._log.stop)
        self._generating.shutdown(wait=False, cancel_futures=True)
        await loop.run_in_executor(self._asking, self._trails.close)
        self._sleeping.stop()
        self._scoring.shutdown(wait=False)
        self._patient.shutdown(wait=False)
        self._asking.shutdown(wait=False)


def _known(error: BaseException, what: str) -> FalajError:
    """An error as a client is told of it; what it should not see goes to the worker's log."""
    if isinstance(error, FalajError):
        return error
    if not isinstance(error, asyncio.CancelledError):
        logger(__name__).error("request failed", path=what, error=repr(error))
    return ScoringFailed("The request failed inside the worker.", hint="See its log.")


def _endpoint_of(path: bytes) -> str:
    """The endpoint whose predictions a path asks for; empty if it asks for none."""
    if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
        return _text(path[14:-8])
    return asked_model(path) if path.startswith(V2) else ""


def _text(path: bytes) -> str:
    return path.decode("latin-1")


def _check_kind(name: str, request: Request) -> None:
    if request.method != b"POST":
        raise MethodNotAllowed(f"Predictions of {name!r} are asked by POST.", hint="Use POST.")
    media = request.headers.get(b"content-type", b"")
    if media and not media.lower().startswith((b"application/json", ARROW)):
        raise UnsupportedMedia(
            f"{name!r} reads application/json, not {media.decode('latin-1')[:100]!r}.",
            hint="Send JSON, or application/vnd.apache.arrow.stream.",
        )
