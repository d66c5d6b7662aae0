"""The stream worker: takes its share of the partitions, and brings their events home.

Each round applies one batch of every partition that has something waiting: a few events
when little comes, tens of thousands when the worker is behind. Every few seconds, or when
enough rows wait, what was applied moves into the lake, on a thread of its own, so that
the way online never waits for the lake.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from falaj.features.streams.streams import Streams
from falaj.ingest.ports import Share
from falaj.kernel.clock import microseconds, monotonic
from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger

GROUP = "falaj-streams"
MARKS_KEPT = timedelta(days=90)
_IDLE_SECONDS = 0.005
_DEFINITIONS_SECONDS = 1.0
_PAUSE_SECONDS = 1.0
_HOUR = 3600.0


class StreamWorker:
    """Applies and lands the partitions that this process has its share of.

    Args:
        streams: the ways.
        lake_seconds: how often events move into the lake.
        lake_rows: or as soon as so many wait for it.

    Any number of processes may work; one that is killed loses nothing, and the others take
    its partitions over.
    """

    def __init__(
        self, streams: Streams, *, lake_seconds: float = 10.0, lake_rows: int = 500_000
    ) -> None:
        self._streams = streams
        self._lake_seconds = lake_seconds
        self._lake_rows = lake_rows
        self._log = logger(__name__)
        self._share: Share | None = None
        self._topics: dict[str, str] = {}
        self._looked = float("-inf")
        self._ill: dict[tuple[str, int], float] = {}
        self._waiting = 0
        self._mine: list[tuple[str, int]] = []
        self._landing = threading.Event()

    def run_until(self, stopped: threading.Event) -> None:
        """Work until ``stopped`` is set; then everything that was applied is landed."""
        lander = threading.Thread(target=self._land_until, args=(stopped,), name="landing")
        lander.start()
        try:
            while not stopped.is_set():
                try:
                    n_records = self.run_once()
                except Exception:  # noqa: BLE001
                    # Whatever it is: the worker must go on, and tries again.
                    self._log.exception("events wait to be applied; it is tried again")
                    stopped.wait(_PAUSE_SECONDS)
                    continue
                if not n_records:
                    stopped.wait(_IDLE_SECONDS)
        finally:
            stopped.set()
            self._landing.set()
            lander.join()
            if self._share is not None:
                self._share.close()

    def run_once(self) -> int:
        """Apply one batch of each partition that waits; returns how many records."""
        n_records = 0
        for table, partition in self._partitions():
            if self._ill.get((table, partition), 0.0) > monotonic():
                continue
            try:
                done = self._streams.applier.apply(table, partition)
            except FalajError as error:
                self._set_aside(table, partition, "cannot be applied", error)
                continue
            n_records += done.n_records
            self._waiting += done.n_rows
        if self._waiting >= self._lake_rows:
            self._landing.set()
        return n_records

    def land_once(self) -> int:
        """Move everything that was applied into the lake; returns how many records."""
        self._waiting = n_records = 0
        for table, partition in self._mine:
            try:
                upto = self._streams.applier.progress(table, partition).position
                while self._streams.lander.waits(table, partition):
                    done = self._streams.lander.land(table, partition, upto)
                    n_records += done.n_records
                    if not done.n_records or done.position >= upto:
                        break
            except FalajError as error:
                self._set_aside(table, partition, "cannot be landed", error)
        return n_records

    def _land_until(self, stopped: threading.Event) -> None:
        forgotten = monotonic()
        while not stopped.is_set():
            self._landing.wait(self._lake_seconds)
            self._landing.clear()
            self._guarded(self.land_once)
            if monotonic() - forgotten >= _HOUR:
                forgotten = monotonic()
                self._guarded(self._forget)
        self._guarded(self.land_once)

    def _forget(self) -> None:
        before = self._streams.clock.now() - MARKS_KEPT
        self._streams.forget_marks(microseconds(before))

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001
            # Whatever it is: the thread must go on, and tries again next time.
            self._log.exception("events wait for the lake; it is tried again")

    def _partitions(self) -> list[tuple[str, int]]:
        """The (table, partition) pairs of this process's share."""
        if monotonic() - self._looked >= _DEFINITIONS_SECONDS:
            self._looked = monotonic()
            self._look()
        if self._share is None:
            return []
        self._mine = [(self._topics[topic], number) for topic, number in self._share.held()]
        return self._mine

    def _look(self) -> None:
        """See which streams there are."""
        try:
            found = {self._streams.topic(table): table for table in self._streams.tables()}
        except FalajError as error:
            self._log.warning("the streams cannot be listed; it is tried again", error=str(error))
            return
        if found == self._topics:
            return
        if self._share is not None:
            self._share.close()
        self._topics = found
        self._share = self._streams.log.share(GROUP, sorted(found)) if found else None

    def _set_aside(self, table: str, partition: int, what: str, error: FalajError) -> None:
        self._ill[table, partition] = monotonic() + _PAUSE_SECONDS
        self._log.warning(
            f"events {what}; it is tried again",
            stream=table,
            partition=partition,
            error=str(error),
        )
