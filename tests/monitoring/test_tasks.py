"""Performance of predicted numbers and of several classes, through the platform's actions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics
from tests.monitoring.assessed import A_DAY, DAYS, HARMED, MONDAY, NOW, Assessed, N, at_of, log_of

from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.model import Labels, Monitor, PerformanceLimits
from falaj.monitoring.performancewords import CalibrationLimits, FigureLimit, Quality, Slice

CLASSES = ("fire", "theft", "water")
WINDOW = {"since": MONDAY, "until": NOW}
SECOND = slice(HARMED, N - A_DAY)
"""The rows of the second week whose labels have arrived."""
LATE = {"recorded_at": "known_at"}


def drawn() -> dict[str, Any]:
    """Numbers and classes; from the second week on both are worse in the shop."""
    random = np.random.default_rng(6)
    shop = random.random(N) < 0.4
    harmed = shop & (np.arange(N) >= HARMED)
    amount = random.gamma(3.0, 20.0, N)
    told = amount + random.normal(size=N) * np.where(harmed, 20.0, 5.0)
    logits = random.normal(size=(N, 3)) * np.where(harmed, 0.3, 2.0)[:, None]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    came = (random.random(N)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    return {
        "score": np.minimum(shares.max(axis=1), 1), "shop": shop, "amount": amount, "told": told,
        "shares": shares, "came": np.minimum(came, 2),
    }  # fmt: skip


DATA = drawn()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckLake]:
    folder: Path = tmp_path_factory.mktemp("tasks")
    opened = DuckLake(Place.of("ducklake:", folder), threads=1)
    fill(opened)
    yield opened
    opened.close()


def fill(opened: DuckLake, n_logged: int = N) -> None:
    """Write the first so many predictions, and the labels of all."""
    log = log_of(DATA)
    place = log.schema.get_field_index("outputs")
    # A row's first output is its score: of the classes' rows that plays no part, so that one log
    # serves numbers and classes.
    log = log.set_column(
        place, "outputs", pa.array(DATA["shares"].tolist(), pa.list_(pa.float64()))
    )
    log = log.set_column(log.schema.get_field_index("score"), "score", pa.array(DATA["told"]))
    opened.append("predictions_delays", log.slice(0, n_logged))
    n = N - A_DAY
    at = pa.array([at_of(i) + timedelta(days=1) for i in range(n)], pa.timestamp("us", tz="UTC"))
    opened.append(
        "outcomes",
        pa.table(
            {
                "request_id": [f"r{i}" for i in range(n)],
                "amount": DATA["amount"][:n],
                "place": DATA["came"][:n],
                "cause": [CLASSES[one] for one in DATA["came"][:n]],
                "known_at": at,
            }
        ),
    )


@pytest.fixture
def world(sqlite_database: Database, lake: DuckLake) -> Assessed:
    made = Assessed(sqlite_database, lake, DATA)
    made.clock.move(timedelta(days=2))
    return made


def test_numbers_have_their_errors_by_period_and_slice(world: Assessed) -> None:
    report = world.monitors.performance(
        "delays", "outcomes", "amount", **WINDOW, **LATE, task="regression", slice_by="channel"
    )
    second = report.periods[1]
    assert second.mae is not None and second.rmse is not None and second.bias is not None
    came, told = DATA["amount"][SECOND], DATA["told"][SECOND]
    assert second.mae.estimate == pytest.approx(metrics.mean_absolute_error(came, told))
    assert second.rmse.estimate == pytest.approx(metrics.root_mean_squared_error(came, told))
    assert second.bias.low < 0 < second.bias.high
    assert second.auc is None and second.positive_rate is None
    web, shop = (one.periods[1] for one in report.slices)
    assert web.mae is not None and shop.mae is not None
    assert web.mae.high < second.mae.estimate < shop.mae.low


@pytest.mark.parametrize(("label", "classes"), [("cause", CLASSES), ("place", ())])
def test_classes_have_their_figures_by_name_and_by_place(
    world: Assessed, label: str, classes: tuple[str, ...]
) -> None:
    report = world.monitors.performance(
        "delays", "outcomes", label, **WINDOW, **LATE, task="classes", classes=classes,
        slice_by="channel",
    )  # fmt: skip
    second = report.periods[1]
    came, shares = DATA["came"][SECOND], DATA["shares"][SECOND]
    said = shares.argmax(axis=1)
    assert second.accuracy is not None and second.macro_f1 is not None
    assert second.log_loss is not None
    assert second.accuracy.estimate == pytest.approx(metrics.accuracy_score(came, said))
    f1 = metrics.f1_score(came, said, average="macro")
    assert second.macro_f1.estimate == pytest.approx(f1)
    assert second.log_loss.estimate == pytest.approx(metrics.log_loss(came, shares))
    assert second.auc is None
    web, shop = (one.periods[1].macro_f1 for one in report.slices)
    assert web is not None and shop is not None
    assert shop.high < second.macro_f1.estimate < web.low


def test_a_class_that_is_none_of_them_is_refused(world: Assessed) -> None:
    with pytest.raises(InvalidInput, match="none of the 3 classes"):
        world.monitors.performance(
            "delays", "outcomes", "cause", **WINDOW, task="classes", classes=("fire", "x", "y")
        )
    with pytest.raises(InvalidInput, match="none of the 3 classes"):
        world.monitors.performance("delays", "outcomes", "amount", **WINDOW, task="classes")
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        world.monitors.performance("delays", "outcomes", "place", **WINDOW)
    with pytest.raises(InvalidInput, match='task "classes"'):
        world.monitors.performance("delays", "outcomes", "cause", **WINDOW, classes=CLASSES)


def test_the_loss_of_numbers_is_told_before_their_labels_arrive(world: Assessed) -> None:
    """The reference is the first half of the second week: in it the shop's rows err more."""
    middle = MONDAY + timedelta(days=10)
    report = world.monitors.losses(
        "delays", "outcomes", "amount", MONDAY + timedelta(days=7), middle,
        since=middle, until=NOW - timedelta(days=1), task="regression", by="month",
    )  # fmt: skip
    rows = slice(10 * A_DAY, N - A_DAY)
    came, told = DATA["amount"][rows], DATA["told"][rows]
    month = report.periods[0]
    assert month.mae is not None and month.rmse is not None and month.brier is None
    assert month.mae.low < metrics.mean_absolute_error(came, told) < month.mae.high
    assert month.rmse.low < metrics.root_mean_squared_error(came, told) < month.rmse.high
    assert report.gain > 0.1
    assert report.reference_mae is not None and report.reference_brier is None


def test_figures_of_classes_are_told_before_their_labels_arrive(world: Assessed) -> None:
    report = world.monitors.estimate(
        "delays", **WINDOW, by="week", label_table="outcomes", label="cause",
        reference_since=MONDAY, reference_until=MONDAY + timedelta(days=7), task="classes",
        classes=CLASSES,
    )  # fmt: skip
    assert (report.task, report.source, report.n_reference) == ("classes", "rows", HARMED)
    came, shares = DATA["came"][HARMED:], DATA["shares"][HARMED:]
    said, told = shares.argmax(axis=1), report.periods[1].figures
    wanted = {
        "accuracy": metrics.accuracy_score(came, said),
        "macro_f1": metrics.f1_score(came, said, average="macro"),
        "log_loss": metrics.log_loss(came, shares),
    }
    for name, one in wanted.items():
        assert told[name].low < one < told[name].high, name  # type: ignore[index]
    assert told["accuracy"].high < report.periods[0].figures["accuracy"].low


def test_a_period_of_few_rows_says_of_classes_that_it_cannot_tell(
    sqlite_database: Database, tmp_path: Path
) -> None:
    with closing(DuckLake(Place.of("ducklake:", tmp_path), threads=1)) as lake:
        fill(lake, HARMED + 19)
        report = Assessed(sqlite_database, lake, DATA).monitors.estimate(
            "delays", since=MONDAY + timedelta(days=7), until=NOW, by="week",
            label_table="outcomes", label="cause", reference_since=MONDAY,
            reference_until=MONDAY + timedelta(days=7), task="classes", classes=CLASSES,
        )  # fmt: skip
    [period] = report.periods
    assert (period.n_predictions, period.figures) == (19, {})
    assert period.cannot_tell == "19 rows are too few: at least 20 tell something."


def test_what_needs_labels_0_and_1_refuses_others(world: Assessed) -> None:
    numbers = Labels(table="outcomes", label="amount", task="regression")
    for watched in (
        {"performance": PerformanceLimits(brier_at_most=0.2)},
        {"quality": Quality(calibration=CalibrationLimits())},
        {"quality": Quality(realised=(FigureLimit(figure="auc", at_least=0.7),))},
    ):
        with pytest.raises(ValueError, match="labels"):
            Monitor(name="m", endpoint="delays", drift=None, labels=numbers, **watched)
    named = {"label_table": "outcomes", "label": "amount", "reference_since": MONDAY,
             "reference_until": NOW}  # fmt: skip
    with pytest.raises(InvalidInput, match="said to be numbers"):
        world.monitors.estimate("delays", **WINDOW, **named, task="regression")
    with pytest.raises(InvalidInput, match="named in part"):
        world.monitors.estimate("delays", **WINDOW, task="classes")


def test_a_monitor_alerts_when_numbers_err_too_much_in_a_slice(world: Assessed) -> None:
    world.declare(
        window=timedelta(days=DAYS),
        labels=Labels(table="outcomes", label="amount", recorded_at="known_at", task="regression"),
        quality=Quality(
            by="week",
            realised=(FigureLimit(figure="mae", at_most=12),),
            slices=(Slice(by="channel"),),
        ),
    )
    found = world.monitors.check("watched", until=NOW)
    assert [one.partition(" is ")[0] for one in found.findings] == ["MAE"]
    assert "where channel is shop" in found.findings[0]


def test_a_monitor_of_labels_0_and_1_keeps_its_document(world: Assessed) -> None:
    plain = Monitor(name="m", endpoint="delays", labels=Labels(table="outcomes", label="delayed"))
    assert set(plain.document()["labels"]) == {"table", "label", "on", "key", "recorded_at"}
    other = Monitor(
        name="m", endpoint="delays",
        labels=Labels(table="outcomes", label="cause", task="classes", classes=CLASSES),
    )  # fmt: skip
    told = other.document()["labels"]
    assert (told["task"], told["classes"]) == ("classes", list(CLASSES))
