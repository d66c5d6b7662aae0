"""Models that were trained elsewhere: from a file to a version that gates judge."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from falaj.catalog.model import Direction
from falaj.ingest.model import SourceBroken
from falaj.kernel.call import AssetRef
from falaj.kernel.door import face
from falaj.kernel.errors import Conflict, FalajError, InvalidInput, NotFound
from falaj.kernel.jobs import JobState
from falaj.models.brought import MOST_BYTES, READ_AT_ONCE
from falaj.models.files import check_bytes, is_pickle, sample_table
from falaj.models.model import GatesNotPassed, ModelFormat, Stage
from falaj.models.service import ModelService
from falaj.operations.service import ChangeService
from falaj.testing.runtimes import Trap
from falaj.testing.smallmodels import lightgbm_booster, rows_and_labels, xgboost_booster
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType
from falaj.training.model import PREPARE_JOB, TEST
from falaj.training.training_sets import part_of

CARRIERS = ("AA", "UA", "WN")
INPUTS = (
    EncodedFeature(name="signal"),
    EncodedFeature(name="carrier", type=FeatureType.CATEGORY, categories=CARRIERS),
)
MODULE = """
import numpy as np

class Model:
    def __init__(self, folder): pass

    def predict(self, rows):
        logits = 1.3 * np.nan_to_num(rows[:, 0]) + np.where(rows[:, 1] == 2, 0.8, -0.4)
        return 1 / (1 + np.exp(-logits))
"""


@pytest.fixture
def judged(sqlite_world: Any, made_up: Any) -> Any:
    """A world with a training set that can judge, and files to bring."""
    world = sqlite_world
    made = world.done(PREPARE_JOB, made_up.SPEC.model_dump(mode="json"))
    assert made.state is JobState.DONE, made.error
    with world.database.reading() as connection:
        world.set = world.sets.listed(connection)[0]
    data = world.files._roots[0]
    (data / "late.txt").write_text(outside_booster().model_to_string())
    (data / "late.py").write_text(MODULE)
    (data / "late.pickle").write_bytes(pickle.dumps(outside_forest()))
    world.until = made_up.BEGIN + timedelta(days=80)
    world.data = data
    return world


def outside_booster() -> Any:
    """A model of the small world's label that somebody trained elsewhere."""
    import lightgbm

    random = np.random.default_rng(3)
    rows = np.column_stack([random.normal(size=4000), random.integers(0, 3, 4000)])
    logits = 1.3 * rows[:, 0] + np.where(rows[:, 1] == 2, 0.8, -0.4)
    labels = random.random(4000) < 1 / (1 + np.exp(-logits))
    params = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    return lightgbm.train(params, lightgbm.Dataset(rows, labels), 40)


def outside_forest() -> Any:
    """As ``outside_booster``, of scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(3)
    rows = np.column_stack([random.normal(size=4000), random.integers(0, 3, 4000)])
    logits = 1.3 * rows[:, 0] + np.where(rows[:, 1] == 2, 0.8, -0.4)
    labels = random.random(4000) < 1 / (1 + np.exp(-logits))
    return HistGradientBoostingClassifier(max_iter=20).fit(rows, labels)


def faces(world: Any, principal: str = "user:amina") -> tuple[Any, Any]:
    door = world.door(principal)
    return face(ModelService, door), face(ChangeService, door)


def brought(world: Any, file: str, model_format: ModelFormat, **options: Any) -> Any:
    models, _ = faces(world)
    options.setdefault("inputs", INPUTS)
    job = models.bring("late", file=file, model_format=model_format, **options)
    assert world.worker().run_one()
    with world.database.reading() as connection:
        return world.jobs.get(connection, job.id)


def gated(world: Any, version: int) -> Any:
    models, _ = faces(world)
    models.gates("late", version)
    assert world.worker().run_one()
    return models.gate_report("late", version)


@pytest.mark.parametrize(
    ("file", "model_format"),
    [
        ("late.txt", ModelFormat.LIGHTGBM),
        ("late.py", ModelFormat.PYTHON),
        ("late.pickle", ModelFormat.PICKLE),
    ],
)
def test_a_brought_model_goes_through_gates_and_approval_and_names_its_origin(
    judged: Any, file: str, model_format: ModelFormat
) -> None:
    job = brought(
        judged, file, model_format, training_set=judged.set.id, trained_until=judged.until,
        note="From the old system.",
    )  # fmt: skip
    assert job.state is JobState.DONE, job.error
    models, _ = faces(judged)
    version = models.get("late", 1)
    assert (version.run, version.training_set) == ("", judged.set.id)
    with pytest.raises(GatesNotPassed):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="in a hurry")
    report = gated(judged, 1)
    assert report.passed, [one.message for one in report.results if one.outcome == "failed"]
    origin = next(one for one in report.results if one.gate == "origin")
    assert origin.evidence["by"] == "user:amina"
    assert origin.evidence["n_rows"] > 100
    change = models.promote("late", 1, to=Stage.PRODUCTION, reason="it is as good")
    _, changes = faces(judged, "user:omar")
    changes.approve(change.id, reason="the evidence is good")
    assert models.get("late", 1).stage is Stage.PRODUCTION
    card = models.card("late", 1)
    assert "trained elsewhere, brought by user:amina" in card
    assert "From the old system." in card
    opened = judged.bundles.open_bundle(version.bundle)
    assert opened.manifest.model_format is model_format
    assert opened.statistics.n_rows > 1000
    with judged.database.reading() as connection:
        upstream = judged.catalog.walk(
            connection, AssetRef("model_version", "late/1"), Direction.UPSTREAM
        ).refs()
    assert not any(ref.kind in ("run", "training_set") for ref in upstream)


def test_without_rows_or_a_word_on_the_training_rows_no_gate_passes(judged: Any) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "rows"),
        ({"training_set": judged.set.id}, "origin"),
        (
            {"training_set": judged.set.id, "trained_until": judged.until + timedelta(days=400)},
            "origin",
        ),
    ]
    models, _ = faces(judged)
    for version, (options, gate) in enumerate(cases, start=1):
        job = brought(
            judged, "late.txt", ModelFormat.LIGHTGBM, note=gate + "?" * version, **options
        )
        assert job.state is JobState.DONE, job.error
        report = gated(judged, version)
        assert not report.passed
        assert [one.gate for one in report.results if one.outcome == "failed"] == [gate]
        with pytest.raises(GatesNotPassed, match=gate):
            models.promote("late", version, to=Stage.STAGING, reason="please")


def test_rows_that_the_model_may_have_seen_do_not_judge_it(judged: Any) -> None:
    until = judged.until + timedelta(days=9)
    job = brought(
        judged, "late.txt", ModelFormat.LIGHTGBM, training_set=judged.set.id, trained_until=until
    )
    assert job.state is JobState.DONE, job.error
    report = gated(judged, 1)
    found = next(one for one in report.results if one.gate == "metric:auc")
    test = part_of(judged.sets.load(judged.set), TEST)
    later = sum(at > until for at in test.column("at").to_pylist())
    assert found.evidence["n_rows"] == later < test.num_rows


def test_what_cannot_be_brought_is_refused_at_once(judged: Any) -> None:
    models, _ = faces(judged)
    (judged.data / "late.pkl").write_bytes(pickle.dumps(Trap()))
    text: dict[str, Any] = {"file": "late.txt", "model_format": "lightgbm", "inputs": INPUTS}
    wrong: list[tuple[type[FalajError], dict[str, Any]]] = [
        (InvalidInput, {"file": "late.pkl"}),
        (InvalidInput, {"model_format": "onnx"}),
        (InvalidInput, {"model_format": "pickle"}),
        (InvalidInput, {"inputs": (INPUTS[0], INPUTS[0])}),
        (InvalidInput, {"inputs": ()}),
        (InvalidInput, {"file": "late.*"}),
        (SourceBroken, {"file": "nothing.txt"}),
        (SourceBroken, {"file": "../ring.json"}),
        (SourceBroken, {"file": "/etc/passwd"}),
        (SourceBroken, {"sample": "/etc/passwd"}),
        (NotFound, {"training_set": "ts_no"}),
        (NotFound, {"name": "nobody-declared"}),
    ]
    for error, change in wrong:
        arguments = {"name": "late", **text, **change}
        with pytest.raises(error):
            models.bring(arguments.pop("name"), **arguments)
    with pytest.raises(NotFound):
        models.versions("late")


def test_a_model_that_is_none_or_gives_no_probabilities_never_becomes_a_version(
    judged: Any,
) -> None:
    (judged.data / "wide.txt").write_text(lightgbm_booster().model_to_string())
    (judged.data / "raw.py").write_text(MODULE.replace("return 1 /", "return 2 /"))
    (judged.data / "nan.py").write_text(MODULE.replace("np.nan_to_num(rows[:, 0])", "rows[:, 0]"))
    (judged.data / "bad.txt").write_text(
        (judged.data / "late.txt").read_text().replace("left_child=1 ", "left_child=9 ", 1)
    )
    for file, model_format, why in (
        ("wide.txt", ModelFormat.LIGHTGBM, "columns"),
        ("bad.txt", ModelFormat.LIGHTGBM, "not a tree"),
        ("raw.py", ModelFormat.PYTHON, "no probabilities"),
        ("nan.py", ModelFormat.PYTHON, "no probabilities"),
    ):
        job = brought(judged, file, model_format)
        assert job.state is JobState.FAILED
        assert why in job.error["message"], job.error
    with pytest.raises(NotFound):
        faces(judged)[0].versions("late")


def test_a_file_that_is_changed_before_the_job_runs_is_refused(judged: Any) -> None:
    models, _ = faces(judged)
    job = models.bring("late", file="late.py", model_format="python", inputs=INPUTS)
    (judged.data / "late.py").write_text(MODULE + "# another\n")
    judged.worker().run_one()
    with judged.database.reading() as connection:
        ended = judged.jobs.get(connection, job.id)
    assert ended.state is JobState.FAILED
    assert ended.error["code"] == Conflict.code


def large(world: Any) -> Any:
    """A model's file that is too large to be looked at in a request."""
    path = world.data / "large.py"
    path.write_text(MODULE + "#" * (READ_AT_ONCE + 1))
    return path


def test_a_large_file_is_read_by_the_job_and_not_by_the_request(judged: Any) -> None:
    path = large(judged)
    models, _ = faces(judged)
    tracemalloc.start()
    try:
        job = models.bring("late", file=path.name, model_format="python", inputs=INPUTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < READ_AT_ONCE / 4
    assert judged.worker().run_one()
    with judged.database.reading() as connection:
        ended = judged.jobs.get(connection, job.id)
    assert ended.state is JobState.DONE, ended.error
    manifest = judged.bundles.open_bundle(models.get("late", 1).bundle).manifest
    assert manifest.brought.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["longer", "later"])
def test_a_large_file_that_is_changed_before_the_job_runs_is_refused(
    judged: Any, change: str
) -> None:
    path = large(judged)
    models, _ = faces(judged)
    job = models.bring("late", file=path.name, model_format="python", inputs=INPUTS)
    if change == "longer":
        path.write_text(path.read_text() + "#")
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    judged.worker().run_one()
    with judged.database.reading() as connection:
        ended = judged.jobs.get(connection, job.id)
    assert ended.state is JobState.FAILED
    assert ended.error["code"] == Conflict.code


def test_a_file_that_is_too_large_to_be_served_is_refused_at_once(judged: Any) -> None:
    path = judged.data / "huge.txt"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InvalidInput, match="larger than"):
        faces(judged)[0].bring(
            "late", file=path.name, model_format=ModelFormat.LIGHTGBM, inputs=INPUTS
        )


def test_sample_rows_become_the_statistics_that_drift_is_told_from(judged: Any) -> None:
    rows = pa.table({"carrier": ["AA", "WN", "XX"] * 20, "signal": np.linspace(-1, 1, 60)})
    parquet.write_table(rows, judged.data / "rows.parquet")
    csv.write_csv(rows, judged.data / "rows.csv")
    for version, name in enumerate(("rows.parquet", "rows.csv"), start=1):
        job = brought(judged, "late.txt", ModelFormat.LIGHTGBM, sample=name, note=name)
        assert job.state is JobState.DONE, job.error
        bundle = faces(judged)[0].get("late", version).bundle
        signal, carrier = judged.bundles.open_bundle(bundle).statistics.features
        assert (signal.mean, carrier.counts, carrier.n_missing) == (
            pytest.approx(0, abs=1e-6), (20, 0, 20, 0), 20,
        )  # fmt: skip


@pytest.mark.parametrize("model_format", list(ModelFormat))
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_as_every_format(model_format: ModelFormat, protocol: int) -> None:
    data = pickle.dumps(Trap(), protocol)
    assert is_pickle(data)
    with pytest.raises(InvalidInput, match="pickle"):
        check_bytes(data, model_format)


def test_models_of_each_format_are_no_pickles() -> None:
    from falaj.testing.serving import onnx_classifier

    booster = xgboost_booster()
    for data, model_format in (
        (onnx_classifier(), ModelFormat.ONNX),
        (lightgbm_booster().model_to_string().encode(), ModelFormat.LIGHTGBM),
        (bytes(booster.save_raw("ubj")), ModelFormat.XGBOOST),
        (bytes(booster.save_raw("json")), ModelFormat.XGBOOST),
        (MODULE.encode(), ModelFormat.PYTHON),
    ):
        check_bytes(data, model_format)
        for other in ModelFormat:
            if other is not model_format:
                with pytest.raises(InvalidInput):
                    check_bytes(data, other)


def test_an_onnx_model_with_weights_elsewhere_or_foreign_operators_is_refused() -> None:
    import onnx
    from onnx import TensorProto

    from falaj.testing.serving import onnx_classifier

    outside = onnx.load_model_from_string(onnx_classifier())
    tensor = outside.graph.initializer.add()
    tensor.name, tensor.data_location = "w", TensorProto.EXTERNAL
    with pytest.raises(InvalidInput, match="another file"):
        check_bytes(outside.SerializeToString(), ModelFormat.ONNX)
    foreign = onnx.load_model_from_string(onnx_classifier())
    foreign.graph.node[0].domain = "com.example"
    with pytest.raises(InvalidInput, match=r"com\.example"):
        check_bytes(foreign.SerializeToString(), ModelFormat.ONNX)


def test_an_onnx_file_hides_nothing_in_a_function_or_behind_another_mark() -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, 1, [None, 2]) for name in ("input", "p")]
    outside = TensorProto(name="c", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    constant = helper.make_node("Constant", [], ["y"], value=outside)
    foreign = helper.make_node("Any", ["x"], ["y"], domain="com.example")
    for node, why in ((constant, "in another file"), (foreign, r"com\.example")):
        function = helper.make_function(
            "ai.onnx.ml", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]
        )
        call = helper.make_node("F", ["input"], ["p"], domain="ai.onnx.ml")
        graph = helper.make_graph([call], "g", values[:1], values[1:])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, functions=[function], opset_imports=opsets)
        with pytest.raises(InvalidInput, match=why):
            check_bytes(model.SerializeToString(), ModelFormat.ONNX)
    plain = helper.make_model(helper.make_graph([], "g", values[:1], values[:1]))
    marked = b"\x12\x7f\x00\x00ORTM" + b"a" * 121 + plain.SerializeToString()
    assert onnx.load_model_from_string(marked).producer_name
    with pytest.raises(InvalidInput, match="does not begin"):
        check_bytes(marked, ModelFormat.ONNX)


def test_a_sample_of_another_kind_is_refused(tmp_path: Any) -> None:
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "rows.parquet").write_bytes(b"nothing")
    for name in ("rows.txt", "rows.parquet"):
        with pytest.raises(InvalidInput):
            sample_table(tmp_path / name, Encoding(features=INPUTS), 10)
    assert rows_and_labels(3)[0].shape == (3, 3)
