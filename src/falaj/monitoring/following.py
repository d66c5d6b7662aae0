"""Series that detectors follow from one check of a monitor to the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select

from falaj.kernel.errors import InvalidInput
from falaj.kernel.insertion import upsert
from falaj.monitoring.driftwords import Finding, WatchedSeries
from falaj.monitoring.seen import SCORE
from falaj.monitoring.streamdetectors import follow
from falaj.monitoring.tables import detectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from falaj.monitoring.drift import Drift
    from falaj.monitoring.seen import Seen
    from falaj.serving.model import Release

LATE = timedelta(minutes=2)
"""A minute is seen this long after its end: logged rows reach their sketch within seconds."""


def followed(
    connection: Connection,
    monitor: str,
    watched: Sequence[WatchedSeries],
    drift: Drift,
    release: Release,
    window: tuple[datetime, datetime],
) -> list[Finding]:
    """Let each detector see the minutes that are new to it; what alarmed.

    A detector begins at the start of the window. What it saw is kept with the check, in its
    transaction: a check that failed is made again as if it had never been. Minutes that were
    rolled up to hours before they were seen (after two days) are seen no more. Another model
    version, or another setting, begins anew.
    """
    told = []
    # Whole minutes only: the one that is not over yet is seen at the next check.
    until = datetime.fromtimestamp(int((window[1] - LATE).timestamp()) // 60 * 60, UTC)
    names = (*drift.names(release), SCORE)
    for one in watched:
        key = {"monitor": monitor, "series": one.series, "detector": one.detector.name}
        rule = f"{release.variants[0].bundle[-16:]}:{_setting(one)}"[:64]
        row = connection.execute(
            select(detectors).where(*(detectors.c[name] == value for name, value in key.items()))
        ).first()
        known = row is not None and row.rule == rule
        since = row.until if row is not None and known else window[0]
        values = np.frombuffer(row.values, "<f8") if row is not None and known else np.zeros(0)
        if since >= until:
            continue
        minutes = drift.minutes(connection, release, since, until)
        if one.column not in names:
            raise InvalidInput(
                f"The model has no input {one.column!r} to follow.",
                hint=f"It has: {', '.join(names)}.",
            )
        place = names.index(one.column)
        state = follow(one.detector, values, [_figure(one, seen, place) for _, seen in minutes])
        raw = state.values.astype("<f8").tobytes()
        upsert(connection, detectors, [{**key, "rule": rule, "until": until, "values": raw}])
        if state.alarms:
            told.append(_finding(one, [minutes[alarm][0] for alarm in state.alarms]))
    return told


def _setting(one: WatchedSeries) -> str:
    given = one.detector
    return f"{given.delta}/{given.threshold}/{given.alpha}/{given.seed}"


def _figure(one: WatchedSeries, seen: Seen, place: int) -> float:
    if one.figure == "mean":
        return float(seen.mean[place])
    rows = float(seen.known[place] + seen.missing[place])
    return float(seen.missing[place]) / rows if rows else float("nan")


def _finding(one: WatchedSeries, at: list[datetime]) -> Finding:
    return Finding(
        name="change_point",
        column=one.series,
        numbers={"alarms": float(len(at)), "last_at": at[-1].timestamp()},
        sentence=f"The {one.series} by minute has changed: {one.detector.name} alarmed at "
        + ", ".join(f"{instant:%Y-%m-%d %H:%M}" for instant in at[-3:])
        + ".",
    )
