"""What the pages of monitors make of reports that real checks have kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.monitoring.assessed import DAYS, NOW, Assessed, drawn, labels_of, log_of

from falaj.interfaces import driftviews, performanceviews
from falaj.interfaces.sheets import Cell, Section, as_cell, lasting
from falaj.kernel.database import Database
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.model import Labels
from falaj.monitoring.performancewords import (
    CalibrationLimits,
    FairnessLimits,
    FigureLimit,
    Quality,
    Slice,
)

DATA = drawn()
LABELS = Labels(table="outcomes", label="delayed", recorded_at="known_at")
CHANNEL = Slice(by="channel")
QUALITY = Quality(
    by="week",
    estimated=(FigureLimit(figure="f1", worse_by=0.1),),
    realised=(FigureLimit(figure="brier", at_most=0.05),),
    slices=(CHANNEL,),
    calibration=CalibrationLimits(),
    fairness=(FairnessLimits(groups=CHANNEL, demographic_parity_ratio_at_least=0.99),),
)
KINDS = ("performance", "estimate", "losses", "calibration", "fairness")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckLake]:
    folder: Path = tmp_path_factory.mktemp("viewed")
    opened = DuckLake(Place.of("ducklake:", folder), threads=1)
    opened.append("predictions_delays", log_of(DATA))
    opened.append("outcomes", labels_of(DATA))
    yield opened
    opened.close()


@pytest.fixture
def world(sqlite_database: Database, lake: DuckLake) -> Assessed:
    made = Assessed(sqlite_database, lake, DATA)
    made.declare(window=timedelta(days=DAYS), labels=LABELS, quality=QUALITY)
    made.clock.move(timedelta(days=2))
    made.monitors.check("watched", until=NOW)
    return made


def viewed(world: Assessed) -> dict[str, Section]:
    status = world.monitors.show("watched")
    courses = {kind: world.monitors.course("watched", kind) for kind in KINDS}
    found = performanceviews.sections(status.monitor, courses)
    return {one.title: one for one in found}


def cells(section: Section, table: int = 0) -> list[list[Cell]]:
    return [[as_cell(one) for one in row] for row in section.tables[table].rows]


def test_a_figure_that_is_known_and_estimated_stands_in_one_row_by_week(world: Assessed) -> None:
    brier = viewed(world)["Brier score by week"]
    rows = cells(brier)
    document = world.monitors.course("watched", "performance").reports[0].document
    assert [row[0].text for row in rows] == [
        one["since"][:10] for one in reversed(document["periods"])
    ]
    last = document["periods"][-1]["brier"]["estimate"]
    assert rows[0][1].text.startswith(f"{last:.3g} (")
    assert rows[0][1].strong  # beyond 0.05
    assert "beyond its limit" in rows[0][1].text
    assert brier.tables[0].columns[1] == "Known (at most 0.05)"
    assert rows[0][3].text != "–"


def test_a_period_that_is_too_thin_for_an_alert_is_not_called_beyond_its_limit(
    world: Assessed,
) -> None:
    def told() -> str:
        return " ".join(
            cell.text
            for section in viewed(world).values()
            for place in range(len(section.tables))
            for row in cells(section, place)
            for cell in row
        )

    assert told().count("beyond its limit") > 0
    assert "to tell" not in told()
    thin = QUALITY.model_copy(update={"least_rows": 10**6})
    world.declare(window=timedelta(days=DAYS), labels=LABELS, quality=thin)
    assert "beyond its limit" not in told()
    assert "too few labels to tell" in told()


def test_an_estimate_is_held_to_the_reference_that_it_may_fall_short_of(world: Assessed) -> None:
    document = world.monitors.course("watched", "estimate").reports[0].document
    least = document["reference_figures"]["f1"] - 0.1
    assert viewed(world)["F1 by week"].tables[0].columns[3] == f"Estimated (at least {least:.3g})"


def test_slices_calibration_and_fairness_are_told_of_real_reports(world: Assessed) -> None:
    found = viewed(world)
    assert {row[0].text for row in cells(found["By channel"])} == {"web", "shop"}
    assert len(cells(found["Calibration"])) == 2
    assert len(cells(found["Calibration"], 1)) == 10
    gaps = found["Fairness by channel"].tables[0]
    assert "Demographic parity ratio (at least 0.99)" in gaps.columns
    assert len(found["Fairness by channel"].figures) == len(gaps.columns) - 1


def test_who_may_not_read_the_labels_sees_no_figure_of_them(world: Assessed) -> None:
    world.readable = set()
    found = viewed(world)
    assert "Calibration" not in found
    assert "Kept reports of calibration that cannot be shown: 1." in found[""].words[1]


def test_drift_of_real_reports_is_told_of_inputs_and_scores(world: Assessed) -> None:
    world.sketch()
    world.monitors.drift("delays", since=NOW - timedelta(days=7), until=NOW)
    kept = world.monitors.report(world.monitors.reports("delays")[0].id)
    status = world.monitors.show("watched")
    empty = world.monitors.course("watched", "drift")
    assert "measures no drift" in driftviews.sections(status, empty)[0].words[0]
    course = empty.model_copy(update={"reports": [kept]})
    inputs, scores, _labels, times = driftviews.sections(status, course)
    features: list[dict[str, Any]] = kept.document["features"]
    assert {row[0].text for row in cells(inputs)} == {one["name"] for one in features}
    assert dict(scores.facts)["Verdict"][0].strong == kept.document["score"]["drifted"]
    assert len(cells(times)) == 1


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (timedelta(days=7), "7 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(seconds=0.5), "0.5 seconds"),
    ],
)
def test_a_window_is_told_in_the_unit_that_divides_it(length: timedelta, told: str) -> None:
    assert lasting(length) == told
