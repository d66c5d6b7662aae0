"""Gates: they pass an honest model, and catch those that know the answer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import InvalidInput
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs
from falaj.models.adapters.onnx_calibration import calibrated
from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.models.bundles import Bundles
from falaj.models.gates import Gates
from falaj.models.gating.rules import (
    CalibrationRule,
    ChampionRule,
    LatencyRule,
    LeakageRule,
    MetricRule,
    SliceRule,
)
from falaj.models.isolation import ISOLATION, IsolationForest
from falaj.models.model import ModelPolicy, Outcome
from falaj.models.packaging import ConversionDiffers, ModelPackaging
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.encoding import learned
from falaj.training.metrics import auc
from falaj.training.model import Isolation, Run, TimeSplit, TrainingSet, TrainingSetSpec
from falaj.training.ports import Candidate, Rows
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
TRAINER = LightGbmTrainer()
N = 9000


def flights(kind, seed=0):
    """Made-up departures of aircraft through a year, by the way their features were asked.

    ``honest``: delays of the aircraft's earlier flights. ``own_row``: the same windows, but
    holding the row itself. ``late_asked``: as honest, with a flag that is known only once
    most of the aircraft have left (the question was asked at the scheduled time).
    """
    random = np.random.default_rng(seed)
    tail = random.integers(0, 900, N)
    seconds = np.sort(random.integers(0, 365 * 86_400, N))
    carrier = np.array(["AA", "UA", "WN", "XX"])[np.minimum(tail % 4, 3)]
    habit = random.normal(size=900)[tail]
    congestion = random.normal(size=N)
    logits = -1.3 + 0.7 * habit + 0.9 * congestion
    late = (random.random(N) < 1 / (1 + np.exp(-logits))).astype(float)
    delay = np.where(late == 1, 20.0, 0.0) + random.exponential(3.0, N)
    counts, means = np.zeros(N), np.full(N, np.nan)
    windows = tail + 900 * (seconds // (45 * 86_400))  # each holds about one flight or two
    sums, seen = np.zeros(900 * 9), np.zeros(900 * 9)
    for place, t in enumerate(windows):
        if kind == "own_row":
            seen[t], sums[t] = seen[t] + 1, sums[t] + delay[place]
        counts[place] = seen[t]
        means[place] = sums[t] / seen[t] if seen[t] else np.nan
        if kind != "own_row":
            seen[t], sums[t] = seen[t] + 1, sums[t] + delay[place]
    columns = {
        "at": pa.array(
            [BEGIN + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", "UTC")
        ),
        "carrier": carrier.tolist(),
        "late": late == 1,
        "congestion": congestion,
        "aircraft_count": counts,
        "aircraft_mean_delay": means,
    }
    features = ["congestion", "aircraft_count", "aircraft_mean_delay"]
    if kind == "late_asked":
        left = np.where(late == 1, 0.0, (random.random(N) < 0.75).astype(float))
        columns["left_early"] = left
        features.append("left_early")
    split = np.where(seconds < 200 * 86_400, "train", "test").astype(object)
    split[(seconds >= 200 * 86_400) & (seconds < 250 * 86_400)] = "validation"
    columns["split"] = split.tolist()
    return pa.table(columns), tuple(features)


def training_set(features):
    return TrainingSet(
        id="ts_1",
        table="training_set_1",
        spec=TrainingSetSpec(
            feature_service="delays",
            label="late",
            spine="departures",
            timestamp="at",
            split=TimeSplit(
                train_until=BEGIN + timedelta(days=200),
                validation_until=BEGIN + timedelta(days=250),
            ),
        ),
        features=features,
        spine_snapshot=1,
        snapshot=2,
        spine_hash="sha256:1",
        content_hash="sha256:2",
        definitions={"feature_service:delays": "f"},
        n_rows={},
        positive_rate={},
        created_at=BEGIN,
        created_by="user:amina",
    )


def candidate(table, features, *, model="late", **params):
    def part(name):
        return table.filter(pa.array([one == name for one in table["split"].to_pylist()]))

    def rows(name):
        found = part(name)
        return Rows(encoding.matrix(found), np.asarray(found["late"].to_pylist(), float))

    train_table = part("train")
    encoding = learned(train_table, features, np.asarray(train_table["late"].to_pylist(), float))
    train, validation = rows("train"), rows("validation")
    fitted = TRAINER.fit(
        train,
        validation,
        encoding,
        params={"n_trees": 120, "min_data_in_leaf": 40, "num_leaves": 15, **params},
        seed=1,
        report=lambda share, told: None,
    )
    return Candidate(
        model=model,
        run=Run(
            id="run_1", experiment="late", name="late", state="running", started_at=BEGIN,
            started_by="user:amina",
        ),
        training_set=training_set(features),
        fitted=fitted,
        train=train,
        validation=validation,
        scores=TRAINER.scores(fitted, validation.matrix),
    )  # fmt: skip


class Bench:
    def __init__(self, folder):
        keys = FileKeyring.create(
            folder / "ring", MachineSeal.create(folder / "seal"), clock=SystemClock()
        )
        self.bundles = Bundles(SealedBlobs(LocalBlobs(folder / "blobs"), keys), keys)
        self.packaging = ModelPackaging(
            {"lightgbm": LightGbmToOnnx()}, OnnxScorers(), self.bundles, None, calibrate=calibrated
        )
        self.gates = Gates(self.bundles, OnnxScorers())
        self.made = {}

    def bundle(self, kind, **params):
        key = (kind, tuple(params.items()))
        if key not in self.made:
            table, features = flights(kind)
            digest = self.packaging.package(candidate(table, features, **params))
            self.made[key] = digest, table, training_set(features)
        return self.made[key]

    def results(self, kind, policy, **options):
        digest, table, made = self.bundle(kind)
        found = self.gates.evaluate(policy, bundle=digest, training_set=made, rows=table, **options)
        return {one.gate: one for one in found}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


def policy(**rules):
    nothing = {"champion": None, "calibration": None, "latency": None, "leakage": None}
    return ModelPolicy(
        **{
            "name": "late",
            "feature_service": "delays",
            "label": "late",
            "largest_megabytes": None,
            **nothing,
            **rules,
        }
    )


def test_an_honest_model_passes_the_leakage_gate_with_its_numbers(bench):
    found = bench.results("honest", policy(leakage=LeakageRule()))["leakage"]
    assert found.outcome is Outcome.PASSED, found.message
    assert 0.68 < found.evidence["model_auc"]["estimate"] < 0.85
    assert found.evidence["own_rows"] == []


def test_a_window_that_holds_the_row_itself_is_caught_where_the_count_is_one(bench):
    rules = LeakageRule(model_auc=1.0, feature_auc=1.0)
    found = bench.results("own_row", policy(leakage=rules))["leakage"]
    assert found.outcome is Outcome.FAILED
    (own,) = found.evidence["own_rows"]
    assert (own["count"], own["feature"]) == ("aircraft_count", "aircraft_mean_delay")
    assert own["auc"] > 0.99
    assert "its window holds the row itself" in found.message


def test_a_feature_that_is_known_too_late_is_caught_by_the_models_auc(bench):
    found = bench.results("late_asked", policy(leakage=LeakageRule()))["leakage"]
    assert found.outcome is Outcome.FAILED
    assert found.evidence["model_auc"]["estimate"] > 0.9
    assert "when the answer was known" in found.message


def test_metrics_are_held_to_floors_and_ceilings_with_an_interval(bench):
    rules = (MetricRule(metric="auc", limit=0.65), MetricRule(metric="log_loss", limit=0.1))
    found = bench.results("honest", policy(floors=rules))
    assert found["metric:auc"].outcome is Outcome.PASSED
    interval = found["metric:auc"].evidence["interval"]
    assert interval["low"] < found["metric:auc"].evidence["value"] < interval["high"]
    assert found["metric:log_loss"].outcome is Outcome.FAILED
    assert "asked ≤ 0.1" in found["metric:log_loss"].message


def test_the_contract_names_another_label_or_service(bench):
    found = bench.results("honest", policy(label="cancelled"))["contract"]
    assert found.outcome is Outcome.FAILED


def test_slices_are_judged_by_their_intervals_and_small_ones_are_left_out(bench):
    rule = SliceRule(columns=("carrier",), limit=0.5)
    found = bench.results("honest", policy(slices=(rule,)))["slices:carrier"]
    assert found.outcome is Outcome.PASSED
    assert found.evidence["n_slices"] == 4
    strict = SliceRule(columns=("carrier",), limit=0.99)
    found = bench.results("honest", policy(slices=(strict,)))["slices:carrier"]
    assert found.outcome is Outcome.FAILED
    assert len(found.evidence["surely_under"]) == 4
    few = SliceRule(columns=("carrier",), limit=0.99, least_rows=100_000)
    found = bench.results("honest", policy(slices=(few,)))["slices:carrier"]
    assert found.outcome is Outcome.SKIPPED
    assert found.evidence["n_too_small"] == 4
    with pytest.raises(InvalidInput, match="origin"):
        bench.results("honest", policy(slices=(SliceRule(columns=("origin",), limit=0.5),)))


def test_calibration_size_and_latency_are_measured(bench):
    loose = policy(
        calibration=0.1, largest_megabytes=50, latency=LatencyRule(p50_ms=500, p99_ms=500)
    )
    found = bench.results("honest", loose)
    assert {found[name].outcome for name in ("calibration", "size", "latency")} == {Outcome.PASSED}
    assert found["latency"].evidence["n_rows"] == 2000
    assert 0 < found["latency"].evidence["p50_ms"] <= found["latency"].evidence["p99_ms"]
    tight = policy(
        calibration=CalibrationRule(limit=0.0, require="surely_within"),
        largest_megabytes=0.001,
        latency=LatencyRule(p50_ms=1e-6, p99_ms=1e-6),
    )
    found = bench.results("honest", tight)
    assert {found[name].outcome for name in ("calibration", "size", "latency")} == {Outcome.FAILED}


def test_too_few_distinct_rows_give_no_latency(bench):
    digest, table, made = bench.bundle("honest")
    few = table.slice(len(table) - 300)
    found = bench.gates.evaluate(
        policy(latency=LatencyRule()), bundle=digest, training_set=made, rows=few
    )
    assert found[-1].outcome is Outcome.SKIPPED


def test_a_weaker_version_does_not_replace_the_champion(bench):
    strong, table, made = bench.bundle("honest")
    weak, _, _ = bench.bundle("honest", n_trees=1, num_leaves=2)

    def compared(bundle, champion, **rule):
        (found,) = [
            one
            for one in bench.gates.evaluate(
                policy(champion=ChampionRule(**rule)),
                bundle=bundle,
                training_set=made,
                rows=table,
                champion=champion,
                champion_set=made,
                champion_version=1,
            )
            if one.gate == "champion"
        ]
        return found

    assert compared(weak, strong).outcome is Outcome.FAILED
    assert compared(strong, weak, require="better").outcome is Outcome.PASSED
    assert compared(strong, strong).outcome is Outcome.PASSED
    assert compared(strong, strong, require="better").outcome is Outcome.FAILED
    assert compared(weak, strong, metric="log_loss").outcome is Outcome.FAILED


def test_without_a_champion_there_is_nothing_to_compare(bench):
    found = bench.results("honest", policy(champion=ChampionRule()))["champion"]
    assert found.outcome is Outcome.SKIPPED


def test_a_champion_that_cannot_be_scored_on_these_rows_blocks_with_the_reason(bench):
    wider, _, wider_set = bench.bundle("late_asked")
    found = bench.results(
        "honest", policy(champion=ChampionRule()), champion=wider, champion_set=wider_set
    )["champion"]
    assert found.outcome is Outcome.FAILED
    assert "left_early" in found.message


def test_rows_that_the_champion_was_fitted_on_do_not_count(bench):
    digest, _, made = bench.bundle("honest")
    later = made.model_copy(
        update={
            "spec": made.spec.model_copy(
                update={
                    "split": TimeSplit(
                        train_until=BEGIN + timedelta(days=350),
                        validation_until=BEGIN + timedelta(days=400),
                    )
                }
            )
        }
    )
    found = bench.results(
        "honest", policy(champion=ChampionRule()), champion=digest, champion_set=later
    )["champion"]
    assert found.outcome is Outcome.FAILED
    assert "no test rows" in found.message


def test_a_set_without_test_rows_cannot_judge(bench):
    digest, table, made = bench.bundle("honest")
    with pytest.raises(InvalidInput, match="no test rows"):
        bench.gates.evaluate(policy(), bundle=digest, training_set=made, rows=table.slice(0, 100))


def test_a_conversion_that_scores_otherwise_is_not_packaged(bench):
    table, features = flights("honest")
    made = candidate(table, features, n_trees=5)
    shifted = Candidate(**{**vars(made), "scores": made.scores + 2e-5})
    with pytest.raises(ConversionDiffers, match="differ"):
        bench.packaging.package(shifted)


def test_a_bundle_has_a_signed_isolation_forest_only_if_one_is_asked_for(bench):
    table, features = flights("honest")
    made = candidate(table, features, n_trees=5)
    plain = bench.bundles.open_bundle(bench.packaging.package(made))
    asked = replace(made, isolation=Isolation(n_trees=20, share=0.02), seed=4)
    digest = bench.packaging.package(asked)
    opened = bench.bundles.open_bundle(digest)
    assert plain.isolation == b""
    assert ISOLATION in {entry.name for entry in opened.entries}
    forest = IsolationForest.read(opened.isolation, len(made.fitted.encoding.names))
    share = (forest.scores(made.train.matrix) > forest.limit).mean()
    assert share == pytest.approx(0.02, abs=0.005)


def test_the_bundle_carries_the_reference_for_drift(bench):
    digest, table, _ = bench.bundle("honest")
    opened = bench.bundles.open_bundle(digest)
    by_name = {one.name: one for one in opened.statistics.features}
    train = [one == "train" for one in table["split"].to_pylist()]
    for one in by_name.values():
        assert len(one.counts) == len(one.edges) + 1
        assert sum(one.counts) + one.n_missing == sum(train)
    assert len(by_name["congestion"].edges) == 65
    inside = by_name["congestion"].counts[1:-1]  # no training row lies outside its range
    assert max(inside) - min(inside) <= 2
    assert by_name["aircraft_mean_delay"].n_missing > 0
    assert opened.manifest.metrics["validation_auc"] == pytest.approx(
        auc([0, 1], [0, 1]) * opened.manifest.metrics["validation_auc"]
    )
    assert opened.manifest.feature_service_fingerprint == "f"
