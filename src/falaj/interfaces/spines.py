"""Spines on their way to a platform: Arrow, Polars or pandas rows, in parts that a call carries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

BYTES_PER_PART = 32 * 1024 * 1024
"""Half of what a server takes in one body by default."""
_TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")


def is_table(spine: str) -> bool:
    """True if a text is the name of a lake table; else it is a SELECT."""
    return _TABLE.fullmatch(spine) is not None


def parts_of(spine: Any, *, bytes_per_part: int = BYTES_PER_PART) -> Iterator[bytes]:
    """The rows as Arrow streams of bounded size, in order.

    Args:
        spine: an Arrow table, record batch or reader, a Polars or a pandas frame.

    Raises:
        InvalidInput: it is something else, or has no rows.
    """
    none = True
    for batch in _batches(spine):
        if not batch.num_rows:
            continue
        rows = max(int(batch.num_rows * bytes_per_part // max(batch.nbytes, 1)), 1)
        for start in range(0, batch.num_rows, rows):
            none = False
            yield _stream(batch.slice(start, rows))
    if none:
        raise InvalidInput("The spine is empty.", hint="Give it rows: keys and an instant each.")


def _batches(spine: Any) -> Iterator[pa.RecordBatch | pa.Table]:
    import pyarrow as pa

    if isinstance(spine, pa.RecordBatchReader):
        yield from spine
    elif isinstance(spine, pa.Table | pa.RecordBatch):
        yield spine
    elif _is(spine, "polars", "DataFrame"):
        yield spine.to_arrow()
    elif _is(spine, "pandas", "DataFrame"):
        yield pa.Table.from_pandas(spine, preserve_index=False)
    else:
        raise InvalidInput(
            f"A spine cannot be made of a {type(spine).__name__}.",
            hint="Give an Arrow table, a Polars or pandas frame, the name of a lake table, or SQL.",
        )


def _is(value: Any, package: str, name: str) -> bool:
    """True if a value is of a class of a package that is not imported for asking."""
    kinds = type(value).__mro__
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in kinds)


def _stream(rows: pa.RecordBatch | pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return bytes(sink.getvalue().to_pybytes())
