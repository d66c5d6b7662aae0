"""The way online: records of the log become rows and tiles of every view of their stream.

Whoever applies reads the partition's progress, then the records behind it, and writes
their effects and the new progress in one write, which is undone if the progress was no
longer what had been read. So the worker and any number of pushing processes may apply the
same partition: each record has its effect once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from falaj.features.ports import Merge, OnlineStore, Write
from falaj.features.streams.locks import PartitionLocks
from falaj.features.streams.plans import StreamPlan, StreamPlans
from falaj.features.streams.progress import (
    Fed,
    Overtaken,
    Progress,
    advance,
    mark_key,
    mark_row,
    marked,
    progress_key,
    progress_of,
)
from falaj.features.streams.taking import Taken, taken
from falaj.features.views import ViewPlan
from falaj.features.viewstorage import ViewStorage
from falaj.ingest.ports import EventLog, Record
from falaj.kernel.clock import Clock, microseconds
from falaj.kernel.errors import Corrupt
from falaj.kernel.telemetry import logger
from falaj.trust.subjectciphers import ErasedMeanwhile

Begin = Callable[[str, int], Progress]
"""Where a partition begins that has no progress online: behind what the lake holds."""
Storage = Callable[[ViewPlan], ViewStorage]
_ATTEMPTS = 100


@dataclass(frozen=True)
class Applied:
    """What one round has applied; ``n_records`` 0 says that nothing waited."""

    progress: Progress
    n_records: int = 0
    n_rows: int = 0


class Applier:
    """Applies partitions to the online store.

    Args:
        log: where records are.
        online: where they take effect.
        plans: the streams.
        storage: a view's place in the online store.
        locks: keep appliers of one machine out of each other's way.
        begin: where to begin without progress.
        clock: tells the time of a write.
        erased: how many persons have been erased, if a stream is about persons.
    """

    def __init__(
        self,
        log: EventLog,
        online: OnlineStore,
        plans: StreamPlans,
        storage: Storage,
        locks: PartitionLocks,
        begin: Begin,
        clock: Clock,
        *,
        erased: Callable[[StreamPlan], int | None],
    ) -> None:
        self._log = log
        self._online = online
        self._plans = plans
        self._storage = storage
        self._locks = locks
        self._begin = begin
        self._unbegun: dict[tuple[str, int], Progress] = {}
        self._clock = clock
        self._erased = erased

    def progress(self, table: str, partition: int) -> Progress:
        """How far a partition is applied."""
        (row,) = self._online.read([progress_key(table, partition)])
        return progress_of(row) or self._begin(table, partition)

    def apply(
        self,
        table: str,
        partition: int,
        *,
        upto: int | None = None,
        held: Mapping[int, pa.Table] | None = None,
        since: int | None = None,
        max_bytes: int = 8 << 20,
    ) -> Applied:
        """Apply what waits: one batch of it, or everything before ``upto``.

        Args:
            upto: the offset to reach.
            held: fitted rows of some of the records, by offset.
            since: ``Lander.erased`` before those were appended.
            max_bytes: how much to read for one write.

        Raises:
            LimitExceeded, Unavailable: the online store takes no writes; nothing is lost.
            Corrupt: the log lacks records that were applied, or is damaged.
        """
        name = f"apply-{table}-{partition}"
        n_records = n_rows = 0
        while True:
            with self._locks.held(name):
                done = self._round(table, partition, upto, held or {}, since, max_bytes)
            n_records, n_rows = n_records + done.n_records, n_rows + done.n_rows
            reached = upto is None or done.progress.position >= upto or not done.n_records
            if reached:
                return Applied(done.progress, n_records, n_rows)

    def _round(
        self,
        table: str,
        partition: int,
        upto: int | None,
        held: Mapping[int, pa.Table],
        since: int | None,
        max_bytes: int,
    ) -> Applied:
        key = progress_key(table, partition)
        for _ in range(_ATTEMPTS):
            plan = self._plans.of(table)
            (row,) = self._online.read([key])
            before = progress_of(row)
            unbegun = before is None
            if before is None:
                before = self._still_unbegun(plan, table, partition)
            if upto is not None and before.position >= upto:
                return Applied(before)
            since = self._erased(plan) if since is None else since
            records = self._log.read(plan.topic, partition, before.position, max_bytes=max_bytes)
            if not records:
                self._check(plan, partition, before)
                if unbegun:
                    self._unbegun[table, partition] = before
                return Applied(before)
            try:
                return self._written(plan, key, row, before, records, held, since)
            except Overtaken:
                continue
            except ErasedMeanwhile:
                held, since = {}, None  # from the log, which gives no erased person's rows
        raise Overtaken(
            f"Other processes apply the events of {table!r} faster than this one.",
            hint="Try again.",
        )

    def _still_unbegun(self, plan: StreamPlan, table: str, partition: int) -> Progress:
        """Where a partition without progress begins; the lake is asked only if that can matter:
        while nothing was pushed there is nothing to apply, wherever it begins."""
        known = self._unbegun.get((table, partition))
        if known is not None and self._log.end(plan.topic, partition) <= known.position:
            return known
        return self._begin(table, partition)

    def _check(self, plan: StreamPlan, partition: int, progress: Progress) -> None:
        end, position = self._log.end(plan.topic, partition), progress.position
        # Asked in this order: where a log begins is looked up in its folder, which an idle
        # worker need not do many times a second.
        if position > end and position > self._log.begin(plan.topic, partition):
            raise Corrupt(
                f"{progress.position} records of {plan.topic!r} were applied, but its log ends "
                f"at {end}.",
                hint="Restore the event log from a backup of the same time as the online store.",
            )

    def _written(
        self,
        plan: StreamPlan,
        key: bytes,
        row: bytes | None,
        before: Progress,
        records: Sequence[Record],
        held: Mapping[int, pa.Table],
        since: int | None,
    ) -> Applied:
        marks, skipped = self._marks(plan.table, records)
        batch = taken(
            plan, records, before.watermark_us, held=held, skipped=skipped, now=self._clock.now()
        )
        told_of_erased(plan.table, batch)
        after = progressed(plan, before, records, batch)
        merges = [advance(key, row, after)]
        if marks:
            rows = list(marks.values())
            merges.append(Merge(list(marks), lambda _: rows))
        newer, effects = self.effects(plan.views, batch, since)
        # The log holds all of it until a later, durable write has told that the lake does.
        self._online.write(Write(newer=newer, merges=[*merges, *effects], durable=False))
        return Applied(after, len(records), batch.n_rows)

    def effects(
        self, views: Sequence[ViewPlan], batch: Taken, since: int | None = None
    ) -> tuple[list[tuple[bytes, bytes]], list[Merge]]:
        """What a batch writes into the rows of views; ``since`` and what is raised: see
        ``ViewStorage.latest_rows``."""
        newer: list[tuple[bytes, bytes]] = []
        merges: list[Merge] = []
        if batch.rows is None or not batch.rows.num_rows:
            return newer, merges
        now = microseconds(self._clock.now())
        for view in views:
            storage, events = self._storage(view), view.events(batch.rows)
            if not len(events):
                continue
            newer += storage.latest_rows(events, since)
            applier = storage.applier(events, now, since)
            if applier is not None:
                merges.append(applier(0))
        return newer, merges

    def _marks(self, table: str, records: Sequence[Record]) -> tuple[dict[bytes, bytes], set[int]]:
        """New rows of marks, and the offsets of records that repeat an earlier one."""
        told = [
            (mark_key(table, record.partition, record.mark), record)
            for record in records
            if record.mark is not None
        ]
        if not told:
            return {}, set()
        stored = self._online.read([key for key, _ in told])
        new: dict[bytes, bytes] = {}
        skipped: set[int] = set()
        for (key, record), row in zip(told, stored, strict=True):
            if key in new or (row is not None and marked(row)[0] != record.offset):
                skipped.add(record.offset)
            else:
                new[key] = mark_row(record.offset, record.appended_at)
        return new, skipped

    def first_of(self, table: str, partition: int, mark: str) -> int | None:
        """The offset of the record that a mark stands for, once that was applied."""
        (row,) = self._online.read([mark_key(table, partition, mark)])
        return None if row is None else marked(row)[0]


def progressed(
    plan: StreamPlan, before: Progress, records: Sequence[Record], batch: Taken
) -> Progress:
    """The progress after a batch."""
    since = {fed.storage: fed.since for fed in before.fed}
    first = 0 if before.position == 0 else records[0].offset
    return Progress(
        position=records[-1].offset + 1,
        watermark_us=batch.watermark_us,
        n_records=before.n_records + len(records),
        n_rows=before.n_rows + batch.n_rows,
        n_late=before.n_late + batch.n_late,
        n_dead=before.n_dead + len(batch.dead) - batch.n_late,
        appended_at=records[-1].appended_at,
        fed=tuple(Fed(storage, since.get(storage, first)) for storage in plan.storages),
        n_erased=before.n_erased + batch.n_erased,
    )


def told_of_erased(table: str, batch: Taken) -> None:
    """Say in the log that rows were left out, because the persons were erased."""
    if batch.n_erased:
        logger(__name__).info(
            "events of erased persons left out", stream=table, rows=batch.n_erased
        )
