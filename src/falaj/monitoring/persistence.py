"""Persistence: a thing is alerted when it was found in enough of the last windows.

One window of chance raises nothing then. Windows that overlap share rows, and would tell the same
chance several times: so of those only the last one counts, as of checks that are repeated. What
another model version showed does not count for the one that serves. Which windows were checked is
kept beside what was found, since a window without findings is news as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from falaj.kernel.insertion import upsert
from falaj.monitoring.driftwords import Finding
from falaj.monitoring.tables import checks, findings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

WINDOWS_KEPT = 500
"""Of each monitor at least; older ones are forgotten at its next check, unless the windows that
persistence looks back on reach farther."""
_DENSE = 50
"""Of checks that follow each other faster than this part of their window, those in the middle are
forgotten: a window of 30 days that is checked each minute keeps a hundred rows for each window."""
_LONGEST = 100
"""So many windows are looked back on at most, when those in a row are counted."""


@dataclass(frozen=True)
class InARow:
    """What the newest check of a monitor found, and for how long it has been so."""

    name: str
    """Of the finding, such as ``drift`` or ``null_surge``."""
    column: str
    windows: int
    """That end with the newest one, share no instant, and in each of which it was found."""
    since: datetime
    """Where the first of them begins."""


def in_a_row(connection: Connection, monitor: str) -> list[InARow]:
    """All that the newest check found, with the windows in a row in which it was found.

    The windows are chosen as for ``lasting``, at most a hundred of them.
    """
    row = _window(connection, monitor, None, None)
    if row is None:
        return []
    mine = findings.c.monitor == monitor
    now = connection.execute(
        select(findings.c.key, findings.c.name, findings.c.subject)
        .where(mine, findings.c.until == row.until)
        .order_by(findings.c.key)
    )
    found = {one.key: InARow(one.name, one.subject, 1, row.since) for one in now}
    still = set(found)
    for _ in range(_LONGEST - 1):
        row = _window(connection, monitor, row.since, row.bundle) if still else None
        if row is None:
            break
        before = select(findings.c.key).where(mine, findings.c.until == row.until)
        still &= set(connection.execute(before).scalars())
        for key in still:
            found[key] = replace(found[key], windows=found[key].windows + 1, since=row.since)
    return list(found.values())


def _window(
    connection: Connection, monitor: str, until: datetime | None, bundle: str | None
) -> Row[datetime, datetime, str] | None:
    """The newest checked window, of those that end no later than ``until`` and of a bundle."""
    query = select(checks.c.until, checks.c.since, checks.c.bundle).where(
        checks.c.monitor == monitor
    )
    if until is not None:
        query = query.where(checks.c.until <= until, checks.c.bundle == bundle)
    return connection.execute(query.order_by(checks.c.until.desc()).limit(1)).first()


def keep(
    connection: Connection,
    monitor: str,
    since: datetime,
    until: datetime,
    found: Iterable[Finding],
    *,
    at: datetime,
    bundle: str,
    of_last: int = 1,
) -> None:
    """Keep what a check of [since, until) found, in the place of what was found there before.

    Args:
        monitor: its name.
        at: when it was checked.
        bundle: of the model version that was looked at.
        of_last: on how many windows persistence looks back.
    """
    row = {"monitor": monitor, "until": until, "since": since, "at": at, "bundle": bundle}
    upsert(connection, checks, [row])
    mine = (findings.c.monitor == monitor, findings.c.until == until)
    connection.execute(delete(findings).where(*mine))
    rows = {
        one.key: {
            "monitor": monitor,
            "until": until,
            "key": one.key,
            "name": one.name,
            "subject": one.column,
            "sentence": one.sentence,
            "numbers": one.model_dump(mode="json")["numbers"],
        }
        for one in found
    }
    if rows:
        connection.execute(insert(findings), list(rows.values()))
    _thin(connection, monitor, since, until, bundle)
    _forget(connection, monitor, until - (of_last + 1) * (until - since))


def _thin(
    connection: Connection, monitor: str, since: datetime, until: datetime, bundle: str
) -> None:
    """Forget the check before this one if it lies in the middle of checks that are close."""
    before = connection.execute(
        select(checks.c.until)
        .where(checks.c.monitor == monitor, checks.c.until < until, checks.c.bundle == bundle)
        .order_by(checks.c.until.desc())
        .limit(2)
    ).scalars().all()  # fmt: skip
    if len(before) == 2 and until - before[1] < (until - since) / _DENSE:
        for table in (findings, checks):
            connection.execute(
                delete(table).where(table.c.monitor == monitor, table.c.until == before[0])
            )


def _forget(connection: Connection, monitor: str, horizon: datetime) -> None:
    oldest = connection.execute(
        select(checks.c.until)
        .where(checks.c.monitor == monitor)
        .order_by(checks.c.until.desc())
        .offset(WINDOWS_KEPT)
        .limit(1)
    ).scalar()
    if oldest is not None:
        last = min(oldest, horizon)
        for table in (findings, checks):
            connection.execute(
                delete(table).where(table.c.monitor == monitor, table.c.until <= last)
            )


def lasting(
    connection: Connection,
    monitor: str,
    until: datetime,
    *,
    needed: int,
    of_last: int,
    bundle: str,
) -> set[str]:
    """The keys of what was found in at least ``needed`` of ``of_last`` windows, in the one that
    ends at ``until`` among them.

    The windows are those of checks of the same bundle, no two of which share an instant: before
    the last one comes the latest that had ended when it began, and so on.
    """
    windows: list[datetime] = []
    end = until
    while len(windows) < of_last:
        row = connection.execute(
            select(checks.c.until, checks.c.since)
            .where(checks.c.monitor == monitor, checks.c.bundle == bundle, checks.c.until <= end)
            .order_by(checks.c.until.desc())
            .limit(1)
        ).first()
        if row is None:
            break
        windows.append(row.until)
        end = row.since
    if not windows or windows[0] != until:
        return set()
    counted = connection.execute(
        select(findings.c.key)
        .where(findings.c.monitor == monitor, findings.c.until.in_(windows))
        .group_by(findings.c.key)
        .having(func.count() >= needed)
    )
    now = set(
        connection.execute(
            select(findings.c.key).where(findings.c.monitor == monitor, findings.c.until == until)
        ).scalars()
    )
    return {row.key for row in counted} & now
