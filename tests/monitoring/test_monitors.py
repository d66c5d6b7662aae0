from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.door import face
from falaj.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.models.model import Statistics
from falaj.models.reference import statistics_of
from falaj.monitoring import tables
from falaj.monitoring.drift import Drift
from falaj.monitoring.driftwords import DriftLimits, DriftReference, DriftWatch
from falaj.monitoring.model import Labels, Monitor, NoPredictions, PerformanceLimits
from falaj.monitoring.monitors import Monitors
from falaj.monitoring.performance import Performance
from falaj.monitoring.service import MonitorService
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.serving.logged import SCHEMA
from falaj.serving.model import Endpoint
from falaj.testing.calls import make_door, opened_call
from falaj.testing.seeing import whole
from falaj.testing.serving import make_release
from falaj.training.encoding import EncodedFeature, Encoding

NOW = datetime(2026, 11, 9, tzinfo=UTC)
NAMES = ("a", "b", "c")


def reference() -> Statistics:
    random = np.random.default_rng(0)
    encoding = Encoding(features=tuple(EncodedFeature(name=name) for name in NAMES))
    rows = random.lognormal(size=(5_000, 3)).astype(np.float32)
    return statistics_of(encoding, rows, random.uniform(size=5_000))


def logged(n: int, *, shift: float, seed: int, shadow: bool | None = None) -> pa.Table:
    random = np.random.default_rng(seed)
    rows = random.lognormal(size=(n, 3)).astype(np.float32)
    rows[:, 1] *= 1 + shift
    scores = random.uniform(size=n)
    times = [NOW - timedelta(days=7) + timedelta(minutes=i) for i in range(n)]
    given: dict[str, Any] = {
        "prediction_id": [f"pred_{i}" for i in range(n)],
        "request_id": [f"r{i}" for i in range(n)],
        "endpoint": ["delays"] * n,
        "release": ["release_1"] * n,
        "variant": ["champion"] * n,
        "model": ["delay"] * n,
        "version": [1] * n,
        "requested_at": times,
        "predicted_for": times,
        "features": rows.tolist(),
        "score": scores,
        "outputs": scores.reshape(-1, 1).tolist(),
        "latency_us": [100] * n,
        "caller": ["user:amina"] * n,
        "shadow": [shadow] * n,
    }
    return pa.table(
        [pa.array(given.get(field.name, [None] * n), field.type) for field in SCHEMA],
        schema=SCHEMA,
    )


class World:
    def __init__(self, database: Database, lake: DuckLake) -> None:
        self.database, self.lake = database, lake
        self.active: Any = make_release()
        known = {"delays"}

        def endpoint(_connection: Any, name: str) -> None:
            if name not in known:
                raise NotFound(f"There is no endpoint {name!r}.")

        def active(connection: Any, name: str) -> Any:
            endpoint(connection, name)
            return self.active

        catalog = Catalog()
        self.definitions = Definitions(catalog, {"monitor": Monitor, "endpoint": Endpoint}, {})
        self.alerts = Alerts(catalog, Incidents(catalog))
        bundle = SimpleNamespace(
            statistics=reference(), manifest=SimpleNamespace(importance={"a": 1.0, "b": 3.0})
        )
        self.service = MonitorService(
            Monitors(
                Drift(lake, SimpleNamespace(open_bundle=lambda _: bundle)),  # type: ignore[arg-type]
                Performance(lake),
                SimpleNamespace(active=active, endpoint=endpoint),  # type: ignore[arg-type]
                self.definitions,
                self.alerts,
            ),
            lambda _call, _action, _ref: True,
            whole(lake),
        )
        self.monitors = face(
            MonitorService, make_door(database, [self.service], clock=SetClock(NOW))
        )
        with opened_call(database) as call:
            catalog.record(call, AssetRef("model", "delay"))
            catalog.record(call, AssetRef("endpoint", "delays"))

    def declare(self, monitor: Monitor) -> None:
        with opened_call(self.database) as call:
            endpoint = Endpoint(name="delays", model="delay")
            self.definitions.apply(call, [endpoint, monitor])


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DuckLake]]:
    folder: Path = tmp_path_factory.mktemp("lakes")
    made = {}
    for name, shift in (("steady", 0.0), ("shifted", 4.0)):
        lake = DuckLake(Place.of("ducklake:", folder / name), threads=1)
        lake.append("predictions_delays", logged(3_000, shift=shift, seed=5))
        random = np.random.default_rng(9)
        lake.append(
            "outcomes",
            pa.table(
                {
                    "request_id": [f"r{i}" for i in range(2_500)],
                    "delayed": random.uniform(size=2_500) < 0.5,
                }
            ),
        )
        made[name] = lake
    yield made
    for lake in made.values():
        lake.close()


@pytest.fixture
def steady(sqlite_database: Database, lakes: dict[str, DuckLake]) -> World:
    return World(sqlite_database, lakes["steady"])


@pytest.fixture
def shifted(sqlite_database: Database, lakes: dict[str, DuckLake]) -> World:
    return World(sqlite_database, lakes["shifted"])


def test_a_steady_week_shows_no_drift_and_the_report_is_kept(steady: World) -> None:
    report = steady.monitors.drift("delays")
    assert report.n_observed == 3_000
    assert [one.name for one in report.features] == list(NAMES)
    assert report.drifted == []
    (kept,) = steady.monitors.reports("delays")
    assert (kept.kind, kept.endpoint, kept.by) == ("drift", "delays", "user:amina")
    assert steady.monitors.report(kept.id).document["n_observed"] == 3_000


def test_a_shifted_input_and_no_other_is_found(shifted: World) -> None:
    report = shifted.monitors.drift("delays", since=NOW - timedelta(days=7), until=NOW)
    assert [one.name for one in report.drifted] == ["b"]
    assert "PSI" in report.drifted[0].why


def test_a_window_of_few_rows_has_no_distances(shifted: World) -> None:
    start = NOW - timedelta(days=7)
    with pytest.raises(NotFound, match="fewer than 20"):
        shifted.monitors.drift("delays", since=start, until=start + timedelta(minutes=19))
    window = {"since": start + timedelta(minutes=10), "until": start + timedelta(hours=2)}
    with pytest.raises(NotFound, match="fewer than 20"):
        shifted.monitors.drift(
            "delays", **window, reference="fixed",
            reference_since=start, reference_until=start + timedelta(minutes=10),
        )  # fmt: skip
    assert shifted.monitors.drift("delays", **window).n_observed == 110


def test_rows_of_the_log_are_told_of_to_those_alone_who_may_read_it(shifted: World) -> None:
    shifted.monitors.drift("delays", exact=True)
    (kept,) = shifted.monitors.reports("delays")
    told = shifted.monitors.report(kept.id).document["told_from"]
    assert told == {"predictions_delays": ["features"]}
    shifted.declare(
        Monitor(name="whole", endpoint="delays", drift_watch=DriftWatch(sample=400, quality=None))
    )
    shifted.service._sight.may = lambda _call, action, _ref: action != "tables.read"
    for asked in (
        lambda: shifted.monitors.drift("delays", exact=True),
        lambda: shifted.monitors.drift("delays"),  # there are no sketches here
        lambda: shifted.monitors.report(kept.id),
        lambda: shifted.monitors.check("whole"),
    ):
        with pytest.raises(Forbidden, match="predictions_delays"):
            asked()
    assert len(shifted.monitors.reports("delays")) == 1


def test_realised_figures_come_by_week_and_day(steady: World) -> None:
    report = steady.monitors.performance("delays", "outcomes", "delayed")
    assert (report.n_predictions, report.n_labels) == (3_000, 2_500)
    assert report.periods[0].auc is not None
    by_day = steady.monitors.performance("delays", "outcomes", "delayed", by="day")
    assert len(by_day.periods) == 3
    assert [kept.kind for kept in steady.monitors.reports("delays", limit=1)] == ["performance"]


def test_a_check_raises_one_alert_for_each_finding_and_not_again_while_it_is_open(
    shifted: World,
) -> None:
    shifted.declare(
        Monitor(
            name="watch",
            endpoint="delays",
            labels=Labels(table="outcomes", label="delayed"),
            performance=PerformanceLimits(auc_at_least=0.8),
        )
    )
    assert [one.name for one in shifted.monitors.list()] == ["watch"]
    first = shifted.monitors.check("watch")
    assert len(first.reports) == 2
    assert [finding.partition(" ")[0] for finding in first.findings] == ["b", "AUC"]
    again = shifted.monitors.check("watch", until=NOW)
    assert again.alerts == first.alerts
    with shifted.database.reading() as connection:
        listed = shifted.alerts.listed(connection)
    assert {alert.name for alert in listed} == {"watch:drift-b", "watch:auc"}
    assert {alert.n_seen for alert in listed} == {2}
    assert str(listed[0].subject) == "endpoint:delays"


def test_a_check_of_a_steady_endpoint_raises_nothing(steady: World) -> None:
    steady.declare(Monitor(name="watch", endpoint="delays"))
    assert steady.monitors.check("watch").findings == []


def test_a_monitor_without_predictions_says_so_and_alerts_nothing(steady: World) -> None:
    steady.declare(Monitor(name="silent", endpoint="delays"))
    with pytest.raises(NoPredictions, match="no logged predictions"):
        steady.monitors.check("silent", until=NOW + timedelta(days=30))


def test_what_cannot_be_measured_is_told(steady: World) -> None:
    with pytest.raises(NotFound, match="'other'"):
        steady.monitors.drift("other")
    with pytest.raises(InvalidInput, match="empty"):
        steady.monitors.drift("delays", since=NOW, until=NOW)
    with pytest.raises(NotFound, match="no logged predictions"):
        steady.monitors.drift("delays", since=NOW, until=NOW + timedelta(days=1))
    with pytest.raises(NotFound, match="report_x"):
        steady.monitors.report("report_x")
    with pytest.raises(NotFound, match="monitor"):
        steady.monitors.check("nothing")
    steady.active = None
    with pytest.raises(Conflict, match="serves nothing"):
        steady.monitors.drift("delays")


def test_a_drift_is_alerted_when_it_lasts_and_waits_until_then(shifted: World) -> None:
    shifted.declare(
        Monitor(
            name="patient",
            endpoint="delays",
            window=timedelta(hours=20),
            drift_watch=DriftWatch(needed=2, of_last=3, quality=None),
        )
    )
    start = NOW - timedelta(days=7)
    first = shifted.monitors.check("patient", until=start + timedelta(hours=20))
    assert (first.findings, first.alerts) == ([], [])
    assert [one.partition(" ")[0] for one in first.waiting] == ["b"]
    again = shifted.monitors.check("patient", until=start + timedelta(hours=20))
    assert again.findings == []
    second = shifted.monitors.check("patient", until=start + timedelta(hours=40))
    assert [one.partition(" ")[0] for one in second.findings] == ["b"]
    assert second.waiting == []


def test_a_shift_that_lasts_is_none_against_the_windows_before_it(shifted: World) -> None:
    now = {"since": NOW - timedelta(days=6), "until": NOW - timedelta(days=5, hours=12)}
    assert [one.name for one in shifted.monitors.drift("delays", **now).drifted] == ["b"]
    rolling = shifted.monitors.drift("delays", **now, reference="rolling", reference_windows=2)
    assert rolling.drifted == []
    assert rolling.against == "the rolling window from 2026-11-02 00:00 to 2026-11-03 00:00"
    fixed = shifted.monitors.drift(
        "delays", **now, reference="fixed",
        reference_since=NOW - timedelta(days=7), reference_until=NOW - timedelta(days=6, hours=12),
    )  # fmt: skip
    assert (fixed.n_reference, fixed.drifted) == (720, [])
    with pytest.raises(NotFound, match="2026-10-27"):
        shifted.monitors.drift("delays", **now, reference="seasonal")


def test_the_drift_of_all_inputs_is_weighted_by_the_models_importance(shifted: World) -> None:
    report = shifted.monitors.drift("delays")
    by_name = {one.name: one for one in report.features}
    assert [one.weight for one in report.features] == [0.25, 0.75, 0.0]
    assert report.weighted_psi == pytest.approx(
        0.25 * by_name["a"].psi + 0.75 * by_name["b"].psi, rel=1e-9
    )
    watch = DriftWatch(weighted=0.2, quality=None)
    shifted.declare(Monitor(name="heavy", endpoint="delays", drift_watch=watch))
    findings = shifted.monitors.check("heavy").findings
    assert [one.partition(" ")[0] for one in findings] == ["b", "The"]


def test_labels_that_moved_are_told_against_the_window_before(steady: World) -> None:
    watch = DriftWatch(labels=0.05, quality=None)
    steady.declare(
        Monitor(
            name="labels", endpoint="delays", window=timedelta(hours=20),
            labels=Labels(table="outcomes", label="delayed"), drift_watch=watch,
        )
    )  # fmt: skip
    until = NOW - timedelta(days=7) + timedelta(hours=40)
    checked = steady.monitors.check("labels", until=until)
    document = steady.monitors.report(checked.reports[0]).document
    assert document["labels"]["n_reference"] == document["labels"]["n_observed"] == 1200
    assert not document["labels"]["drifted"]


def test_a_monitor_that_watches_as_before_keeps_its_fingerprint() -> None:
    told = Monitor(name="watch", endpoint="delays").document()
    assert told["drift"] == {"psi": 0.2, "missing": 0.1, "false_discovery_rate": 0.05}
    assert "drift_watch" not in told
    assert (told["labels"], told["performance"], told["owner"]) == (None, None, None)
    seasonal = DriftWatch(reference=DriftReference(kind="seasonal", windows=4))
    watched = Monitor(
        name="watch", endpoint="delays", drift=DriftLimits(ks=0.1), drift_watch=seasonal
    )
    assert (
        Monitor.model_validate(
            {name: one for name, one in watched.document().items() if name != "kind"}
        )
        == watched
    )


def test_two_snapshots_of_a_table_are_compared(steady: World) -> None:
    same = steady.monitors.drift_of_tables("predictions_delays", "predictions_delays")
    assert same.alarmed == []
    assert (same.n_reference, same.n_observed) == (3_000, 3_000)
    assert "features" in same.embeddings
    assert same.skipped == ["statuses"]
    with pytest.raises(NotFound, match="nothing"):
        steady.monitors.drift_of_tables("nothing", "predictions_delays")


def test_rows_as_a_whole_are_told_apart_on_samples(shifted: World) -> None:
    watch = DriftWatch(sample=400, quality=None)
    shifted.declare(
        Monitor(name="whole", endpoint="delays", window=timedelta(hours=20), drift_watch=watch)
    )
    until = NOW - timedelta(days=7) + timedelta(hours=40)
    report = shifted.monitors.report(shifted.monitors.check("whole", until=until).reports[0])
    told = report.document["sampled"]
    assert (told["n_reference"], told["n_observed"]) == (400, 400)
    assert told["separability"]["low"] < 0.5 < told["separability"]["high"]
    assert told["reconstruction"]["p_value"] > 0.001


def test_the_newest_reports_of_each_kind_and_monitor_are_kept(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "REPORTS_KEPT", 2)
    with opened_call(sqlite_database) as call:
        for n in range(4):
            for kind, monitor in (("drift", None), ("drift", "watch"), ("performance", "watch")):
                tables.keep_report(
                    call.connection, id=f"report_{n}_{kind}_{monitor}", kind=kind,
                    endpoint="delays", monitor=monitor, at=NOW, by="user:amina", document={"n": n},
                )  # fmt: skip
        rows = tables.report_rows(call.connection, "delays", limit=100)
    assert sorted(row.id[:8] for row in rows) == ["report_2"] * 3 + ["report_3"] * 3


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckLake]:
    lake = DuckLake(Place.of("ducklake:", tmp_path_factory.mktemp("shadowed")), threads=1)
    lake.append("predictions_delays", logged(3_000, shift=0.0, seed=5))
    lake.append("predictions_delays", logged(3_000, shift=4.0, seed=6, shadow=True))
    yield lake
    lake.close()


def test_the_rows_of_a_shadow_are_no_drift(sqlite_database: Database, shadowed: DuckLake) -> None:
    report = World(sqlite_database, shadowed).monitors.drift("delays")
    assert (report.n_observed, report.source, report.drifted) == (3_000, "rows", [])


def test_a_sample_reads_about_as_many_rows_as_are_wanted(shadowed: DuckLake) -> None:
    read: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            found = getattr(shadowed, name)
            if name != "scan":
                return found

            def scan(*given: Any, **named: Any) -> pa.Table:
                rows = found(*given, **named)
                read.append(rows.num_rows)
                return rows

            return scan

    bundle = SimpleNamespace(statistics=reference(), manifest=SimpleNamespace(importance={}))
    bundles = SimpleNamespace(open_bundle=lambda _: bundle)
    drift = Drift(Counting(), bundles)  # type: ignore[arg-type]
    week = (NOW - timedelta(days=7), NOW)
    sample = drift.sample(make_release(), week, 500, seed=1)
    assert sample.shape == (500, 3)
    assert read[0] < 800
    assert len(np.unique(sample, axis=0)) == 500
    assert (drift.sample(make_release(), week, 500, seed=1) == sample).all()
    assert not np.array_equal(drift.sample(make_release(), week, 500, seed=2), sample)
    assert len(drift.sample(make_release(), week, 9_000)) == 3_000


class Busy:
    """A lake, while it is read: tries at each read to be the one who writes metadata."""

    def __init__(self, lake: DuckLake, database: Database) -> None:
        self._lake = lake
        self._file = str(database.url.database)
        self.n = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("scan", "query"):
            self.n += 1
            with closing(sqlite3.connect(self._file, timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
        return getattr(self._lake, name)


def test_others_write_while_a_check_measures(
    sqlite_database: Database, lakes: dict[str, DuckLake]
) -> None:
    busy = Busy(lakes["shifted"], sqlite_database)
    world = World(sqlite_database, busy)  # type: ignore[arg-type]
    labels = Labels(table="outcomes", label="delayed")
    world.declare(
        Monitor(
            name="watch",
            endpoint="delays",
            labels=labels,
            performance=PerformanceLimits(auc_at_least=0.8),
            drift_watch=DriftWatch(labels=0.1, sample=1_000),
        )
    )
    told = world.monitors.check("watch")
    assert {"b", "AUC"} <= {finding.partition(" ")[0] for finding in told.findings}
    assert len(told.alerts) == len(told.findings)
    assert busy.n >= 4
    world.monitors.performance("delays", "outcomes", "delayed")
    world.monitors.drift("delays")
    assert len(world.monitors.reports("delays")) == 4
