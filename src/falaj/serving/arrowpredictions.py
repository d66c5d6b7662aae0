"""Predictions asked by an Arrow IPC stream of fields, answered by one of ids and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.serving.anomalies import ANOMALOUS, SCORE
from falaj.serving.arrowbodies import table_of_stream
from falaj.serving.errors import BadRequest
from falaj.serving.explain import Explain, asked
from falaj.serving.featurebodies import ARROW
from falaj.serving.front import Response
from falaj.serving.inferencebodies import instant_of
from falaj.serving.model import AnomalyPolicy, FieldType, RequestField
from falaj.serving.tensors import column_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from falaj.serving.front import Request, Told
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Outcome, Parsed

REQUEST_ID, AT = b"request_id", b"at"
"""What a request may say of itself in the metadata of its schema."""
_LONGEST_ID = 200
_LONGEST_TEXT = 4 * 4_096
"""Bytes of a text of as many characters as a field takes."""


def request_of(plan: RequestPlan, request: Request, caller: str) -> Parsed:
    """Decode a request; its answer is a stream too, unless ``Accept`` asks for JSON.

    Raises:
        BadRequest: it is no Arrow stream, asks for anomalies of an endpoint that does not tag
            them, is compressed, or a column is of no field, of a type that its field does not
            take, or nested.
        BodyTooLarge: more rows than the endpoint takes.
    """
    flags = asked(request.query)
    if flags & Explain.ANOMALY and plan.release.anomalies is not AnomalyPolicy.TAG:
        raise BadRequest(
            "Anomalies are told of JSON requests.",
            hint='Send the rows as JSON, or let the endpoint tag all: anomalies="tag".',
        )
    explain = bool(flags & Explain.FEATURES)
    as_json = b"application/json" in request.headers.get(b"accept", b"")
    if explain and not as_json:
        raise BadRequest(
            "Features are explained in JSON.", hint="Send `Accept: application/json` as well."
        )
    table = table_of_stream(request.body, plan.limits.rows)
    told = table.schema.metadata or {}
    request_id = _request_id(told)
    at_us = instant_of(_text(told[AT])) if AT in told else None
    matrix = _matrix(plan, table)
    if matrix is not None:
        parsed = plan.decoder.matrix(
            matrix,
            caller=caller,
            started=request.started,
            request_id=request_id,
            at_us=at_us,
            explain=explain,
        )
    else:
        parsed = plan.parse_columns(
            _columns(plan, table),
            caller=caller,
            started=request.started,
            request_id=request_id,
            at_us=at_us,
            explain=explain,
        )
    if not as_json:
        parsed.render = _answer
    return parsed


def _matrix(plan: RequestPlan, table: pa.Table) -> NDArray[Any] | None:
    """All columns as one matrix, if that is all that the plan needs; else None."""
    import pyarrow as pa

    decoder, schema = plan.decoder, table.schema
    if not decoder.takes_numbers or len(schema) != len(decoder.names) or not table.num_rows:
        return None
    plain = (pa.float32(), pa.float64())
    if any(kind not in plain for kind in schema.types):
        return None
    if tuple(schema.names) != decoder.names:
        if set(schema.names) != set(decoder.names):
            return None
        table = table.select(list(decoder.names))
    parts = [
        batch.to_tensor(null_to_nan=True, row_major=True).to_numpy()
        for batch in table.to_batches()
        if batch.num_rows
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _columns(plan: RequestPlan, table: pa.Table) -> dict[str, Any]:
    """The values of each column, as the plan takes them."""
    known = {item.name: item for item in plan.release.fields}
    columns = {}
    for name in table.column_names:
        field = known.get(name)
        if field is None:
            raise BadRequest(
                f"There is no field for the column {name[:80]!r}.",
                hint=f"The fields are {', '.join(known)[:400]}.",
            )
        columns[name] = _column(field, table.column(name))
    if not columns:
        raise BadRequest("The stream has no columns.", hint="Send one for each field.")
    return columns


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest("The metadata of the schema is no text.", hint="Use UTF-8.") from None


def _request_id(told: dict[bytes, bytes]) -> str | None:
    named = _text(told.get(REQUEST_ID, b""))
    if len(named) > _LONGEST_ID:
        raise BadRequest(
            f"The request_id has more than {_LONGEST_ID} characters.", hint="Use a shorter one."
        )
    return named or None


def _column(field: RequestField, column: pa.ChunkedArray) -> Any:
    """The values of a column as the plan takes them: an array, or a list if some are null."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise _wrong(field, column.type)
    if not _taken(field.type, kind):
        raise _wrong(field, column.type)
    if pa.types.is_dictionary(column.type) or pa.types.is_string_view(kind):
        return column_of(field, _shared_texts(field, column))
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            raise BadRequest(
                f"The column {field.name!r} has instants without a zone.",
                hint="Use timestamp[us, UTC].",
            )
        try:
            # Nanoseconds are cut; seconds that do not fit in microseconds are an error.
            whole = column.cast(pa.timestamp("us", kind.tz), safe=kind.unit != "ns")
            column = whole.cast(pa.int64())
        except pa.ArrowException as error:
            raise BadRequest(
                f"The column {field.name!r} has an instant that is in no year: {error}.",
                hint="Use timestamp[us, UTC].",
            ) from None
    if column.null_count or not _numeric(column.type):
        return column_of(field, column.to_pylist())
    return column_of(field, column.to_numpy())


def _shared_texts(field: RequestField, column: pa.ChunkedArray) -> list[str | None]:
    """The texts of a column whose rows may share them: one object for a text, however many
    rows name it. A few bytes for each row may else stand for a whole body each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: list[str | None] = []
    for chunk in column.chunks:
        if pa.types.is_string_view(chunk.type):
            sizes = np.frombuffer(chunk.buffers()[1], "<i4")[::4]
            longest = sizes[chunk.offset : chunk.offset + len(chunk)].max(initial=0)
        else:
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
        if longest > _LONGEST_TEXT:
            raise BadRequest(
                f"The column {field.name!r} has a text of {longest} bytes.",
                hint=f"Texts have at most {_LONGEST_TEXT} bytes.",
            )
        shared = chunk.dictionary_encode()  # a dictionary stays as it is
        words = shared.dictionary.to_pylist()
        found += [None if one is None else words[one] for one in shared.indices.to_pylist()]
    return found


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _taken(field: FieldType, kind: pa.DataType) -> bool:
    import pyarrow.types as is_

    text = is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind)
    if field is FieldType.FLOAT:
        return _numeric(kind)
    if field is FieldType.INT:
        return bool(is_.is_integer(kind))
    if field is FieldType.BOOLEAN:
        return bool(is_.is_boolean(kind))
    return bool(text or (field is FieldType.TIMESTAMP and is_.is_timestamp(kind)))


def _wrong(field: RequestField, kind: pa.DataType) -> BadRequest:
    return BadRequest(
        f"The column {field.name!r} is {str(kind)[:100]}; the field is {field.type}.",
        hint="Cast it before you send it.",
    )


def _answer(plan: RequestPlan, request: Parsed, outcome: Outcome) -> Told:
    import pyarrow as pa

    columns = {"id": pa.array(outcome.ids, pa.string())}
    for place, name in enumerate(plan.release.outputs):
        columns[name] = pa.array(np.ascontiguousarray(outcome.outputs[:, place], dtype="<f8"))
    columns["model"] = pa.array(outcome.labels, pa.string())
    if outcome.judged is not None:
        columns[SCORE] = pa.array(outcome.judged.scores)
        columns[ANOMALOUS] = pa.array(outcome.judged.anomalous)
    schema = pa.schema(
        [pa.field(name, values.type) for name, values in columns.items()],
        metadata={"release": plan.release.id, "request_id": request.request_id or ""},
    )
    batch = pa.record_batch(list(columns.values()), schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return Response(bytes(sink.getvalue()), media=ARROW)
