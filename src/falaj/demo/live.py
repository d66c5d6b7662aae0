"""The autumn, live: history is pushed as it happened, predictions are asked over HTTPS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from falaj.demo.definitions.sources import departures, schedule, weather
from falaj.demo.flights_data import REQUEST_COLUMNS, SPLIT, history
from falaj.demo.replay import Replay, Stream, Tick, sampled
from falaj.demo.running import Answered, Questions
from falaj.interfaces.platform import Platform

BEGIN = SPLIT.validation_until
"""Midnight of 1 October 2013 in New York: what happened before is materialised."""
END = datetime(2014, 1, 1, 5, tzinfo=UTC)
TICK = timedelta(hours=1)
_SHARE_OF_TICKS, _SHARE_OF_ROWS = 0.08, 0.75
MOST_ROWS_A_PUSH = 5_000


@dataclass
class Lived:
    """What was measured while the autumn was replayed."""

    n_events: int = 0
    push_seconds: list[float] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    asking_seconds: float = 0.0

    @property
    def requests_per_second(self) -> float:
        """Answers a second, over the time in which questions were asked."""
        return len(self.answers) / self.asking_seconds if self.asking_seconds else 0.0


def autumn(folder: Path) -> Replay:
    """October to December as it happened: events, and a fair sample of the questions.

    Args:
        folder: from which relative paths count.
    """
    left = history(departures, folder)
    requests = drawn(left)
    streams = [
        Stream("departures", left, "departed_at"),
        Stream("schedule", history(schedule, folder), "scheduled_at"),
        Stream("weather", history(weather, folder), "known_at", latest=True),
    ]
    return Replay(streams, requests, asked_at="asked_at", begin=BEGIN, end=END, span=TICK)


def drawn(departures: pa.Table) -> pa.Table:
    """The sample of flights that is asked about, of all departures of the year."""
    asked = departures.select(["asked_at", "flight_id", *REQUEST_COLUMNS])
    return sampled(
        asked, asked_at="asked_at", span=TICK, spans=_SHARE_OF_TICKS, rows=_SHARE_OF_ROWS
    )


def lived(
    replay: Replay, feed: Platform, questions: Questions, after: Callable[[Tick, Lived], None]
) -> Iterator[Lived]:
    """Replay tick by tick: push what has happened, then ask; yields after each tick.

    Args:
        replay: the autumn.
        feed: the platform as the service account that pushes, over HTTPS.
        questions: asks the endpoint.
        after: is told each tick and what was measured so far, when its answers are there.
    """
    seen = Lived()
    for number, tick in enumerate(replay):
        for table, rows in tick.events.items():
            for first in range(0, rows.num_rows, MOST_ROWS_A_PUSH):
                part = as_json(rows.slice(first, MOST_ROWS_A_PUSH))
                began = time.perf_counter()
                feed.features.push(
                    table, rows=part, key=f"autumn:{table}:{number}:{first}", stored=True
                )
                seen.push_seconds.append(time.perf_counter() - began)
                seen.n_events += len(part)
        if tick.requests.num_rows:
            bodies = [request_of(row) for row in as_json(tick.requests)]
            began = time.perf_counter()
            seen.answers += questions.ask(bodies)
            seen.asking_seconds += time.perf_counter() - began
        after(tick, seen)
        yield seen


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The body of one prediction request: asked as of two hours before departure.

    Unless the caller says otherwise, the flight itself is what is advised.
    """
    return {
        "request_id": row["flight_id"],
        "at": row["asked_at"],
        "inputs": [{**{name: row[name] for name in REQUEST_COLUMNS}, "advised": row["flight_id"]}],
    }


def as_json(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON takes them: instants as ISO 8601 in UTC."""
    columns = [
        pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
        if pa.types.is_timestamp(column.type)
        else column
        for column in rows.columns
    ]
    listed: list[dict[str, Any]] = pa.table(columns, names=rows.column_names).to_pylist()
    return listed
