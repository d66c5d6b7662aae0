"""Time, memory and bytes; and that a target's hardware is not another's."""

import os

import numpy as np
import pytest

from falaj.kernel.compute import TaskLost
from falaj.kernel.errors import FalajError
from falaj.models.gating.cost import hardware, latency_gate, memory_gate, size_gate
from falaj.models.gating.explainability import explainability_gate
from falaj.models.gating.rules import ExplainabilityRule, LatencyRule, MemoryRule
from falaj.models.model import Outcome
from falaj.models.ports import Footprint
from falaj.wiring.weighing import FreshProcess


class Scales:
    """Tells what it was told; keeps how many rows it was given."""

    def weighed(self, model_format, model, names, matrix, outputs=("score",)):
        """100 MB."""
        self.n_rows = len(matrix)
        return Footprint(100_000_000, 40_000_000, 0.5)


def test_the_peak_is_held_under_a_limit_with_what_the_model_added(made):
    scales = Scales()
    found = memory_gate(MemoryRule(largest_megabytes=99, n_rows=2000), scales)(made.examined())
    assert found.outcome is Outcome.FAILED
    assert (found.evidence["peak_megabytes"], found.evidence["added_megabytes"]) == (100.0, 60.0)
    assert scales.n_rows == 2000
    assert memory_gate(MemoryRule(largest_megabytes=100), scales)(
        made.examined()
    ).outcome is Outcome.PASSED  # fmt: skip


def test_where_memory_cannot_be_measured_the_gate_fails(made):
    assert memory_gate(MemoryRule(largest_megabytes=1e6), None)(
        made.examined()
    ).outcome is Outcome.FAILED  # fmt: skip


class Broken:
    """Nothing stands on it."""

    def weighed(self, model_format, model, names, matrix, outputs=("score",)):
        """Its process was killed."""
        raise TaskLost("The process of the task was lost 3 times.")


def test_a_model_that_no_process_can_hold_fails_and_the_other_gates_go_on(made):
    found = memory_gate(MemoryRule(largest_megabytes=1e6), Broken())(made.examined())
    assert found.outcome is Outcome.FAILED
    assert found.evidence["code"] == "task-lost"


def test_a_figure_of_other_hardware_is_none(made):
    rule = MemoryRule(largest_megabytes=1e6, hardware="no such processor")
    found = memory_gate(rule, Scales())(made.examined())
    assert found.outcome is Outcome.FAILED
    assert "not on the target no such processor" in found.message
    elsewhere = LatencyRule(p50_ms=1e6, p99_ms=1e6, hardware="no such processor")
    assert latency_gate(elsewhere)(made.examined()).outcome is Outcome.FAILED
    here = LatencyRule(p50_ms=1e6, p99_ms=1e6, hardware=hardware()["processor"][:4] + "*")
    found = latency_gate(here)(made.examined(made.rows(6000)))
    assert found.outcome is Outcome.PASSED
    assert found.evidence["hardware"]["n_cpus"] == os.cpu_count()


def test_the_size_of_all_files_is_held_under_a_limit(made):
    assert size_gate(2.5)(made.examined()).outcome is Outcome.PASSED
    assert size_gate(2.4)(made.examined()).outcome is Outcome.FAILED


def test_a_fresh_process_tells_its_peak_and_that_of_the_models_own_processes():
    module = (
        b"import numpy as np\nclass Model:\n"
        b"    def __init__(self, folder):\n        self.held = np.ones(25_000_000)\n"  # 200 MB
        b"    def predict(self, rows):\n        return np.full(len(rows), 0.5)\n"
    )
    found = FreshProcess().weighed("python", module, ("a",), np.zeros((100, 1), np.float32))
    assert 10_000_000 < found.before_bytes < 300_000_000
    assert 200_000_000 + found.before_bytes < found.peak_bytes < 2_000_000_000
    assert found.load_seconds > 0


@pytest.mark.nightly
def test_a_model_that_cannot_be_loaded_says_so_in_its_own_words():
    with pytest.raises(FalajError) as caught:
        FreshProcess().weighed("onnx", b"no model", ("a",), np.zeros((1, 1), np.float32))
    assert caught.value.code in {"corrupt", "invalid-input"}


def test_an_input_that_carries_everything_is_named(made):
    rule = ExplainabilityRule(dominant=0.9)
    found = explainability_gate(rule)(
        made.examined(manifest={"importance": {"x": 0.95, "n": 0.05}})
    )
    assert found.outcome is Outcome.FAILED
    assert found.evidence["source"] == "training"
    assert "x carries 95.0%" in found.message


def test_without_importance_from_training_it_is_measured_by_shuffling(made):
    version = made.examined(function=lambda m: made.sigmoid(1.5 * m[:, 0] + 0.4 * m[:, 1]))
    found = explainability_gate(ExplainabilityRule(dominant=1.0))(version)
    assert found.outcome is Outcome.PASSED
    assert found.evidence["source"] == "permutation"
    assert found.evidence["importance"]["x"] > 0.8
    assert found.evidence["importance"]["w"] == 0


def test_a_model_that_says_the_same_of_everybody_has_nothing_to_explain_by(made):
    version = made.examined(function=lambda m: np.full(len(m), 0.3))
    assert explainability_gate(ExplainabilityRule())(version).outcome is Outcome.FAILED


@pytest.mark.parametrize("least", [0.5, 1.0])
def test_importance_must_be_told_of_enough_inputs(made, least):
    version = made.examined(manifest={"importance": {"x": 0.6, "n": 0.4}})
    found = explainability_gate(ExplainabilityRule(least_told=least))(version)
    assert (found.outcome is Outcome.PASSED) is (least < 2 / 3)
