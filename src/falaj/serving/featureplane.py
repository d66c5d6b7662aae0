"""The features of the data plane: online reads and pushed events, without the slow door.

``POST /v1/features/{service}/read`` and, for Feast's clients, ``POST /get-online-features``
read; ``POST /v1/streams/{stream}/events`` pushes. As on every path of a worker the token is
verified and the policy asked, and both are remembered for a second. Reads are recorded in
``feature_reads`` (see ``readlog``), pushes in ``feature_pushes`` (see ``pushlog``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from falaj.features.purposes import permitted
from falaj.kernel.call import AssetRef, Caller
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Forbidden, NotFound, StepUpRequired
from falaj.kernel.ports import Policy, Resource
from falaj.serving.arrowbodies import table_of_stream
from falaj.serving.errors import BadRequest, BodyTooLarge, MethodNotAllowed, UnsupportedMedia
from falaj.serving.explaining import purpose_of
from falaj.serving.featurebodies import (
    ARROW,
    JSON,
    Question,
    Shape,
    answered,
    feast_question,
    question,
)
from falaj.serving.front import Request, Response, Told
from falaj.serving.pushlog import Push, PushLog
from falaj.serving.question import ANYBODY
from falaj.serving.readlog import SAMPLED, Read, ReadLog

if TYPE_CHECKING:
    from falaj.features.answers import Pushed
    from falaj.features.plan import ServicePlan
    from falaj.features.store import FeatureStore
    from falaj.serving.admission import Admission
    from falaj.serving.featureservices import Compiled, FeatureServices

Seen = Callable[[Caller, "ServicePlan"], None]
"""Returns if a caller sees all that the features of a service are made of; raises Forbidden."""
READ, PUSH = "features.read", "features.push"
READS, _READ_SUFFIX = b"/v1/features/", b"/read"
_STREAMS, _EVENTS_SUFFIX = b"/v1/streams/", b"/events"
FEAST_PATH = b"/get-online-features"
_READ_BYTES, _READ_SECONDS = 8 << 20, 10.0
_PUSH_BYTES, _PUSH_SECONDS = 32 << 20, 30.0
MOST_EVENTS = 100_000
_INLINE_BYTES = 64 << 10
"""Larger bodies are decoded on a thread, and only for callers who are known."""
_INLINE_ROWS = 200
"""More rows than these are read on a thread."""
_NDJSON = b"application/x-ndjson"
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Judge:
    """Asks the policy about what a caller wants with an asset.

    Args:
        policy: decides.
        clock: tells if a second factor is fresh.
    """

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock

    def permit(self, caller: Caller, action: str, resource: Resource) -> None:
        """Return if the caller may.

        Raises:
            StepUpRequired: a fresh second factor would open it. Forbidden: it may not.
            NotFound: it may not even know of the asset, or there is none.
        """
        now = self._clock.now()
        stepped_up = caller.stepped_up(now)
        decide = self._policy.decide
        if resource.exists and decide(caller, action, resource, stepped_up=stepped_up).allowed:
            return
        ref = resource.ref
        if resource.exists and decide(caller, action, resource, stepped_up=True).allowed:
            raise StepUpRequired(
                f"{action} on {ref} needs a second factor from the last five minutes.",
                hint="Present one (`falaj login`), then ask again.",
            )
        if resource.exists and decide(caller, "assets.get", resource, stepped_up=False).allowed:
            raise Forbidden(
                f"You may not do {action} on {ref}.",
                hint="Ask an administrator for a role that permits it, or state a purpose.",
                permission=action,
            )
        raise NotFound(
            f"There is no {ref.kind.replace('_', ' ')} {ref.key!r} that you may see.",
            hint="Check the name, or ask its owner for access.",
        )


class FeatureReads:
    """Answers online reads; a ``Plane``.

    Args:
        services: the compiled services.
        admission: verifies tokens.
        judge: asks the policy.
        log: records.
        aside: threads for large reads.
        prefix: of its paths: ``/v1/features/``, or Feast's own path.
        local: False if the online store is behind a network: then every read waits for it
            on a thread, and not the event loop with all other requests.
        seen: asks whether a caller sees all that a service's features are made of.
    """

    def __init__(
        self,
        services: FeatureServices,
        admission: Admission,
        judge: Judge,
        log: ReadLog,
        aside: ThreadPoolExecutor,
        *,
        prefix: bytes = READS,
        local: bool = True,
        seen: Seen = lambda _caller, _plan: None,
    ) -> None:
        self.prefix = prefix
        self._seen = seen
        self._local = local
        self._services = services
        self._admission = admission
        self._judge = judge
        self._log = log
        self._aside = aside
        self._count = 0

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body, and the seconds in which it must arrive."""
        return _READ_BYTES, _READ_SECONDS

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a read; see the module."""
        if request.method != b"POST":
            raise MethodNotAllowed("Features are read by POST.", hint="Use POST.")
        if len(request.body) > _INLINE_BYTES:
            return self._large(request)
        name, asked = self._question(request)
        if not self._local:
            return self._later(request, name, asked, aside=True)
        found = self._services.ready(name, request.started)
        if found is None or asked.n_rows > _INLINE_ROWS:
            return self._later(request, name, asked)
        purpose = purpose_of(request)
        credentials = request.credentials
        # A service that has changed is another object: whoever reads it is asked anew.
        caller = self._admission.remembered(credentials, (found, purpose), request.started)
        if caller is None:
            return self._later(request, name, asked)
        return self._told(request, found, asked, caller, purpose)

    def _question(self, request: Request) -> tuple[str, Question]:
        """The service that is asked, and what of it."""
        if self.prefix == FEAST_PATH:
            return feast_question(request.body)
        name = self._named(request)
        return name, question(request.body, request.headers.get(b"content-type", b""))

    def _named(self, request: Request) -> str:
        if not request.path.endswith(_READ_SUFFIX):
            raise NotFound("There is nothing to call here.", hint="POST /v1/features/SERVICE/read.")
        return unquote(request.path[len(READS) : -len(_READ_SUFFIX)].decode("latin-1"))

    async def _large(self, request: Request) -> Told:
        """A large body: nobody has it decoded who holds no token, and the loop goes on."""
        credentials = request.credentials
        if self._admission.remembered(credentials, ANYBODY, request.started) is None:
            await self._admission.asked(credentials, ANYBODY, lambda _: None)
        loop = asyncio.get_running_loop()
        name, asked = await loop.run_in_executor(self._aside, self._question, request)
        return await self._later(request, name, asked, aside=True)

    async def _later(
        self, request: Request, name: str, asked: Question, *, aside: bool = False
    ) -> Told:
        purpose = purpose_of(request)
        compiled: Compiled | None = None
        missing: NotFound | None = None
        try:
            compiled = self._services.ready(name, time.perf_counter())
            compiled = compiled or await self._services.named(name)
        except NotFound as error:
            missing = error  # who may not know of it hears the same as who asks for nothing

        def ask(caller: Caller) -> None:
            ref = AssetRef("feature_service", name)
            if compiled is None:
                self._judge.permit(caller, READ, Resource(ref, exists=False))
                raise missing or NotFound(f"There is no feature service {name!r}.")
            caller = replace(caller, purpose=caller.purpose or purpose, via="http")
            self._judge.permit(caller, READ, Resource(ref, compiled.attributes))
            permitted(compiled.reader.plan, caller.purpose)
            self._seen(caller, compiled.reader.plan)

        credentials = request.credentials
        about = (READ, name) if compiled is None else (compiled, purpose)
        caller = self._admission.remembered(credentials, about, time.perf_counter())
        if caller is None:
            caller = await self._admission.asked(credentials, about, ask, keep=missing is None)
        if compiled is None:
            raise AssertionError
        if not aside and asked.n_rows <= _INLINE_ROWS:
            return self._told(request, compiled, asked, caller, purpose)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._aside, self._told, request, compiled, asked, caller, purpose
        )

    def _told(
        self,
        request: Request,
        found: Compiled,
        asked: Question,
        caller: str,
        purpose: str | None,
    ) -> Told:
        self._log.full()
        shape = asked.shape
        if ARROW in request.headers.get(b"accept", b""):
            shape = Shape.ARROW
        now_us = time.time_ns() // 1000
        at_us = asked.at_us or now_us
        explain = b"explain=status" in request.query
        body = answered(asked, found, at_us, shape=shape, explain=explain)
        sample: tuple[str | None, str | None] = (None, None)
        self._count += 1
        if self._count % SAMPLED == 1 and asked.n_rows and found.sampled:
            first = asked.first()
            sample = (
                _encode(first).decode(),
                _encode(found.reader.record(first, at_us)).decode(),
            )
        latency = int((time.perf_counter() - request.started) * 1e6)
        self._log.append(Read(at_us, caller, found.name, purpose, asked.n_rows, latency, *sample))
        return Response(body, media=ARROW) if shape is Shape.ARROW else body

    async def start(self) -> None:
        """Begin to record."""
        if self.prefix == READS:
            self._log.start()

    async def stop(self) -> None:
        """Write the last records."""
        if self.prefix == READS:
            self._services.stop()
            await asyncio.get_running_loop().run_in_executor(None, self._log.stop)


class StreamEvents:
    """Takes pushed events; a ``Plane``.

    Args:
        store: takes what is pushed; made at the first push.
        resource: what the policy should know of a table; reads the catalogue.
        admission: verifies tokens.
        judge: asks the policy.
        log: records who pushed.
        aside: threads on which events are pushed.
    """

    prefix = _STREAMS

    def __init__(
        self,
        store: Callable[[], FeatureStore],
        resource: Callable[[AssetRef], Resource],
        admission: Admission,
        judge: Judge,
        log: PushLog,
        aside: ThreadPoolExecutor,
    ) -> None:
        self._log = log
        self._store = store
        self._resource = resource
        self._admission = admission
        self._judge = judge
        self._aside = aside

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body, and the seconds in which it must arrive."""
        return _PUSH_BYTES, _PUSH_SECONDS

    def __call__(self, request: Request) -> Awaitable[Told]:
        """Push; see the module."""
        if request.method != b"POST":
            raise MethodNotAllowed("Events are pushed by POST.", hint="Use POST.")
        if not request.path.endswith(_EVENTS_SUFFIX):
            raise NotFound("There is nothing to call here.", hint="POST /v1/streams/STREAM/events.")
        name = unquote(request.path[len(_STREAMS) : -len(_EVENTS_SUFFIX)].decode("latin-1"))
        return self._pushed(request, name)

    async def _pushed(self, request: Request, name: str) -> Told:
        credentials = request.credentials
        about = (PUSH, name)
        caller = self._admission.remembered(credentials, about, time.perf_counter())
        if caller is None:

            def ask(caller: Caller) -> None:
                caller = replace(caller, via="http")
                self._judge.permit(caller, PUSH, self._resource(AssetRef("table", name)))

            # That there is no such table is not kept: it may be declared right now.
            caller = await self._admission.asked(credentials, about, ask, keep=False)
        loop = asyncio.get_running_loop()
        pushed = await loop.run_in_executor(self._aside, self._push, request, name, caller)
        return _encode(pushed.model_dump(mode="json"))

    def _push(self, request: Request, name: str, caller: str) -> Pushed:
        self._log.full()
        headers = request.headers
        ack = _parameter(request.query, "ack", {"online", "log"}) or "online"
        key = headers.get(b"idempotency-key", b"").decode("latin-1")[:200] or None
        media = headers.get(b"content-type", b"").lower()
        store = self._store()
        if media.startswith(ARROW):
            table = table_of_stream(request.body, MOST_EVENTS)
            pushed = store.push(name, table, key=key, ack=ack)
            self._record(caller, name, store.recognised(name, key), ack, pushed)
            return pushed
        if media.startswith(_NDJSON):
            rows = _ndjson(request.body)
        elif not media or media.startswith(JSON):
            rows = _rows(request.body)
        else:
            raise UnsupportedMedia(
                f"Events are not read from {media.decode('latin-1')[:100]!r}.",
                hint="Send JSON, application/x-ndjson or an Arrow stream.",
            )
        _few_enough(len(rows))
        pushed = store.push_records(name, rows, key=key, ack=ack)
        self._record(caller, name, store.recognised(name, key), ack, pushed)
        return pushed

    def _record(self, caller: str, name: str, key: str | None, ack: str, pushed: Pushed) -> None:
        now_us = time.time_ns() // 1000
        self._log.append(Push(now_us, caller, name, key, ack, pushed.n_events, pushed.repeated))

    async def start(self) -> None:
        """Begin to record."""
        self._log.start()

    async def stop(self) -> None:
        """Write the last records."""
        await asyncio.get_running_loop().run_in_executor(None, self._log.stop)


class _Events(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    rows: list[dict[str, Any]]


_decode_rows = msgspec.json.Decoder(_Events).decode
_decode_lines = msgspec.json.Decoder(dict[str, Any]).decode_lines


def _rows(body: bytes) -> list[dict[str, Any]]:
    try:
        return _decode_rows(body).rows
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"The body is not a list of events: {str(error)[:300]}.",
            hint='Send {"rows": [{...}]}.',
        ) from None


def _ndjson(body: bytes) -> list[dict[str, Any]]:
    try:
        return _decode_lines(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"The body is not one JSON object a line: {str(error)[:300]}.",
            hint="Write each event as one line; nothing was taken.",
        ) from None


def _few_enough(n: int) -> None:
    if n > MOST_EVENTS:
        raise BodyTooLarge(
            f"{n} events in one push; at most {MOST_EVENTS} are taken.",
            hint="Send them in several requests; nothing was taken.",
        )


def _parameter(query: bytes, name: str, allowed: set[str]) -> str | None:
    """One parameter of a query; raises BadRequest for a value that it does not take."""
    for part in query.decode("latin-1").split("&"):
        key, _, value = part.partition("=")
        if key == name:
            if value not in allowed:
                raise BadRequest(
                    f"{name}={value[:40]!r} is not one of {', '.join(sorted(allowed))}.",
                    hint="Leave it out, or use one of them.",
                )
            return value
    return None
