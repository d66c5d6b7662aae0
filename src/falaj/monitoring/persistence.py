"""Persistence: a thing is alerted when it was found in enough of the last windows.

One window of chance raises nothing then, and a check that is repeated for the same window
counts once. Which windows were checked is kept beside what was found, since a window without
findings is news as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from falaj.kernel.insertion import upsert
from falaj.monitoring.driftwords import Finding
from falaj.monitoring.tables import checks, findings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

WINDOWS_KEPT = 500
"""Of each monitor; older ones are forgotten at its next check."""


def keep(
    connection: Connection,
    monitor: str,
    since: datetime,
    until: datetime,
    found: Iterable[Finding],
    *,
    at: datetime,
) -> None:
    """Keep what a check of [since, until) found, in the place of what was found there before.

    Args:
        monitor: its name.
        at: when it was checked.
    """
    row = {"monitor": monitor, "until": until, "since": since, "at": at}
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
    oldest = connection.execute(
        select(checks.c.until)
        .where(checks.c.monitor == monitor)
        .order_by(checks.c.until.desc())
        .offset(WINDOWS_KEPT)
        .limit(1)
    ).scalar()
    if oldest is not None:
        for table in (findings, checks):
            connection.execute(
                delete(table).where(table.c.monitor == monitor, table.c.until <= oldest)
            )


def lasting(
    connection: Connection, monitor: str, until: datetime, *, needed: int, of_last: int
) -> set[str]:
    """The keys of what was found in at least ``needed`` of the ``of_last`` windows up to
    and with the one that ends at ``until``, that one among them."""
    windows = list(
        connection.execute(
            select(checks.c.until)
            .where(checks.c.monitor == monitor, checks.c.until <= until)
            .order_by(checks.c.until.desc())
            .limit(of_last)
        ).scalars()
    )
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
