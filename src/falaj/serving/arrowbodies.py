"""Arrow IPC streams that strangers send: opened only as far as they are harmless.

What pyarrow reads, it believes: a stream may say that a few bytes are compressed gigabytes,
or that a text ends far outside of its buffer. So every message is looked at before its
body is decoded, and what was decoded is validated before a value of it is touched.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from falaj.serving.errors import BadRequest, BodyTooLarge

if TYPE_CHECKING:
    import pyarrow as pa

_HINT = "Write it with pyarrow.ipc.new_stream, uncompressed."
_DICTIONARY, _BATCH = 2, 3
"""Kinds of message, as Arrow's ``Message.fbs`` numbers them."""


def table_of_stream(body: bytes, most_rows: int) -> pa.Table:
    """The rows of an Arrow IPC stream.

    Raises:
        BadRequest: it is none, is compressed, is damaged, or two columns have one name.
        BodyTooLarge: it has more rows than ``most_rows``.
    """
    import pyarrow as pa

    batches = []
    n_rows = 0
    try:
        _check_messages(body)
        with pa.ipc.open_stream(body) as reader:
            schema = reader.schema
            for batch in reader:
                n_rows += batch.num_rows
                if n_rows > most_rows:
                    break
                batches.append(batch)
            else:
                table = pa.Table.from_batches(batches, schema=schema)
                table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        raise BadRequest(
            f"The body is no Arrow IPC stream: {str(error)[:200]}.", hint=_HINT
        ) from None
    if n_rows > most_rows:
        raise BodyTooLarge(
            f"More than {most_rows} rows in one request.", hint="Send them in several requests."
        )
    names = table.column_names
    if len(set(names)) != len(names):
        raise BadRequest("Two columns of the Arrow stream have one name.", hint="Rename one.")
    return table


def _check_messages(body: bytes) -> None:
    """Raise ValueError if a message is compressed; whatever the parser does if it is broken."""
    import pyarrow as pa

    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(body))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if _compressed(message.metadata.to_pybytes()):
            raise ValueError("it is compressed")


def _compressed(metadata: bytes) -> bool:
    """True if a message's record batch is compressed, by its flatbuffer."""
    message = _root(metadata)
    header = _field(metadata, message, 2)
    kind = _field(metadata, message, 1)
    if not header or not kind or metadata[kind] not in (_DICTIONARY, _BATCH):
        return False
    batch = _followed(metadata, header)
    if metadata[kind] == _DICTIONARY:
        data = _field(metadata, batch, 1)
        if not data:
            return False
        batch = _followed(metadata, data)
    return _field(metadata, batch, 3) != 0


def _root(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _followed(data: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", data, place)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands; 0 if it is not there."""
    virtual = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, virtual)[0]
    slot = 4 + 2 * number
    if slot + 2 > size:
        return 0
    offset = int(struct.unpack_from("<H", data, virtual + slot)[0])
    return table + offset if offset else 0
