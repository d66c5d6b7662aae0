"""What passes between the worker and the process of a step: frames, and values as bytes.

A value is plain data (MessagePack), an Arrow table (an Arrow stream) or a file; nothing is
pickled, so that a value can neither run code nor depend on the class that made it. The child
imports this module, so it needs little: Arrow is imported when a table passes.
"""

from __future__ import annotations

import math
import os
import select
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

_LENGTH = struct.Struct("<Q")
MOST_BYTES = 4 << 30
"""So many bytes may a file have that a step gives, and all that one step gives together."""
MOST_TOLD = 16 << 20
"""So many bytes may a frame of a step have: a question, or what it tells of its values, whose
bytes follow. It is decoded in the worker, where each byte of it may become an object."""
NONE, PLAIN, TABLE, FILE = "none", "plain", "table", "file"
Packed = dict[str, Any]
"""``form`` (none, plain, table or file), ``data`` (bytes), and of a file its ``name``."""


class NotPlain(Exception):
    """A value is neither plain data nor a table nor a file."""


class FrameRefused(Exception):
    """A frame is longer than it may be."""


def read_frame(descriptor: int, *, most: int | None = None, until: float | None = None) -> Any:
    """The next frame.

    Args:
        descriptor: is read.
        most: so many bytes may it have; None where whoever writes is trusted.
        until: by ``time.monotonic``; None to wait without end.

    Raises:
        EOFError: the stream ends before or within it.
        FrameRefused: it is longer; nothing more of it was read than its length.
        TimeoutError: it had not come as a whole by then.
    """
    (length,) = _LENGTH.unpack(read_bytes(descriptor, _LENGTH.size, until=until))
    if most is not None and length > most:
        raise FrameRefused(f"a frame of {length} bytes, where {most} may be")
    return msgspec.msgpack.decode(read_bytes(descriptor, length, until=until))


def write_frame(
    descriptor: int, told: Any, *, most: int | None = None, until: float | None = None
) -> None:
    """Write one frame.

    Args:
        descriptor: is written; with ``until`` one that does not block.
        told: plain data.
        most, until: as for ``read_frame``.

    Raises:
        OSError: nobody reads any more.
        FrameRefused: it would be longer; nothing was written.
        TimeoutError: it was not read as a whole by then.
    """
    data = msgspec.msgpack.encode(told)
    if most is not None and len(data) > most:
        raise FrameRefused(f"{len(data)} bytes, where {most} may be")
    for part in (_LENGTH.pack(len(data)), data):
        write_bytes(descriptor, part, until=until)


def read_bytes(descriptor: int, n: int, *, until: float | None = None) -> bytes | bytearray:
    """So many bytes; raises as ``read_frame`` does. The time is looked at before each read."""
    data = bytearray()
    while len(data) < n:
        _wait(descriptor, select.POLLIN, until)
        part = os.read(descriptor, min(n - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return data


def write_bytes(descriptor: int, data: bytes, *, until: float | None = None) -> None:
    """Write all of it; raises as ``write_frame`` does."""
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLOUT, until)
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # less than a whole part fits: wait for more room
            time.sleep(0.001)


def _wait(descriptor: int, event: int, until: float | None) -> None:
    if until is None:
        return
    poll = select.poll()  # not select(): descriptors may be larger than 1023
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError
    if time.monotonic() > until:
        raise TimeoutError  # a stream without end is ready each time it is asked


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
