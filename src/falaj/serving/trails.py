"""What becomes of single requests, noted where somebody wants to know: traces, access log.

A request has a trail if its sender sent a trace context (W3C ``traceparent``), if it was
drawn for a trace, or if all requests go to the access log. All others pay for one look into
their headers and one comparison.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from random import getrandbits, random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from falaj.kernel.errors import FalajError
    from falaj.serving.accesslog import AccessLog
    from falaj.serving.front import Request
    from falaj.serving.predictions import Parsed, Scored

HEADER = b"traceparent"
_CONTEXT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_SAMPLED = 1


class Trail:
    """What became of one request."""

    __slots__ = (
        "begun",
        "caller",
        "endpoint",
        "error",
        "marks",
        "model",
        "n_rows",
        "parent_id",
        "parsed",
        "parsed_at",
        "prediction_id",
        "release",
        "run_rows",
        "sampled",
        "span_id",
        "trace_id",
        "variant",
    )

    def __init__(self, trace_id: str, parent_id: str, *, sampled: bool) -> None:
        self.trace_id = trace_id
        """32 hexadecimal digits; empty if the request is part of no trace."""
        self.parent_id = parent_id
        """Of the sender's span; empty if the trace begins here."""
        self.span_id = f"{getrandbits(64) or 1:016x}" if trace_id else ""
        self.sampled = sampled
        """True if its spans are exported."""
        self.endpoint = ""
        self.caller = ""
        self.parsed: Parsed | None = None
        self.parsed_at = 0.0
        self.error: FalajError | None = None
        self.begun = 0.0
        """When its run began (``time.perf_counter()``, as all instants here); 0: never."""
        self.marks = (0.0, 0.0, 0.0, 0.0)
        """Its features were begun, were read, the model had run, the answer was made."""
        self.release = self.variant = self.model = self.prediction_id = ""
        self.n_rows = self.run_rows = 0

    def understood(self, parsed: Parsed) -> None:
        """Note that the body was read."""
        self.parsed, self.parsed_at = parsed, time.perf_counter()
        self.n_rows = len(parsed.rows)
        parsed.trail = self

    def scored(self, part: Scored, begun: float) -> None:
        """Note the run that scored its first row."""
        vectors = part.vectors
        self.begun = begun
        self.marks = (vectors.begun, vectors.read, vectors.ran, part.done)
        self.release = part.release.id
        self.variant = part.variant.variant.name
        self.model = part.variant.label
        self.run_rows = part.n_rows
        for one, owner in zip(part.ids, part.owners, strict=True):
            if owner is self.parsed:
                self.prediction_id = one
                break

    @property
    def request_id(self) -> str:
        """The caller's name for the request, or that of its first prediction."""
        return (self.parsed.request_id if self.parsed is not None else None) or ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that was answered, as traces and the access log take it."""

    request: Request
    trail: Trail
    status: int
    n_bytes: int
    """Of the answer's body."""
    client: str
    """The address of who asked."""
    at: float
    """``time.perf_counter()``."""
    grpc_code: str = ""
    """The name of the gRPC status that was answered; empty if it was asked over HTTP."""


class Spans(Protocol):
    """Takes ended requests to where spans are collected; never waits, never fails."""

    def take(self, ended: Ended) -> None:
        """Take a sampled request."""
        ...

    def close(self) -> None:
        """Export what waits, and end."""
        ...


class Trails:
    """Gives requests their trails, and tells what became of them.

    Args:
        ratio: the share of requests without a trace context that are traced.
        spans: takes traced requests; None: nothing is exported.
        access: takes all requests; None: nothing is written.
    """

    def __init__(
        self, *, ratio: float = 0.0, spans: Spans | None = None, access: AccessLog | None = None
    ) -> None:
        self._ratio = ratio
        self._spans = spans
        self._access = access
        self.share = 1.0 if access is not None else ratio if spans is not None else 0.0
        """The share of requests that need a trail though they bring no trace context."""

    def begin(self, request: Request) -> Trail | None:
        """The trail of a request that brings a trace context, or that was drawn by ``share``."""
        known = context_of(request.headers.get(HEADER, b""))
        if known is not None:
            trace_id, parent_id, sampled = known
            return Trail(trace_id, parent_id, sampled=sampled and self._spans is not None)
        if HEADER in request.headers and random() >= self.share:  # noqa: S311 - a draw
            return None  # a context that is none is as good as no context
        drawn = self._access is None or random() < self._ratio  # noqa: S311 - a draw
        if drawn and self._spans is not None:
            return Trail(f"{getrandbits(128) or 1:032x}", "", sampled=True)
        return Trail("", "", sampled=False) if self._access is not None else None

    def ended(self, ended: Ended) -> bytes:
        """Tell of an answered request; returns further header lines of its answer."""
        trail = ended.trail
        if trail.sampled and self._spans is not None:
            self._spans.take(ended)
        if self._access is not None:
            self._access.take(ended)
        if not trail.parent_id:
            return b""
        flags = b"01" if trail.sampled else b"00"
        return b"traceparent: 00-%b-%b-%b\r\n" % (
            trail.trace_id.encode(),
            trail.span_id.encode(),
            flags,
        )

    def close(self) -> None:
        """Write and export what waits."""
        if self._spans is not None:
            self._spans.close()
        if self._access is not None:
            self._access.close()


def context_of(header: bytes) -> tuple[str, str, bool] | None:
    """Trace id, span id and "sampled" of a W3C ``traceparent``; None if it is not one."""
    found = _CONTEXT.fullmatch(header)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return found[2].decode(), found[3].decode(), bool(int(found[4], 16) & _SAMPLED)
