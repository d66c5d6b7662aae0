"""Traces of requests, exported to a real OTLP collector over HTTP."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings
from falaj.serving.heads import Head
from falaj.serving.meters import Meters
from falaj.serving.model import Durability
from falaj.serving.requests import Request
from falaj.serving.trails import Ended, Trail, Trails, context_of
from falaj.testing.collector import Collector, collecting, told
from falaj.testing.serving import Running, make_release
from falaj.wiring.traces import request_spans, traces_address

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{PARENT}-{flags}" for flags in ("01", "00"))
PREDICT = "POST /v1/endpoints/{name}/predict"
Tracked = Callable[..., Any]


@contextmanager
def traced(tracked: Tracked, ratio: float, **more: Any) -> Iterator[tuple[Running, Collector]]:
    with collecting() as collector:
        settings = Settings(traces=more.pop("url", collector.url), traces_ratio=ratio, **more)

        def trails(meters: Meters) -> Trails:
            spans = request_spans(settings, "w0", dropped=meters.spans_dropped, secure=False)
            return Trails(ratio=ratio, spans=spans)

        with tracked(trails) as running:
            running.activate(make_release())
            yield running, collector


def test_a_sampled_request_is_a_span_within_its_senders_with_a_child_for_each_step(
    tracked: Tracked,
) -> None:
    with traced(tracked, 0.0) as (running, collector):
        body = {"inputs": [ROW, ROW], "request_id": "mine"}
        answer = running.predict(body, headers={"traceparent": SAMPLED})
        (span,) = collector.named(PREDICT)
    prediction = answer.json()["predictions"][0]["id"]
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert answer.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert span.kind == 2  # SERVER
    facts = told(span)
    assert (
        facts
        | {
            "http.request.method": "POST",
            "http.route": "/v1/endpoints/{name}/predict",
            "http.response.status_code": 200,
            "http.response.body.size": len(answer.content),
            "url.path": "/v1/endpoints/delays/predict",
            "url.scheme": "http",
            "server.address": "127.0.0.1",
            "client.address": "127.0.0.1",
            "enduser.id": "user:amina",
            "falaj.endpoint": "delays",
            "falaj.release": "release_1",
            "falaj.variant": "champion",
            "falaj.request_id": "mine",
            "falaj.prediction_id": prediction,
            "falaj.rows": 2,
        }
        == facts
    )
    assert "Bearer" not in str(span)
    children = {
        one.name: one
        for one in collector.spans
        if one.parent_span_id == span.span_id and one.trace_id == span.trace_id
    }
    assert list(children) == ["parse", "queue", "features", "model", "answer", "log"]
    instants = [span.start_time_unix_nano]
    for child in children.values():
        instants += [child.start_time_unix_nano, child.end_time_unix_nano]
    instants.append(span.end_time_unix_nano)
    assert instants == sorted(instants)
    assert told(children["model"]) == {"falaj.run_rows": 2, "falaj.model": "delay/1"}
    assert collector.resources[0]["service.name"] == "falaj"
    assert collector.resources[0]["service.instance.id"] == "w0"


def test_a_sender_that_does_not_sample_is_obeyed_and_told_its_trace(tracked: Tracked) -> None:
    with traced(tracked, 1.0) as (running, collector):
        answer = running.predict({"inputs": [ROW]}, headers={"traceparent": UNSAMPLED})
        given = answer.headers["traceparent"]
        assert given.startswith(f"00-{TRACE}-")
        assert given.endswith("-00")
        assert running.predict({"inputs": [ROW]}).status_code == 200
        (span,) = collector.named(PREDICT)
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""
    assert all(one.trace_id == span.trace_id for one in collector.spans)


def test_requests_without_a_context_are_drawn_by_the_ratio_and_told_nothing(
    tracked: Tracked,
) -> None:
    with traced(tracked, 0.0) as (running, collector):
        answers = [running.predict({"inputs": [ROW]}) for _ in range(20)]
        running.predict({"inputs": [ROW]}, headers={"traceparent": SAMPLED})
        collector.named(PREDICT)
    assert all("traceparent" not in answer.headers for answer in answers)
    assert len([span for span in collector.spans if span.name == PREDICT]) == 1


def test_half_of_the_requests_are_traced_if_the_ratio_says_so() -> None:
    class Nothing:
        def take(self, ended: Any) -> None: ...

        def close(self) -> None: ...

    from falaj.serving.front import Request
    from falaj.serving.heads import Head

    trails = Trails(ratio=0.5, spans=Nothing())
    assert trails.share == 0.5
    begun = [trails.begin(Request(Head(), b"", 0.0)) for _ in range(10)]
    assert len({trail.trace_id for trail in begun if trail is not None}) == 10
    assert Trails(ratio=0.5).share == 0.0


def test_an_error_is_told_by_its_kind_and_never_by_its_text(tracked: Tracked) -> None:
    with traced(tracked, 1.0) as (running, collector):
        secret = {"inputs": [{"a": "secret", "b": 1, "c": 2}]}
        assert running.predict(secret).status_code == 400
        running.spools.broken = True
        running.activate(make_release("release_2", durability=Durability.REQUEST))
        assert running.predict({"inputs": [ROW]}).status_code == 503
        refused, failed = collector.named(PREDICT, n=2)
    assert told(refused)["error.type"] == "bad-request"
    assert told(refused)["http.response.status_code"] == 400
    assert refused.status.code == 0
    (event,) = refused.events
    assert (event.name, told(event)) == ("exception", {"exception.type": "BadRequest"})
    assert told(failed)["error.type"] == "unavailable"
    assert failed.status.code == 2
    assert "secret" not in str(collector.spans)


def test_a_collector_that_is_away_holds_up_nobody_and_lost_spans_are_counted(
    tracked: Tracked,
) -> None:
    with traced(tracked, 1.0, url="http://127.0.0.1:9") as (running, _):
        for _ in range(5):
            assert running.predict({"inputs": [ROW]}).status_code == 200
        meters = running.meters
    assert b"falaj_worker_spans_dropped_total 0\n" not in meters.exposition()


def test_what_waits_for_a_slow_collector_holds_no_request() -> None:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from falaj.serving.adapters.spans_otlp import OtlpSpans

    class Held(Request):
        """Can be referred to weakly."""

    sizes: list[object] = []

    class Slow(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            sizes.extend(span.attributes["http.request.body.size"] for span in spans)
            return SpanExportResult.SUCCESS

    spans = OtlpSpans(Slow(), Resource.create({}), dropped=lambda _: None, secure=True)
    request = Held(Head(b"POST", b"/v1/endpoints/fraud/predict"), b"x" * 1_000, 0.0)
    seen = weakref.ref(request)
    spans.take(Ended(request, Trail("1" * 32, "2" * 16, sampled=True), 401, 10, "::1", 1.0))
    del request
    assert seen() is None
    spans.close()
    assert sizes == [1_000]


def test_the_collector_gets_the_headers_that_the_settings_name(tracked: Tracked) -> None:
    headers = {"traces_headers": "authorization=Bearer abc, x-team = risk"}
    with traced(tracked, 1.0, **headers) as (running, collector):
        running.predict({"inputs": [ROW]})
        collector.named(PREDICT)
    assert collector.headers[0]["authorization"] == "Bearer abc"
    assert collector.headers[0]["x-team"] == "risk"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-1",
        f"01-{TRACE}-{PARENT}-01more",
        f"00-{TRACE}-{PARENT}-01\n",
        "x" * 4000,
    ],
)
def test_a_context_that_is_none_is_as_good_as_no_context(header: str) -> None:
    assert context_of(header.encode()) is None


def test_a_context_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert context_of(f"01-{TRACE}-{PARENT}-03-more".encode()) == (TRACE, PARENT, True)
    assert context_of(UNSAMPLED.encode()) == (TRACE, PARENT, False)


def test_a_broken_context_neither_fails_the_request_nor_is_answered(running: Running) -> None:
    running.activate(make_release())
    answer = running.predict({"inputs": [ROW]}, headers={"traceparent": "nonsense"})
    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    answer = running.predict({"inputs": [ROW]}, headers={"traceparent": SAMPLED})
    assert answer.headers["traceparent"].endswith("-00"), "nothing is exported here"


@pytest.mark.parametrize(
    ("address", "posted"),
    [
        ("https://c:4318", "https://c:4318/v1/traces"),
        ("https://c:4318/", "https://c:4318/v1/traces"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
    ],
)
def test_the_address_of_a_collector_is_completed(address: str, posted: str) -> None:
    assert traces_address(Settings(traces=address)) == posted


@pytest.mark.parametrize(
    "values",
    [{"traces": "collector:4318"}, {"traces": "grpc://c:4317"},
     {"traces": "https://c", "traces_headers": "abc"}],
)  # fmt: skip
def test_a_wrong_address_is_refused_by_the_settings_name(
    values: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="The setting traces"):
        traces_address(Settings(**values))
