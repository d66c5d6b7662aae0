from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.model import Labels, PerformanceLimits
from falaj.monitoring.monitors import crossed
from falaj.monitoring.performance import Performance, mean_band

MONDAY = datetime(2013, 10, 7, tzinfo=UTC)
SINCE, UNTIL = MONDAY, MONDAY + timedelta(days=14)
LATER = UNTIL + timedelta(days=30)
"""When all labels have come."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckLake]:
    folder: Path = tmp_path_factory.mktemp("lake")
    opened = DuckLake(Place.of("ducklake:", folder), threads=1)
    random = np.random.default_rng(0)
    n = 2_000
    scores = random.uniform(size=n)
    truth = (random.uniform(size=n) < scores).astype(float)
    at = [SINCE + timedelta(minutes=10 * i) for i in range(n)]  # 13.9 days
    names = [f"r{i}" for i in range(n)]
    stamp = pa.timestamp("us", tz="UTC")
    opened.append(
        "predictions_delays",
        pa.table(
            {
                "prediction_id": names,
                "request_id": names,
                "unit": names,
                "score": scores,
                "predicted_for": pa.array(at, stamp),
            }
        ),
    )
    late = MONDAY + timedelta(days=30)
    opened.append(
        "outcomes",
        pa.table(
            {
                "flight": [*names[:1500], "r0", "r1"],
                "delayed": pa.array([*truth[:1500], 1 - truth[0], None]),
                "odd": pa.array([2.0] * 1502),
                "known_at": pa.array([late] * 1500 + [MONDAY, late + timedelta(days=1)], stamp),
            }
        ),
    )
    opened.truth, opened.scores = truth, scores
    yield opened
    opened.close()


LABELS = Labels(table="outcomes", label="delayed", key="flight", recorded_at="known_at")


def test_figures_by_week_are_those_of_a_plain_computation(lake: DuckLake) -> None:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    report = Performance(lake).report("delays", LABELS, SINCE, UNTIL)
    assert [period.since for period in report.periods] == [MONDAY, MONDAY + timedelta(days=7)]
    assert (report.n_predictions, report.n_labels) == (2000, 1500)
    first = report.periods[0]
    n = 7 * 24 * 6
    truth, scores = lake.truth[:n], lake.scores[:n]
    assert first.n_labels == n
    assert first.auc is not None
    assert first.auc.estimate == pytest.approx(roc_auc_score(truth, scores))
    assert first.auc.low < first.auc.estimate < first.auc.high
    assert first.log_loss is not None
    assert first.log_loss.estimate == pytest.approx(log_loss(truth, scores))
    assert first.brier is not None
    assert first.brier.estimate == pytest.approx(brier_score_loss(truth, scores))
    assert report.periods[1].n_labels == 1500 - n


def test_the_label_that_was_recorded_last_counts(lake: DuckLake) -> None:
    window = (SINCE, SINCE + timedelta(minutes=10))
    report = Performance(lake).report("delays", LABELS, *window, by="day")
    (period,) = report.periods
    assert period.positive_rate == lake.truth[0]
    assert period.auc is None
    assert period.brier is not None
    assert period.brier.high == float("inf")


def test_missing_tables_columns_and_windows_are_named(lake: DuckLake) -> None:
    performance = Performance(lake)
    with pytest.raises(NotFound, match="predictions_other"):
        performance.report("other", LABELS, SINCE, UNTIL)
    with pytest.raises(NotFound, match="label table 'gone'"):
        performance.report("delays", LABELS.model_copy(update={"table": "gone"}), SINCE, UNTIL)
    with pytest.raises(InvalidInput, match="no column 'nothing'"):
        performance.report("delays", LABELS.model_copy(update={"label": "nothing"}), SINCE, UNTIL)
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        performance.report("delays", LABELS.model_copy(update={"label": "odd"}), SINCE, UNTIL)
    with pytest.raises(NotFound, match="no logged predictions"):
        performance.report("delays", LABELS, UNTIL, UNTIL + timedelta(days=1))


def test_a_limit_is_crossed_only_by_the_whole_band(lake: DuckLake) -> None:
    report = Performance(lake).report("delays", LABELS, SINCE, UNTIL, now=LATER)
    last = report.periods[-1]
    assert last.auc is not None
    assert last.brier is not None
    inside = PerformanceLimits(
        auc_at_least=last.auc.high - 1e-6, brier_at_most=last.brier.low + 1e-6
    )
    assert crossed(report, inside) == []
    strict = PerformanceLimits(auc_at_least=0.99, brier_at_most=0.01, log_loss_at_most=0.01)
    assert [figure for figure, *_ in crossed(report, strict)] == ["auc", "log_loss", "brier"]
    assert crossed(report, strict.model_copy(update={"least_labels": 10**6})) == []


def test_a_limit_is_not_crossed_by_labels_of_which_half_have_arrived(lake: DuckLake) -> None:
    report = Performance(lake).report("delays", LABELS, SINCE, UNTIL, now=LATER)
    first, last = report.periods
    assert not (first.young or last.young)
    strict = PerformanceLimits(auc_at_least=0.99)
    last.young = True
    ((_, message, _),) = crossed(report, strict)
    assert f"{first.since:%Y-%m-%d}" in message
    first.young = True
    assert crossed(report, strict) == []


def test_a_band_of_a_mean_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        band = mean_band(random.exponential(size=200), 0.95)
        held += band.low <= 1 <= band.high
    assert 0.91 <= held / 400 <= 0.98


def test_the_widest_band_travels_as_it_is() -> None:
    band = mean_band(np.array([0.3]), 0.95)
    assert type(band).model_validate_json(band.model_dump_json()) == band


def test_what_was_scored_behind_an_answer_is_no_prediction_that_anybody_had(
    tmp_path: Path,
) -> None:
    opened = DuckLake(Place.of("ducklake:", tmp_path), threads=1)
    at = pa.array([MONDAY + timedelta(minutes=i) for i in range(4)], pa.timestamp("us", tz="UTC"))
    rows = {
        "prediction_id": ["p0", "p1", "p2", "p3"],
        "request_id": ["r0", "r1", "r0", "r1"],
        "score": [0.9, 0.1, 0.1, 0.9],
        "predicted_for": at,
        "shadow": pa.array([False, None, True, True]),
    }
    opened.append("predictions_delays", pa.table(rows))
    opened.append("outcomes", pa.table({"request_id": ["r0", "r1"], "delayed": [1.0, 0.0]}))
    labels = Labels(table="outcomes", label="delayed")
    try:
        report = Performance(opened).report("delays", labels, SINCE, UNTIL)
    finally:
        opened.close()
    assert (report.n_predictions, report.n_labels) == (2, 2)
    assert report.periods[0].mean_score == 0.5
    assert report.periods[0].brier is not None
    assert report.periods[0].brier.estimate == pytest.approx(0.01)
