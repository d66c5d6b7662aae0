"""The inference application: what stands behind the front of a worker.

Routes: ``POST /v1/endpoints/{name}/predict`` (``?explain=features``), what the planes that
it is given answer, ``GET /healthz``, ``GET /readyz``, ``GET /metrics``. Every request but
the two of health is authenticated.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import msgspec

from falaj.kernel.errors import FalajError, NotFound, Unavailable
from falaj.kernel.problems import MEDIA_TYPE, problem
from falaj.kernel.telemetry import logger
from falaj.serving.admission import Admission
from falaj.serving.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    MethodNotAllowed,
    ModelFailed,
    Overloaded,
    ScoringFailed,
    SlowClient,
    UnsupportedMedia,
)
from falaj.serving.front import Request, Response, Told
from falaj.serving.lanes import Lane
from falaj.serving.model import Limits
from falaj.serving.plans import Keeper, Plans
from falaj.serving.sleeping import Sleeping
from falaj.serving.workload import Sampler, exposition

if TYPE_CHECKING:
    from falaj.kernel.ports import Policy
    from falaj.serving.meters import Meters
    from falaj.serving.ports import Verifier
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.workload import Workload

_PREFIX, _SUFFIX = b"/v1/endpoints/", b"/predict"
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
_MOST_BYTES, _SECONDS = 64 * 1024, 10.0
"""What paths without a plan of their own take."""
_UNKNOWN = Limits()
"""Of an endpoint whose plan this worker may have to build yet."""
_encoded = msgspec.json.Encoder(enc_hook=str).encode


class Plane(Protocol):
    """A part of the data plane, with paths of its own below one prefix."""

    prefix: bytes

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a request whose path begins with the prefix; raises FalajError."""
        ...

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body that a path takes, and the seconds in which it must arrive."""
        ...

    async def start(self) -> None:
        """Called before the first request."""
        ...

    async def stop(self) -> None:
        """Called behind the last answer."""
        ...


class InferenceApp:
    """The application of one inference worker; fulfils ``front.Application``.

    Args:
        plans: the compiled plans.
        keeper: keeps them in step with the routing table.
        admission: who may do what, remembered for a second.
        aside: threads for what would hold up the event loop.
        log: takes what was predicted.
        meters: counts.
        workload: where to tell how much there is to do; None if nobody asks.
        sleeping: wakes the models that sleep.
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
        workload: Workload | None = None,
        sleeping: Sleeping | None = None,
    ) -> None:
        self._plans = plans
        self._keeper = keeper
        self._log = log
        self._meters = meters
        self._workload = workload
        self._sampler: Sampler | None = None
        self._sleeping = sleeping or Sleeping(plans, meters)
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="falaj-score")
        self._asking = ThreadPoolExecutor(2, thread_name_prefix="falaj-ask")
        self.admission = Admission(verifier, policy, self._asking)
        self._lanes: dict[str, Lane] = {}
        self._planes: list[Plane] = []
        self._ready = False

    def add(self, planes: Sequence[Plane]) -> None:
        """Let further planes answer what stands below their prefixes."""
        self._planes += planes

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a request; see ``front.Application``."""
        path = request.path
        if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
            return self._predict(_text(path[14:-8]), request)
        for plane in self._planes:
            if path.startswith(plane.prefix):
                return plane(request)
        return self._other(request)

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

    def refusal(self, path: bytes, status: int, message: str) -> Response:
        """The answer to a request that never became whole."""
        kind = _EARLY.get(status, BadRequest)
        refused = kind(message, hint="Send it faster, smaller, or as HTTP/1.1 says.")
        answer = self.failure(path, refused)
        answer.status = status
        return answer

    def failure(self, path: bytes, error: BaseException) -> Response:
        """The answer to a request whose answering has raised."""
        if not isinstance(error, FalajError):
            if not isinstance(error, asyncio.CancelledError):
                logger(__name__).error("request failed", path=_text(path), error=repr(error))
            error = ScoringFailed("The request failed inside the worker.", hint="See its log.")
        if self._workload is not None and isinstance(error, (Overloaded, DeadlineExceeded)):
            self._workload.shed()
        document = problem(error)
        code = document["status"] = _STATUS.get(error.code) or int(document["status"])
        if path.startswith(_PREFIX):
            lane = self._lanes.get(_text(path[14:-8]))
            if lane is not None:
                lane.meter.refused(code)
        more = {}
        if code in (429, 503):
            more[b"retry-after"] = b"1"
        if code == 401:
            more[b"www-authenticate"] = b"Bearer"
        return Response(
            _encoded(document), code, MEDIA_TYPE.encode(), more, close=code in (408, 413)
        )

    # -- predict --------------------------------------------------------------------

    def _predict(self, name: str, request: Request) -> Told | Awaitable[Told]:
        plans = self._plans
        authorization = request.headers.get(b"authorization", b"")
        caller = self.admission.remembered(authorization, name, request.started)
        if caller is None or plans.behind:
            return self._predict_later(name, request, authorization)
        return self._scored(name, request, caller)

    async def _predict_later(self, name: str, request: Request, authorization: bytes) -> Told:
        plans = self._plans
        if plans.behind:
            await self._catch_up()
        release = plans.release(name)
        attributes = release.attributes if release else None
        if name in plans.broken:
            attributes = {}
        caller = await self.admission.admitted(authorization, name, attributes)
        if plans.behind:
            await self._catch_up()
        return await self._scored(name, request, caller)

    async def _scored_awake(self, name: str, request: Request, caller: str) -> Told:
        _check_kind(name, request)
        await self._sleeping.woken(name, request.started)
        return await self._scored(name, request, caller)

    def _scored(self, name: str, request: Request, caller: str) -> Awaitable[Told]:
        plan = self._plans.active.get(name)
        if plan is None:
            if name in self._plans.asleep:
                return self._scored_awake(name, request, caller)
            plan = self._plans.named(name)
        _check_kind(name, request)
        lane = self._lanes.get(name) or self._lane(name)
        explain = b"explain=features" in request.query
        parsed = plan.parse(request.body, caller=caller, started=request.started, explain=explain)
        return lane.scored(plan, parsed)

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
        raise NotFound(
            f"There is nothing at {_text(path)[:200]!r}.",
            hint="Predictions are asked at POST /v1/endpoints/NAME/predict.",
        )

    def _tell_ready(self) -> Told:
        if self._ready and self._log.failed is None and not self._plans.broken:
            return b'{"status":"ready"}'
        why = "starting" if not self._ready else str(self._log.failed or "a release does not load")
        raise Unavailable(f"The worker is not ready: {why}.", hint="See its log.")

    async def _tell_metrics(self, request: Request) -> Told:
        authorization = request.headers.get(b"authorization", b"")
        if self.admission.remembered(authorization, "", time.perf_counter()) is None:
            await self.admission.admitted(authorization, "", {})
        loop = asyncio.get_running_loop()
        told = await loop.run_in_executor(self._asking, self._exposition)
        return Response(told, media=b"text/plain; version=0.0.4; charset=utf-8")

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

    async def stop(self) -> None:
        """Write what waits to be logged, and say goodbye to the routing table."""
        self._ready = False
        if self._sampler is not None:
            self._sampler.stop()
        for plane in self._planes:
            await plane.stop()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._asking, self._keeper.stop)
        await loop.run_in_executor(self._asking, self._log.stop)
        self._sleeping.stop()
        self._scoring.shutdown(wait=False)
        self._asking.shutdown(wait=False)


def _text(path: bytes) -> str:
    return path.decode("latin-1")


def _check_kind(name: str, request: Request) -> None:
    if request.method != b"POST":
        raise MethodNotAllowed(f"Predictions of {name!r} are asked by POST.", hint="Use POST.")
    media = request.headers.get(b"content-type", b"")
    if media and not media.lower().startswith(b"application/json"):
        raise UnsupportedMedia(
            f"{name!r} reads application/json, not {media.decode('latin-1')[:100]!r}.",
            hint="Send JSON.",
        )
