"""Putting a window view's online rows in line with the lake, while its stream goes on.

Rows made of the lake's events lack what was applied online since the lake was read. A
rebuilt view gets that from the log, in one write with the progress that it stands for, so
that nothing is lost and nothing counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from msgspec.structs import replace

from falaj.features.ports import Merge, Write
from falaj.features.streams.progress import (
    Fed,
    Overtaken,
    Progress,
    advance,
    progress_key,
    progress_of,
)
from falaj.features.streams.streams import Streams
from falaj.features.streams.taking import taken
from falaj.features.views import ViewPlan
from falaj.features.viewstorage import ViewStorage
from falaj.ingest.ports import Record
from falaj.kernel.clock import microseconds

_ATTEMPTS = 20
Tail = Callable[[int, Progress], list[Merge]]
"""What has to be merged besides, for a partition and its progress."""
Standing = list[tuple[int, int]]
"""The position and watermark up to which the lake holds each partition."""


class Rebuilder:
    """Writes rebuilt views beside those who apply their streams.

    Args:
        streams: the way online and the way to the lake.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def standing(self, table: str, snapshot: int) -> Standing:
        """How far the lake holds a table's stream at a snapshot."""
        n = self._streams.n_partitions(table)
        return [self._streams.lander.position(table, p, snapshot) for p in range(n)]

    def feed(self, plan: ViewPlan) -> None:
        """Have a view fed from now on by every applier, whatever it knew of the definitions."""
        self._write(plan, lambda _number, _progress: [], [])

    def rebuild(
        self,
        plan: ViewPlan,
        storage: ViewStorage,
        rebuilt: Merge,
        standing: Standing,
        limit_us: int | None = None,
    ) -> None:
        """Write a rebuilt view, and what its stream brought since.

        Args:
            rebuilt: the merge that turns readers over to the rows that were made of the lake's
                events; what the stream brought since is merged into those, in the same write.
            standing: how far those go.
            limit_us: what happened or was recorded later is left out.

        Raises:
            Overtaken: other machines applied the stream all the while; nothing was changed.
        """

        def tail(number: int, progress: Progress) -> list[Merge]:
            position, watermark = standing[number]
            return self._tail(plan, storage, number, position, watermark, progress, limit_us)

        self._write(plan, tail, [rebuilt])

    def _write(self, plan: ViewPlan, tail: Tail, first: list[Merge]) -> None:
        streams, table = self._streams, plan.view.source
        with ExitStack() as held:
            for number in range(streams.n_partitions(table)):
                held.enter_context(streams.locks.held(f"apply-{table}-{number}"))
            for attempt in range(_ATTEMPTS):
                moves, tails = [], []
                for number in range(streams.n_partitions(table)):
                    key = progress_key(table, number)
                    (row,) = streams.online.read([key])
                    progress = progress_of(row) or streams.lander.begin(table, number)
                    tails += tail(number, progress)
                    moves.append(advance(key, row, _fed(progress, plan.storage_id)))
                merges = [*moves, *first, *tails]
                try:
                    streams.online.write(Write(merges=merges))
                except Overtaken:
                    if attempt == _ATTEMPTS - 1:
                        raise
                else:
                    return

    def _tail(
        self,
        plan: ViewPlan,
        storage: ViewStorage,
        number: int,
        position: int,
        watermark: int,
        progress: Progress,
        limit_us: int | None,
    ) -> list[Merge]:
        """What was applied of a partition behind a position, as merges into the view's rows."""
        streams, merges = self._streams, list[Merge]()
        stream = streams.plans.of(plan.view.source)
        gone = streams.log.begin(stream.topic, number) > position
        if gone and streams.lander.position(stream.table, number)[0] > position:
            raise Overtaken(
                f"The log of {stream.table!r} was released while {plan.name!r} was rebuilt.",
                hint="Materialise it again.",
            )
        while position < progress.position:
            since = streams.lander.erased(stream)
            records: list[Record] = [
                record
                for record in streams.log.read(stream.topic, number, position)
                if record.offset < progress.position
            ]
            if not records:
                break
            skipped = streams.lander.repeated(stream.table, records)
            now = streams.clock.now()
            batch = taken(stream, records, watermark, skipped=skipped, now=now)
            position, watermark = records[-1].offset + 1, batch.watermark_us
            if batch.rows is None:
                continue
            events = plan.events(batch.rows)
            if limit_us is not None:
                events = events.known_by(limit_us)
            applier = storage.applier(events, microseconds(now), since)
            if applier is not None:
                merges.append(applier(0))
        return merges


def _fed(progress: Progress, storage: bytes) -> Progress:
    """The progress with a view that is fed, and lacks nothing."""
    others = [fed for fed in progress.fed if fed.storage != storage]
    return replace(progress, fed=(*others, Fed(storage, 0)))
