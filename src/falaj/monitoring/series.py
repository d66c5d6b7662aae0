"""Series of each endpoint by minute: requests, errors, latencies and how many predictions an
isolation forest found anomalous, from the workers' meters.

Meters only ever grow. A chore looks at them once a minute and adds the difference to what it
saw before to the minute that has passed; what it saw is noted in the same transaction, so that
a chore that dies counts nothing twice and nothing never. Several machines add to the same rows.
A folder of meters that was removed has a new name, and its counts begin at 0.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.insertion import insert_if_absent
from falaj.monitoring.seriestables import meter_marks, meter_series
from falaj.serving.counted import (
    ANOMALOUS,
    BUCKETS,
    FAILED,
    LATENCY,
    REFUSED,
    SHADOW,
    TAGGED,
    Counted,
    quantile,
)

MINUTE, HOUR = 60, 3600
MINUTES_KEPT, HOURS_KEPT = timedelta(days=2), timedelta(days=400)
LONGEST = 3
"""Minutes between two looks that are still spread over the minutes; a longer silence is a gap:
nobody knows when what came in it came."""
LEAST_MINUTES = 45
"""An hour of which fewer minutes are known is a gap."""
Totals = Callable[[], Mapping[tuple[str, str], Counted]]


class _Seen(msgspec.Struct):
    """An endpoint's counts as they stood."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    latencies: dict[int, int] = {}
    tagged: int = 0
    anomalous: int = 0


@dataclass(frozen=True)
class EndpointSeries:
    """The series of one endpoint; NaN where nothing is known. Shape (n,) each."""

    times: list[datetime]
    requests: NDArray[np.float64]
    errors: NDArray[np.float64]
    """The share of requests."""
    latency: NDArray[np.float64]
    """The 95th percentile, in seconds."""
    tagged: NDArray[np.float64]
    """Predictions that an isolation forest tagged."""
    anomalous: NDArray[np.float64]
    """The share of them that it found anomalous; NaN where it tagged none."""


def place_of(folder: Path) -> str:
    """The name of a folder of meters: made once, and gone with it."""
    file = folder / "place"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return file.read_text(encoding="ascii")
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(name := secrets.token_hex(8))
    return name


class MeterSeries:
    """Keeps and tells the series.

    Args:
        database: holds them.
        clock: says which minute it is.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def look(self, place: str, totals: Totals) -> int:
        """Add what the meters of a place have counted since the last look, if a minute has
        passed; the number of rows written.

        The first look at a place only notes what it sees: nobody knows when that came.
        """
        now = self._clock.now()
        minute = _floor(now, MINUTE)
        with self._database.reading() as connection:
            if _mark(connection, place) == minute:
                return 0
        counts = _by_endpoint(totals())
        with self._database.transaction() as connection:
            row = connection.execute(
                select(meter_marks).where(meter_marks.c.place == place).with_for_update()
            ).first()
            noted = {"at": minute, "data": msgspec.msgpack.encode(counts)}
            if row is None:
                insert_if_absent(connection, meter_marks, {"place": place, **noted})
                return 0
            n_minutes = int((minute - row.at).total_seconds()) // MINUTE
            if n_minutes < 1:
                return 0  # another process of this machine has looked
            connection.execute(
                update(meter_marks).where(meter_marks.c.place == place).values(**noted)
            )
            if n_minutes > LONGEST:
                return 0
            before = msgspec.msgpack.decode(row.data, type=dict[str, _Seen])
            return _add_minutes(connection, before, counts, row.at, n_minutes)

    def roll_up(self) -> int:
        """Make hours of minutes that are older than two days, and forget hours older than 400
        days; the number of hours made."""
        now = self._clock.now()
        of = meter_series.c
        before = _floor(now - MINUTES_KEPT, HOUR)
        with self._database.transaction() as connection:
            old = (of.seconds == MINUTE) & (of.starts_at < before)
            rows = connection.execute(select(meter_series).where(old)).all()
            hours: dict[tuple[str, datetime], dict[str, Any]] = {}
            for row in rows:
                key = (row.endpoint, _floor(row.starts_at, HOUR))
                hours[key] = _sum(hours.get(key), row._asdict())
            for (endpoint, starts_at), values in hours.items():
                _add(connection, endpoint, starts_at, HOUR, values)
            connection.execute(delete(meter_series).where(old))
            forgotten = (of.seconds == HOUR) & (of.starts_at < now - HOURS_KEPT)
            connection.execute(delete(meter_series).where(forgotten))
        return len(hours)

    def series(
        self, connection: Connection, endpoint: str, since: datetime, until: datetime, seconds: int
    ) -> EndpointSeries:
        """The whole steps of an endpoint between two instants, each a multiple of the step.

        Args:
            seconds: of a step: 60 (the last two days only) or 3600.
        """
        n = int((until - since).total_seconds()) // seconds
        times = [since + timedelta(seconds=seconds * k) for k in range(n)]
        found: dict[datetime, dict[str, Any]] = {}
        of = meter_series.c
        query = select(meter_series).where(
            of.endpoint == endpoint,
            of.starts_at >= since,
            of.starts_at < until,
            of.seconds <= seconds,
        )
        for row in connection.execute(query):
            at = _floor(row.starts_at, seconds)
            found[at] = _sum(found.get(at), row._asdict())
        least = LEAST_MINUTES if seconds == HOUR else 1
        figures = np.full((5, n), np.nan)
        for k, at in enumerate(times):
            values = found.get(at)
            if values is not None and values["minutes"] >= least:
                figures[:, k] = _figures(values, seconds // MINUTE)
        return EndpointSeries(times, *figures)


def _figures(values: dict[str, Any], minutes: int) -> tuple[float, ...]:
    """Of a step, in the order of ``EndpointSeries``."""
    requests = values["requests"]
    counts = np.zeros(BUCKETS, np.int64)
    for bucket, n in _unpacked(values["latencies"]).items():
        counts[bucket] = n
    latency = quantile(counts, 0.95)
    return (
        requests * minutes / values["minutes"],  # a minute that nobody saw is like the others
        values["errors"] / requests if requests else np.nan,
        np.nan if latency is None else latency,
        values["tagged"],
        values["anomalous"] / values["tagged"] if values["tagged"] else np.nan,
    )


def _by_endpoint(totals: Mapping[tuple[str, str], Counted]) -> dict[str, _Seen]:
    merged: dict[str, Counted] = {}
    for (endpoint, variant), one in totals.items():
        if endpoint and not variant.startswith(SHADOW):  # nobody was answered by a shadow
            merged.setdefault(endpoint, Counted()).add(one)
    return {endpoint: _seen(one) for endpoint, one in merged.items()}


def _seen(one: Counted) -> _Seen:
    counts = one.histograms[LATENCY]
    return _Seen(
        one.requests,
        int(one.counters[FAILED]),
        int(one.counters[REFUSED]),
        {int(bucket): int(counts[bucket]) for bucket in np.flatnonzero(counts)},
        int(one.counters[TAGGED]),
        int(one.counters[ANOMALOUS]),
    )


def _add_minutes(
    connection: Connection,
    before: dict[str, _Seen],
    now: dict[str, _Seen],
    since: datetime,
    n_minutes: int,
) -> int:
    for endpoint, seen in now.items():
        old = before.get(endpoint, _Seen())
        if seen.requests < old.requests:
            old = _Seen()  # counts never fall: these are new meters
        for k in range(n_minutes):
            latencies = {
                bucket: part
                for bucket, n in seen.latencies.items()
                if (part := _part(n - old.latencies.get(bucket, 0), k, n_minutes)) > 0
            }
            values = {
                "minutes": 1,
                "requests": _part(seen.requests - old.requests, k, n_minutes),
                **{
                    name: _part(getattr(seen, name) - getattr(old, name), k, n_minutes)
                    for name in ("errors", "refused", "tagged", "anomalous")
                },
                "latencies": _packed(latencies),
            }
            _add(connection, endpoint, since + timedelta(minutes=k), MINUTE, values)
    return len(now) * n_minutes


def _part(n: int, k: int, of: int) -> int:
    """The k-th of ``of`` parts of n, as even as whole numbers are."""
    return n * (k + 1) // of - n * k // of


def _add(
    connection: Connection, endpoint: str, starts_at: datetime, seconds: int, values: dict[str, Any]
) -> None:
    key = {"endpoint": endpoint, "starts_at": starts_at, "seconds": seconds}
    values = {name: values[name] for name in _VALUES}
    if insert_if_absent(connection, meter_series, key | values):
        return
    of = meter_series.c
    where = (of.endpoint == endpoint) & (of.starts_at == starts_at) & (of.seconds == seconds)
    row = connection.execute(select(meter_series).where(where).with_for_update()).one()
    added = _sum(row._asdict(), values)
    if seconds == MINUTE:
        added["minutes"] = 1  # another machine saw the same minute
    connection.execute(
        update(meter_series).where(where).values({name: added[name] for name in _VALUES})
    )


_VALUES = ("minutes", "requests", "errors", "refused", "latencies", "tagged", "anomalous")


def _sum(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    if one is None:
        return {name: other[name] for name in _VALUES}
    added = {name: one[name] + other[name] for name in _VALUES if name != "latencies"}
    merged = _unpacked(one["latencies"])
    for bucket, n in _unpacked(other["latencies"]).items():
        merged[bucket] = merged.get(bucket, 0) + n
    return added | {"latencies": _packed(merged)}


def _packed(latencies: dict[int, int]) -> bytes:
    return msgspec.msgpack.encode(latencies)


def _unpacked(data: bytes) -> dict[int, int]:
    return msgspec.msgpack.decode(data, type=dict[int, int])


def _mark(connection: Connection, place: str) -> datetime | None:
    found: datetime | None = connection.execute(
        select(meter_marks.c.at).where(meter_marks.c.place == place)
    ).scalar()
    return found


def _floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)
