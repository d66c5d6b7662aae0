"""The history of metrics: appended as it is logged, packed by metric when there is much of it.

Each call that logs appends one row to the *tail* of its run, whatever it holds. Every so often
the tail is moved into *chunks* by metric, and when a run ends, chunks of a metric are put
together. Who reads a metric reads its chunks and the run's short tail.

A point that is logged twice (same metric, step, instant and value), as by a client that tries
a call again, is there once: repeats are left out when a history is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from falaj.kernel.statements import Statement
from falaj.training.tracking.points import Points

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

MOVED_EVERY = 128
"""The tail of a run is moved when the number of a row that it gains is a multiple of this."""
MANY_CHUNKS = 8
"""Chunks of a metric that are put together when its run ends."""
CHUNK_POINTS = 16_384
"""The most points in a chunk."""
MOST_TOGETHER = 1_000_000
"""A run's end puts no more points together than this: it has to be quick."""

_APPEND = Statement(
    "INSERT INTO run_metric_tail (run_id, keys, data) VALUES (?, ?, ?) RETURNING seq"
)
_TAKE_TAIL = Statement("DELETE FROM run_metric_tail WHERE run_id = ? RETURNING seq, keys, data")
_TAIL = Statement("SELECT keys, data FROM run_metric_tail WHERE run_id = ? ORDER BY seq")
_ADD_CHUNK = Statement(
    "INSERT INTO run_metric_chunks (run_id, key, n, first_step, last_step, data)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_CHUNKS = Statement(
    "SELECT n, data FROM run_metric_chunks"
    " WHERE run_id = ? AND key = ? AND last_step >= ? AND first_step <= ? ORDER BY seq"
)
_MANY = Statement(
    "SELECT key, SUM(n) FROM run_metric_chunks WHERE run_id = ?"
    " GROUP BY key HAVING COUNT(*) >= ? ORDER BY 2"
)
_TAKE_CHUNKS = Statement(
    "DELETE FROM run_metric_chunks WHERE run_id = ? AND key = ? RETURNING seq, n, data"
)
_LATEST = (
    "INSERT INTO run_latest_metrics (run_id, key, step, at, value, is_nan){} ON CONFLICT"
    " (run_id, key) DO UPDATE SET step = excluded.step, at = excluded.at,"
    " value = excluded.value, is_nan = excluded.is_nan"
    " WHERE excluded.step > run_latest_metrics.step OR (excluded.step ="
    " run_latest_metrics.step AND excluded.at >= run_latest_metrics.at)"
)
_SET_LATEST = Statement(_LATEST.format(" VALUES (?, ?, ?, ?, ?, ?)"))
_BOTH_POSTGRESQL = Statement(
    f"WITH appended AS ({_APPEND.text}), latest AS ("
    + _LATEST.format(
        " SELECT ?, * FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::float8[], ?::bool[])"
    )
    + ") SELECT seq FROM appended"
)
"""Both in one round trip."""
SMALLEST_STEP, GREATEST_STEP = -(2**63), 2**63 - 1


def append(connection: Connection, run_id: str, points: Points) -> None:
    """Keep points of a run, and bring the last value of each metric up to date."""
    appended = (run_id, json.dumps(dict(points.keys), ensure_ascii=False), points.packed())
    latest = [
        (key, step, at, 0.0 if math.isnan(value) else value, math.isnan(value))
        for key, step, at, value in points.last()
    ]
    if connection.dialect.name == "postgresql":
        latest.sort()  # so that two calls do not wait for each other in a circle
        columns = [list(column) for column in zip(*latest, strict=True)]
        seq = _BOTH_POSTGRESQL.first(connection, (*appended, run_id, *columns))
    else:
        seq = _APPEND.first(connection, appended)
        _SET_LATEST.many(connection, [(run_id, *row) for row in latest])
    if seq is not None and seq[0] % MOVED_EVERY == 0:
        move_tail(connection, run_id)


def move_tail(connection: Connection, run_id: str) -> None:
    """Move the tail of a run into chunks by metric."""
    rows = sorted(_TAKE_TAIL.all(connection, (run_id,)), key=lambda row: row[0])
    by_key: dict[str, list[Points]] = {}
    for _, keys, data in rows:
        for key, part in Points.unpacked(json.loads(keys), bytes(data)).parts():
            by_key.setdefault(key, []).append(part)
    for key, parts in by_key.items():
        _add_chunks(connection, run_id, key, parts)


def settle(connection: Connection, run_id: str) -> None:
    """Put together what is left of a run that has ended: its tail, and small chunks."""
    move_tail(connection, run_id)
    together = 0
    for key, n in _MANY.all(connection, (run_id, MANY_CHUNKS)):
        together += n
        if together > MOST_TOGETHER:
            return
        taken = sorted(_TAKE_CHUNKS.all(connection, (run_id, key)), key=lambda row: row[0])
        parts = [Points.unpacked({key: count}, bytes(data)) for _, count, data in taken]
        _add_chunks(connection, run_id, key, parts)


def _add_chunks(connection: Connection, run_id: str, key: str, parts: Sequence[Points]) -> None:
    whole = _joined(key, parts)
    rows = []
    for start in range(0, len(whole), CHUNK_POINTS):
        part = slice(start, start + CHUNK_POINTS)
        steps = whole.steps[part]
        chunk = Points({key: len(steps)}, steps, whole.at[part], whole.values[part])
        rows.append((run_id, key, len(steps), int(steps.min()), int(steps.max()), chunk.packed()))
    _ADD_CHUNK.many(connection, rows)


def history(
    connection: Connection,
    run_id: str,
    key: str,
    *,
    first_step: int = SMALLEST_STEP,
    last_step: int = GREATEST_STEP,
) -> Points:
    """All points of one metric with ``first_step <= step <= last_step``, each once.

    By step, then by instant, then in the order of logging.
    """
    import numpy as np

    # The tail first: on PostgreSQL each statement sees what was committed before it. What moves
    # from the tail to a chunk in between is then read twice and kept once, and never missed.
    tail = _TAIL.all(connection, (run_id,))
    parts = [
        Points.unpacked({key: n}, bytes(data))
        for n, data in _CHUNKS.all(connection, (run_id, key, first_step, last_step))
    ]
    for keys_text, data in tail:
        keys = json.loads(keys_text)
        if key in keys:
            parts += [part for name, part in Points.unpacked(keys, bytes(data)).parts()
                      if name == key]  # fmt: skip
    whole = _joined(key, parts)
    steps, at, values = whole.steps, whole.at, whole.values
    if first_step > SMALLEST_STEP or last_step < GREATEST_STEP:
        wanted = (steps >= first_step) & (steps <= last_step)
        steps, at, values = steps[wanted], at[wanted], values[wanted]
    if len(steps) > 1 and not _in_order(steps, at):
        order = np.lexsort((at, steps))  # stable: ties stay in the order of logging
        steps, at, values = steps[order], at[order], values[order]
    same = (steps[1:] == steps[:-1]) & (at[1:] == at[:-1])
    if same.any():
        once = _once(steps, at, values)
        steps, at, values = steps[once], at[once], values[once]
    return Points({key: len(steps)} if len(steps) else {}, steps, at, values)


def _in_order(steps: Any, at: Any) -> bool:
    """True if each point comes behind the one before it, by step and instant."""
    later = (steps[1:] > steps[:-1]) | ((steps[1:] == steps[:-1]) & (at[1:] >= at[:-1]))
    return bool(later.all())


def _once(steps: Any, at: Any, values: Any) -> Any:
    """The places of the first of each (step, instant, value); bits tell NaNs from numbers."""
    import numpy as np

    rows = np.column_stack((steps, at, values.view(np.int64)))
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.sort(first)


def _joined(key: str, parts: Sequence[Points]) -> Points:
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    steps = [part.steps for part in parts] or [np.array([], np.int64)]
    at = [part.at for part in parts] or [np.array([], np.int64)]
    values = [part.values for part in parts] or [np.array([], np.float64)]
    whole = np.concatenate(steps)
    return Points({key: len(whole)}, whole, np.concatenate(at), np.concatenate(values))


def sampled(points: Points, most: int) -> Points:
    """At most ``most`` of the points, evenly spread, with the first and the last."""
    import numpy as np

    if len(points) <= most:
        return points
    places = np.unique(np.linspace(0, len(points) - 1, most).round().astype(np.int64))
    if most == 1:
        places = np.array([len(points) - 1])
    (key,) = points.keys
    return Points(
        {key: len(places)}, points.steps[places], points.at[places], points.values[places]
    )
