"""What endpoints served, minute by minute: the counters of their workers, looked at each minute.

The counters only grow; what is new since the last look goes to the minute of the look. They
outlive their workers, so nothing is lost or counted twice when a worker is killed; after a
time without looks (the worker process was down) what came since is spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from falaj.kernel.insertion import insert_if_absent
from falaj.monitoring.servedtables import served_marks, served_minutes
from falaj.operations.budgets import Served, ServiceLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.calls import Calls
    from falaj.serving.model import SeriesCounts

KEPT = timedelta(days=91)
"""A day more than the longest window of a service level."""
MINUTE = timedelta(minutes=1)
MOST_STEPS = 60
"""Over so many minutes is spread what came in a pause, however long that was."""


def served_by(level: ServiceLevel, counts: Iterable[SeriesCounts]) -> Served:
    """What a level's endpoint has served since the beginning, by its indicator.

    What ran as a shadow answered nobody. A failure counts where it was answered by a 5xx
    status: of a variant that failed, another one may have answered.

    A latency counts as good if its histogram's bucket ends at the threshold or before: the
    bucket of a request is at most 6.25 % wide, and what may be above is counted as bad.
    """
    from falaj.serving.counted import upper_of

    total = good = 0
    for one in counts:
        if one.endpoint != level.endpoint or one.shadow:
            continue
        if level.threshold_ms is None:
            total += one.requests + (0 if one.variant else one.failed)
            good += one.requests
        else:
            limit = level.threshold_ms / 1000
            total += sum(n for _bucket, n in one.latency)
            good += sum(n for bucket, n in one.latency if upper_of(bucket) <= limit)
    return Served(total, good)


class ServedMinutes:
    """Keeps what was served by minute; fulfils ``operations.ports.ServedSeries``."""

    def served(
        self, connection: Connection, level: ServiceLevel, start: datetime, end: datetime
    ) -> Served:
        """The requests of the minutes that begin from ``start`` to before ``end``."""
        table = served_minutes.c
        query = select(func.sum(table.total), func.sum(table.good)).where(
            table.level == level.name, table.minute >= start, table.minute < end
        )
        total, good = connection.execute(query).one()
        return Served(int(total or 0), int(good or 0))


class ServedRecorder:
    """Looks at the counters of this installation, and keeps what is new.

    Args:
        definitions: the service levels.
        counts: of its workers on this machine since the beginning (``Meters.series``).
        calls: opens the transactions, and tells the time.
        place: which counters these are (``series.place_of`` their folder): two installations
            on one machine have two. Asked after ``counts``; empty if it is not known yet.
    """

    def __init__(
        self,
        definitions: Definitions,
        counts: Callable[[], Iterable[SeriesCounts]],
        calls: Calls,
        place: Callable[[], str],
    ) -> None:
        self._definitions = definitions
        self._counts = counts
        self._calls = calls
        self._place = place

    def run_once(self) -> int:
        """Look once; returns for how many levels something was new."""
        database, now = self._calls.database, self._calls.now()
        with database.reading() as connection:
            kept = self._definitions.listed(connection, kind=ServiceLevel.kind)
        levels = [(self._definitions.parsed(one), one.version) for one in kept]
        if not levels:
            return 0
        counts, place = list(self._counts()), self._place()
        if not place:
            return 0
        told = [
            (level, version, served_by(level, counts))
            for level, version in levels
            if isinstance(level, ServiceLevel)
        ]
        with database.transaction() as connection:
            new = sum(self._keep(connection, place, *one, now) for one in told)
            table = served_minutes
            connection.execute(delete(table).where(table.c.minute < now - KEPT))
        return new

    def _keep(
        self,
        connection: Connection,
        place: str,
        level: ServiceLevel,
        version: int,
        served: Served,
        now: datetime,
    ) -> bool:
        key = {"level": level.name, "machine": place}
        values = {"version": version, "total": served.total, "good": served.good, "at": now}
        if insert_if_absent(connection, served_marks, {**key, **values}):
            return False  # the first look: what was before is not known by minute
        table = served_marks.c
        mine = (table.level == level.name, table.machine == place)
        mark = connection.execute(select(served_marks).where(*mine).with_for_update()).one()
        connection.execute(update(served_marks).where(*mine).values(**values))
        if mark.version != version:
            return False
        # Counters that have fallen began anew: all that they tell is new.
        fallen = served.total < mark.total or served.good < mark.good
        total = served.total - (0 if fallen else mark.total)
        good = served.good - (0 if fallen else mark.good)
        if total <= 0:
            return False
        for minute, part in _spread(Served(total, good), mark.at, now):
            self._add(connection, level.name, minute, part)
        return True

    @staticmethod
    def _add(connection: Connection, level: str, minute: datetime, new: Served) -> None:
        row = {"level": level, "minute": minute, "total": new.total, "good": new.good}
        if insert_if_absent(connection, served_minutes, row):
            return
        table = served_minutes
        connection.execute(
            update(table)
            .where(table.c.level == level, table.c.minute == minute)
            .values(total=table.c.total + new.total, good=table.c.good + new.good)
        )


def _spread(new: Served, since: datetime, now: datetime) -> Iterator[tuple[datetime, Served]]:
    """What is new by minute, as even as whole numbers are; the last minute is that of now."""
    last = now.replace(second=0, microsecond=0)
    n_minutes = (last - since.replace(second=0, microsecond=0)) // MINUTE
    steps = max(1, min(n_minutes, MOST_STEPS))
    bad = new.total - new.good
    for k in range(steps):
        good_part, bad_part = (n * (k + 1) // steps - n * k // steps for n in (new.good, bad))
        if good_part + bad_part:
            minute = last - (steps - 1 - k) * n_minutes // steps * MINUTE
            yield minute, Served(good_part + bad_part, good_part)
