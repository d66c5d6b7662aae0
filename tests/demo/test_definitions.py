"""The declarations: whole, honest in time, equal offline and in the replay."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from falaj.demo import definitions as folder
from falaj.demo.definitions import features
from falaj.demo.flights_data import PARAMETERS, REQUEST_COLUMNS, training_request
from falaj.demo.replay import Replay, Stream, sampled
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.index.indexes import Indexes
from falaj.features.model import FeatureView
from falaj.features.offline import Offline
from falaj.features.plan import ServicePlan
from falaj.features.store import FeatureStore
from falaj.interfaces.declarations import declared
from falaj.kernel.clock import SystemClock
from falaj.models.gating.leakagesigns import feature_power
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.training.encoding import learned
from falaj.training.metrics import auc

Tables = Mapping[str, pa.Table]
OCTOBER = datetime(2013, 10, 1, 4, tzinfo=UTC)


def asked(departures: pa.Table, column: str = "asked_at") -> pa.Table:
    """The spine: each flight, asked about at the instant of a column."""
    wanted = departures.select(["flight_id", "late", *REQUEST_COLUMNS])
    return wanted.append_column("timestamp", departures.column(column))


def store(tables: Tables, definitions: GivenDefinitions, at: Path) -> FeatureStore:
    lake, online = MemoryLake(**tables), LmdbOnlineStore(at)
    return FeatureStore(definitions, lake, online, FixedSecrets(), SystemClock())


def known_by(tables: Tables, at: datetime) -> Tables:
    """What a clock that stood at an instant would have seen."""
    column = {"schedule": "scheduled_at", "departures": "departed_at", "weather": "known_at"}
    return {
        name: rows.filter(pc.less_equal(rows.column(column[name]), at)) if name in column else rows
        for name, rows in tables.items()
    }


def test_the_folder_declares_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = declared(Path(folder.__file__).parent)
    kinds = [definition.kind for definition in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "entity": 8, "feature_view": 12, "on_demand": 3, "feature_service": 1,
        "endpoint": 1, "monitor": 2, "model": 1, "source": 4, "contract": 4,
        "pipeline": 2,
    }  # fmt: skip
    for name in [name for name in sys.modules if name.startswith("falaj_definitions_")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_model_takes_36_features_and_no_instant(definitions: GivenDefinitions) -> None:
    plan = ServicePlan.of(features.delay_features, definitions)
    taken = training_request(tuple(plan.outputs)).features
    assert taken is not None
    assert len(taken) == 36
    assert not {"scheduled_at", "scheduled_local", "late", "delay"} & set(taken)


def test_every_view_keeps_a_head_of_a_tick_or_is_never_ahead(definitions: GivenDefinitions) -> None:
    for view in definitions.all(FeatureView.kind):
        assert isinstance(view, FeatureView)
        assert view.head == timedelta(hours=1) if view.aggregates else view.source != "departures"


@pytest.mark.parametrize("hour", [9, 15, 23])
def test_no_feature_uses_what_was_not_known_when_it_was_asked(
    autumn: Tables, definitions: GivenDefinitions, tmp_path: Path, hour: int
) -> None:
    at = datetime(2013, 10, 2, hour, 30, tzinfo=UTC)
    spine = asked(autumn["departures"]).slice(0, 400)
    spine = spine.set_column(
        spine.schema.get_field_index("timestamp"),
        "timestamp",
        pa.array([at] * 400, pa.timestamp("us", "UTC")),
    )
    with_future = store(autumn, definitions, tmp_path / "a").training_frame(spine, "delay_features")
    without = store(known_by(autumn, at), definitions, tmp_path / "b")
    assert without.training_frame(spine, "delay_features").equals(with_future)


def test_the_replay_serves_what_training_would_have_seen(
    autumn: Tables, definitions: GivenDefinitions, tmp_path: Path
) -> None:
    features_store = store(autumn, definitions, tmp_path)
    for view in definitions.all(FeatureView.kind):
        features_store.materialize(view.name, upto=OCTOBER)
    end = OCTOBER + timedelta(days=2)
    requests = sampled(asked(autumn["departures"]), asked_at="timestamp", spans=0.4, rows=0.2)
    replay = Replay(
        [
            Stream("departures", autumn["departures"], "departed_at"),
            Stream("schedule", autumn["schedule"], "scheduled_at"),
            Stream("weather", autumn["weather"], "known_at", latest=True),
        ],
        requests,
        asked_at="timestamp",
        begin=OCTOBER,
        end=end,
    )
    served, spine = [], []
    for tick in replay:
        for table, rows in tick.events.items():
            features_store.push(table, rows, stored=True)
        for row in tick.requests.to_pylist():
            served += features_store.read_online(
                "delay_features", [row], row["timestamp"]
            ).records()
            spine.append(row)
    assert len(served) == replay.n_requests > 100
    frame = features_store.training_frame(
        pa.Table.from_pylist(spine, requests.schema), "delay_features"
    )
    for name in served[0]:
        if name == "scheduled_at":
            continue
        offline = frame.column(name).to_pylist()
        for live, trained in zip((row[name] for row in served), offline, strict=True):
            close = isinstance(live, float) and live == pytest.approx(trained, rel=1e-9)
            assert close or live == trained, name


def frame_of(plan: ServicePlan, tables: Tables, spine: pa.Table) -> pa.Table:
    sources = {use.plan.view.source for use in plan.views}
    lake = MemoryLake(**{name: tables[name] for name in sources})
    frame = Offline(Indexes(lake)).frame(spine, plan)
    return frame.select(training_request(tuple(plan.outputs)).features or ())


def judged(plan: ServicePlan, tables: Tables, column: str = "asked_at") -> tuple[float, float]:
    """The AUC on the last fifth of three weeks, and that of the best feature by itself."""
    departures = tables["departures"].sort_by("scheduled_at")
    began = pc.greater_equal(departures["asked_at"], datetime(2013, 9, 12, tzinfo=UTC))
    spine = asked(departures.filter(began), column)
    frame, labels = frame_of(plan, tables, spine), spine["late"].to_numpy()
    encoding = learned(frame, frame.column_names, labels)
    rows, cut = encoding.matrix(frame), len(labels) * 8 // 10
    parameters = {
        **{name: PARAMETERS[name] for name in ("learning_rate", "num_leaves", "feature_fraction")},
        "objective": "binary", "verbosity": -1, "num_threads": 1, "seed": 7,
    }  # fmt: skip
    trees = lightgbm.train(parameters, lightgbm.Dataset(rows[:cut], labels[:cut]), 40)
    best = feature_power(encoding.names, rows[cut:], labels[cut:])[0]
    return auc(labels[cut:], trees.predict(rows[cut:])), best.auc


def test_two_hours_ahead_no_feature_gives_the_answer_away(
    autumn: Tables, definitions: GivenDefinitions
) -> None:
    model, best = judged(ServicePlan.of(features.delay_features, definitions), autumn)
    assert 0.6 < model < 0.8
    assert best < 0.75


def test_asked_at_the_scheduled_time_early_departures_give_the_answer_away(
    autumn: Tables, definitions: GivenDefinitions
) -> None:
    plan = ServicePlan.of(features.delay_features, definitions)
    model, best = judged(plan, autumn, "scheduled_at")
    assert model > 0.9
    assert best > 0.85


def test_departures_dated_by_their_schedule_put_the_row_into_its_own_window(
    autumn: Tables, definitions: GivenDefinitions
) -> None:
    wrong = [
        definition.model_copy(update={"event_time": "scheduled_at"})
        if isinstance(definition, FeatureView) and definition.source == "departures"
        else definition
        for definition in definitions.found.values()
    ]
    plan = ServicePlan.of(features.delay_features, GivenDefinitions(*wrong))
    model, best = judged(plan, autumn, "scheduled_at")
    assert model > 0.98
    assert best > 0.95
