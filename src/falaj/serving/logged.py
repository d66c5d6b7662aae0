"""What the prediction log keeps of a run: as a record between processes, and as columns.

Records are packed, sealed and kept as they are; columns are made of them only when they are
moved into the lake, by a process that nobody waits for.

One lake table for each endpoint, ``predictions_<endpoint>``, whose columns do not depend on
what serves: the features stand in one list column, in the order of the model version's inputs, so
that a release with other features needs no other table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from falaj.kernel.errors import Corrupt
from falaj.kernel.telemetry import logger
from falaj.serving.predictions import NumberRows

if TYPE_CHECKING:
    from falaj.serving.predictions import Parsed, Scored

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
        ("shadow", pa.bool_()),  # scored behind the answer, which told nothing of it
        ("anomaly_score", pa.float64()),  # of the isolation forest; null where nothing is tagged
        ("anomalous", pa.bool_()),  # that score is above the limit of the forest
    ]
)


class LoggedRun(msgspec.Struct, array_like=True, gc=False):
    """The rows that one model version scored in one run, without any object of serving."""

    endpoint: str
    release: str
    variant: str
    model: str
    version: int
    requested_us: int
    at_us: int
    ids: list[str]
    counts: list[int]
    """How many rows each request has; of each request stand here:"""
    request_ids: list[str | None]
    callers: list[str]
    latencies_us: list[int]
    units: list[str] | None
    rows: Sequence[Any]
    """The decoded input rows: structs, or maps once they have passed a ring; empty if they are
    ``numbers``."""
    n_inputs: int
    matrix: bytes
    """float32 [n, inputs]."""
    statuses: bytes | None
    """uint8 [n, inputs]."""
    times: bytes | None
    """int64 [n, inputs]."""
    n_outputs: int
    outputs: bytes
    """float64 [n, outputs]."""
    names: tuple[str, ...] = ()
    numbers: bytes = b""
    """float64 [n, names]: the rows of requests that came as one matrix."""
    shadow: bool = False
    judged: bytes = b""
    """float64 [n] scores of the isolation forest, then bool [n] verdicts; empty where the release
    tags nothing."""


def logged(scored: Scored) -> LoggedRun:
    """What the log keeps of scored rows."""
    release, variant, vectors = scored.release, scored.variant.variant, scored.vectors
    unit, rows, done = release.unit, scored.rows, scored.done
    # Nobody waited for a shadow: its latency is that of its run.
    begun = vectors.begun if scored.shadow else 0.0
    outputs = vectors.outputs
    counts: list[int] = []
    owners: list[Parsed] = []
    for owner in scored.owners:
        if owners and owners[-1] is owner:
            counts[-1] += 1
        else:
            owners.append(owner)
            counts.append(1)
    names: tuple[str, ...] = ()
    numbers = b""
    if isinstance(rows, NumberRows):
        names, numbers, rows = rows.names, rows.matrix.astype(np.float64).tobytes(), ()
    return LoggedRun(
        release.endpoint,
        release.id,
        variant.name,
        variant.model,
        variant.version,
        scored.requested_us,
        scored.at_us,
        scored.ids,
        counts,
        [owner.request_id for owner in owners],
        [owner.caller for owner in owners],
        [int((done - (begun or owner.started)) * 1e6) for owner in owners],
        None if unit is None else [str(getattr(row, unit)) for row in rows],
        rows,
        vectors.matrix.shape[1],
        vectors.matrix.tobytes(),
        None if vectors.statuses is None else vectors.statuses.tobytes(),
        None if vectors.times is None else vectors.times.tobytes(),
        outputs.shape[1],
        outputs.astype(np.float64).tobytes(),
        names,
        numbers,
        scored.shadow,
        b"" if vectors.judged is None else vectors.judged.packed(),
    )


class _Addressed(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a record."""

    endpoint: str


encoded = msgspec.msgpack.Encoder().encode
"""A logged run as one record."""
decoded = msgspec.msgpack.Decoder(LoggedRun).decode
addressed = msgspec.msgpack.Decoder(_Addressed).decode
"""Only a record's endpoint; the rest is checked to be msgpack, and not looked at."""
_unpacked = msgspec.msgpack.Decoder(list[bytes]).decode
_MAGIC = b"FALAJLOG2"
_CODEC = "lz4"
_PIECE_BYTES = 96 * 1024
_SIZES = struct.Struct("<II")
"""Of a piece, as it was and as it is compressed."""


class PackedRecords:
    """Records as bytes for a spool, packed while they are read; ``rows_of_records`` reads them.

    Args:
        records: each encoded.
        pause: called behind each piece that was packed; it took about a third of a
            millisecond.
    """

    def __init__(
        self, records: Sequence[bytes], *, pause: Callable[[], object] = lambda: None
    ) -> None:
        self.size = sum(map(len, records))
        """Bytes of all records, before they are packed."""
        self._records = records
        self._pause = pause
        self._place = 0
        self._ready = bytearray(_MAGIC)

    def read(self, size: int, /) -> bytes:
        """The next bytes, as many as asked for unless these are the last."""
        ready = self._ready
        while len(ready) < size and self._place < len(self._records):
            first, n_bytes = self._place, 0
            while self._place < len(self._records) and n_bytes < _PIECE_BYTES:
                n_bytes += len(self._records[self._place])
                self._place += 1
            data = encoded(self._records[first : self._place])
            small = pa.Codec(_CODEC).compress(data, asbytes=True)
            ready += _SIZES.pack(len(data), len(small)) + small
            self._pause()
        told = bytes(ready[:size])
        del ready[:size]
        return told


def are_records(data: bytes) -> bool:
    """True if ``packed`` made these bytes."""
    return data.startswith(_MAGIC)


def rows_of_records(data: bytes) -> pa.Table:
    """The rows of records that were packed, in the log's schema.

    A record that is not readable is left out and told in the log.

    Raises:
        Corrupt: these are no packed records.
    """
    records: list[bytes] = []
    codec, place = pa.Codec(_CODEC), len(_MAGIC)
    try:
        while place < len(data):
            size, small = _SIZES.unpack_from(data, place)
            place += _SIZES.size + small
            piece = codec.decompress(data[place - small : place], size, asbytes=True)
            records += _unpacked(piece)
    except (msgspec.MsgspecError, pa.ArrowException, struct.error, OSError, MemoryError) as error:
        raise Corrupt(
            f"The records of the prediction log are not readable: {error}.",
            hint="Another version of Falaj may have written them; let that one drain them.",
        ) from error
    runs = []
    for record in records:
        try:
            runs.append(decoded(record))
        except msgspec.MsgspecError as error:
            logger(__name__).error(
                "record of the prediction log not readable; it is left out",
                bytes=len(record),
                error=str(error),
            )
    return columnar(runs)


def columnar(runs: Sequence[LoggedRun]) -> pa.Table:
    """The rows of logged runs in the log's schema, in order within each model version."""
    if not runs:
        return SCHEMA.empty_table()
    groups: dict[tuple[Any, ...], list[LoggedRun]] = {}
    for run in runs:
        key = (run.release, run.variant, run.shadow, run.n_inputs,
               run.statuses is None, run.times is None, not run.judged)  # fmt: skip
        groups.setdefault(key, []).append(run)
    return pa.concat_tables([_group(group) for group in groups.values()]).combine_chunks()


def with_all_columns(rows: pa.Table) -> pa.Table:
    """Rows that an older version of Falaj wrote, with null for what it did not know of."""
    for field in SCHEMA:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def _group(group: Sequence[LoggedRun]) -> pa.Table:
    """The rows of runs of one model version; per row little more than a list's append."""
    first = group[0]
    sizes = [len(run.ids) for run in group]
    n = sum(sizes)
    same = {name: getattr(first, name) for name in _SAME}
    values: dict[str, pa.Array] = {
        name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), n)
        for name, value in same.items()
    }
    outputs = _matrix([run.outputs for run in group], np.float64, first.n_outputs)
    statuses = [run.statuses for run in group if run.statuses is not None]
    values |= {
        "prediction_id": pa.array([one for run in group for one in run.ids], pa.string()),
        "request_id": pa.array(_by_row(group, "request_ids"), pa.string()),
        "requested_at": _instants(np.repeat([run.requested_us for run in group], sizes)),
        "predicted_for": _instants(np.repeat([run.at_us for run in group], sizes)),
        "unit": pa.array([unit for run in group for unit in _units(run)], pa.string()),
        "fields": pa.array([one for run in group for one in _fields(run)], pa.string()),
        "features": _lists(_matrix([run.matrix for run in group], np.float32, first.n_inputs)),
        "statuses": _lists(_matrix(statuses, np.uint8, first.n_inputs))
        if statuses
        else pa.nulls(n, pa.list_(pa.uint8())),
        "features_at": _newest([run.times for run in group], first.n_inputs, n),
        "score": pa.array(outputs[:, 0]),
        "outputs": _lists(outputs),
        "latency_us": pa.array(_by_row(group, "latencies_us"), pa.int64()),
        "caller": pa.array(_by_row(group, "callers"), pa.string()),
        **_tags(group, n),
    }
    return pa.table([values[name] for name in SCHEMA.names], schema=SCHEMA)


_TAG = ("anomaly_score", "anomalous")
_SAME = ("endpoint", "release", "variant", "model", "version", "shadow")
_json = msgspec.json.Encoder().encode


def _by_row(group: Sequence[LoggedRun], name: str) -> list[Any]:
    """What stands for each request, for each of its rows."""
    return [
        one
        for run in group
        for count, one in zip(run.counts, getattr(run, name), strict=True)
        for _ in range(count)
    ]


def _fields(run: LoggedRun) -> Iterator[str]:
    """The input rows as JSON."""
    if run.rows or not run.names:
        return (_json(row).decode() for row in run.rows)
    matrix = np.frombuffer(run.numbers, np.float64).reshape(-1, len(run.names))
    return (_json(row).decode() for row in NumberRows(run.names, matrix))


def _units(run: LoggedRun) -> Sequence[str | None]:
    return [None] * len(run.ids) if run.units is None else run.units


def _matrix(parts: Sequence[bytes], dtype: Any, width: int) -> Any:
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(data, dtype).reshape(-1, width)


def _tags(group: Sequence[LoggedRun], n: int) -> dict[str, pa.Array]:
    """The columns of the tag; null where the release tags nothing."""
    if not group[0].judged:
        return {name: pa.nulls(n, SCHEMA.field(name).type) for name in _TAG}
    scores = [run.judged[: 8 * len(run.ids)] for run in group]
    verdicts = [run.judged[8 * len(run.ids) :] for run in group]
    columns = (
        np.frombuffer(b"".join(scores), np.float64),
        np.frombuffer(b"".join(verdicts), np.bool_),
    )
    return {name: pa.array(column) for name, column in zip(_TAG, columns, strict=True)}


def _instants(microseconds: Any) -> pa.Array:
    return pa.array(microseconds.astype(np.int64)).cast(_INSTANT)


def _lists(matrix: Any) -> pa.Array:
    n, width = matrix.shape
    offsets = np.arange(0, (n + 1) * width, max(width, 1), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(matrix).reshape(-1))


def _newest(parts: Sequence[bytes | None], width: int, n: int) -> pa.Array:
    known = [part for part in parts if part is not None]
    if not known or not width:
        return pa.nulls(n, _INSTANT)
    newest = _matrix(known, np.int64, width).max(axis=1)
    return pa.array(newest, mask=newest == 0).cast(_INSTANT)
