"""What it costs to be observed: counts, traces, lines of the access log, answers to Prometheus.

In CPU time of one thread, per request, of ours and of what others use for it: the counters and
histograms of prometheus_client, spans of the OpenTelemetry SDK, a JSON line by the standard
library's logging.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report

from falaj.serving.accesslog import AccessLog
from falaj.serving.front import Request
from falaj.serving.meters import Meters
from falaj.serving.predictions import Parsed
from falaj.serving.trails import HEADER, Ended, Trail, Trails

GOAL = 0.2
"""µs of a count, as the issue of serving asks."""
_CONTEXT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def microseconds(n: int, work: Callable[[int], None]) -> float:
    """CPU µs of one request, of n; the work loops by itself."""
    begun = time.thread_time()
    work(n)
    return (time.thread_time() - begun) / n * 1e6


def compared(works: dict[str, Callable[[int], None]], *, n: int, rounds: int) -> dict[str, float]:
    """The median of each work, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            cost = microseconds(n, work)
            if number:
                found[name].append(cost)
    return {name: median(values) for name, values in found.items()}


# -- counts ----------------------------------------------------------------------------


def counting(folder: Path) -> dict[str, Callable[[int], None]]:
    """One count: latency, queue, model and rows histograms and all counters."""
    from prometheus_client import CollectorRegistry, Counter, Histogram

    section = Meters(folder / "meters", "w0").of("delays").variant("champion")
    request = Parsed([None], None, None, explain=False, caller="u", started=1.0)

    def ours(size: int) -> Callable[[int], None]:
        group = [request] * size

        def work(n: int) -> None:
            for number in range(n // size):
                section.answered(
                    group, begun=1.0001, done=1.0002 + number * 1e-9, model_seconds=15e-6,
                    n_rows=size,
                )  # fmt: skip

        return work

    registry = CollectorRegistry()
    names = ["endpoint", "variant"]
    buckets = tuple(64e-6 * 2 ** (i / 2) for i in range(40))
    labels = ("delays", "champion")
    counters = [
        Counter(name, name, names, registry=registry).labels(*labels)
        for name in ("requests", "predictions")
    ]
    latency, queue, model, rows = (
        Histogram(name, name, names, registry=registry, buckets=buckets).labels(*labels)
        for name in ("latency", "queue", "model", "rows")
    )

    def prometheus(n: int) -> None:
        requests, predictions = counters
        for number in range(n):
            requests.inc()
            predictions.inc(1)
            latency.observe(0.0002 + number * 1e-9)
            queue.observe(0.0001)
            model.observe(15e-6)
            rows.observe(1)

    return {"1": ours(1), "16": ours(16), "64": ours(64), "prometheus_client": prometheus}


# -- traces ----------------------------------------------------------------------------


def tracing() -> dict[str, Callable[[int], None]]:
    """One request that is not traced, one that is, and those of the SDK."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Kept:
        """Takes ended requests as an exporter would, and forgets them."""

        def take(self, ended: Ended) -> None:
            waiting.append(ended)
            if len(waiting) > 1000:
                waiting.clear()

        def close(self) -> None: ...

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    waiting: list[Ended] = []
    trails = Trails(ratio=0.01, spans=Kept())
    all_of_them = Trails(ratio=1.0, spans=Kept())
    plain, sent = Request(), Request()
    plain.headers = {b"host": b"x", b"authorization": b"Bearer x", b"content-type": b"x"}
    sent.headers = {**plain.headers, HEADER: _CONTEXT}

    def unsampled(n: int) -> None:
        for _ in range(n):
            if HEADER in plain.headers or random() < trails.share:
                ended(trails, plain)

    def told_not_to(n: int) -> None:
        for _ in range(n):
            if HEADER in sent.headers or random() < trails.share:
                ended(trails, sent)

    def sampled(n: int) -> None:
        for _ in range(n):
            if HEADER in plain.headers or random() < all_of_them.share:
                ended(all_of_them, plain)

    def ended(by: Trails, request: Request) -> None:
        trail = by.begin(request)
        if trail is not None:
            by.ended(Ended(request, trail, 200, 100, "127.0.0.1", time.perf_counter()))

    def sdk(ratio: float) -> Callable[[int], None]:
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
        provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=1_000_000))
        tracer = provider.get_tracer("bench")

        def work(n: int) -> None:
            for _ in range(n):
                with tracer.start_as_current_span("predict", attributes={"a": 1}):
                    pass

        return work

    return {
        "unsampled": unsampled,
        "told not to": told_not_to,
        "sampled": sampled,
        "sdk 1 %": sdk(0.01),
        "sdk": sdk(1.0),
    }


# -- the access log --------------------------------------------------------------------


def logging_lines(folder: Path) -> dict[str, Callable[[int], None]]:
    """One line, on the thread that answers."""
    access = AccessLog(str(folder / "access.log"), dropped=lambda _n: None, capacity=10_000_000)
    request = Request()
    request.method, request.path = b"POST", b"/v1/endpoints/delays/predict"
    trail = Trail("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=False)
    trail.endpoint, trail.caller, trail.release = "delays", "service:scorer", "release_1"
    trail.parsed = Parsed([None], "request-1", None, explain=False, caller="u", started=1.0)
    logger = logging.getLogger("access")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(folder / "peer.log"))

    def ours(n: int) -> None:
        for _ in range(n):
            request.started = time.perf_counter()
            access.take(Ended(request, trail, 200, 180, "127.0.0.1", time.perf_counter()))

    def standard(n: int) -> None:
        for _ in range(n):
            started = time.perf_counter()
            line = {
                "time": time.time(), "method": "POST", "path": "/v1/endpoints/delays/predict",
                "status": 200, "bytes": 180, "duration_ms": (time.perf_counter() - started) * 1e3,
                "client": "127.0.0.1", "endpoint": "delays", "release": "release_1",
                "caller": "service:scorer", "request_id": "request-1", "trace_id": trail.trace_id,
            }  # fmt: skip
            logger.info(json.dumps(line))

    return {"ours": ours, "logging": standard}


def exposing(folder: Path) -> Callable[[int], None]:
    """One answer to Prometheus: 10 endpoints of 2 variants, 2 workers."""
    request = Parsed([None], None, None, explain=False, caller="u", started=1.0)
    workers = [Meters(folder / "many", f"w{number}") for number in range(2)]
    for meters in workers:
        for number in range(10):
            for variant in ("champion", "challenger"):
                meters.of(f"endpoint-{number}").variant(variant).answered(
                    [request] * 3000, begun=1.0001, done=1.0002, model_seconds=1e-5, n_rows=3000
                )

    def work(n: int) -> None:
        for _ in range(n):
            workers[0].exposition()

    return work


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    n, rounds = (20_000, 5) if given.size == "small" else (200_000, 9)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = compared(counting(folder), n=n, rounds=rounds)
        for size in ("1", "16", "64"):
            rows.append(
                Row(
                    "count a request: latency, queue, model, rows",
                    f"{size} in one run",
                    "µs CPU/request",
                    counts[size],
                    counts["prometheus_client"],
                    "prometheus_client",
                    goal=f"≤ {GOAL} µs",
                    met=counts[size] <= GOAL,
                )
            )
        traces = compared(tracing(), n=n // 4, rounds=rounds)
        for work, ours, peer in (
            ("decide on a trace, 1 % are drawn", "unsampled", "sdk 1 %"),
            ("obey a sender that does not sample", "told not to", "sdk 1 %"),
            ("note a traced request, on the event loop", "sampled", "sdk"),
        ):
            rows.append(
                Row(
                    work,
                    "one request",
                    "µs CPU/request",
                    traces[ours],
                    traces[peer],
                    "one span of the OpenTelemetry SDK",
                )
            )
        lines = compared(logging_lines(folder), n=n // 4, rounds=rounds)
        rows.append(
            Row(
                "a line of the access log, on the event loop",
                "one request",
                "µs CPU/request",
                lines["ours"],
                lines["logging"],
                "logging + json, to a file",
            )
        )
        told = compared({"ours": exposing(folder)}, n=20, rounds=rounds)
        rows.append(
            Row("answer Prometheus, on a thread", "40 series of 2 workers", "µs CPU", told["ours"])
        )
    report("serving", "The cost of being observed", rows, given)


if __name__ == "__main__":
    main()
