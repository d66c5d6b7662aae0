from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput
from falaj.models.reference import statistics_of
from falaj.monitoring.drift import Drift
from falaj.monitoring.driftwords import Detector, Finding, WatchedSeries
from falaj.monitoring.following import LATE, followed
from falaj.monitoring.keptsketches import KeptSketches, Key
from falaj.monitoring.sketches import Bins, Sketch
from falaj.testing.columns import encoding_of
from falaj.testing.serving import make_release

START = datetime(2026, 11, 1, tzinfo=UTC)
CHANGED = 100
SERIES = (
    WatchedSeries(column="x0", detector=Detector(name="adwin")),
    WatchedSeries(
        figure="missing", column="x1", detector=Detector(name="page_hinkley", threshold=2)
    ),
)


class Watched:
    """Two hundred minutes of ten rows; ``x0`` moves after a hundred of them."""

    def __init__(self, database: Database) -> None:
        random = np.random.default_rng(1)
        matrix = random.normal(size=(2_000, 2)).astype(np.float32)
        statistics = statistics_of(encoding_of(2), matrix, random.uniform(size=2_000))
        bins = Bins.of(statistics)
        kept = KeptSketches(database, lambda *_: bins, SetClock(START))
        self.release = make_release()
        variant = self.release.variants[0]
        with database.transaction() as connection:
            for minute in range(200):
                rows = random.normal(size=(10, 2)).astype(np.float32)
                rows[:, 0] += 3.0 * (minute >= CHANGED)
                at = START + timedelta(minutes=minute)
                sketch = Sketch.of(bins, rows, random.uniform(size=10))
                key = Key(self.release.endpoint, variant.model, variant.version, "a", at, 60)
                kept._added(connection, key, sketch)
        bundle = SimpleNamespace(statistics=statistics, manifest=SimpleNamespace(importance={}))
        bundles: Any = SimpleNamespace(open_bundle=lambda _: bundle)
        lake: Any = SimpleNamespace()
        self.drift = Drift(lake, bundles, kept, database)
        self.database = database

    def check(self, monitor: str, minute: int, series: Any = SERIES) -> list[Finding]:
        until = START + timedelta(minutes=minute) + LATE
        with self.database.transaction() as connection:
            return followed(connection, monitor, series, self.drift, self.release, (START, until))


@pytest.fixture
def watched(sqlite_database: Database) -> Watched:
    return Watched(sqlite_database)


def test_a_change_of_a_mean_is_told_with_its_minute_and_once(watched: Watched) -> None:
    (one,) = watched.check("watch", 200)
    assert one.column == "mean of x0"
    assert (
        START + timedelta(minutes=CHANGED)
        <= datetime.fromtimestamp(one.numbers["last_at"], UTC)
        <= START + timedelta(minutes=CHANGED + 40)
    )
    assert watched.check("watch", 200) == []


def test_checks_in_between_change_nothing(watched: Watched) -> None:
    whole = watched.check("once", 200)
    often = [one for minute in range(0, 201, 23) for one in watched.check("often", minute)]
    often += watched.check("often", 200)
    assert [one.numbers for one in often] == [one.numbers for one in whole]


def test_an_input_that_the_model_has_not_is_told(watched: Watched) -> None:
    with pytest.raises(InvalidInput, match="'x9'"):
        watched.check("watch", 100, (WatchedSeries(column="x9"),))
