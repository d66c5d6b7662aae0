"""Writes the prediction log of all workers of a machine: from their rings into the spool.

It runs in a process of its own, so that packing and sealing them and waiting for the disk
cost the workers nothing, and so that a killed worker loses no row that it had answered. It
may be killed at any moment too: what it was about to write is written again under the same
name. It makes no columns: whoever moves the rows into the lake does, so that little of the
machine is spent near the workers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.telemetry import logger
from falaj.serving.logged import PackedRecords, addressed
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.serving.ports import KeptSpool, KeptSpools
    from falaj.serving.rings import RingReader, Rings, Taken

_LOOK_SECONDS = 0.1
_NICENESS = 5
_PAUSE_SECONDS = 0.0005


class LogWriter:
    """Moves rows from rings to spools; see the module.

    Args:
        rings: what the workers of this machine have written.
        spools: where the rows go, by table.
        flush_seconds: how often rings are emptied; one that is a quarter full, at once.
    """

    def __init__(
        self,
        rings: Rings,
        spools: KeptSpools,
        *,
        flush_seconds: float = 1.0,
    ) -> None:
        self._rings = rings
        self._spools = spools
        self._flush_seconds = flush_seconds
        self._open: dict[str, KeptSpool] = {}
        self.failed: FalajError | None = None
        """Why the last rows could not be kept; they stay in their ring."""

    def run_once(self) -> int:
        """Take what stands in every ring now; returns the number of rows that were kept.

        What comes meanwhile stays for the next round: each round costs a file and a wait for
        the disk, and under load there would be hundreds a second. A ring whose rows cannot be
        kept does not hold up the others.

        Raises:
            FalajError: the spool takes no rows now; nothing is lost.
        """
        moved = 0
        failure: Exception | None = None
        for ring in self._rings.current():
            upto = ring.written
            try:
                pause = partial(_breathe, ring)
                while ring.taken < upto and (taken := ring.take(pause=pause)) is not None:
                    self._keep(taken, pause)
                    ring.done(taken)
                    moved += taken.n_rows
            except Exception as error:  # noqa: BLE001 - it is raised behind the last ring
                failure = failure or error
        if failure is not None:
            raise failure
        return moved

    def run(self, stopped: threading.Event, *, grace_seconds: float = 8.0) -> None:
        """Write until ``stopped`` is set and every worker has said its last.

        The calling thread gives way to the workers: on a core that they share, a request
        must not wait until a second's rows are packed.
        """
        with suppress(OSError):  # a sandbox may forbid it; it matters to latency alone
            os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)  # of 0: this thread
        emptied = time.monotonic()
        while not stopped.wait(_LOOK_SECONDS):
            rings = self._rings.current()
            late = time.monotonic() - emptied >= self._flush_seconds
            if late or any(ring.pressed for ring in rings):
                self._tried(self.run_once)
                self._rings.tidy()
                emptied = time.monotonic()
        until = time.monotonic() + grace_seconds
        while True:
            self._tried(self.run_once)
            if not self._rings.tidy() or time.monotonic() > until:
                return
            time.sleep(_LOOK_SECONDS / 2)

    def _tried(self, work: Callable[[], object]) -> None:
        try:
            work()
        except FalajError as error:
            self.failed = error
        except Exception as error:  # noqa: BLE001 - the next round tries again
            self.failed = Unavailable(
                f"The prediction log failed: {type(error).__name__}: {error}.",
                hint="See the log writer's log; the disk may be full or failing.",
            )
        else:
            self.failed = None
            return
        logger(__name__).error("prediction log", error=str(self.failed))

    def _keep(self, taken: Taken, pause: Callable[[], object]) -> None:
        by_table: dict[str, list[bytes]] = {}
        for number, record in enumerate(taken.records, 1):
            if not number & 511:
                pause()
            try:
                endpoint = addressed(record).endpoint
            except msgspec.MsgspecError as error:
                # It would come again in every round and hold up all that stand behind it.
                logger(__name__).error(
                    "record of the prediction log not readable; it is left out",
                    batch=taken.name,
                    bytes=len(record),
                    error=str(error),
                )
                continue
            by_table.setdefault(table_of(endpoint), []).append(record)
        for table, records in by_table.items():
            spool = self._open.get(table)
            if spool is None:
                spool = self._open[table] = self._spools.open(table)
            data = PackedRecords(records, pause=pause)
            spool.keep(data, data.size, taken.name)


def _breathe(ring: RingReader) -> None:
    """Leave the core to the worker beside, unless its ring is nearly full.

    Whatever the priorities, a scheduler may let a busy process run on to its next tick (4 ms
    on many kernels): requests that wait so long show at the 99th percentile. Work in pieces
    of a fraction of a millisecond does not.
    """
    if not ring.crowded:
        time.sleep(_PAUSE_SECONDS)
