"""The record of online reads: who read which features, for what, and when.

It is the audit record of this part of the data plane, one row for each request, in the lake
table ``feature_reads``. A thread writes it through the spool every second; a worker that is
killed loses at most what it had not written yet. Of one request in a hundred, what was
asked and answered for its first row is kept as well, for the parity check.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger

if TYPE_CHECKING:
    from falaj.serving.ports import Spools

TABLE = "feature_reads"
SAMPLED = 100
"""One request of so many is kept with what was answered."""
MOST_WAITING = 200_000
_ROWS_AT_ONCE = 10_000
_INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("read_id", pa.string()),
        ("read_at", _INSTANT),  # by the worker's clock; the features are as of then
        ("caller", pa.string()),
        ("service", pa.string()),
        ("purpose", pa.string()),
        ("n_rows", pa.int64()),
        ("latency_us", pa.int64()),
        ("asked", pa.string()),  # the first row of a sampled request, as JSON
        ("answered", pa.string()),  # and its values, as JSON
    ]
)


class Read(NamedTuple):
    """One request that was answered."""

    at_us: int
    caller: str
    service: str
    purpose: str | None
    n_rows: int
    latency_us: int
    asked: str | None = None
    answered: str | None = None


R = TypeVar("R")


class RecordLog(Generic[R]):
    """Buffers records of one kind, and writes them on a thread of its own.

    Args:
        spools: where rows go on their way to the lake.
        table: the lake table.
        columnar: makes rows of the table of records.
        flush_seconds: how often they are written.
    """

    def __init__(
        self,
        spools: Spools,
        table: str,
        columnar: Callable[[list[R]], pa.Table],
        *,
        flush_seconds: float = 1.0,
    ) -> None:
        self._spool = spools.open(table)
        self._table = table
        self._columnar = columnar
        self._seconds = flush_seconds
        self._waiting: deque[R] = deque()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def full(self) -> None:
        """Refuse what could not be recorded.

        Raises:
            Unavailable: too many records wait to be written.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable(
                f"The record {self._table!r} cannot be written, and nothing goes unrecorded.",
                hint="See that the disk has space and the worker process runs; try again.",
            )

    def append(self, record: R) -> None:
        """Keep a record; costs no more than an append."""
        self._waiting.append(record)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(
            target=self._write, name=f"falaj-{self._table}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10)

    def _write(self) -> None:
        # pyarrow loads what it needs for its first array (0.7 s where pandas is installed):
        # here, where nobody waits for it.
        columnar_reads([Read(0, "", "", None, 0, 0)])
        while not self._ended.wait(self._seconds):
            self._written()
        self._written()

    def _written(self) -> None:
        """Write what waits; what the spool does not take waits on."""
        while self._waiting:
            records = [self._waiting[i] for i in range(min(len(self._waiting), _ROWS_AT_ONCE))]
            try:
                self._spool.append(self._columnar(records))
            except FalajError as error:
                logger(__name__).error("not recorded yet", table=self._table, error=str(error))
                return
            for _ in records:
                self._waiting.popleft()
        try:
            self._spool.flush()
        except FalajError as error:  # the spool keeps them for its next flush
            logger(__name__).error("records not on disk yet", table=self._table, error=str(error))


def columnar_reads(reads: list[Read]) -> pa.Table:
    """Records as rows of the lake table."""
    columns: dict[str, Any] = {
        "read_id": pa.array([new_id("read") for _ in reads]),
        "read_at": pa.array([read.at_us for read in reads], pa.int64()).cast(_INSTANT),
    }
    for name in SCHEMA.names[2:]:
        values = [getattr(read, name) for read in reads]
        columns[name] = pa.array(values, SCHEMA.field(name).type)
    return pa.table(columns, schema=SCHEMA)


class ReadLog(RecordLog[Read]):
    """The record of reads.

    Args:
        spools: where rows go on their way to the lake.
        flush_seconds: how often they are written.
    """

    def __init__(self, spools: Spools, *, flush_seconds: float = 1.0) -> None:
        super().__init__(spools, TABLE, columnar_reads, flush_seconds=flush_seconds)
