"""Calibration: probabilities that come true, as ONNX just as here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.onnx_calibration import calibrated
from falaj.models.adapters.onnx_network import NetworkToOnnx
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.testing.trainers import ENCODING
from falaj.training.calibration import Calibration, fitted
from falaj.training.metrics import auc, calibration_error, log_loss
from falaj.training.networks import FORMAT, Network
from falaj.training.options import CalibrationMethod
from falaj.training.ports import FittedModel

METHODS = list(CalibrationMethod)


def overconfident(seed, n=4000):
    """Scores that say too much: the log odds are twice what is true."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=n) * 1.5 - 0.5
    labels = (random.random(n) < 1 / (1 + np.exp(-logits))).astype(float)
    return labels, 1 / (1 + np.exp(-2 * logits - 0.7))


@pytest.mark.parametrize("method", METHODS)
def test_it_mends_the_error_on_rows_that_it_has_not_seen(method):
    found = fitted(method, *overconfident(1))
    labels, scores = overconfident(2)
    mended = found.applied(scores)
    assert calibration_error(labels, scores) > 0.08
    assert calibration_error(labels, mended) < 0.04
    assert log_loss(labels, mended) < log_loss(labels, scores) - 0.02
    assert auc(labels, mended) == pytest.approx(auc(labels, scores), abs=5e-3)


def test_platts_method_finds_the_log_odds_that_are_true():
    found = fitted(CalibrationMethod.PLATT, *overconfident(1, 60_000))
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.offset == pytest.approx(-0.35, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scores=arrays(float, 40, elements=st.floats(0, 1)))
def test_it_never_turns_the_order_of_two_scores_around(method, seed, scores):
    found = fitted(method, *overconfident(seed, 300))
    values = found.applied(np.sort(scores))
    assert np.all(np.diff(values) >= -1e-12)
    assert np.all((values >= 0) & (values <= 1))


@pytest.mark.parametrize("method", METHODS)
def test_the_onnx_nodes_answer_as_the_calibration_does(method):
    network = Network(
        np.zeros(3, np.float32), np.ones(3, np.float32),
        ((np.array([[4.0, 0, 0, 0, 0, 0]], np.float32), np.zeros(1, np.float32)),),
    )  # fmt: skip
    plain = NetworkToOnnx().convert(FittedModel(FORMAT, network.packed(), ENCODING))
    found = fitted(method, *overconfident(3))
    rows = np.zeros((500, 3), np.float32)
    rows[:, 0] = np.linspace(-10, 10, 500)
    raw = OnnxScorers().load(plain).scores(rows)
    assert raw.min() < 1e-6
    assert raw.max() == 1.0
    packaged = OnnxScorers().load(calibrated(plain, found))
    np.testing.assert_allclose(packaged.scores(rows), found.applied(raw), atol=1e-6)
    assert calibrated(plain, found) == calibrated(plain, found)


def test_scores_that_are_all_the_same_become_the_rate():
    labels, _ = overconfident(1, 200)
    found = fitted(CalibrationMethod.ISOTONIC, labels, np.full(200, 0.4))
    assert found.applied([0.0, 0.4, 1.0]) == pytest.approx([found.probabilities[0]] * 3)
    assert Calibration.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_or_one_class_are_refused(method):
    labels, scores = overconfident(1)
    with pytest.raises(InvalidInput, match="too few"):
        fitted(method, labels[:49], scores[:49])
    with pytest.raises(InvalidInput, match="too few"):
        fitted(method, np.ones(100), scores[:100])


def test_scores_that_fall_where_the_label_rises_are_refused():
    labels, scores = overconfident(1)
    with pytest.raises(InvalidInput, match="fall where the label rises"):
        fitted(CalibrationMethod.PLATT, labels, 1 - scores)


def test_a_model_with_another_output_bears_no_calibration():
    import onnx

    network = Network(
        np.zeros(1, np.float32), np.ones(1, np.float32),
        ((np.ones((1, 2), np.float32), np.zeros(1, np.float32)),),
    )  # fmt: skip
    plain = onnx.load_model_from_string(
        NetworkToOnnx().convert(FittedModel(FORMAT, network.packed(), ENCODING))
    )
    plain.graph.node[-1].output[0] = plain.graph.output[0].name = "score"
    with pytest.raises(InvalidInput, match="nothing can be put behind"):
        calibrated(plain.SerializeToString(), Calibration(method=CalibrationMethod.PLATT))
