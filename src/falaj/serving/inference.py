"""The inference application: a bare ASGI function in front of the request plans.

Routes: ``POST /v1/endpoints/{name}/predict`` (``?explain=features``), ``GET /healthz``,
``GET /readyz``, ``GET /metrics``. Every request but the two of health is authenticated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

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
    ScoringFailed,
    SlowClient,
    UnsupportedMedia,
)
from falaj.serving.lanes import Lane
from falaj.serving.plans import Keeper, Plans

if TYPE_CHECKING:
    from falaj.kernel.ports import Policy
    from falaj.serving.meters import Meters
    from falaj.serving.plan import RequestPlan
    from falaj.serving.ports import Verifier
    from falaj.serving.predictionlog import PredictionLog

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PREFIX, _SUFFIX = "/v1/endpoints/", "/predict"
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
_JSON = (b"content-type", b"application/json")
_SWEEP_SECONDS = 0.25
_RETRY_AFTER = b"1"
_encoded = msgspec.json.Encoder(enc_hook=str).encode


class InferenceApp:
    """The ASGI application of one inference worker.

    Args:
        plans: the compiled plans.
        keeper: keeps them in step with the routing table.
        verifier: tells who holds a token.
        policy: decides ``endpoints.predict`` on the endpoint.
        log: takes what was predicted.
        meters: counts.
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
    ) -> None:
        self._plans = plans
        self._keeper = keeper
        self._log = log
        self._meters = meters
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="falaj-score")
        self._asking = ThreadPoolExecutor(2, thread_name_prefix="falaj-ask")
        self._admission = Admission(verifier, policy, self._asking)
        self._lanes: dict[str, Lane] = {}
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._too_slow: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; see the ASGI specification."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
                await self._predict(path[14:-8], scope, receive, send)
            else:
                await self._other(path, scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    # -- predict --------------------------------------------------------------------

    async def _predict(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            answer, lane, n_rows = await self._answered(name, scope, receive, started)
        except FalajError as error:
            await self._refuse(name, error, send)
            return
        except _Gone:
            return
        except Exception:  # noqa: BLE001 - whatever it is, the worker goes on
            logger(__name__).exception("request failed", endpoint=name)
            failure = ScoringFailed("The request failed inside the worker.", hint="See its log.")
            await self._refuse(name, failure, send)
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [_JSON, (b"content-length", b"%d" % len(answer))],
            }
        )
        await send({"type": "http.response.body", "body": answer})
        lane.meter.answered(n_rows, time.perf_counter() - started)

    async def _answered(
        self, name: str, scope: Scope, receive: Receive, started: float
    ) -> tuple[bytes, Lane, int]:
        authorization, media, length = b"", b"", b""
        for key, value in scope["headers"]:
            if key == b"authorization":
                authorization = value
            elif key == b"content-type":
                media = value
            elif key == b"content-length":
                length = value
        plans = self._plans
        if plans.behind:
            await self._catch_up()
        caller = self._admission.remembered(authorization, name, started)
        if caller is None:
            caller = await self._admit(authorization, name)
        plan = plans.active.get(name) or plans.named(name)
        _check_kind(name, scope["method"], media)
        lane = self._lanes.get(name) or self._lane(name)
        lane.enter(plan.limits.concurrency)
        try:
            body = await self._body(plan, length, receive)
            if plans.behind:
                # A release was switched while the body was on its way.
                await self._catch_up()
            plan = plans.active.get(name) or plans.named(name)
            explain = b"explain=features" in scope["query_string"]
            request = plan.parse(body, caller=caller, started=started, explain=explain)
            return await lane.scored(plan, request), lane, len(request.rows)
        finally:
            lane.inside -= 1

    async def _admit(self, authorization: bytes, name: str) -> str:
        plans = self._plans
        plan = plans.active.get(name)
        attributes = plan.release.attributes if plan else None
        if name in plans.broken:
            attributes = {}
        caller = await self._admission.admitted(authorization, name, attributes)
        if plans.behind:
            await self._catch_up()
        return caller

    async def _catch_up(self) -> None:
        if not self._plans.switch():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._asking, self._plans.catch_up)

    async def _body(self, plan: RequestPlan, length: bytes, receive: Receive) -> bytes:
        limit = plan.limits.body_bytes
        if length and (not length.isdigit() or int(length[:20]) > limit):
            raise _too_large(plan)
        task = asyncio.current_task()
        if task is None:
            raise AssertionError
        reading = self._reading
        reading[task] = time.perf_counter() + plan.limits.deadline_seconds
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body"):
                body = await _rest(body, plan, receive)
            elif message["type"] == "http.disconnect":
                raise _Gone
            if len(body) > limit:
                raise _too_large(plan)
            return body
        except asyncio.CancelledError:
            if task not in self._too_slow:
                raise
            self._too_slow.discard(task)
            task.uncancel()
            raise SlowClient(
                f"The body did not arrive within {plan.limits.deadline_seconds:g} s.",
                hint="Send it faster, or in smaller pieces.",
            ) from None
        finally:
            reading.pop(task, None)

    def _sweep(self) -> None:
        """End the reading of bodies that take too long."""
        now = time.perf_counter()
        for task, until in list(self._reading.items()):
            if until < now and task not in self._too_slow:
                self._too_slow.add(task)
                task.cancel()
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes[name] = Lane(
            name,
            self._meters.of(name),
            self._log,
            self._scoring,
            asyncio.get_running_loop(),
        )
        return lane

    async def _refuse(self, name: str, error: FalajError, send: Send) -> None:
        document = problem(error)
        code = _STATUS.get(error.code) or int(document["status"])
        document["status"] = code
        lane = self._lanes.get(name)
        if lane is not None:
            lane.meter.refused(code)
        await _send_problem(send, document, code)

    # -- all else -------------------------------------------------------------------

    async def _other(self, path: str, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            error: FalajError = NotFound(f"There is nothing to call at {path[:200]!r}.")
            await _send_problem(send, problem(error), 404)
        elif path == "/healthz":
            await _send_json(send, b'{"status":"ok"}', 200)
        elif path == "/readyz":
            await self._tell_ready(send)
        elif path == "/metrics":
            await self._tell_metrics(scope, send)
        else:
            error = NotFound(
                f"There is nothing at {path[:200]!r}.",
                hint="Predictions are asked at POST /v1/endpoints/NAME/predict.",
            )
            await _send_problem(send, problem(error), 404)

    async def _tell_ready(self, send: Send) -> None:
        if self._ready and self._log.failed is None and not self._plans.broken:
            await _send_json(send, b'{"status":"ready"}', 200)
            return
        why = "starting" if not self._ready else str(self._log.failed or "a release does not load")
        error = Unavailable(f"The worker is not ready: {why}.", hint="See its log.")
        await _send_problem(send, problem(error), 503)

    async def _tell_metrics(self, scope: Scope, send: Send) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        try:
            if self._admission.remembered(authorization, "", time.perf_counter()) is None:
                await self._admission.admitted(authorization, "", {})
        except FalajError as error:
            document = problem(error)
            await _send_problem(send, document, int(document["status"]))
            return
        loop = asyncio.get_running_loop()
        told = await loop.run_in_executor(self._asking, self._meters.exposition)
        await _send_json(send, told, 200, media=b"text/plain; version=0.0.4; charset=utf-8")

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop with the server."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except FalajError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Load the active releases, begin to log and to report."""
        loop = asyncio.get_running_loop()
        self._log.start()
        await loop.run_in_executor(self._asking, self._keeper.start)
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._ready = True

    async def stop(self) -> None:
        """Write what waits to be logged, and say goodbye to the routing table."""
        self._ready = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._asking, self._keeper.stop)
        await loop.run_in_executor(self._asking, self._log.stop)
        self._scoring.shutdown(wait=False)
        self._asking.shutdown(wait=False)


class _Gone(Exception):
    """The client has left; nobody is to be told."""


def _check_kind(name: str, method: str, media: bytes) -> None:
    if method != "POST":
        raise MethodNotAllowed(f"Predictions of {name!r} are asked by POST.", hint="Use POST.")
    if media and not media.lower().startswith(b"application/json"):
        raise UnsupportedMedia(
            f"{name!r} reads application/json, not {media.decode('latin-1')[:100]!r}.",
            hint="Send JSON.",
        )


async def _rest(body: bytes, plan: RequestPlan, receive: Receive) -> bytes:
    parts = [body]
    size = len(body)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > plan.limits.body_bytes:
            raise _too_large(plan)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(plan: RequestPlan) -> BodyTooLarge:
    return BodyTooLarge(
        f"{plan.release.endpoint!r} takes bodies of at most {plan.limits.body_bytes} bytes.",
        hint="Send the rows in several requests.",
    )


async def _send_problem(send: Send, document: dict[str, Any], status: int) -> None:
    headers = []
    if status == 503:
        headers.append((b"retry-after", _RETRY_AFTER))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await _send_json(send, _encoded(document), status, media=MEDIA_TYPE.encode(), more=headers)


async def _send_json(
    send: Send,
    body: bytes,
    status: int,
    *,
    media: bytes = b"application/json",
    more: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [(b"content-type", media), (b"content-length", b"%d" % len(body)), *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def server_options() -> dict[str, Any]:
    """How uvicorn runs the application; the caller adds sockets and TLS.

    Without uvloop the answers of several workers wait for delayed acknowledgements
    (40 ms instead of 1).
    """
    return {
        "http": "httptools",
        "loop": "uvloop",
        "interface": "asgi3",
        "lifespan": "on",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": 10,
        "backlog": 2048,
    }
