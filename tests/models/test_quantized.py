"""Int8 variants: made from a version, measured against it, and gated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from falaj.kernel.call import AssetRef
from falaj.kernel.door import face
from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import JobState
from falaj.models.adapters.int8_onnxruntime import Int8Quantizer
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.models.model import MetricRule, ModelPolicy, ParentRule
from falaj.models.service import ModelService
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.model import ServableModel
from falaj.testing.calls import opened_call
from falaj.testing.serving import onnx_classifier
from falaj.training.encoding import EncodedFeature
from falaj.training.model import PREPARE_JOB

ROWS = np.random.default_rng(0).normal(size=(800, 2)).astype(np.float32)
INPUTS = (EncodedFeature(name="signal"), EncodedFeature(name="recent__mean_1d"))


@pytest.fixture(scope="module")
def network() -> bytes:
    """A small neural network as ONNX, wide enough for int8 to make it smaller."""
    labels = (ROWS[:, 0] + 0.3 * ROWS[:, 1] > 0).astype(int)
    network = MLPClassifier((64, 64), max_iter=40, random_state=0)
    fitted = make_pipeline(SimpleImputer(), network).fit(ROWS, labels)
    return SklearnToOnnx().convert(fitted, ROWS)


def test_a_quantised_network_is_smaller_and_answers_nearly_the_same(network: bytes) -> None:
    made = Int8Quantizer().quantized(network)
    assert len(made) < 0.6 * len(network)
    assert made == Int8Quantizer().quantized(network)
    old, new = (
        OnnxRuntime().load(ServableModel("onnx", one, ("a", "b"))).run(ROWS)
        for one in (network, made)
    )
    differences = np.abs(old - new)
    assert 0 < differences.max() < 0.1


def test_a_tree_ensemble_cannot_be_quantised_and_is_told_why() -> None:
    with pytest.raises(InvalidInput, match="no dense layer") as refused:
        Int8Quantizer().quantized(onnx_classifier())
    assert "TreeEnsemble" in refused.value.message


def test_a_variant_names_its_parent_and_stands_before_gates_of_its_own(
    sqlite_world: Any, made_up: Any, network: bytes
) -> None:
    world = sqlite_world
    made = world.done(PREPARE_JOB, made_up.SPEC.model_dump(mode="json"))
    assert made.state is JobState.DONE, made.error
    (world.files._roots[0] / "net.onnx").write_bytes(network)
    with world.database.reading() as connection:
        judge = world.sets.listed(connection)[0].id
    models = face(ModelService, world.door())
    options = {"training_set": judge, "trained_until": made_up.SPLIT.validation_until}
    models.bring("late", file="net.onnx", model_format="onnx", inputs=INPUTS, **options)
    assert world.worker().run_one()
    job = models.quantize("late", 1)
    assert world.worker().run_one()
    with world.database.reading() as connection:
        ended = world.jobs.get(connection, job.id)
        assert ended.state is JobState.DONE, ended.error
        upstream = world.catalog.walk(connection, AssetRef("model_version", "late/2")).refs()
    assert AssetRef("model_version", "late/1") in upstream
    manifest = world.bundles.open_bundle(models.get("late", 2).bundle).manifest
    parent = manifest.parent
    assert parent is not None
    assert (parent.version, parent.made_by) == (1, "int8")
    assert parent.bytes < parent.parent_bytes
    assert parent.n_rows > 100
    assert 0 <= parent.mean_difference <= parent.worst_difference < 0.2
    assert "made from version 1 (int8)" in models.card("late", 2)
    for limit, outcome in ((0.2, "passed"), (0.0, "failed")):
        policy = ModelPolicy(
            name="late", feature_service="delays", label="late", champion=None, calibration=None,
            latency=None, leakage=None, floors=(MetricRule(metric="auc", limit=0.0),),
            parent=ParentRule(worst_difference=limit, auc_loss=1.0),
        )  # fmt: skip
        with opened_call(world.database) as call:
            world.definitions.apply(call, [policy])
        models.gates("late", 2)
        assert world.worker().run_one()
        report = models.gate_report("late", 2)
        assert {one.gate: str(one.outcome) for one in report.results}["parent"] == outcome
        assert report.passed is (outcome == "passed")
    with pytest.raises(InvalidInput, match="made from version 1"):
        models.quantize("late", 2)


def test_a_policy_that_keeps_the_usual_limits_is_written_as_before_there_were_any() -> None:
    usual = ModelPolicy(name="late", feature_service="delays", label="late")
    assert "parent" not in usual.document()
    strict = usual.model_copy(update={"parent": ParentRule(worst_difference=0.01)})
    assert strict.document()["parent"]["worst_difference"] == 0.01
