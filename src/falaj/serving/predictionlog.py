"""The prediction log of one worker: where its rows go when they are answered.

With a ring, a row is copied into memory that outlives the worker, and another process (the
log writer) makes columns of it: nothing of that costs the worker's core. Without one, and
for endpoints whose answers wait for the disk (``durability = "request"``), a bounded buffer
is emptied into the spool by a thread of the worker.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.telemetry import logger
from falaj.serving.logged import columnar, encoded, logged
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.serving.ports import Spool, Spools
    from falaj.serving.predictions import Scored
    from falaj.serving.rings import Ring


class PredictionLog:
    """Takes scored rows on the request path; a thread of its own writes them out.

    Args:
        spools: where the rows go, by table.
        capacity: rows that may wait; beyond it rows are not taken (``batch``), or the
            answers wait (``request``).
        flush_rows, flush_seconds: when the thread writes; whichever comes first.
        ring: where rows go that need not be on disk before they are answered; None to
            write them from here.
        lost: told of rows that the spool refused: (endpoint, number). Rows that it took
            and cannot flush stay with it, and go with its next flush that succeeds.
    """

    def __init__(
        self,
        spools: Spools,
        *,
        capacity: int = 50_000,
        flush_rows: int = 1_000,
        flush_seconds: float = 1.0,
        ring: Ring | None = None,
        lost: Callable[[str, int], None] = lambda _endpoint, _rows: None,
    ) -> None:
        self._spools = spools
        self._open: dict[str, Spool] = {}
        self._capacity = capacity
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._ring = ring
        self._lost = lost
        self._waiting: deque[tuple[Scored, Callable[[FalajError | None], None] | None]] = deque()
        self._n_waiting = 0
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="falaj-log", daemon=True)
        self.failed: FalajError | None = None
        """Why the last flush failed; None when it did not."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def append(self, scored: Scored) -> bool:
        """Take rows to be written soon; False if the buffer is full, or they have no record."""
        if self._ring is not None:
            try:
                record = encoded(logged(scored))
            except Exception as error:  # noqa: BLE001 - who was answered must not wait for its record
                logger(__name__).error("prediction not written down", error=repr(error))
                return False
            return self._ring.put(record, len(scored.ids))
        n = len(scored.ids)
        with self._lock:
            if self._n_waiting + n > self._capacity:
                return False
            self._n_waiting += n
            self._waiting.append((scored, None))
            ripe = self._n_waiting >= self._flush_rows
        if ripe:
            self._wake.set()
        return True

    def append_durably(self, scored: Scored, done: Callable[[FalajError | None], None]) -> None:
        """Take rows whatever waits; ``done`` is called once they are on disk, or with why not.

        It is called from the log's thread.
        """
        with self._lock:
            self._n_waiting += len(scored.ids)
            self._waiting.append((scored, done))
        self._wake.set()

    def flush(self) -> None:
        """Write all that waits; returns when it is on disk (or has failed: ``failed``)."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        if not taken:
            return
        error: FalajError | None = None
        try:
            self.write([scored for scored, _ in taken])
        except FalajError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - the log's thread must outlive any failure
            error = Unavailable(
                f"The prediction log failed: {type(raised).__name__}: {raised}.",
                hint="See the worker's log; the disk may be full or failing.",
            )
        finally:
            with self._lock:
                self._n_waiting -= sum(scored.n_rows for scored, _ in taken)
        self.failed = error
        if error is not None:
            logger(__name__).error("prediction log", error=str(error))
        for _, done in taken:
            if done is not None:
                done(error)

    def write(self, batches: list[Scored]) -> None:
        """Write rows now; on disk when this returns.

        Raises what a spool raises, once the rows of every other table are written.
        """
        by_table: dict[str, list[Scored]] = {}
        for scored in batches:
            by_table.setdefault(table_of(scored.release.endpoint), []).append(scored)
        failure: Exception | None = None
        for table, parts in by_table.items():
            try:
                self._write_table(table, parts)
            except Exception as error:  # noqa: BLE001 - it is raised behind the last table
                failure = failure or error
        if failure is not None:
            raise failure

    def _write_table(self, table: str, parts: list[Scored]) -> None:
        with self._opening:
            spool = self._open.get(table)
            if spool is None:
                spool = self._open[table] = self._spools.open(table)
        try:
            spool.append(columnar([logged(scored) for scored in parts]))
        except Exception:
            self._lost(parts[0].release.endpoint, sum(scored.n_rows for scored in parts))
            raise
        spool.flush()

    def _work(self) -> None:
        while not self._stopped:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()
