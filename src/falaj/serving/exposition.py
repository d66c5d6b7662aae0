"""The counts of the data plane in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from falaj.serving.counted import (
    ANOMALOUS,
    BUCKETS,
    ERRED,
    FAILED,
    LATE,
    LATENCY,
    MODEL,
    QUEUE,
    REFUSED,
    ROW,
    ROWS,
    SHADOW,
    SHED,
    TAGGED,
    UNLOGGED,
    UNTOLD,
    UNTRACED,
    Counted,
    upper_of,
)

MEDIA = b"text/plain; version=0.0.4; charset=utf-8"
_EVERY = 8
"""Of the buckets, so many apart are told: edges a factor of about 1.4 apart."""
_FROM, _TO = 64e-6, 64.0
_MOST_ROWS = 4_096

Series = Mapping[tuple[str, str], Counted]
"""By (endpoint, variant); the variant "" is of requests that reached none."""

_REFUSALS = (
    ("refused", REFUSED, "Requests answered with a 4xx status."),
    ("failed", FAILED, "Requests answered with a 5xx status."),
    ("shed", SHED, "Requests told to come back later (429 or 503)."),
    ("deadline_exceeded", LATE, "Requests whose deadline had passed (504)."),
)
_HISTOGRAMS = (
    ("seconds", LATENCY, "Time from the arrival of a request to its answer."),
    ("queue_seconds", QUEUE, "Time that an answered request waited for its turn."),
    ("model_seconds", MODEL, "Time of one run of the model."),
    ("batch_rows", ROWS, "Rows scored in one run of the model."),
)
_OF_WORKERS = (
    ("access_log_dropped", UNTOLD, "Lines that the access log could not take."),
    ("spans_dropped", UNTRACED, "Spans that could not be exported."),
)


def exposition(series: Series) -> bytes:
    """The counts as text."""
    lines: list[str] = []
    answered = {key: one for key, one in series.items() if not key[1].startswith(SHADOW)}
    for part in (_requests, _by_variant, _refused, _in_flight, _histograms, _of_workers):
        lines += part(answered)
    lines += _of_shadows(
        {
            (endpoint, variant.removeprefix(SHADOW)): one
            for (endpoint, variant), one in series.items()
            if variant.startswith(SHADOW)
        }
    )
    return ("\n".join(lines) + "\n").encode()


def _requests(series: Series) -> Iterator[str]:
    name = "falaj_endpoint_requests_total"
    yield from _head(name, "counter", "Requests that were answered in any way.")
    for labels, one in _variants(series):
        yield f"{name}{labels} {one.requests}"


def _by_variant(series: Series) -> Iterator[str]:
    for told, text, value in (
        ("predictions", "Predictions that were answered.", lambda one: one.predictions),
        (
            "unlogged",
            "Predictions that the log did not take.",
            lambda one: int(one.counters[UNLOGGED]),
        ),
        (
            "model_failures",
            "Requests on which a variant's own model failed, whatever they were answered.",
            lambda one: int(one.counters[ERRED]),
        ),
        (
            "tagged",
            "Predictions that an isolation forest tagged.",
            lambda one: int(one.counters[TAGGED]),
        ),
        (
            "anomalous",
            "Tagged predictions above the limit of their isolation forest.",
            lambda one: int(one.counters[ANOMALOUS]),
        ),
    ):
        name = f"falaj_endpoint_{told}_total"
        yield from _head(name, "counter", text)
        for labels, one in _variants(series):
            yield f"{name}{labels} {value(one)}"


def _refused(series: Series) -> Iterator[str]:
    for told, place, text in _REFUSALS:
        name = f"falaj_endpoint_{told}_total"
        yield from _head(name, "counter", text)
        for endpoint, one in _endpoints(series):
            yield f'{name}{{endpoint="{endpoint}"}} {one.counters[place]}'


def _in_flight(series: Series) -> Iterator[str]:
    name = "falaj_endpoint_in_flight"
    yield from _head(name, "gauge", "Requests in work when the workers last looked.")
    for endpoint, one in _endpoints(series):
        yield f'{name}{{endpoint="{endpoint}"}} {one.in_flight}'


def _histograms(series: Series) -> Iterator[str]:
    for told, place, text in _HISTOGRAMS:
        name = f"falaj_endpoint_{told}"
        yield from _head(name, "histogram", text)
        for (endpoint, variant), one in sorted(series.items()):
            if endpoint and variant:
                labels = _labels(endpoint, variant)[1:-1]
                yield from _buckets(name, labels, one, place)


def _of_shadows(series: Series) -> Iterator[str]:
    """What ran behind answers; nothing where no shadow did."""
    if not series:
        return
    for told, text, value in (
        ("requests", "Requests that a shadow ran on.", lambda one: one.answered),
        ("failures", "Requests on which a shadow failed.", lambda one: int(one.counters[ERRED])),
        ("dropped", "Requests that came too fast for it.", lambda one: int(one.counters[SHED])),
    ):
        name = f"falaj_shadow_{told}_total"
        yield from _head(name, "counter", text)
        for labels, one in _variants(series):
            yield f"{name}{labels} {value(one)}"
    name = "falaj_shadow_seconds"
    yield from _head(name, "histogram", "Time of one run of a shadow, features included.")
    for (endpoint, variant), one in sorted(series.items()):
        yield from _buckets(name, _labels(endpoint, variant)[1:-1], one, LATENCY)


def _buckets(name: str, labels: str, one: Counted, place: int) -> Iterator[str]:
    scale = ROW if place == ROWS else 1.0
    lowest, highest = (0.0, _MOST_ROWS) if place == ROWS else (_FROM, _TO)
    running = one.histograms[place].cumsum()
    for bucket in range(_EVERY - 1, BUCKETS, _EVERY):
        # What lies on the edge is in the next bucket: of whole rows the edge is one less.
        edge = upper_of(bucket) / scale - (1 if place == ROWS else 0)
        if lowest <= edge <= highest and (place != ROWS or edge == int(edge)):
            yield f'{name}_bucket{{{labels},le="{edge:g}"}} {running[bucket]}'
    yield f'{name}_bucket{{{labels},le="+Inf"}} {running[-1]}'
    yield f"{name}_sum{{{labels}}} {float(one.sums[place])!r}"
    yield f"{name}_count{{{labels}}} {running[-1]}"


def _of_workers(series: Series) -> Iterator[str]:
    own = series.get(("", ""), Counted())
    for told, place, text in _OF_WORKERS:
        name = f"falaj_worker_{told}_total"
        yield from _head(name, "counter", text)
        yield f"{name} {own.counters[place]}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(endpoint: str, variant: str) -> str:
    return f'{{endpoint="{_escaped(endpoint)}",variant="{_escaped(variant)}"}}'


def _variants(series: Series) -> Iterator[tuple[str, Counted]]:
    """Every series of an endpoint; requests that reached no variant have an empty one."""
    for (endpoint, variant), one in sorted(series.items()):
        if endpoint:
            yield _labels(endpoint, variant), one


def _endpoints(series: Series) -> Iterator[tuple[str, Counted]]:
    totals: dict[str, Counted] = {}
    for (endpoint, _), one in sorted(series.items()):
        if endpoint:
            totals.setdefault(endpoint, Counted()).add(one)
    for endpoint, total in totals.items():
        yield _escaped(endpoint), total


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
