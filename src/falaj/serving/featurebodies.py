"""Bodies of online reads: what is asked, and how it is answered.

Four shapes, of which an answer has that of its question unless ``Accept`` asks for Arrow:
rows (``{"rows": [{...}]}``), columns (``{"columns": {...}}``), Feast's (``{"feature_service":
..., "entities": {...}}``) and an Arrow IPC stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.serving.arrowbodies import table_of_stream
from falaj.serving.errors import BadRequest, BodyTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.features.online import OnlineReader
    from falaj.features.vectors import OnlineColumns
    from falaj.serving.featureservices import Compiled

ARROW = b"application/vnd.apache.arrow.stream"
JSON = b"application/json"
MOST_ROWS = 10_000
_FEW = 6
"""Up to so many rows are answered row by row, more by column."""


class Shape(Enum):
    """How a read is asked and answered."""

    ROWS = "rows"
    COLUMNS = "columns"
    FEAST = "feast"
    ARROW = "arrow"


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    rows: list[dict[str, Any]] | None = None
    columns: dict[str, list[Any]] | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _FeastBody(msgspec.Struct, gc=False):
    entities: dict[str, list[Any]]
    feature_service: str | None = None
    features: Any = None
    full_feature_names: bool = False


_decode = msgspec.json.Decoder(_Body).decode
_decode_feast = msgspec.json.Decoder(_FeastBody).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Question:
    """What a read asks: rows, or columns of equal length."""

    shape: Shape
    rows: Sequence[Mapping[str, Any]] | None
    columns: Mapping[str, Sequence[Any]] | None
    n_rows: int
    at_us: int | None = None
    full_names: bool = False
    """In Feast's shape: whether features are told with the names of their views."""

    def first(self) -> dict[str, Any]:
        """The first row."""
        if self.rows is not None:
            return dict(self.rows[0]) if self.rows else {}
        given = self.columns or {}
        return {name: values[0] for name, values in given.items() if len(values)}


def question(body: bytes, media: bytes) -> Question:
    """Decode the body of a read.

    Raises:
        BadRequest: it is not one of the shapes. BodyTooLarge: too many rows.
        UnsupportedMedia: another content type.
    """
    if media.startswith(ARROW):
        return _arrow_question(body)
    if media and not media.lower().startswith(JSON):
        raise UnsupportedMedia(
            f"Reads take JSON or an Arrow stream, not {media.decode('latin-1')[:100]!r}.",
            hint="Send application/json or application/vnd.apache.arrow.stream.",
        )
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None
    at = None if found.at is None else microseconds(found.at)
    if (found.rows is None) == (found.columns is None):
        raise BadRequest("The body has neither rows nor columns, or both.", hint=_HINT)
    if found.rows is not None:
        return Question(Shape.ROWS, found.rows, None, _bounded(len(found.rows)), at)
    columns = found.columns or {}
    return Question(Shape.COLUMNS, None, columns, _height(columns), at)


_HINT = 'Send {"rows": [{"key": 1}]} or {"columns": {"key": [1]}}.'


def feast_question(body: bytes) -> tuple[str, Question]:
    """Decode a body as Feast's clients send it: the feature service, and what is asked.

    Raises:
        BadRequest: it is none, or names features instead of a feature service.
    """
    try:
        found = _decode_feast(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None
    if not found.feature_service:
        raise BadRequest(
            "The body names no feature_service.",
            hint="Access is granted by feature service: name one instead of features.",
        )
    asked = Question(Shape.FEAST, None, found.entities, _height(found.entities))
    asked.full_names = found.full_feature_names
    return found.feature_service, asked


def _malformed(error: Exception) -> BadRequest:
    told = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:300]
    return BadRequest(f"The body is not what a read takes: {told.rstrip('.')}.", hint=_HINT)


def _bounded(n: int) -> int:
    if n > MOST_ROWS:
        raise BodyTooLarge(
            f"{n} rows in one read; at most {MOST_ROWS} are answered.",
            hint="Send them in several requests.",
        )
    return n


def _height(columns: Mapping[str, Sequence[Any]]) -> int:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise BadRequest("The columns have different lengths.", hint=_HINT)
    return _bounded(lengths.pop() if lengths else 0)


def _arrow_question(body: bytes) -> Question:
    import pyarrow as pa

    table = table_of_stream(body, MOST_ROWS)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        columns[name] = _values(name, column)
    return Question(Shape.ARROW, None, columns, table.num_rows)


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; those that rows share are one object, however many name it."""
    import pyarrow as pa

    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        raise BadRequest(
            f"The column {name[:80]!r} is {column.type}, which is not read.",
            hint="Cast it to string before you send it.",
        )
    if not pa.types.is_dictionary(column.type):
        found: list[Any] = column.to_pylist()
        return found
    found = []
    for chunk in column.chunks:
        shared = chunk.dictionary.to_pylist()
        found += [None if place is None else shared[place] for place in chunk.indices.to_pylist()]
    return found


# ── answers ──────────────────────────────────────────────────────────────────────────


def answered(asked: Question, found: Compiled, at_us: int, *, shape: Shape, explain: bool) -> bytes:
    """Read, and encode the answer.

    Args:
        asked: the question.
        found: the service.
        at_us: the instant to answer for, UTC microseconds.
        shape: of the answer.
        explain: whether statuses and event times are told (of Feast's shape, always).

    Raises:
        InvalidInput: a key or field is missing or wrong.
    """
    if shape is Shape.FEAST:
        return found.feast.answer(asked.columns or {}, asked.n_rows, at_us, asked.full_names)
    reader = found.reader
    if shape is Shape.ROWS and not explain:
        if asked.rows is not None:
            records = reader.records(asked.rows, at_us)
        else:
            records = reader.columns(asked.columns or {}, at_us).records()
        return b'{"rows":%b}' % _encode(records)
    if asked.rows is not None:
        read = reader.columns_of(asked.rows, at_us)
    else:
        read = reader.columns(asked.columns or {}, at_us)
    if shape is Shape.ROWS:
        return _explained_rows(read)
    if shape is Shape.ARROW:
        return _arrow(read, reader, explain=explain)
    return _columns(read, explain=explain)


def _explained_rows(found: OnlineColumns) -> bytes:
    vectors = found.vectors()
    rows = [
        {
            "values": dict(zip(vectors.names, values, strict=True)),
            "statuses": dict(zip(vectors.names, statuses, strict=True)),
            "event_times": {view: _instant(time) for view, time in times.items()},
        }
        for values, statuses, times in zip(
            vectors.values, vectors.statuses, vectors.event_times, strict=True
        )
    ]
    return b'{"rows":%b}' % _encode(rows)


def _columns(found: OnlineColumns, *, explain: bool) -> bytes:
    from falaj.features.vectors import NO_TIME, STATUSES

    told: dict[str, Any] = {"columns": dict(zip(found.names, found.lists(), strict=True))}
    if explain:
        told["statuses"] = {
            name: [STATUSES[code] for code in codes]
            for name, codes in zip(found.names, found.statuses.T.tolist(), strict=True)
        }
        told["event_times"] = {
            view: [None if time == NO_TIME else _instant(time) for time in times]
            for view, times in zip(found.views, found.event_times.T.tolist(), strict=True)
        }
    return _encode(told)


def _arrow(found: OnlineColumns, reader: OnlineReader, *, explain: bool) -> bytes:
    import pyarrow as pa

    from falaj.features.columns import arrow_type
    from falaj.features.types import DType

    arrays: dict[str, Any] = {}
    for name, values in zip(found.names, found.lists(), strict=True):
        dtype = reader.plan.outputs[name]
        if dtype is DType.TIMESTAMP:
            arrays[name] = pa.array(values, pa.int64()).cast(arrow_type(dtype))
        else:
            arrays[name] = pa.array(values, arrow_type(dtype))
    if explain:
        for place, name in enumerate(found.names):
            arrays[f"{name}__status"] = pa.array(found.statuses[:, place])
    table = pa.table(arrays)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _instant(time: int | None) -> str | None:
    return None if time is None else from_microseconds(time).isoformat()
