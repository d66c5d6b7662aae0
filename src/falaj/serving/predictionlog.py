"""The prediction log of one worker: a bounded buffer that a thread empties into the spool.

One lake table for each endpoint, ``predictions_<endpoint>``, whose columns never change:
the features stand in one list column, in the order of the model version's inputs, so
that a release with other features needs no other table.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.telemetry import logger
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.serving.plan import Scored
    from falaj.serving.ports import Spool, Spools

_INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("request_id", pa.string()),
        ("endpoint", pa.string()),
        ("release", pa.string()),
        ("variant", pa.string()),
        ("model", pa.string()),
        ("version", pa.int64()),
        ("requested_at", _INSTANT),  # by the worker's clock
        ("predicted_for", _INSTANT),  # the instant that the features are as of
        ("unit", pa.string()),
        ("fields", pa.string()),  # the request's row, as JSON
        ("features", pa.list_(pa.float32())),  # the model's inputs; NaN is missing
        ("statuses", pa.list_(pa.uint8())),  # FeatureStatus of each; null if all are the request's
        ("features_at", _INSTANT),  # the newest event time among the features
        ("score", pa.float64()),  # the first output
        ("outputs", pa.list_(pa.float64())),  # all of them
        ("latency_us", pa.int64()),
        ("caller", pa.string()),
    ]
)


def columnar(batches: Sequence[Scored]) -> pa.Table:
    """The rows of scored runs in the log's schema, in order within each model version."""
    groups: dict[tuple[int, int, bool], list[Scored]] = {}
    for scored in batches:
        known = scored.vectors.statuses is not None
        groups.setdefault((id(scored.release), id(scored.variant), known), []).append(scored)
    return pa.concat_tables([_group(group) for group in groups.values()]).combine_chunks()


def _group(group: Sequence[Scored]) -> pa.Table:
    """The rows of runs of one model version; per row little more than a list's append."""
    release, variant = group[0].release, group[0].variant.variant
    rows = [row for scored in group for row in scored.rows]
    n = len(rows)
    unit = release.unit
    units = [None if unit is None else str(getattr(row, unit)) for row in rows]
    same = {
        "endpoint": release.endpoint,
        "release": release.id,
        "variant": variant.name,
        "model": variant.model,
        "version": variant.version,
    }
    values: dict[str, pa.Array] = {
        name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), n)
        for name, value in same.items()
    }
    sizes = [scored.n_rows for scored in group]
    outputs = _stacked([scored.vectors.outputs for scored in group]).astype(np.float64)
    owners = [(owner, scored.done) for scored in group for owner in scored.owners]
    values |= {
        "prediction_id": pa.array([one for scored in group for one in scored.ids], pa.string()),
        "request_id": pa.array([owner.request_id for owner, _ in owners], pa.string()),
        "requested_at": _instants(np.repeat([scored.requested_us for scored in group], sizes)),
        "predicted_for": _instants(np.repeat([scored.at_us for scored in group], sizes)),
        "unit": pa.array(units, pa.string()),
        "fields": pa.array([_encode(row).decode() for row in rows], pa.string()),
        "features": _lists(_stacked([scored.vectors.matrix for scored in group])),
        "statuses": _optional([scored.vectors.statuses for scored in group], n),
        "features_at": _newest([scored.vectors.times for scored in group], n),
        "score": pa.array(outputs[:, 0]),
        "outputs": _lists(outputs),
        "latency_us": pa.array([int((done - owner.started) * 1e6) for owner, done in owners]),
        "caller": pa.array([owner.caller for owner, _ in owners], pa.string()),
    }
    return pa.table([values[name] for name in SCHEMA.names], schema=SCHEMA)


_encode = msgspec.json.Encoder().encode


def _stacked(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _instants(microseconds: Any) -> pa.Array:
    return pa.array(microseconds.astype(np.int64)).cast(_INSTANT)


def _optional(parts: Sequence[Any], n: int) -> pa.Array:
    known = [part for part in parts if part is not None]
    return _lists(_stacked(known)) if known else pa.nulls(n, pa.list_(pa.uint8()))


def _lists(matrix: Any) -> pa.Array:
    n, width = matrix.shape
    offsets = np.arange(0, (n + 1) * width, max(width, 1), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(matrix).reshape(-1))


def _newest(parts: Sequence[Any], n: int) -> pa.Array:
    known = [part for part in parts if part is not None]
    if not known or not known[0].shape[1]:
        return pa.nulls(n, _INSTANT)
    newest = _stacked(known).max(axis=1)
    return pa.array(newest, mask=newest == 0).cast(_INSTANT)


class PredictionLog:
    """Takes scored rows on the request path; a thread of its own writes them out.

    Args:
        spools: where the rows go, by table.
        capacity: rows that may wait; beyond it rows are not taken (``batch``), or the
            answers wait (``request``).
        flush_rows, flush_seconds: when the thread writes; whichever comes first.
        lost: told of rows that the spool refused: (endpoint, number). Rows that it took
            and cannot flush stay with it, and go with its next flush that succeeds.
    """

    def __init__(
        self,
        spools: Spools,
        *,
        capacity: int = 50_000,
        flush_rows: int = 1_000,
        flush_seconds: float = 1.0,
        lost: Callable[[str, int], None] = lambda _endpoint, _rows: None,
    ) -> None:
        self._spools = spools
        self._open: dict[str, Spool] = {}
        self._capacity = capacity
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._lost = lost
        self._waiting: deque[tuple[Scored, Callable[[FalajError | None], None] | None]] = deque()
        self._n_waiting = 0
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="falaj-log", daemon=True)
        self.failed: FalajError | None = None
        """Why the last flush failed; None when it did not."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def append(self, scored: Scored) -> bool:
        """Take rows to be written soon; False if the buffer is full."""
        n = len(scored.ids)
        with self._lock:
            if self._n_waiting + n > self._capacity:
                return False
            self._n_waiting += n
            self._waiting.append((scored, None))
            ripe = self._n_waiting >= self._flush_rows
        if ripe:
            self._wake.set()
        return True

    def append_durably(self, scored: Scored, done: Callable[[FalajError | None], None]) -> None:
        """Take rows whatever waits; ``done`` is called once they are on disk, or with why not.

        It is called from the log's thread.
        """
        with self._lock:
            self._n_waiting += len(scored.ids)
            self._waiting.append((scored, done))
        self._wake.set()

    def flush(self) -> None:
        """Write all that waits; returns when it is on disk (or has failed: ``failed``)."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        if not taken:
            return
        error: FalajError | None = None
        try:
            self.write([scored for scored, _ in taken])
        except FalajError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - the log's thread must outlive any failure
            error = Unavailable(
                f"The prediction log failed: {type(raised).__name__}: {raised}.",
                hint="See the worker's log; the disk may be full or failing.",
            )
        finally:
            with self._lock:
                self._n_waiting -= sum(scored.n_rows for scored, _ in taken)
        self.failed = error
        if error is not None:
            logger(__name__).error("prediction log", error=str(error))
        for _, done in taken:
            if done is not None:
                done(error)

    def write(self, batches: list[Scored]) -> None:
        """Write rows now; on disk when this returns. Raises what the spool raises."""
        by_table: dict[str, list[Scored]] = {}
        for scored in batches:
            by_table.setdefault(table_of(scored.release.endpoint), []).append(scored)
        for table, parts in by_table.items():
            with self._opening:
                spool = self._open.get(table)
                if spool is None:
                    spool = self._open[table] = self._spools.open(table)
            try:
                spool.append(columnar(parts))
            except FalajError:
                self._lost(parts[0].release.endpoint, sum(scored.n_rows for scored in parts))
                raise
            spool.flush()

    def _work(self) -> None:
        while not self._stopped:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()
