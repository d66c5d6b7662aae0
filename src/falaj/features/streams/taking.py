"""What becomes of records: rows of the stream's table, or dead letters with their reason.

It is decided from the log alone, row by row in the order of the partition, so that the way
online and the way to the lake, whichever process goes it and however often, come to the
same.

The *watermark* of a partition is the newest event time that any earlier row of it had. It
never moves back, and an event time more than five minutes ahead of the instant at which
its record was appended does not move it: one clock that runs wild must not make everybody
else late. An event is late for a view if it is more than the view's ``allowed_lateness``
behind the watermark of its partition (events of one key are of one partition). How far an
event was behind stands beside it in the column ``late_by_us`` of the table, null if it was
not; ``ViewPlan.events`` leaves late events out by it, online and offline alike. An event
that is late for every view of its stream is not in the table at all. Each is a dead
letter, once for each view that it was late for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Ints, instants
from falaj.features.streams.decoding import decoded, shown, shown_payload
from falaj.features.streams.plans import StreamPlan
from falaj.features.streams.progress import NEVER
from falaj.features.views import LATE_BY
from falaj.ingest.ports import Record
from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import FalajError

AHEAD_US = 5 * 60 * 1_000_000
"""How far ahead of its record an event time may be and still move the watermark."""
LATE, CONTRACT, UNREADABLE = "late", "contract", "unreadable"
_TIME = pa.timestamp("us", "UTC")


Dead = Callable[[int | None, str, str, str], None]
"""Sets a row aside: its number, a code, a reason, and what it holds."""


@dataclass(frozen=True)
class DeadLetter:
    """One row (or a whole record, ``row`` None) that a stream, or a view of it, left out."""

    offset: int
    row: int | None
    view: str | None
    code: str
    reason: str
    payload: str
    appended_at: int


@dataclass
class Taken:
    """What some records of one partition hold.

    ``rows`` are those that at least one view takes (or all, without views), in order.
    """

    rows: pa.Table | None
    dead: list[DeadLetter]
    watermark_us: int
    n_records: int
    n_late: int = 0
    places: tuple[Ints, Ints, Ints] | None = None
    """Of each row taken: the offset of its record, its number in it, when that was appended."""

    @property
    def n_rows(self) -> int:
        """The rows taken."""
        return 0 if self.rows is None else int(self.rows.num_rows)


@dataclass
class _Piece:
    """Rows of one record that fit the stream."""

    record: Record
    rows: pa.Table
    numbers: Ints


@dataclass
class _Pieces:
    fit: list[_Piece] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


def taken(
    plan: StreamPlan,
    records: Sequence[Record],
    watermark_us: int,
    *,
    held: Mapping[int, pa.Table] | None = None,
    skipped: Collection[int] = (),
    now: datetime,
) -> Taken:
    """What records are, given the watermark before the first of them.

    Args:
        records: of one partition, in order, none left out.
        held: rows of records by offset that were fitted to the plan already.
        skipped: offsets of records that repeat an earlier push.
        now: for contracts.
    """
    pieces = _Pieces()
    for record in records:
        if record.offset not in skipped:
            rows = None if held is None else held.get(record.offset)
            _read(plan, record, rows, pieces, now)
    done = Taken(None, pieces.dead, watermark_us, len(records))
    if pieces.fit:
        tables = [piece.rows for piece in pieces.fit]
        rows = (
            tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
        )
        sizes = [len(piece.numbers) for piece in pieces.fit]
        done.places = (
            np.repeat([piece.record.offset for piece in pieces.fit], sizes),
            np.concatenate([piece.numbers for piece in pieces.fit]),
            np.repeat([piece.record.appended_at for piece in pieces.fit], sizes),
        )
        done.rows = _judged(plan, _recorded(plan, rows, done.places[2]), done)
    return done


def refused(batch: Taken, error: FalajError) -> Taken:
    """The batch with all of its rows set aside: their table does not take them."""
    dead, rows = list(batch.dead), batch.rows
    if rows is not None and batch.places is not None:
        listed = (part.tolist() for part in batch.places)
        for row, offset, number, at in zip(rows.to_pylist(), *listed, strict=True):
            row.pop(LATE_BY, None)
            dead.append(DeadLetter(offset, number, None, error.code, str(error), shown(row), at))
    return Taken(None, dead, batch.watermark_us, batch.n_records, batch.n_late)


def _read(
    plan: StreamPlan, record: Record, held: pa.Table | None, pieces: _Pieces, now: datetime
) -> None:
    def dead(row: int | None, code: str, reason: str, payload: str) -> None:
        pieces.dead.append(
            DeadLetter(record.offset, row, None, code, reason, payload, record.appended_at)
        )

    if held is None:
        try:
            batch = decoded(record, plan.types)
        except FalajError as error:
            dead(None, UNREADABLE, str(error), shown_payload(record))
            return
        rows = pa.Table.from_batches([batch])
    else:
        rows = held
    numbers = np.arange(rows.num_rows)
    if held is None:
        fitting = _fitting(plan, rows, dead)
        if fitting is None:
            return
        rows, numbers = fitting
        rows, numbers = _unbroken(plan, rows, numbers, dead, now)
    if rows.num_rows:
        pieces.fit.append(_Piece(record, rows, numbers))


def _fitting(plan: StreamPlan, rows: pa.Table, dead: Dead) -> tuple[pa.Table, Ints] | None:
    """Rows as the stream has them, with their numbers; None if none fits."""
    try:
        return plan.fitted(rows), np.arange(rows.num_rows)
    except FalajError as error:
        if rows.num_rows == 1:
            dead(0, error.code, str(error), shown(rows.to_pylist()[0]))
            return None
    good, numbers = [], []
    for number in range(rows.num_rows):
        one = rows.slice(number, 1)
        try:
            good.append(plan.fitted(one))
            numbers.append(number)
        except FalajError as error:
            dead(number, error.code, str(error), shown(one.to_pylist()[0]))
    return (pa.concat_tables(good), np.array(numbers, np.int64)) if good else None


def _unbroken(
    plan: StreamPlan, rows: pa.Table, numbers: Ints, dead: Dead, now: datetime
) -> tuple[pa.Table, Ints]:
    """The rows that break no contract, with their numbers."""
    broken = plan.contracts.broken(rows, now) if plan.contracts is not None else []
    if not broken:
        return rows, numbers
    for place, reason in broken:
        row = shown(rows.slice(place, 1).to_pylist()[0])
        dead(int(numbers[place]), CONTRACT, f"It breaks the contract: {reason}.", row)
    kept = np.setdiff1d(np.arange(rows.num_rows), [place for place, _ in broken])
    return rows.take(pa.array(kept)), numbers[kept]


def _recorded(plan: StreamPlan, rows: pa.Table, appended: Ints) -> pa.Table:
    """The rows with the instant of their record where they do not say when they were recorded."""
    name = plan.stream.recorded_at if plan.stream is not None else None
    if name is None or not rows.column(name).null_count:
        return rows
    filled = pc.coalesce(rows.column(name), pa.array(appended, pa.int64()).cast(_TIME))
    return rows.set_column(rows.schema.get_field_index(name), name, filled)


def _judged(plan: StreamPlan, rows: pa.Table, done: Taken) -> pa.Table:
    """Rows with how late they were; moves the watermark on and sets late events aside."""
    if plan.event_time is None or done.places is None:
        return rows
    offsets, numbers, appended = done.places
    if rows.num_rows == 1 and not plan.judges_lateness:
        value = rows.column(plan.event_time)[0].cast(_TIME).value
        if value is not None and done.watermark_us < value <= int(appended[0]) + AHEAD_US:
            done.watermark_us = value
        return rows
    time = instants(rows.column(plan.event_time), plan.event_time)
    moving = np.where(time.valid & (time.values <= appended + AHEAD_US), time.values, NEVER)
    newest = np.maximum(np.maximum.accumulate(moving), done.watermark_us)
    before = np.concatenate([[done.watermark_us], newest[:-1]])
    done.watermark_us = int(newest[-1])
    if not plan.judges_lateness:
        return rows
    behind = time.valid & (time.values < before)
    late_by = np.where(behind, before - np.where(behind, time.values, 0), 0)
    rows = rows.append_column(LATE_BY, pa.array(late_by, pa.int64(), mask=late_by == 0))
    for_all = np.ones(len(late_by), np.bool_)
    for view in plan.views:
        if view.lateness_us is None:
            for_all[:] = False
            continue
        late = late_by > view.lateness_us
        for_all &= late
        for place in np.flatnonzero(late).tolist():
            by, when = late_by[place] / 1e6, from_microseconds(int(before[place])).isoformat()
            reason = f"It came {by:g} s behind the watermark {when}."
            row = shown(rows.slice(place, 1).drop_columns(LATE_BY).to_pylist()[0])
            letter = DeadLetter(
                int(offsets[place]), int(numbers[place]), view.name, LATE, reason, row,
                int(appended[place]),
            )  # fmt: skip
            done.dead.append(letter)
            done.n_late += 1
    if not for_all.any():
        return rows
    kept = np.flatnonzero(~for_all)
    done.places = (offsets[kept], numbers[kept], appended[kept])
    return rows.take(pa.array(kept))
