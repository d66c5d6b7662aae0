"""Counts, durations, logs and traces of this process; sent nowhere by themselves.

Prometheus metrics live in a registry of this object (no global one). Spans go to the
OpenTelemetry API, which does nothing until an operator configures an exporter.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import structlog
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class Telemetry:
    """Metrics and logs of one process."""

    def __init__(self, *, process: str = "embedded") -> None:
        self.registry = CollectorRegistry()
        self.process = process
        self._actions = Counter(
            "falaj_actions",
            "Calls through the door.",
            ["action", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "falaj_action_seconds",
            "Time of a call through the door.",
            ["action"],
            registry=self.registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
        )

    def span(self, name: str, **attributes: str) -> AbstractContextManager[Any]:
        """A trace span around a piece of work; costs next to nothing until traces are exported."""
        return trace.get_tracer("falaj").start_as_current_span(name, attributes=attributes)

    def within(self, traceparent: str | None) -> AbstractContextManager[Any]:
        """Spans begun inside belong to the trace that a W3C ``traceparent`` names, if it does."""
        return _within(traceparent) if traceparent else nullcontext()

    def action(self, name: str, outcome: str, seconds: float) -> None:
        """Count one call of an action."""
        self._actions.labels(name, str(outcome)).inc()
        self._seconds.labels(name).observe(seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


@contextmanager
def _within(traceparent: str) -> Iterator[None]:
    token = context.attach(_PROPAGATOR.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


_PROPAGATOR = TraceContextTextMapPropagator()


def configure_logging(*, level: str = "info", as_json: bool = True) -> None:
    """Send structured logs to standard error; called by a process's main function."""
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is when it is used
    )


def logging_by_default() -> None:
    """For a program that configured no logging: warnings, as text, to standard error."""
    if not structlog.is_configured():
        configure_logging(level="warning", as_json=False)


def logger(name: str) -> Any:
    """A structured logger for one module."""
    return structlog.get_logger(name)
