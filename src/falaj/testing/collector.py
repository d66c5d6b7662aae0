"""A collector of traces for tests: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Collector:
    """What has arrived."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    """``opentelemetry.proto`` spans, in the order of their arrival."""
    resources: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    """What it answers."""
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def named(self, name: str, *, n: int = 1, seconds: float = 10.0) -> list[Any]:
        """The spans of that name, once ``n`` have arrived; AssertionError if they do not."""
        until = time.monotonic() + seconds
        with self.arrived:
            while len(found := [span for span in self.spans if span.name == name]) < n:
                if not self.arrived.wait(until - time.monotonic()):
                    raise AssertionError(f"{len(found)} of {n} spans {name!r} arrived")
            return found


def told(span: Any) -> dict[str, Any]:
    """The attributes of a span (or an event, or a resource) as plain values."""
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on a free port of 127.0.0.1 until the block ends."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            with collector.arrived:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                if collector.status == 200 and self.path == "/v1/traces":
                    for group in request.resource_spans:
                        collector.resources.append(told(group.resource))
                        for scope in group.scope_spans:
                            collector.spans += scope.spans
                collector.arrived.notify_all()
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_values: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
