"""The way to the lake: records become rows of their table, and dead letters, in batches.

Rows, dead letters and the position up to which they go are one lake transaction, whose
idempotency key names where it begins: whoever tries the same again, or is slow and comes
late, writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from falaj.features.ports import Merge, OnlineStore, Write
from falaj.features.streams.locks import PartitionLocks
from falaj.features.streams.plans import StreamPlan, StreamPlans
from falaj.features.streams.progress import (
    NEVER,
    Progress,
    landed_key,
    mark_key,
    marked,
)
from falaj.features.streams.taking import DeadLetter, Taken, refused, taken
from falaj.ingest.ports import EventLog, Record
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict, NotFound
from falaj.lake.model import SchemaMismatch
from falaj.lake.personal import ErasedWhileCopied, n_erasures, record_rule, rule_of
from falaj.lake.ports import Lake

POSITIONS = "falaj_stream_positions"
"""The lake table of positions: stream, partition, position, watermark (null: none yet)."""
_TIME = pa.timestamp("us", "UTC")
MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class Landing:
    """What one round has brought into the lake."""

    position: int
    snapshot: int | None = None
    n_records: int = 0


class Lander:
    """Moves partitions into the lake.

    Args:
        log: where records are.
        lake: where they go.
        online: remembers which records repeat an earlier push.
        plans: the streams.
        locks: keep landers of one machine out of each other's way.
        clock: for contracts.
        erasures: a number that grows whenever a person is erased.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        online: OnlineStore,
        plans: StreamPlans,
        locks: PartitionLocks,
        clock: Clock,
        *,
        erasures: Callable[[], int] | None = None,
    ) -> None:
        self._log = log
        self._lake = lake
        self._online = online
        self._plans = plans
        self._locks = locks
        self._clock = clock
        self._erasures = erasures
        self._known: dict[tuple[str, int], tuple[int, int]] = {}

    def begin(self, table: str, partition: int) -> Progress:
        """Where a partition begins that has no progress online: behind what the lake holds."""
        position, watermark = self.position(table, partition)
        return Progress(position=position, watermark_us=watermark)

    def position(self, table: str, partition: int, snapshot: int | None = None) -> tuple[int, int]:
        """The position and the watermark up to which the lake holds a partition."""
        try:
            rows = self._lake.scan(
                POSITIONS,
                where="stream = $stream AND partition = $partition",
                parameters={"stream": table, "partition": partition},
                snapshot=snapshot,
            )
        except NotFound:
            return 0, NEVER
        best = (0, NEVER)
        for row in rows.to_pylist():
            if row["stream"] == table and row["partition"] == partition:
                watermark = row["watermark_us"]
                best = max(best, (row["position"], NEVER if watermark is None else watermark))
        return best

    def waits(self, table: str, partition: int) -> bool:
        """False if the lake holds everything that is in the log; quick."""
        topic = self._plans.of(table).topic
        (row,) = self._online.read([landed_key(table, partition)])
        landed = 0 if row is None else int.from_bytes(row, "big")
        return landed < self._log.end(topic, partition)

    def land(self, table: str, partition: int, upto: int) -> Landing:
        """Bring one batch of what was applied online, before ``upto``, into the lake.

        Raises:
            LimitExceeded, Unavailable: the lake takes no writes; nothing is lost.
        """
        with self._locks.held(f"land-{table}-{partition}"):
            position, watermark = self._known.get((table, partition)) or self.position(
                table, partition
            )
            if position >= upto:
                self._told(table, partition, position)
                return Landing(position)
            plan = self._plans.of(table)
            while True:
                since, sealed_since = self.erased(plan), n_erasures(self._lake)
                records = [
                    record
                    for record in self._log.read(
                        plan.topic, partition, position, max_bytes=MOST_BYTES
                    )
                    if record.offset < upto
                ]
                if not records:
                    return Landing(position)
                skipped = self.repeated(table, records)
                now = self._clock.now()
                batch = taken(plan, records, watermark, skipped=skipped, now=now)
                # Rows that were opened before an erasure must not be sealed anew behind it.
                if self.erased(plan) != since:
                    continue
                with suppress(ErasedWhileCopied):
                    return self._write(
                        plan, partition, position, records, batch, since=sealed_since
                    )

    def erased(self, plan: StreamPlan) -> int | None:
        """How many persons have been erased, if a stream is about persons."""
        return None if self._erasures is None or plan.subject is None else self._erasures()

    def _write(
        self,
        plan: StreamPlan,
        partition: int,
        position: int,
        records: Sequence[Record],
        batch: Taken,
        *,
        since: int,
    ) -> Landing:
        table = plan.table
        end = records[-1].offset + 1
        where = _position(table, partition, end, batch.watermark_us)
        key = f"stream/{table}/{partition}/{position}"
        try:
            snapshot = self._append(plan, partition, batch, where, key, since=since)
        except ErasedWhileCopied:
            raise
        except Conflict:  # another lander has written this range, up to another end
            snapshot = None
        position, watermark = self.position(table, partition)
        self._known[table, partition] = (position, watermark)
        self._told(table, partition, position)
        self._log.release(plan.topic, partition, position)
        return Landing(position, snapshot, len(records))

    def _append(
        self,
        plan: StreamPlan,
        partition: int,
        batch: Taken,
        where: pa.Table,
        key: str,
        *,
        since: int,
    ) -> int:
        """Write one batch; returns the snapshot."""
        for rule in plan.rules:
            if rule.table == plan.dead_letters or self._tells_the_rule(plan):
                record_rule(self._lake, rule)
        for attempt in range(2):
            tables, dead = {POSITIONS: where}, batch.dead
            if batch.rows is not None and batch.rows.num_rows:
                tables[plan.table] = _fitted(plan, batch.rows)
            if dead:
                tables[plan.dead_letters] = _dead(plan.table, partition, dead)
            try:
                snapshot = self._lake.append_many(tables, key=key, add_columns=True, since=since)
            except SchemaMismatch as error:
                self._plans.forget(plan.table)
                plan = self._plans.of(plan.table)
                if attempt:
                    batch = refused(plan, batch, error)
            else:
                new = tables.get(plan.table)
                if new is not None and set(new.column_names) != set(plan.stands):
                    self._plans.forget(plan.table)
                return snapshot.id
        return self._append(plan, partition, batch, where, key, since=since)

    def _tells_the_rule(self, plan: StreamPlan) -> bool:
        """Whether it is the stream that says what of its table is personal: not if a source of
        the same table has said it already."""
        declared = plan.stream is not None and plan.stream.subject is not None
        return declared or rule_of(self._lake, plan.table) is None

    def repeated(self, table: str, records: Sequence[Record]) -> set[int]:
        """The offsets of records that repeat an earlier push, as the way online has found."""
        told = [
            (mark_key(table, record.partition, record.mark), record.offset)
            for record in records
            if record.mark is not None
        ]
        stored = self._online.read([key for key, _ in told]) if told else []
        return {
            offset
            for (_, offset), row in zip(told, stored, strict=True)
            if row is not None and marked(row)[0] != offset
        }

    def _told(self, table: str, partition: int, position: int) -> None:
        after = position.to_bytes(8, "big")
        self._online.write(Write(merges=[Merge([landed_key(table, partition)], lambda _: [after])]))


def _fitted(plan: StreamPlan, rows: pa.Table) -> pa.Table:
    """The rows, with a column of nulls for each of the table's that they lack."""
    for name, kind in plan.stands.items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, kind))
    return rows


def _position(table: str, partition: int, position: int, watermark: int) -> pa.Table:
    known = None if watermark == NEVER else watermark
    return pa.table(
        {
            "stream": pa.array([table], pa.string()),
            "partition": pa.array([partition], pa.int64()),
            "position": pa.array([position], pa.int64()),
            "watermark_us": pa.array([known], pa.int64()),
        }
    )


def _dead(table: str, partition: int, letters: Sequence[DeadLetter]) -> pa.Table:
    n = len(letters)
    return pa.table(
        {
            "stream": pa.array([table] * n, pa.string()),
            "partition": pa.array([partition] * n, pa.int64()),
            "offset": pa.array([one.offset for one in letters], pa.int64()),
            "row": pa.array([one.row for one in letters], pa.int64()),
            "view": pa.array([one.view for one in letters], pa.string()),
            "code": pa.array([one.code for one in letters], pa.string()),
            "reason": pa.array([one.reason for one in letters], pa.string()),
            "payload": pa.array([one.payload for one in letters], pa.string()),
            "subject": pa.array([one.subject for one in letters], pa.string()),
            "appended_at": pa.array([one.appended_at for one in letters], pa.int64()).cast(_TIME),
        }
    )
