"""Streams, whole: pushing events, bringing them online and into the lake, saying how far."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from falaj.features.answers import Ack, Pushed, StreamStatus
from falaj.features.columns import Ints
from falaj.features.ports import OnlineStore
from falaj.features.streams.applying import Applier, Storage
from falaj.features.streams.contracts import RowContracts
from falaj.features.streams.landing import Lander
from falaj.features.streams.locks import PartitionLocks
from falaj.features.streams.memory import MemoryLog
from falaj.features.streams.plans import StreamPlan, StreamPlans
from falaj.features.streams.progress import (
    NEVER,
    marked,
    marks_prefix,
)
from falaj.features.streams.sealedrows import SEALED, SealedRows
from falaj.features.versions import AppliedViews
from falaj.ingest.contracts import Lookup
from falaj.ingest.model import Contract, ContractBroken
from falaj.ingest.ports import ARROW, EventLog
from falaj.kernel.clock import Clock, from_microseconds, microseconds
from falaj.kernel.errors import NotFound
from falaj.lake.ports import Lake
from falaj.trust.subjectciphers import SubjectCiphers

_ROWS_PER_RECORD = 20_000
_SHOWN = 3


class Streams:
    """The events of a platform on their ways.

    Args:
        definitions: the applied ones.
        lake: where events rest.
        online: where they take effect.
        storage: a view's place in the online store.
        clock: tells the time.
        log: where events stand first; without one, each push goes into the lake before
            it is acknowledged.
        locks: a folder for lock files that all processes of the machine share.
        version: see ``StreamPlans``.
        subjects: keys of persons, for streams about them.
    """

    def __init__(
        self,
        definitions: AppliedViews,
        lake: Lake,
        online: OnlineStore,
        storage: Storage,
        clock: Clock,
        *,
        log: EventLog | None = None,
        locks: Path | None = None,
        version: Callable[[], object] | None = None,
        subjects: SubjectCiphers | None = None,
    ) -> None:
        self.log: EventLog = log or MemoryLog(lambda: microseconds(clock.now()))
        self.online = online
        self.clock = clock
        self.locks = PartitionLocks(locks)
        self._lake = lake
        self._unlogged = log is None
        self._ensured: set[str] = set()
        self.plans = StreamPlans(
            definitions,
            self._schema,
            version=version,
            checker=self._checked,
            sealed_rows=SealedRows(subjects),
        )
        erasures = None if subjects is None else subjects.erasures
        self.lander = Lander(
            self.log, lake, online, self.plans, self.locks, clock, erasures=erasures
        )
        self.applier = Applier(
            self.log,
            online,
            self.plans,
            storage,
            self.locks,
            self.lander.begin,
            clock,
            erased=self.lander.erased,
        )

    # ── pushing ──────────────────────────────────────────────────────────────────────

    def push(
        self,
        table: str,
        rows: pa.Table | pa.RecordBatch,
        *,
        key: str | None = None,
        ack: Ack = Ack.ONLINE,
    ) -> Pushed:
        """Take events; see ``FeatureStore.push``."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        plan = self.plans.of(table)
        rows = plan.fitted(rows)
        self._refuse_broken(plan, rows)
        views = tuple(view.name for view in plan.views) if ack is Ack.ONLINE else ()
        pushed = Pushed(snapshot=None, views=views, n_events=rows.num_rows)
        repeated, snapshot = False, None
        parts = self._parts(plan, rows) if rows.num_rows or key is None else [(0, rows)]
        for partition, part in parts:
            if key is not None and self.applier.first_of(table, partition, key) is not None:
                repeated = True
                continue
            since = self.lander.erased(plan)
            held = self._append(plan, partition, part, key)
            last = max(held)
            if ack is Ack.ONLINE:
                self.applier.apply(table, partition, upto=last + 1, held=held, since=since)
                if key is not None:
                    first = self.applier.first_of(table, partition, key)
                    repeated |= first != min(held)
        if self._unlogged:
            snapshot = self.settle(table)
        if repeated or snapshot is not None:
            pushed = pushed.model_copy(update={"repeated": repeated, "snapshot": snapshot})
        return pushed

    def _append(
        self, plan: StreamPlan, partition: int, rows: pa.Table, key: str | None
    ) -> dict[int, pa.Table]:
        """Append rows; returns them by the offsets of their records."""
        held: dict[int, pa.Table] = {}
        starts = range(0, max(rows.num_rows, 1), _ROWS_PER_RECORD)
        parts = [rows.slice(start, _ROWS_PER_RECORD) for start in starts]
        media = ARROW if plan.subject is None else SEALED
        payloads = [plan.payload(_batch(part)) for part in parts]
        if key is None:
            last = self.log.append(plan.topic, payloads, media=media, partition=partition)
            return {last: parts[-1]}
        for number, payload in enumerate(payloads):
            mark = key if number == 0 else f"{key}\0{number}"
            offset = self.log.append(
                plan.topic, [payload], media=media, partition=partition, mark=mark
            )
            held[offset] = parts[number]
        return held

    def _refuse_broken(self, plan: StreamPlan, rows: pa.Table) -> None:
        broken = plan.contracts.broken(rows, self.clock.now()) if plan.contracts else []
        if broken:
            told = "; ".join(f"row {row}: {reason}" for row, reason in broken[:_SHOWN])
            raise ContractBroken(
                f"{len(broken)} of {rows.num_rows} rows for {plan.table!r} break its contract: "
                f"{told}.",
                hint="Nothing was written; correct the rows, or the contract.",
            )

    def _parts(self, plan: StreamPlan, rows: pa.Table) -> list[tuple[int, pa.Table]]:
        """The rows by partition."""
        n = self.n_partitions(plan.table)
        if not rows.num_rows:
            return []
        if n == 1:
            return [(0, rows)]
        owner = _partition_of(rows, plan.stream.key if plan.stream else (), n)
        return [
            (number, rows.take(pa.array(np.flatnonzero(owner == number))))
            for number in np.unique(owner).tolist()
        ]

    # ── where they are ───────────────────────────────────────────────────────────────

    def n_partitions(self, table: str) -> int:
        """How many partitions a stream's topic has; it is made if it is not there."""
        plan = self.plans.of(table)
        if plan.topic not in self._ensured:
            self.log.ensure(plan.topic, plan.n_partitions)
            self._ensured.add(plan.topic)
        return self.log.partitions(plan.topic)

    def tables(self) -> list[str]:
        """Every stream: those declared, and the tables of views that are no foreign ones."""
        return self.plans.tables()

    def topic(self, table: str) -> str:
        """The topic of a stream; it is made if it is not there."""
        self.n_partitions(table)
        return self.plans.of(table).topic

    def settle(self, table: str) -> int | None:
        """Bring everything that the log holds of a stream online and into the lake, now.

        Quick if nothing waits. Returns the lake snapshot of the last rows, if there were any.
        """
        snapshot = None
        for number in range(self.n_partitions(table)):
            while self.lander.waits(table, number):
                end = self.log.end(self.plans.of(table).topic, number)
                self.applier.apply(table, number, upto=end)
                done = self.lander.land(table, number, end)
                snapshot = done.snapshot or snapshot
                if not done.n_records:
                    break
        return snapshot

    def status(self, table: str) -> list[StreamStatus]:
        """How far each partition of a stream is."""
        plan, now = self.plans.of(table), microseconds(self.clock.now())
        found = []
        for number in range(self.n_partitions(table)):
            progress = self.applier.progress(table, number)
            end = self.log.end(plan.topic, number)
            begin = self.log.begin(plan.topic, number)
            landed = self.lander.position(table, number)[0]
            waiting = self.log.read(plan.topic, number, progress.position, max_bytes=1)
            age = max(now - waiting[0].appended_at, 0) / 1e6 if waiting else 0.0
            known = progress.watermark_us != NEVER
            begun = {fed.storage: fed.since for fed in progress.fed}
            found.append(
                StreamStatus(
                    stream=table,
                    partition=number,
                    watermark=from_microseconds(progress.watermark_us) if known else None,
                    n_applied=progress.n_rows,
                    n_late=progress.n_late,
                    n_dead=progress.n_dead,
                    lag_records=max(end - progress.position, 0) if waiting else 0,
                    lag_seconds=age,
                    lake_lag_records=max(progress.position - max(landed, begin), 0),
                    partial_views=tuple(
                        view.name for view in plan.views if begun.get(view.storage_id, 0) > 0
                    ),
                    n_erased=progress.n_erased,
                )
            )
        return found

    def forget_marks(self, before_us: int) -> int:
        """Forget the idempotency keys of pushes before an instant; returns how many."""
        gone: list[bytes] = []
        keys = list(self.online.keys(marks_prefix()))
        for start in range(0, len(keys), 10_000):
            some = keys[start : start + 10_000]
            for key, row in zip(some, self.online.read(some), strict=True):
                if row is not None and marked(row)[1] < before_us:
                    gone.append(key)
        return self.online.forget(gone) if gone else 0

    # ── what plans ask ───────────────────────────────────────────────────────────────

    def _schema(self, table: str) -> Mapping[str, pa.DataType] | None:
        try:
            return {field.name: field.type for field in self._lake.schema(table)}
        except NotFound:
            return None

    def _checked(self, contracts: Sequence[Contract]) -> RowContracts | None:
        return RowContracts(contracts, self._lookup)

    @property
    def _lookup(self) -> Lookup:
        def look_up(table: str, columns: Sequence[str]) -> pa.Table | None:
            try:
                return self._lake.scan(table, columns=columns)
            except NotFound:
                return None

        return look_up


def _batch(rows: pa.Table) -> pa.RecordBatch:
    """A table as one batch."""
    columns = [column.combine_chunks() for column in rows.columns]
    flat = [c.chunk(0) if isinstance(c, pa.ChunkedArray) and c.num_chunks else c for c in columns]
    empty = [
        pa.array([], field.type) if isinstance(one, pa.ChunkedArray) else one
        for one, field in zip(flat, rows.schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(empty, schema=rows.schema)


def _partition_of(rows: pa.Table, key: Sequence[str], n: int) -> Ints:
    """(n_rows,) the partition of each row, by its key; the same in every process for ever."""
    if not key:
        return np.zeros(rows.num_rows, np.int64)
    values = zip(*(rows.column(name).to_pylist() for name in key), strict=True)
    return np.array([zlib.crc32("\0".join(map(str, row)).encode()) % n for row in values], np.int64)
