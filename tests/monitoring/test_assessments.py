from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics
from tests.monitoring.assessed import (
    A_DAY,
    DAYS,
    HARMED,
    MONDAY,
    NOW,
    Assessed,
    N,
    drawn,
    labels_of,
    log_of,
)

from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.coursewords import Verdict
from falaj.monitoring.model import Labels, PerformanceLimits
from falaj.monitoring.performancewords import (
    CalibrationLimits,
    FairnessLimits,
    FigureLimit,
    Quality,
    Slice,
)
from falaj.monitoring.schedulewords import CheckState, ScheduledCheck
from falaj.monitoring.toldfrom import UNTOLD
from falaj.serving.model import Variant
from falaj.testing.serving import make_release

DATA = drawn()
WINDOW = {"since": MONDAY, "until": NOW}
OUTCOMES = {"label_table": "outcomes", "label": "delayed", "recorded_at": "known_at"}
LABELS = Labels(table="outcomes", label="delayed", recorded_at="known_at")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckLake]:
    folder: Path = tmp_path_factory.mktemp("assessed")
    opened = DuckLake(Place.of("ducklake:", folder), threads=1)
    opened.append("predictions_delays", log_of(DATA))
    opened.append("outcomes", labels_of(DATA))
    odd = pa.table(
        {"request_id": ["r0", None, "r1"], "words": ["yes", "no", "yes"], "nan": [1.0, 0.0, np.nan]}
    )
    opened.append("odd", odd)
    yield opened
    opened.close()


@pytest.fixture
def world(sqlite_database: Database, lake: DuckLake) -> Assessed:
    return Assessed(sqlite_database, lake, DATA)


def test_what_is_expected_of_calibrated_scores_came_true(world: Assessed) -> None:
    report = world.monitors.estimate("delays", since=MONDAY, until=MONDAY + timedelta(days=7))
    assert (report.source, report.reference, report.recalibrated) == ("rows", "bundle", False)
    assert report.n_predictions == HARMED
    assert len(report.periods) == 7
    held = 0
    for day, period in enumerate(report.periods):
        rows = slice(day * A_DAY, (day + 1) * A_DAY)
        truth, scores = DATA["truth"][rows], DATA["score"][rows]
        came = {
            "accuracy": metrics.accuracy_score(truth, scores >= 0.5),
            "auc": metrics.roc_auc_score(truth, scores),
            "f1": metrics.f1_score(truth, scores >= 0.5),
        }
        held += sum(
            period.figures[name].low <= value <= period.figures[name].high  # type: ignore[index]
            for name, value in came.items()
        )
    assert held >= 18  # of 21, at 95 %


def test_sketches_tell_nearly_what_rows_tell(world: Assessed) -> None:
    exact = world.monitors.estimate("delays", **WINDOW, by="week", exact=True)
    world.sketch()
    told = world.monitors.estimate("delays", **WINDOW, by="week")
    assert (told.source, exact.source) == ("sketches", "rows")
    assert told.n_predictions == exact.n_predictions == N
    for ours, rows in zip(told.periods, exact.periods, strict=True):
        assert ours.since == rows.since
        for name, band in rows.figures.items():
            assert ours.figures[name].estimate == pytest.approx(band.estimate, abs=0.005), name


@pytest.mark.parametrize("exact", [True, False])
def test_a_period_of_few_rows_says_that_it_cannot_tell(
    sqlite_database: Database, tmp_path: Path, exact: bool
) -> None:
    few = log_of(DATA).slice(0, 19)
    with closing(DuckLake(Place.of("ducklake:", tmp_path), threads=1)) as lake:
        lake.append("predictions_delays", few)
        world = Assessed(sqlite_database, lake, DATA)
        world.kept.take("all", few)
        [period] = world.monitors.estimate("delays", **WINDOW, by="month", exact=exact).periods
    assert (period.n_predictions, period.figures) == (19, {})
    assert period.cannot_tell == "19 rows are too few: at least 20 tell something."


def test_labels_of_an_earlier_window_are_a_reference(world: Assessed) -> None:
    report = world.monitors.estimate(
        "delays", since=MONDAY + timedelta(days=7), until=NOW, **OUTCOMES,
        reference_since=MONDAY, reference_until=MONDAY + timedelta(days=7),
    )  # fmt: skip
    assert (report.reference, report.n_reference) == ("labels", HARMED)
    truth, scores = DATA["truth"][:HARMED], DATA["score"][:HARMED]
    assert report.reference_figures["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    with pytest.raises(InvalidInput, match="named in part"):
        world.monitors.estimate("delays", **WINDOW, label_table="outcomes")


def test_a_bundle_without_labels_says_what_to_do(world: Assessed) -> None:
    kept = world.bundle.statistics
    world.bundle.statistics = kept.model_copy(update={"positives": None, "score_totals": None})
    with pytest.raises(InvalidInput, match="keeps no labels") as refused:
        world.monitors.estimate("delays", **WINDOW)
    assert "reference-since" in str(refused.value.hint)


def test_windows_and_releases_that_cannot_be_estimated_are_refused(world: Assessed) -> None:
    with pytest.raises(NotFound, match="no logged predictions"):
        world.monitors.estimate("delays", since=NOW, until=NOW + timedelta(days=1))
    with pytest.raises(InvalidInput, match="is empty"):
        world.monitors.estimate("delays", since=NOW, until=MONDAY)
    with pytest.raises(InvalidInput, match="more than 1000 periods"):
        world.monitors.estimate("delays", since=MONDAY - timedelta(days=2_000), until=NOW)
    world.active = None
    with pytest.raises(Conflict, match="serves nothing"):
        world.monitors.estimate("delays", **WINDOW)


def test_each_slice_has_the_figures_of_its_rows(world: Assessed) -> None:
    report = world.monitors.performance("delays", **OUTCOMES, **WINDOW, slice_by="channel")
    assert [(one.group, len(one.periods)) for one in report.slices] == [("web", 2), ("shop", 2)]
    labelled = np.arange(N) < N - A_DAY
    shop = DATA["shop"] & labelled & (np.arange(N) >= HARMED)
    period = report.slices[1].periods[1]
    assert period.n_labels == shop.sum()
    truth, scores = DATA["truth"][shop], DATA["score"][shop]
    for band, oracle in (
        (period.accuracy, metrics.accuracy_score(truth, scores >= 0.5)),
        (period.precision, metrics.precision_score(truth, scores >= 0.5)),
        (period.recall, metrics.recall_score(truth, scores >= 0.5)),
        (period.f1, metrics.f1_score(truth, scores >= 0.5)),
        (period.average_precision, metrics.average_precision_score(truth, scores)),
        (period.auc, metrics.roc_auc_score(truth, scores)),
    ):
        assert band is not None
        assert band.estimate == pytest.approx(oracle)
        assert band.low < band.estimate < band.high


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ({"slice_by": "kind", "slice_of": "input"}, {"web", "shop"}),
        ({"slice_by": "a", "slice_of": "input", "slice_edges": (0.5,)}, {"< 0.5", ">= 0.5"}),
        ({"slice_by": "age"}, {"< 32", "32 to 44", "44 to 57", ">= 57"}),
        ({"slice_by": "age", "slice_edges": (30, 60)}, {"< 30", "30 to 60", ">= 60"}),
        ({"slice_by": "region", "slice_of": "label"}, {"north", "south", "(missing)"}),
        ({"slice_by": "variant", "slice_of": "log"}, {"champion"}),
        ({"slice_by": "note"}, {"(missing)"}),
        ({"slice_by": "nowhere"}, {"(missing)"}),
    ],
)
def test_rows_are_told_apart_by_fields_inputs_labels_and_the_log(
    world: Assessed, given: dict[str, object], groups: set[str]
) -> None:
    report = world.monitors.performance("delays", **OUTCOMES, **WINDOW, **given)  # type: ignore[arg-type]
    known = {one.group for one in report.slices}
    assert known == groups - ({"(missing)"} if "region" in given.values() else set())
    assert sum(one.n_labels for one in report.slices) == report.n_labels == N - A_DAY


def test_a_slice_that_nothing_cuts_is_refused(world: Assessed) -> None:
    for given, told in (
        ({"slice_by": "b", "slice_of": "input"}, "no input 'b'"),
        ({"slice_by": "gone", "slice_of": "label"}, "no column 'gone'"),
        ({"slice_by": "channel", "slice_edges": (1.0,)}, "no numbers"),
        ({"slice_by": "caller", "slice_of": "log"}, "variant, version"),
        ({"slice_by": "age", "slice_edges": (2.0, 1.0)}, "must grow"),
        ({"slice_by": "age", "slice_of": "elsewhere"}, "slice_of"),
    ):
        with pytest.raises(InvalidInput, match=told):
            world.monitors.performance("delays", **OUTCOMES, **WINDOW, **given)  # type: ignore[arg-type]


def test_small_groups_are_not_shown(world: Assessed) -> None:
    since = MONDAY
    until = MONDAY + timedelta(hours=2)
    report = world.monitors.performance(
        "delays", **OUTCOMES, since=since, until=until, slice_by="age"
    )
    assert report.n_predictions == 50
    assert report.slices == []
    assert report.n_groups_not_shown == 4
    fair = world.monitors.fairness("delays", "age", since=since, until=until)
    assert [one.groups for one in fair.periods] == [[]]
    assert fair.periods[0].gaps == {}
    assert fair.n_groups_not_shown == 4


def test_a_young_period_is_told(world: Assessed) -> None:
    report = world.monitors.performance("delays", **OUTCOMES, **WINDOW, by="day")
    assert [one.young for one in report.periods] == [False] * 13 + [True]
    assert report.periods[-1].n_labels == 0
    assert report.periods[-1].labelled == 0
    assert report.label_delay_p50_seconds == pytest.approx(86_400)
    assert "still arriving" in report.warning
    without = {name: one for name, one in OUTCOMES.items() if name != "recorded_at"}
    told = world.monitors.performance("delays", **without, **WINDOW, by="day")
    assert [one.young for one in told.periods] == [False] * 13 + [True]
    assert told.label_delay_p50_seconds is None


def test_labels_that_are_words_are_refused_and_odd_rows_do_no_harm(world: Assessed) -> None:
    with pytest.raises(InvalidInput, match="of the type string"):
        world.monitors.performance("delays", "odd", "words", **WINDOW)
    report = world.monitors.performance("delays", "odd", "nan", **WINDOW)
    assert report.n_labels == 1  # a null key joins nothing, and NaN is no label
    with pytest.raises(InvalidInput, match="no instant"):
        world.monitors.performance("delays", "odd", "nan", recorded_at="words", **WINDOW)


def test_calibration_is_found_to_be_lost(world: Assessed) -> None:
    report = world.monitors.calibration("delays", **OUTCOMES, **WINDOW)
    sound, lost = report.periods
    assert sound.p_value is not None
    assert lost.p_value is not None
    assert sound.p_value > 0.01 > lost.p_value
    assert lost.error is not None
    assert lost.error.low > 0.02
    assert sound.error is not None
    assert sound.error.low < 0.01
    assert len(lost.bins) == len(report.edges) + 1 == 10
    assert sum(one.n for one in lost.bins) == lost.n_labels


def test_a_group_that_is_favoured_is_found(world: Assessed) -> None:
    report = world.monitors.fairness("delays", "channel", **OUTCOMES, **WINDOW)
    even, favoured = report.periods
    assert {one.group for one in favoured.groups} == {"web", "shop"}
    assert even.gaps["demographic_parity_difference"].low == 0
    for gap in ("demographic_parity_difference", "equal_opportunity_difference",
                "equalised_odds_difference", "calibration_difference"):  # fmt: skip
        assert favoured.gaps[gap].low > 0.05, gap  # type: ignore[index]
    assert favoured.gaps["demographic_parity_ratio"].high < 0.8
    shop = next(one for one in favoured.groups if one.group == "shop")
    rows = DATA["shop"] & (np.arange(N) >= HARMED)
    assert shop.selection_rate.estimate == pytest.approx((DATA["score"][rows] >= 0.5).mean())
    known = rows & (np.arange(N) < N - A_DAY)
    assert shop.true_positive_rate is not None
    assert shop.true_positive_rate.estimate == pytest.approx(
        metrics.recall_score(DATA["truth"][known], DATA["score"][known] >= 0.5)
    )


def test_without_labels_only_the_shares_predicted_positive_are_compared(world: Assessed) -> None:
    report = world.monitors.fairness("delays", "channel", **WINDOW)
    assert set(report.periods[0].gaps) == {
        "demographic_parity_difference",
        "demographic_parity_ratio",
    }
    with pytest.raises(InvalidInput, match="needs one"):
        world.monitors.fairness("delays", "region", group_of="label", **WINDOW)
    with pytest.raises(InvalidInput, match="not named"):
        world.monitors.fairness("delays", "channel", label_table="outcomes", **WINDOW)


def test_who_may_not_read_requests_learns_nothing_of_groups(world: Assessed) -> None:
    world.monitors.fairness("delays", "channel", **WINDOW)
    (kept,) = world.monitors.reports("delays")
    world.allowed = False
    with pytest.raises(Forbidden, match="predictions_delays"):
        world.monitors.fairness("delays", "channel", **WINDOW)
    with pytest.raises(Forbidden, match="predictions_delays"):
        world.monitors.performance("delays", **OUTCOMES, **WINDOW, slice_by="channel")
    with pytest.raises(Forbidden, match="predictions_delays"):
        world.monitors.report(kept.id)
    assert world.monitors.performance("delays", **OUTCOMES, **WINDOW).slices == []


def test_a_kept_report_is_shown_to_those_alone_who_may_read_what_it_was_told_from(
    world: Assessed,
) -> None:
    window = {"since": MONDAY, "until": MONDAY + timedelta(days=7)}
    world.monitors.performance("delays", **OUTCOMES, **window)
    world.monitors.calibration("delays", **OUTCOMES, **window)
    reference = {"reference_since": MONDAY, "reference_until": MONDAY + timedelta(days=7)}
    world.monitors.estimate("delays", **window, **OUTCOMES, **reference)
    kept = world.monitors.reports("delays")
    assert [one.kind for one in kept] == ["estimate", "calibration", "performance"]
    for one in kept:
        told = world.monitors.report(one.id).document["told_from"]
        assert told == {"outcomes": ["delayed", "request_id", "known_at"]}
    world.readable = set()
    for one in kept:
        with pytest.raises(Forbidden, match="outcomes"):
            world.monitors.report(one.id)


def test_alerts_tell_no_figures_that_were_told_from_labels(world: Assessed) -> None:
    world.declare(
        window=timedelta(days=DAYS), labels=LABELS,
        performance=PerformanceLimits(auc_at_least=0.99),
        quality=quality(realised=(FigureLimit(figure="brier", at_most=0.05),)),
    )  # fmt: skip
    world.clock.move(timedelta(days=2))
    result = world.monitors.check("watched", until=NOW)
    assert result.told_from == {"outcomes": ["delayed", "request_id", "known_at"]}
    with world.database.reading() as connection:
        alerts = world.alerts.listed(connection)
    assert {one.name for one in alerts} == {"watched:auc", "watched:realised-brier"}
    for one in alerts:
        assert set(one.evidence) == {"report"}
        assert "shows the figures to whoever may read outcomes" in one.message
    assert not any(one.message in result.findings for one in alerts)
    document = result.model_dump(mode="json")
    check = ScheduledCheck(
        id="check_1", monitor="watched", tick=NOW, job="job_1", principal="user:amina",
        state=CheckState.DONE, asked_at=NOW, result=document,
    )  # fmt: skip
    schedules: Any = SimpleNamespace(checks=lambda _connection, _name, limit: [check])
    world.service._schedules = schedules
    assert world.monitors.checks("watched") == [check]
    world.readable = set()
    (shown,) = world.monitors.checks("watched")
    assert shown.result is not None
    assert set(shown.result["findings"]) == {UNTOLD}
    assert shown.result["alerts"] == document["alerts"]


def test_what_the_version_before_predicted_raises_nothing_of_the_one_that_serves(
    sqlite_database: Database, tmp_path: Path
) -> None:
    log = log_of(DATA)
    harmed = [1 if i >= HARMED else 2 for i in range(log.num_rows)]
    place = log.schema.get_field_index("version")
    versions = pa.array(harmed, log.schema.field("version").type)
    with closing(DuckLake(Place.of("ducklake:", tmp_path), threads=1)) as lake:
        lake.append("predictions_delays", log.set_column(place, "version", versions))
        lake.append("outcomes", labels_of(DATA))
        world = Assessed(sqlite_database, lake, DATA)
        world.declare(
            window=timedelta(days=DAYS), labels=LABELS,
            performance=PerformanceLimits(brier_at_most=0.2),
            quality=quality(
                realised=(FigureLimit(figure="brier", at_most=0.2),),
                calibration=CalibrationLimits(error_at_most=0.02),
                fairness=(FairnessLimits(groups=Slice(by="channel"),
                                         demographic_parity_ratio_at_least=0.8),),
            ),
        )  # fmt: skip
        world.clock.move(timedelta(days=2))
        names = ["brier", "realised-brier", "calibration",
                 "fairness-channel-demographic_parity_ratio"]  # fmt: skip
        found = world.monitors.check("watched", until=NOW)
        with sqlite_database.reading() as connection:
            raised = [one.name for one in world.alerts.listed(connection)]
        assert sorted(raised) == sorted(f"watched:{one}" for one in names)
        assert len(found.alerts) == len(names)
        second = Variant(model="delay", version=2, bundle="sha256:a")
        world.active = make_release("release_2", variants=(second,))
        assert world.monitors.check("watched", until=NOW).findings == []
        with pytest.raises(NotFound, match="delay/2"):
            world.monitors.check("watched", until=NOW + timedelta(days=8))


def test_the_model_of_the_loss_tells_the_loss_that_came(world: Assessed) -> None:
    report = world.monitors.losses(
        "delays", "outcomes", "delayed", MONDAY, MONDAY + timedelta(days=7), **WINDOW
    )
    assert report.n_reference == HARMED
    week = report.periods[0]
    brier = metrics.brier_score_loss(DATA["truth"][:HARMED], DATA["score"][:HARMED])
    assert week.brier.low < brier < week.brier.high
    assert report.gain > 0
    with pytest.raises(InvalidInput, match="too small"):
        world.monitors.losses(
            "delays", "outcomes", "delayed", MONDAY, MONDAY + timedelta(hours=2), **WINDOW
        )


def quality(**given: object) -> Quality:
    return Quality(by="week", **given)  # type: ignore[arg-type]


def test_a_monitor_raises_what_surely_crosses_its_limits(world: Assessed) -> None:
    world.declare(
        window=timedelta(days=DAYS),
        labels=LABELS,
        quality=quality(
            estimated=(FigureLimit(figure="precision", worse_by=0.3),
                       FigureLimit(figure="auc", at_least=0.99)),
            realised=(FigureLimit(figure="brier", at_most=0.22),),
            slices=(Slice(by="channel"),),
            calibration=CalibrationLimits(error_at_most=0.02),
            fairness=(FairnessLimits(groups=Slice(by="channel"),
                                     demographic_parity_ratio_at_least=0.8),),
        ),
    )  # fmt: skip
    world.clock.move(timedelta(days=2))  # all labels that will come have come
    result = world.monitors.check("watched", until=NOW)
    assert len(result.reports) == 4
    assert len(result.alerts) == len(result.findings)
    told = " ".join(result.findings)
    assert "Estimated AUC" in told
    assert "Estimated precision" not in told
    assert "where channel is shop" in told
    assert "where channel is web" not in told
    assert "calibration error" in told
    assert "Demographic parity ratio by channel" in told
    assert {one.kind for one in world.monitors.reports("delays")} == {
        "estimate", "performance", "calibration", "fairness",
    }  # fmt: skip


def test_a_young_period_raises_nothing_that_needs_labels(world: Assessed) -> None:
    parity = FairnessLimits(
        groups=Slice(by="channel"),
        demographic_parity_ratio_at_least=0.8,
        calibration_difference_at_most=0.01,
    )
    world.declare(
        window=timedelta(days=DAYS - 1),
        labels=LABELS,
        quality=quality(
            realised=(FigureLimit(figure="brier", at_most=0.01),),
            calibration=CalibrationLimits(error_at_most=0.001),
            fairness=(parity,),
        ),
    )
    found = world.monitors.check("watched", until=NOW).findings
    # The second week is young: a day's labels are missing. The first one is judged, and sound.
    assert [one.split(" is ")[0] for one in found] == [
        "Brier",
        "Demographic parity ratio by channel",
    ]
    assert "2026-11-02" in found[0]


def test_a_finding_that_does_not_last_raises_nothing(world: Assessed) -> None:
    limits = CalibrationLimits(error_at_most=0.02)
    world.declare(
        window=timedelta(days=DAYS),
        labels=LABELS,
        quality=quality(calibration=limits, periods_in_a_row=2),
    )
    world.clock.move(timedelta(days=2))
    assert world.monitors.check("watched", until=NOW).findings == []


def test_a_monitor_of_before_keeps_its_fingerprint() -> None:
    from falaj.monitoring.model import Monitor

    plain = Monitor(name="plain", endpoint="delays")
    assert "quality" not in plain.document()
    watched = plain.model_copy(
        update={"quality": quality(estimated=(FigureLimit(figure="auc", worse_by=0.05),))}
    )
    assert (
        Monitor.model_validate(
            {name: one for name, one in watched.document().items() if name != "kind"}
        )
        == watched
    )


def test_what_cannot_be_watched_is_refused_when_it_is_declared() -> None:
    from falaj.monitoring.model import Monitor

    for given, told in (
        ({}, "nothing is watched"),
        ({"realised": ({"figure": "auc", "worse_by": 0.1},)}, "of estimates"),
        ({"estimated": ({"figure": "auc"},)}, "give at_least"),
        ({"estimated": ({"figure": "positive_rate", "worse_by": 1},)}, "neither better"),
        ({"fairness": ({"groups": {"by": "channel"}},)}, "at least one limit"),
        ({"slices": ({"by": "channel"},), "calibration": {}}, "give limits"),
    ):
        with pytest.raises(ValueError, match=told):
            Quality.model_validate(given)
    with pytest.raises(ValueError, match="needs labels"):
        Monitor(name="m", endpoint="delays", quality=quality(calibration=CalibrationLimits()))


def test_a_composition_is_refused(world: Assessed) -> None:
    member = world.active.variants[0]
    world.active = world.active.model_copy(
        update={"variants": (SimpleNamespace(members=(member, member)),)}
    )
    with pytest.raises(InvalidInput, match="composition"):
        world.monitors.estimate("delays", **WINDOW)
    with pytest.raises(InvalidInput, match="composition"):
        world.monitors.performance("delays", **OUTCOMES, **WINDOW, slice_by="a", slice_of="input")


def test_a_monitor_tells_its_last_verdict_and_the_model_that_it_watches(world: Assessed) -> None:
    crossed = quality(realised=(FigureLimit(figure="brier", at_most=0.05),))
    world.declare(window=timedelta(days=DAYS), labels=LABELS, quality=crossed)
    (before,) = world.monitors.overview()
    assert (before.verdict, before.checked_at) == (Verdict.NEVER, None)
    world.clock.move(timedelta(days=2))
    result = world.monitors.check("watched", until=NOW)
    (after,) = world.monitors.overview()
    assert (after.name, after.endpoint, after.model) == ("watched", "delays", "delay")
    assert (after.verdict, after.n_alerts) == (Verdict.ALERTING, len(result.alerts))
    assert after.checked_at == world.clock.now()
    assert world.monitors.show("watched").monitor.quality == crossed


def test_a_check_that_finds_nothing_is_quiet(world: Assessed) -> None:
    world.declare(
        window=timedelta(days=DAYS), labels=LABELS,
        quality=quality(realised=(FigureLimit(figure="brier", at_most=0.9),)),
    )  # fmt: skip
    world.monitors.check("watched", until=NOW)
    assert world.monitors.show("watched").verdict is Verdict.QUIET


def test_a_course_holds_reports_of_the_monitor_alone_the_newest_first(world: Assessed) -> None:
    world.declare(
        window=timedelta(days=7), labels=LABELS,
        quality=quality(realised=(FigureLimit(figure="brier", at_most=0.05),)),
    )  # fmt: skip
    first = world.monitors.check("watched", until=MONDAY + timedelta(days=7)).reports
    world.monitors.performance("delays", **OUTCOMES, **WINDOW)
    second = world.monitors.check("watched", until=NOW).reports
    course = world.monitors.course("watched", "performance")
    assert [one.id for one in course.reports] == [*second, *first]
    assert course.n_not_shown == 0
    assert [one.id for one in world.monitors.course("watched", "performance", limit=1).reports] == (
        second
    )
    assert world.monitors.course("watched", "drift").reports == []


def test_a_course_counts_what_the_caller_may_not_see_and_shows_none_of_it(
    world: Assessed,
) -> None:
    world.declare(
        window=timedelta(days=DAYS), labels=LABELS,
        quality=quality(realised=(FigureLimit(figure="brier", at_most=0.05),)),
    )  # fmt: skip
    world.monitors.check("watched", until=NOW)
    world.readable = set()
    course = world.monitors.course("watched", "performance")
    assert (course.reports, course.n_not_shown) == ([], 1)


def test_whoever_may_not_see_the_endpoint_sees_no_monitor_of_it(world: Assessed) -> None:
    world.declare(labels=LABELS)
    world.service._sight.may = lambda _call, _action, ref: ref.kind != "endpoint"
    assert world.monitors.overview() == []
    with pytest.raises(NotFound, match="no monitor"):
        world.monitors.show("watched")
    with pytest.raises(NotFound, match="no monitor"):
        world.monitors.course("watched", "drift")
    with pytest.raises(NotFound, match="no monitor"):
        world.monitors.check("watched", until=NOW)
