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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Ints, instants
from falaj.features.streams.decoding import decoded, shown, shown_payload
from falaj.features.streams.plans import StreamPlan
from falaj.features.streams.progress import NEVER
from falaj.features.streams.sealedrows import SEALED, Lost
from falaj.features.views import LATE_BY
from falaj.ingest.ports import Record
from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import FalajError, Unavailable

AHEAD_US = 5 * 60 * 1_000_000
"""How far ahead of its record an event time may be and still move the watermark."""
LATE, CONTRACT, UNREADABLE = "late", "contract", "unreadable"
WITHHELD = "withheld: the stream is about persons, and this does not say about whom"
"""Stands in a dead letter that could be sealed under nobody's key."""
_TIME = pa.timestamp("us", "UTC")


Dead = Callable[[int, str, str, Mapping[str, Any]], None]
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
    subject: str | None = None
    """The person whom the row is about, if the stream is about persons and the row tells."""


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
    n_erased: int = 0
    """Rows that were left out because the key of the person whom they are about is gone."""
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
    lost: list[tuple[Record, Lost]] = field(default_factory=list)


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
    done.n_erased = sum(len(lost.numbers) for _, lost in pieces.lost)
    unseen = _unseen(pieces.lost) if done.n_erased and plan.event_time is not None else None
    if unseen is not None and not pieces.fit:
        done.watermark_us = max(watermark_us, int(unseen.moving.max()))
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
        done.rows = _judged(plan, _recorded(plan, rows, done.places[2]), done, unseen)
    return done


def refused(plan: StreamPlan, batch: Taken, error: FalajError) -> Taken:
    """The batch with all of its rows set aside: their table does not take them."""
    dead, rows = list(batch.dead), batch.rows
    if rows is not None and batch.places is not None:
        listed = (part.tolist() for part in batch.places)
        for row, offset, number, at in zip(rows.to_pylist(), *listed, strict=True):
            row.pop(LATE_BY, None)
            told, who = shown(row), plan.named(row)
            dead.append(DeadLetter(offset, number, None, error.code, str(error), told, at, who))
    return Taken(None, dead, batch.watermark_us, batch.n_records, batch.n_late, batch.n_erased)


def _read(
    plan: StreamPlan, record: Record, held: pa.Table | None, pieces: _Pieces, now: datetime
) -> None:
    def dead(row: int, code: str, reason: str, values: Mapping[str, Any]) -> None:
        told, who, at = shown(values), plan.named(values), record.appended_at
        if plan.subject is not None and who is None:
            told, reason = WITHHELD, WITHHELD
        pieces.dead.append(DeadLetter(record.offset, row, None, code, reason, told, at, who))

    rows = held
    if rows is None:
        read = _decoded(plan, record, pieces)
        if read is None:
            return
        rows, numbers = read
        fitting = _fitting(plan, rows, numbers, dead)
        if fitting is None:
            return
        rows, numbers = _unbroken(plan, *fitting, dead, now)
    else:
        numbers = np.arange(rows.num_rows)
    if rows.num_rows:
        pieces.fit.append(_Piece(record, rows, numbers))


def _decoded(plan: StreamPlan, record: Record, pieces: _Pieces) -> tuple[pa.Table, Ints] | None:
    """The rows of a record with their numbers in it; None if it cannot be read."""
    try:
        if record.media == SEALED:
            opened = plan.sealed_rows.opened(plan.topic, record.payload)
            if len(opened.lost.numbers):
                pieces.lost.append((record, opened.lost))
            return opened.rows, opened.numbers
        rows = pa.Table.from_batches([decoded(record, plan.types)])
        return rows, np.arange(rows.num_rows)
    except Unavailable:
        raise  # of the keys: the record waits for them
    except FalajError as error:
        told, reason = shown_payload(record), str(error)
        if plan.subject is not None:
            told, reason = WITHHELD, WITHHELD
        pieces.dead.append(
            DeadLetter(record.offset, None, None, UNREADABLE, reason, told, record.appended_at)
        )
        return None


def _fitting(
    plan: StreamPlan, rows: pa.Table, numbers: Ints, dead: Dead
) -> tuple[pa.Table, Ints] | None:
    """Rows as the stream has them, with their numbers; None if none fits."""
    if not rows.num_rows and plan.subject is not None:
        return None  # all of them were lost
    try:
        return plan.fitted(rows), numbers
    except FalajError as error:
        if rows.num_rows == 1:
            dead(int(numbers[0]), error.code, str(error), rows.to_pylist()[0])
            return None
    good, kept = [], []
    for place, number in enumerate(numbers.tolist()):
        one = rows.slice(place, 1)
        try:
            good.append(plan.fitted(one))
            kept.append(number)
        except FalajError as error:
            dead(number, error.code, str(error), one.to_pylist()[0])
    return (pa.concat_tables(good), np.array(kept, np.int64)) if good else None


def _unbroken(
    plan: StreamPlan, rows: pa.Table, numbers: Ints, dead: Dead, now: datetime
) -> tuple[pa.Table, Ints]:
    """The rows that break no contract, with their numbers."""
    broken = plan.contracts.broken(rows, now) if plan.contracts is not None else []
    if not broken:
        return rows, numbers
    for place, reason in broken:
        row = rows.slice(place, 1).to_pylist()[0]
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


@dataclass(frozen=True)
class _Unseen:
    """Rows that are lost, but whose event times count for what comes behind them."""

    offsets: Ints
    numbers: Ints
    moving: Ints
    """The event time that moves the watermark, ``NEVER`` where none does."""


def _unseen(lost: Sequence[tuple[Record, Lost]]) -> _Unseen:
    sizes = [len(one.numbers) for _, one in lost]
    times = np.concatenate([one.times for _, one in lost])
    appended = np.repeat([record.appended_at for record, _ in lost], sizes)
    return _Unseen(
        np.repeat([record.offset for record, _ in lost], sizes),
        np.concatenate([one.numbers for _, one in lost]),
        np.where(times <= appended + AHEAD_US, times, NEVER),
    )


def _watermarks(
    moving: Ints, places: tuple[Ints, Ints, Ints], unseen: _Unseen | None, watermark_us: int
) -> tuple[Ints, int]:
    """The watermark before each row (n,), and behind the last one."""
    n = len(moving)
    order = np.arange(n)
    if unseen is not None:
        offsets = np.concatenate([places[0], unseen.offsets])
        numbers = np.concatenate([places[1], unseen.numbers])
        order = np.lexsort((numbers, offsets))
        moving = np.concatenate([moving, unseen.moving])[order]
    newest = np.maximum(np.maximum.accumulate(moving), watermark_us)
    before = np.empty(len(newest), np.int64)
    before[order] = np.concatenate([[watermark_us], newest[:-1]])
    return before[:n], int(newest[-1])


def _judged(plan: StreamPlan, rows: pa.Table, done: Taken, unseen: _Unseen | None) -> pa.Table:
    """Rows with how late they were; moves the watermark on and sets late events aside."""
    if plan.event_time is None or done.places is None:
        return rows
    offsets, numbers, appended = done.places
    if rows.num_rows == 1 and not plan.judges_lateness and unseen is None:
        value = rows.column(plan.event_time)[0].cast(_TIME).value
        if value is not None and done.watermark_us < value <= int(appended[0]) + AHEAD_US:
            done.watermark_us = value
        return rows
    time = instants(rows.column(plan.event_time), plan.event_time)
    moving = np.where(time.valid & (time.values <= appended + AHEAD_US), time.values, NEVER)
    before, done.watermark_us = _watermarks(moving, done.places, unseen, done.watermark_us)
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
            row = rows.slice(place, 1).drop_columns(LATE_BY).to_pylist()[0]
            who = plan.named(row)
            told = WITHHELD if plan.subject is not None and who is None else shown(row)
            letter = DeadLetter(
                int(offsets[place]), int(numbers[place]), view.name, LATE, reason, told,
                int(appended[place]), who,
            )  # fmt: skip
            done.dead.append(letter)
            done.n_late += 1
    if not for_all.any():
        return rows
    kept = np.flatnonzero(~for_all)
    done.places = (offsets[kept], numbers[kept], appended[kept])
    return rows.take(pa.array(kept))
