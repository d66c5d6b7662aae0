"""Where traces go: to the collector that the settings name, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from falaj.kernel.errors import ComponentRefused, InvalidInput

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from falaj.kernel.settings import Settings
    from falaj.serving.trails import Spans

_PATH = "/v1/traces"
_SECONDS = 5.0


def traces_address(settings: Settings) -> str:
    """The address that spans are posted to.

    Raises:
        InvalidInput: the setting ``traces`` is no address, or ``traces_headers`` no headers.
    """
    found = urlsplit(settings.traces)
    if found.scheme not in ("http", "https") or not found.hostname or found.query:
        raise InvalidInput(
            f"The setting traces = {settings.traces[:100]!r} is no address of a collector.",
            hint="Use https://host:4318 (OTLP over HTTP).",
        )
    _headers(settings)
    return settings.traces.rstrip("/") + ("" if found.path.rstrip("/") else _PATH)


def _headers(settings: Settings) -> dict[str, str]:
    secret = settings.traces_headers
    headers = {}
    for part in secret.get_secret_value().split(",") if secret is not None else ():
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise InvalidInput(
                "The setting traces_headers is not name=value,name=value.",
                hint="Set FALAJ_TRACES_HEADERS anew.",
            )
        headers[name.strip()] = value.strip()
    return headers


def span_exporter(settings: Settings) -> SpanExporter:
    """Sends spans to the collector.

    Raises:
        InvalidInput: a setting is wrong.
        ComponentRefused: the libraries of the extra ``otel`` are not installed.
    """
    address = traces_address(settings)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ComponentRefused(
            "The setting traces needs OpenTelemetry's SDK and exporter.",
            hint="Install it with `pip install 'falaj[otel]'`.",
        ) from None
    authorities = settings.traces_ca_file
    return OTLPSpanExporter(
        endpoint=address,
        headers=_headers(settings),
        certificate_file=str(authorities) if authorities is not None else None,
        timeout=_SECONDS,
    )


def _resource(settings: Settings, process: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    return Resource.create(
        {
            "service.name": "falaj",
            "service.version": version("falaj"),
            "service.instance.id": process,
            "cloud.region": settings.region,
        }
    )


def request_spans(
    settings: Settings, process: str, *, dropped: Callable[[int], None], secure: bool = True
) -> Spans | None:
    """Takes the traced requests of an inference worker; None if traces go nowhere."""
    if not settings.traces:
        return None
    exporter = span_exporter(settings)
    from falaj.serving.adapters.spans_otlp import OtlpSpans

    resource = _resource(settings, process)
    return OtlpSpans(exporter, resource, dropped=dropped, secure=secure)


def trace_calls(settings: Settings, process: str) -> Callable[[], None]:
    """Export the spans of this process's calls through the door; returns what ends it.

    It sets OpenTelemetry's provider, of which a process has one: for a process's main
    function, not for a platform that is embedded into somebody's program.
    """
    if not settings.traces:
        return _nothing
    exporter = span_exporter(settings)
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider: Any = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.traces_ratio)),
        resource=_resource(settings, process),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    shutdown: Callable[[], None] = provider.shutdown
    return shutdown


def _nothing() -> None:
    """There is nothing to end."""
