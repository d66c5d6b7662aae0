"""Rows as payloads of the event log, and back.

Our own pushes are Arrow IPC streams of one batch: the schema's message, which stays the
same from push to push and is kept, and the batch's. Topics that others fill may hold any
Arrow IPC stream, or one JSON object to a record.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

from falaj.features.columns import table_of
from falaj.ingest.ports import ARROW, JSON, Record
from falaj.kernel.errors import InvalidInput

_CONTINUATION, _END_BYTES = b"\xff\xff\xff\xff", 8


@lru_cache(maxsize=256)
def _schema_message(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


@lru_cache(maxsize=256)
def _schema(message: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(message))


def encoded(rows: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream."""
    batch: bytes = rows.serialize().to_pybytes()
    return _schema_message(rows.schema) + batch


def decoded(record: Record, types: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """The rows of a record.

    Args:
        types: of the columns, for JSON, whose values have few types of their own.

    Raises:
        InvalidInput: it is not of its media type, or a value has another type.
    """
    if record.media == ARROW:
        return _from_arrow(record.payload)
    if record.media == JSON:
        return _from_json(record.payload, types)
    raise InvalidInput(
        f"The media type {record.media[:80]!r} is not one that streams take.",
        hint=f"Send {JSON} (one object to a record) or {ARROW}.",
    )


def _from_arrow(payload: bytes) -> pa.RecordBatch:
    try:
        if payload[:4] == _CONTINUATION:
            size = 8 + int.from_bytes(payload[4:8], "little")
            schema = _schema(payload[:size])
            if not _has_dictionary(schema):
                stream = pa.BufferReader(payload)
                stream.seek(size)
                message = pa.ipc.read_message(stream)
                if len(payload) - stream.tell() in (0, _END_BYTES):
                    return pa.ipc.read_record_batch(message, schema)
        with pa.ipc.open_stream(payload) as reader:
            rows = reader.read_all().combine_chunks()
    except (pa.ArrowInvalid, OSError, pa.ArrowNotImplementedError, EOFError) as error:
        raise InvalidInput(
            f"The payload is not an Arrow IPC stream: {str(error).splitlines()[0][:200]}.",
            hint="Write it with pyarrow.ipc.new_stream.",
        ) from None
    batches = rows.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def _has_dictionary(schema: pa.Schema) -> bool:
    return any(pa.types.is_dictionary(field.type) for field in schema)


def _from_json(payload: bytes, types: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    try:
        row = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"The payload is not JSON: {str(error)[:200]}.", hint="Send one object to a record."
        ) from None
    if not isinstance(row, dict) or not row:
        raise InvalidInput("The payload is no JSON object.", hint="Send one object to a record.")
    return table_of([row], types).combine_chunks().to_batches()[0]


def shown(row: Mapping[str, Any]) -> str:
    """A row as JSON text, for people who look into dead letters."""
    return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=True)


def shown_payload(record: Record) -> str:
    """A payload that could not be read, as text."""
    if record.media == JSON:
        return record.payload.decode(errors="replace")
    return b64encode(record.payload).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value)
