"""Counts, durations, logs and traces of this process; sent nowhere by themselves.

Prometheus metrics live in a registry of this object (no global one). Spans go to the
OpenTelemetry API, which does nothing until an operator configures an exporter.

The libraries behind it are imported when they are first used: a worker that has nothing to
say starts without structlog (which brings a terminal's colours with it), and one that has
no door without metrics of a door.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer
    from prometheus_client import Counter, Histogram


class Telemetry:
    """Metrics and logs of one process."""

    def __init__(self, *, process: str = "embedded") -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

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
        self._known: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        """The metrics of each action and outcome: to look them up took longer than to count."""
        self._tracer: Tracer | None = None

    def span(self, name: str, **attributes: str) -> AbstractContextManager[Any]:
        """A trace span around a piece of work; costs next to nothing until traces are exported."""
        if self._tracer is None:
            from opentelemetry import trace

            self._tracer = trace.get_tracer("falaj")  # tells exporters that come later, too
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def within(self, traceparent: str | None) -> AbstractContextManager[Any]:
        """Spans begun inside belong to the trace that a W3C ``traceparent`` names, if it does."""
        return _within(traceparent) if traceparent else nullcontext()

    def action(self, name: str, outcome: str, seconds: float) -> None:
        """Count one call of an action."""
        known = self._known.get((name, outcome))
        if known is None:
            known = self._known[name, outcome] = (
                self._actions.labels(name, str(outcome)),
                self._seconds.labels(name),
            )
        counted, timed = known
        counted.inc()
        timed.observe(seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


@contextmanager
def _within(traceparent: str) -> Iterator[None]:
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


_waiting: list[Callable[[], None]] = []
"""The configuration of logs that is to be done before the first one is written."""


def configure_logging(*, level: str = "info", as_json: bool = True) -> None:
    """Send structured logs to standard error; called by a process's main function."""
    if "structlog" in sys.modules:
        _waiting.clear()
        _configure(level, as_json)
    else:
        _waiting[:] = [lambda: _configure(level, as_json)]


def _configure(level: str, as_json: bool) -> None:
    import structlog

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
    if _waiting:
        return
    structlog = sys.modules.get("structlog")
    if structlog is None or not structlog.is_configured():
        configure_logging(level="warning", as_json=False)


class _Logger:
    """A logger of structlog, made when something is logged."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        while _waiting:
            _waiting.pop()()
        return getattr(structlog.get_logger(self._name), method)


def logger(name: str) -> Any:
    """A structured logger for one module."""
    return _Logger(name)
