"""Histories of metrics, as MLflow's client and pages ask for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Route
from falaj.interfaces.mlflow.trackingwords import run_id, texts
from falaj.kernel.errors import InvalidInput
from falaj.kernel.numbers import written
from falaj.training.tracking import pagetokens
from falaj.training.tracking.histories import GREATEST_STEP, SMALLEST_STEP
from falaj.training.tracking.points import Points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_RUNS = 100
MOST_POINTS = 25_000
MOST_A_RUN = 2_500
PIECE = 10_000
"""So many points of a history are written at a time: 0.8 MB."""
MANY = 4_000
"""From so many points on, their JSON is written by Arrow: 12 ms for 100,000 instead of 90."""


def _history(asked: Asked) -> bytes | Iterator[bytes]:
    run, key = run_id(asked), asked.text("metric_key")
    limit = asked.number("max_results", -1)
    if "max_results" in asked.fields and limit <= 0:
        raise InvalidInput(
            f"Invalid value {limit} for parameter 'max_results'.", hint="It is at least 1."
        )
    points = by_time(asked.call("runs.series", run=run, key=key, workspace=asked.workspace))
    token = asked.text("page_token", "")
    question, now = ("history", run, key, asked.caller.principal.id), asked.backend.clock.now()
    place, begun = ([0], now)
    if token:
        place, begun = pagetokens.read(token, question, now)
    start = place[0]
    end = len(points) if limit < 0 else start + limit
    if start < 0 or start > len(points):
        raise InvalidInput("Invalid page token: it names no place.")
    following = ""
    if end < len(points):
        following = pagetokens.written(question, [end], begun)
    found = _part(points, start, end)
    pieces = _written(key, found, following)
    return pieces if len(found) > PIECE else b"".join(pieces)


def _written(key: str, points: Points, following: str) -> Iterator[bytes]:
    """The answer in pieces: one is written while the one before it is sent."""
    before = b'{"metrics":['
    for start in range(0, len(points), PIECE):
        yield before + listed(key, _part(points, start, start + PIECE))
        before = b","
    if not len(points):
        yield before
    more = f',"next_page_token":{json.dumps(following)}'.encode() if following else b""
    yield b"]" + more + b"}"


def _bulk(asked: Asked) -> bytes:
    """Whole histories of one metric of several runs, run by run."""
    runs = _runs(asked, "run_id")
    most = min(max(asked.number("max_results", MOST_POINTS), 1), MOST_POINTS)
    key, left, parts = asked.text("metric_key"), most, []
    for run in sorted(runs):
        points = by_time(asked.call("runs.series", run=run, key=key, workspace=asked.workspace))
        part = _part(points, 0, left)
        left -= len(part)
        if len(part):
            parts.append(listed(key, part, run))
    return b'{"metrics":[' + b",".join(parts) + b"]}"


def _interval(asked: Asked) -> bytes:
    """Points of one metric of several runs, evenly spread over a range of steps."""
    runs, key = _runs(asked, "run_ids"), asked.text("metric_key")
    most = asked.number("max_results", MOST_A_RUN)
    if not 1 <= most <= MOST_A_RUN:
        raise InvalidInput(
            f"Invalid value {most} for parameter 'max_results'.",
            hint=f"It is a number from 1 to {MOST_A_RUN}.",
        )
    bounded = ["start_step" in asked.fields, "end_step" in asked.fields]
    first, last = asked.number("start_step", SMALLEST_STEP), asked.number("end_step", GREATEST_STEP)
    if any(bounded) and not all(bounded):
        raise InvalidInput("If either start step or end step are specified, both must be.")
    if first > last:
        raise InvalidInput(f"end_step ({last}) must not be smaller than start_step ({first}).")
    parts = []
    for run in runs:
        points: Points = asked.call(
            "runs.series",
            run=run,
            key=key,
            first_step=max(first, SMALLEST_STEP),
            last_step=min(last, GREATEST_STEP),
            most=most,
            workspace=asked.workspace,
        )
        if len(points):
            parts.append(listed(key, points, run))
    return b'{"metrics":[' + b",".join(parts) + b"]}"


def _runs(asked: Asked, name: str) -> list[str]:
    runs = list(dict.fromkeys(texts(asked, name)))
    if not 1 <= len(runs) <= MOST_RUNS:
        raise InvalidInput(
            f"The request names {len(runs)} runs in {name!r}.", hint=f"Name 1 to {MOST_RUNS}."
        )
    return runs


def by_time(points: Points) -> Points:
    """The points of one metric by instant (of a millisecond), then by step, then by value."""
    import numpy as np

    at = points.at // 1000
    later = (at[1:] > at[:-1]) | ((at[1:] == at[:-1]) & (points.steps[1:] > points.steps[:-1]))
    if later.all():
        return points
    order = np.lexsort((points.values, points.steps, at))
    return Points(points.keys, points.steps[order], points.at[order], points.values[order])


def _part(points: Points, start: int, end: int) -> Points:
    part = slice(start, end)
    values = points.values[part]
    keys = dict.fromkeys(points.keys, len(values)) if len(values) else {}
    return Points(keys, points.steps[part], points.at[part], values)


def listed(key: str, points: Points, run: str | None = None) -> bytes:
    """The points of one metric as JSON objects with commas between them."""
    head = f'{{"key":{json.dumps(key)},' + (f'"run_id":{json.dumps(run)},' if run else "")
    at = points.at // 1000
    if len(points) >= MANY:
        return _by_arrow(head, at, points.steps, points.values)
    return ",".join(
        f'{head}"value":{json.dumps(written(value))},"timestamp":{moment},"step":{step}}}'
        for value, moment, step in zip(
            points.values.tolist(), at.tolist(), points.steps.tolist(), strict=True
        )
    ).encode()


def _by_arrow(
    head: str, at: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]
) -> bytes:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts_of: Any = pc.cast(pa.array(values, from_pandas=False), pa.string())
    odd = ~np.isfinite(values)
    if odd.any():
        names = pa.array([f'"{written(value)}"' for value in values[odd].tolist()], pa.string())
        texts_of = pc.replace_with_mask(texts_of, pa.array(odd), names)
    joined: Any = pc.binary_join_element_wise(
        head + '"value":',
        texts_of,
        ',"timestamp":',
        pc.cast(pa.array(at), pa.string()),
        ',"step":',
        pc.cast(pa.array(steps), pa.string()),
        "},",
        "",
    )
    chunk = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    # The texts of an array lie one behind the other in its last buffer.
    ends = np.frombuffer(chunk.buffers()[1], np.int32, len(chunk) + 1)
    return bytes(memoryview(chunk.buffers()[2])[ends[0] : ends[-1] - 1])


ROUTES = (
    Route("GET", "mlflow/metrics/get-history", _history),
    Route("GET", "mlflow/metrics/get-history-bulk", _bulk),
    Route("GET", "mlflow/metrics/get-history-bulk-interval", _interval),
)
