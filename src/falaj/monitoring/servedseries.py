"""What endpoints served, minute by minute: the counters of their workers, looked at each minute.

The counters only grow; what is new since the last look goes to the minute of the look. They
outlive their workers, so nothing is lost or counted twice when a worker is killed; after a
time without looks (the worker process was down) everything since goes to one minute.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from falaj.kernel.insertion import insert_if_absent
from falaj.monitoring.servedtables import served_marks, served_minutes
from falaj.operations.budgets import Served, ServiceLevel
from falaj.serving.counted import upper_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.calls import Calls
    from falaj.serving.model import SeriesCounts

KEPT = timedelta(days=91)
"""A day more than the longest window of a service level."""


def served_by(level: ServiceLevel, counts: Iterable[SeriesCounts]) -> Served:
    """What a level's endpoint has served since the beginning, by its indicator.

    A latency counts as good if its histogram's bucket ends at the threshold or before: the
    bucket of a request is at most 6.25 % wide, and what may be above is counted as bad.
    """
    total = good = 0
    for one in counts:
        if one.endpoint != level.endpoint:
            continue
        if level.threshold_ms is None:
            total += one.requests + one.failed
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
    """Looks at the counters of this machine, and keeps what is new.

    Args:
        definitions: the service levels.
        counts: of this machine's workers since the beginning (``Meters.series``).
        calls: opens the transactions, and tells the time.
        machine: which counters these are.
    """

    def __init__(
        self,
        definitions: Definitions,
        counts: Callable[[], Iterable[SeriesCounts]],
        calls: Calls,
        machine: str = "",
    ) -> None:
        self._definitions = definitions
        self._counts = counts
        self._calls = calls
        self._machine = machine or socket.gethostname()

    def run_once(self) -> int:
        """Look once; returns for how many levels something was new."""
        database, now = self._calls.database, self._calls.now()
        with database.reading() as connection:
            kept = self._definitions.listed(connection, kind=ServiceLevel.kind)
        levels = [(self._definitions.parsed(one), one.version) for one in kept]
        if not levels:
            return 0
        counts = list(self._counts())
        told = [
            (level, version, served_by(level, counts))
            for level, version in levels
            if isinstance(level, ServiceLevel)
        ]
        with database.transaction() as connection:
            new = sum(self._keep(connection, *one, now) for one in told)
            table = served_minutes
            connection.execute(delete(table).where(table.c.minute < now - KEPT))
        return new

    def _keep(
        self,
        connection: Connection,
        level: ServiceLevel,
        version: int,
        served: Served,
        now: datetime,
    ) -> bool:
        key = {"level": level.name, "machine": self._machine}
        values = {"version": version, "total": served.total, "good": served.good}
        if insert_if_absent(connection, served_marks, {**key, **values}):
            return False  # the first look: what was before is not known by minute
        table = served_marks.c
        mine = (table.level == level.name, table.machine == self._machine)
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
        self._add(connection, level.name, now.replace(second=0, microsecond=0), total, good)
        return True

    @staticmethod
    def _add(connection: Connection, level: str, minute: datetime, total: int, good: int) -> None:
        row = {"level": level, "minute": minute, "total": total, "good": good}
        if insert_if_absent(connection, served_minutes, row):
            return
        table = served_minutes
        connection.execute(
            update(table)
            .where(table.c.level == level, table.c.minute == minute)
            .values(total=table.c.total + total, good=table.c.good + good)
        )
