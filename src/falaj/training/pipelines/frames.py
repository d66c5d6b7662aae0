"""What passes between the worker and the process of a step: frames, and values as bytes.

A value is plain data (MessagePack), an Arrow table (an Arrow stream) or a file; nothing is
pickled, so that a value can neither run code nor depend on the class that made it. The child
imports this module, so it needs little: Arrow is imported when a table passes.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

_LENGTH = struct.Struct("<Q")
MOST_BYTES = 4 << 30
NONE, PLAIN, TABLE, FILE = "none", "plain", "table", "file"
Packed = dict[str, Any]
"""``form`` (none, plain, table or file), ``data`` (bytes), and of a file its ``name``."""


class NotPlain(Exception):
    """A value is neither plain data nor a table nor a file."""


def read_frame(descriptor: int) -> Any:
    """The next frame; raises EOFError if the stream ends before or within it."""
    (length,) = _LENGTH.unpack(_exactly(descriptor, _LENGTH.size))
    return msgspec.msgpack.decode(_exactly(descriptor, length))


def write_frame(descriptor: int, told: Any) -> None:
    """Write one frame; raises OSError if nobody reads any more."""
    data = msgspec.msgpack.encode(told)
    for part in (_LENGTH.pack(len(data)), data):
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


def _exactly(descriptor: int, n: int) -> bytes | bytearray:
    data = bytearray()
    while len(data) < n:
        part = os.read(descriptor, min(n - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return data


def packed(value: Any, folder: Path | None = None) -> Packed:
    """A value as bytes.

    Args:
        folder: where files that a step gives must lie.

    Raises:
        NotPlain: says what of it is not.
    """
    if value is None:
        return {"form": NONE, "data": b""}
    if isinstance(value, Path):
        return _file(value, folder)
    if type(value).__module__.partition(".")[0] in ("pyarrow", "polars", "pandas"):
        return {"form": TABLE, "data": _stream(value)}
    return {"form": PLAIN, "data": msgspec.msgpack.encode(_plain(value), order="deterministic")}


def unpacked(given: Packed, folder: Path, name: str) -> Any:
    """A value of its bytes; a file is written into the folder.

    Args:
        name: of the argument, which a file's folder is called by.
    """
    form, data = given["form"], given["data"]
    if form == NONE:
        return None
    if form == PLAIN:
        return msgspec.msgpack.decode(data)
    if form == FILE:
        place = folder / f"given-{name}"
        place.mkdir(exist_ok=True)
        file = place / Path(given["name"]).name
        file.write_bytes(data)
        return file
    return table_of(data)


def table_of(data: bytes) -> Any:
    """The Arrow table of an Arrow stream."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.BufferReader(data)).read_all()


def _file(path: Path, folder: Path | None) -> Packed:
    real = path.resolve()
    if folder is None or not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise NotPlain(f"the file {path} does not lie in the step's own folder")
    if real.stat().st_size > MOST_BYTES:
        raise NotPlain(f"the file {path} is larger than {MOST_BYTES} bytes")
    return {"form": FILE, "data": real.read_bytes(), "name": real.name}


def _stream(value: Any) -> bytes:
    import pyarrow as pa

    if isinstance(value, pa.RecordBatchReader):
        value = value.read_all()
    elif isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    elif hasattr(value, "to_arrow"):
        value = value.to_arrow()
    elif type(value).__name__ == "DataFrame":
        value = pa.Table.from_pandas(value, preserve_index=False)
    if not isinstance(value, pa.Table):
        raise NotPlain(f"it is {type(value).__name__}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value)
    return bytes(sink.getvalue().to_pybytes())


def _plain(value: Any) -> Any:
    """The value, of plain types only: what comes back must be what was given."""
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise NotPlain("a whole number is too large")
        return int(value)
    if isinstance(value, float):
        return float(value) if not math.isnan(value) else math.nan
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise NotPlain("a dict has a key that is no text")
        return {key: _plain(one) for key, one in value.items()}
    raise NotPlain(f"it holds {type(value).__name__}")
