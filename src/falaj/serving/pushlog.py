"""The record of pushes: who put how many events into which stream, and when.

The event log keeps what was pushed, not by whom; that stands in the lake table
``feature_pushes``, one row for each push that was taken, written like the record of reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from falaj.kernel.ids import new_id
from falaj.serving.readlog import RecordLog

if TYPE_CHECKING:
    from falaj.serving.ports import Spools

TABLE = "feature_pushes"
_INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("push_id", pa.string()),
        ("pushed_at", _INSTANT),  # by the worker's clock, when it was acknowledged
        ("caller", pa.string()),
        ("stream", pa.string()),
        ("key", pa.string()),  # the idempotency key
        ("ack", pa.string()),
        ("n_rows", pa.int64()),
        ("repeated", pa.bool_()),
    ]
)


class Push(NamedTuple):
    """One push that was taken."""

    at_us: int
    caller: str
    stream: str
    key: str | None
    ack: str
    n_rows: int
    repeated: bool


def columnar_pushes(pushes: list[Push]) -> pa.Table:
    """Records as rows of the lake table."""
    columns = {
        "push_id": pa.array([new_id("push") for _ in pushes]),
        "pushed_at": pa.array([push.at_us for push in pushes], pa.int64()).cast(_INSTANT),
    }
    for name in SCHEMA.names[2:]:
        values = [getattr(push, name) for push in pushes]
        columns[name] = pa.array(values, SCHEMA.field(name).type)
    return pa.table(columns, schema=SCHEMA)


class PushLog(RecordLog[Push]):
    """The record of pushes.

    Args:
        spools: where rows go on their way to the lake.
        flush_seconds: how often they are written.
    """

    def __init__(self, spools: Spools, *, flush_seconds: float = 1.0) -> None:
        super().__init__(spools, TABLE, columnar_pushes, flush_seconds=flush_seconds)
