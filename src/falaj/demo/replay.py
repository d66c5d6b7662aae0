"""History, happening again: events and requests merged in the order of time.

The replay is cut into *ticks* of equal length. A tick first hands over what has happened
since the one before, then what is asked during it, so that no request is answered before
what was known to it has been pushed. Ticks in which nothing is asked are merged into the
next one.

Within a tick events and requests are not interleaved: that would take a push for every
request. Nothing is lost by it where window views keep a head of at least one tick, since
such a view answers for any instant in its head exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import InvalidInput

Instants = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Rows that become known as time goes on.

    Args:
        table: where they are pushed to.
        rows: n rows in any order.
        event_time: the column of instants at which they become known.
        latest: True if views read only the newest row of an entity. Such rows are handed
            over when they are known at the beginning of a tick, because a newer value would
            hide the older one from a request in the middle of it.
    """

    table: str
    rows: pa.Table
    event_time: str
    latest: bool = False


@dataclass(frozen=True)
class Tick:
    """One step of the replay.

    ``events`` became known since the tick before and by ``ends_at``, by table, each in the
    order of time; tables without news are absent. ``requests`` are asked at or after
    ``starts_at`` and before ``ends_at``, in the order of time.
    """

    starts_at: datetime
    ends_at: datetime
    events: Mapping[str, pa.Table]
    requests: pa.Table

    @property
    def n_events(self) -> int:
        """How many rows there are to push."""
        return sum(rows.num_rows for rows in self.events.values())


class Replay:
    """The ticks of a time; ``len`` tells how many, each iteration begins anew.

    Args:
        streams: what becomes known.
        requests: what is asked, any columns.
        asked_at: the column of ``requests`` that tells when.
        begin, end: requests of ``[begin, end)`` are asked; events after ``begin`` and by
            ``end`` are handed over. What was known by ``begin`` is there already.
        span: the length of a tick.

    Raises:
        InvalidInput: a column of instants is missing, is not one, or holds a null; or the
            end is not after the beginning.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        requests: pa.Table,
        *,
        asked_at: str,
        begin: datetime,
        end: datetime,
        span: timedelta = timedelta(hours=1),
    ) -> None:
        self._begin, self._end = microseconds(begin), microseconds(end)
        self._span = span // timedelta(microseconds=1)
        if self._begin >= self._end or self._span <= 0:
            raise InvalidInput(
                f"There is no time to replay from {begin} to {end} by {span}.",
                hint="Let the end be after the beginning, and a tick longer than nothing.",
            )
        self._streams = [(stream, *_in_order(stream.rows, stream.event_time)) for stream in streams]
        self._requests, asked = _in_order(requests, asked_at)
        first, last = np.searchsorted(asked, [self._begin, self._end])
        self._requests = self._requests.slice(first, last - first)
        self._asked = asked[first:last]
        self._ticks = np.unique((self._asked - self._begin) // self._span)

    def __len__(self) -> int:
        return len(self._ticks) + 1

    @property
    def n_requests(self) -> int:
        """How many requests are asked in all."""
        return len(self._asked)

    def __iter__(self) -> Iterator[Tick]:
        places = [
            int(np.searchsorted(instants, self._begin, side="right"))
            for _stream, _rows, instants in self._streams
        ]
        for number in self._ticks.tolist():
            starts = self._begin + number * self._span
            yield self._tick(starts, min(starts + self._span, self._end), places)
        # What happens after the last request: the labels of the last flights, above all.
        yield self._tick(self._end, self._end, places)

    def _tick(self, starts: int, ends: int, places: list[int]) -> Tick:
        events: dict[str, pa.Table] = {}
        for i, (stream, rows, instants) in enumerate(self._streams):
            known_by = starts if stream.latest else ends
            stop = int(np.searchsorted(instants, known_by, side="right"))
            if stop > places[i]:
                events[stream.table] = rows.slice(places[i], stop - places[i])
                places[i] = stop
        first, last = np.searchsorted(self._asked, [starts, ends])
        return Tick(
            starts_at=from_microseconds(starts),
            ends_at=from_microseconds(ends),
            events=events,
            requests=self._requests.slice(first, last - first),
        )


def sampled(
    requests: pa.Table,
    *,
    asked_at: str,
    span: timedelta = timedelta(hours=1),
    spans: float,
    rows: float,
    seed: int = 7,
) -> pa.Table:
    """A fair sample of requests that falls into few ticks: whole ticks first, then rows in them.

    Every request has the same chance, ``spans * rows``, so that rates over the sample
    estimate those over all.

    Args:
        requests: n rows, in any order; which are drawn depends on it.
        asked_at: their column of instants.
        span: the length of a tick; ticks are counted from 1970.
        spans: the share of the ticks to draw, in (0, 1].
        rows: the share of each drawn tick's rows, in (0, 1].
        seed: the same seed draws the same rows.
    """
    instants = _instants(requests, asked_at)
    numbers, tick = np.unique(instants // (span // timedelta(microseconds=1)), return_inverse=True)
    draw = np.random.default_rng(seed)
    drawn = draw.random(len(numbers)) < spans
    kept = drawn[tick] & (draw.random(len(instants)) < rows)
    return requests.take(pa.array(np.flatnonzero(kept)))


def _in_order(rows: pa.Table, event_time: str) -> tuple[pa.Table, Instants]:
    instants = _instants(rows, event_time)
    order = np.argsort(instants, kind="stable")
    return rows.take(pa.array(order)), instants[order]


def _instants(rows: pa.Table, name: str) -> Instants:
    kind: Any = rows.schema.field(name).type if name in rows.column_names else None
    if kind is None or not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidInput(
            f"The rows have no instants {name!r} to replay them by"
            + ("." if kind is None else f": that column is {kind}."),
            hint="Name a column of timestamps with a zone.",
        )
    column = rows.column(name)
    if column.null_count:
        raise InvalidInput(
            f"{column.null_count} rows have no {name!r}, so it is not known when they happened.",
            hint="Leave them out of the replay.",
        )
    whole = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
    return np.asarray(whole.to_numpy(), dtype=np.int64)
