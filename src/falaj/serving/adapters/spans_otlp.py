"""Spans of answered requests, exported by OTLP over HTTP (needs ``falaj[otel]``).

Requests wait in a bounded queue; a thread makes spans of them, by the OpenTelemetry SDK, and
sends them. Attributes follow OpenTelemetry's semantic conventions for HTTP servers, or for
RPC servers where gRPC was asked; those of Falaj's own begin with ``falaj.``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from falaj.kernel.telemetry import logger
from falaj.serving.requests import Request

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource

    from falaj.serving.trails import Ended

_CAPACITY = 2_048
_AT_ONCE = 64
"""Requests of one export: encoding them holds up other threads of the worker."""
_EVERY_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
_PREDICT = b"/predict"


class OtlpSpans:
    """Fulfils ``trails.Spans``.

    Args:
        exporter: sends spans; closed with this.
        resource: what these spans are of.
        dropped: told the number of spans that could not be exported.
        secure: True if requests come over TLS.
        capacity: requests that may wait.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        *,
        dropped: Callable[[int], None],
        secure: bool,
        capacity: int = _CAPACITY,
    ) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._scheme = "https" if secure else "http"
        self._capacity = capacity
        self._waiting: deque[tuple[Ended, int]] = deque()
        """With the size of the request's body."""
        self._stopped = threading.Event()
        self._failed = False
        self._made = _Collected()
        self._ids = _GivenIds()
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        provider.add_span_processor(self._made)
        self._tracer = provider.get_tracer("falaj")
        # Instants of requests are of the monotonic clock.
        self._epoch_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        self._thread = threading.Thread(target=self._work, name="falaj-spans", daemon=True)
        self._thread.start()

    def take(self, ended: Ended) -> None:
        """Take a sampled request; see ``trails.Spans``."""
        if len(self._waiting) >= self._capacity:
            self._dropped(1)
            return
        # What waits holds neither bodies nor answers: a collector may be slow for long.
        request = ended.request
        bare = Request(request.head, b"", request.started)
        self._waiting.append((replace(ended, request=bare), len(request.body)))

    def close(self) -> None:
        """Export what waits, and end."""
        self._stopped.set()
        self._thread.join(_PATIENCE_SECONDS)
        self._exporter.shutdown()  # an export that still waits for its collector ends
        self._thread.join(_PATIENCE_SECONDS)

    def _work(self) -> None:
        while not self._stopped.wait(_EVERY_SECONDS):
            self._send()
        self._send()

    def _send(self) -> None:
        while self._waiting:
            self._epoch_ns = time.time_ns() - int(time.perf_counter() * 1e9)
            for _ in range(min(_AT_ONCE, len(self._waiting))):
                self._spans_of(*self._waiting.popleft())
                time.sleep(0)  # the event loop goes first
            spans, self._made.spans = self._made.spans, []
            try:
                result = self._exporter.export(spans)
            except Exception as error:  # noqa: BLE001 - an exporter must not end this thread
                result = SpanExportResult.FAILURE
                self._tell(repr(error))
            if result is SpanExportResult.SUCCESS:
                self._failed = False
            else:
                self._dropped(len(spans))
                self._tell("the collector did not take them")
                if self._stopped.is_set():
                    self._dropped(len(self._waiting))
                    self._waiting.clear()

    def _tell(self, error: str) -> None:
        if not self._failed:
            logger(__name__).error("spans not exported", error=error)
        self._failed = True

    # -- spans ----------------------------------------------------------------------

    def _spans_of(self, ended: Ended, n_asked: int) -> None:
        """Make the spans of one request; the collector gets the children first."""
        request, trail = ended.request, ended.trail
        parent: Context | None = None
        if trail.parent_id:
            remote = SpanContext(
                int(trail.trace_id, 16), int(trail.parent_id, 16), is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )  # fmt: skip
            parent = set_span_in_context(NonRecordingSpan(remote))
        self._ids.give(int(trail.trace_id, 16), int(trail.span_id, 16))
        name, asked = self._named_grpc(ended) if ended.grpc_code else self._named_http(ended)
        span = self._tracer.start_span(
            name,
            context=parent,
            kind=SpanKind.SERVER,
            attributes=asked | self._attributes(ended, n_asked),
            start_time=self._ns(request.started),
        )
        within = set_span_in_context(span)
        for name, begun, done, attributes in _steps(ended):
            child = self._tracer.start_span(
                name, context=within, attributes=attributes, start_time=self._ns(begun)
            )
            child.end(self._ns(done))
        if trail.error is not None:
            # Its text may tell of the request's body; its kind does not.
            span.add_event(
                "exception",
                {"exception.type": type(trail.error).__name__},
                timestamp=self._ns(ended.at),
            )
        if ended.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._ns(ended.at))

    def _named_http(self, ended: Ended) -> tuple[str, dict[str, Any]]:
        """The name of a span, and what only one over HTTP has."""
        request = ended.request
        method = request.method.decode("latin-1")
        route = _route(request.path)
        told: dict[str, Any] = {
            "http.request.method": method,
            "http.response.status_code": ended.status,
            "url.scheme": self._scheme,
            "url.path": request.path.decode("latin-1"),
            "network.protocol.version": "1.1",
        }
        if not route:
            return method, told
        return f"{method} {route}", told | {"http.route": route}

    @staticmethod
    def _named_grpc(ended: Ended) -> tuple[str, dict[str, Any]]:
        """The name of a span, and what only one over gRPC has."""
        method = ended.request.path.decode("latin-1").removeprefix("/")
        return method, {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "rpc.response.status_code": ended.grpc_code,
            "network.protocol.version": "2",
        }

    @staticmethod
    def _attributes(ended: Ended, n_asked: int) -> dict[str, Any]:
        request, trail = ended.request, ended.trail
        told: dict[str, Any] = {
            "http.request.body.size": n_asked,
            "http.response.body.size": ended.n_bytes,
            "client.address": ended.client,
        }
        host = request.headers.get(b"host", b"").decode("latin-1")
        agent = request.headers.get(b"user-agent", b"").decode("latin-1")
        more = {
            "server.address": host.rpartition(":")[0] or host,
            "user_agent.original": agent[:200],
            "enduser.id": trail.caller,
            "error.type": trail.error.code if trail.error is not None else "",
            "falaj.endpoint": trail.endpoint,
            "falaj.release": trail.release,
            "falaj.variant": trail.variant,
            "falaj.request_id": trail.request_id,
            "falaj.prediction_id": trail.prediction_id,
            "falaj.rows": trail.n_rows,
        }
        return told | {name: value for name, value in more.items() if value}

    def _ns(self, instant: float) -> int:
        return self._epoch_ns + int(instant * 1e9)


def _steps(ended: Ended) -> list[tuple[str, float, float, dict[str, Any]]]:
    """The steps of a prediction, as far as it came."""
    trail, started = ended.trail, ended.request.started
    steps: list[tuple[str, float, float, dict[str, Any]]] = []
    if trail.parsed_at:
        steps.append(("parse", started, trail.parsed_at, {"falaj.rows": trail.n_rows}))
    if trail.begun:
        features, read, ran, made = trail.marks
        of_run = {"falaj.run_rows": trail.run_rows}
        steps += [
            ("queue", trail.parsed_at, trail.begun, {}),
            ("features", features, read, of_run),
            ("model", read, ran, {**of_run, "falaj.model": trail.model}),
            ("answer", ran, made, {}),
            ("log", made, ended.at, {}),
        ]
    return steps


def _route(path: bytes) -> str:
    """The path with its variable parts named: few different ones, whatever is asked."""
    if path.startswith(b"/v1/endpoints/") and path.endswith(_PREDICT):
        return "/v1/endpoints/{name}/predict"
    if path in (b"/healthz", b"/readyz", b"/metrics"):
        return path.decode()
    return ""


class _Collected(SpanProcessor):
    """Keeps ended spans until they are exported."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _GivenIds(RandomIdGenerator):
    """Gives the next span the ids that its request was told by; the others random ones."""

    def __init__(self) -> None:
        self._trace_id = self._span_id = 0

    def give(self, trace_id: int, span_id: int) -> None:
        self._trace_id, self._span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        given, self._span_id = self._span_id, 0
        return given or super().generate_span_id()
