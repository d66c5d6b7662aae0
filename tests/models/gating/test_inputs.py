"""The contract of inputs: types as declared, values as the training rows had them."""

import numpy as np

from falaj.models.gating.inputs import inputs_gate
from falaj.models.gating.rules import InputsRule
from falaj.models.model import Outcome

DECLARED = {"x": "float64", "n": "float64", "w": "string"}


def judged(version, **rule):
    """What the gate says."""
    return inputs_gate(InputsRule(**rule))(version)


def late(made, name, values):
    """Rows whose test part has other values in a column."""
    rows = made.rows()
    new = np.array(rows[name].to_pylist(), dtype=object)
    new[np.array(rows["split"].to_pylist()) == "test"] = values
    return rows.set_column(rows.schema.get_field_index(name), name, [new.tolist()])


def test_inputs_as_declared_and_as_trained_on_pass(made):
    found = judged(made.examined(declared=DECLARED))
    assert found.outcome is Outcome.PASSED, found.message
    assert [one["input"] for one in found.evidence["inputs"]] == ["x", "n", "w"]
    assert found.evidence["inputs"][0]["least"] < found.evidence["inputs"][0]["greatest"]


def test_a_type_that_is_declared_otherwise_is_named(made):
    found = judged(made.examined(declared={**DECLARED, "w": "int64"}))
    assert found.outcome is Outcome.FAILED
    assert "w is read as a category, and declared as int64" in found.message
    assert "w is not in the feature service" in judged(
        made.examined(declared={"x": "float64", "n": "bool"})
    ).message  # fmt: skip


def test_a_service_that_nobody_knows_any_more_is_no_contract(made):
    found = judged(made.examined())
    assert found.outcome is Outcome.FAILED
    assert "not known here any more" in found.message


def test_values_outside_of_the_training_rows_are_counted(made):
    found = judged(made.examined(late(made, "x", 50.0), declared=DECLARED))
    assert found.outcome is Outcome.FAILED
    assert "x: 100.0% of its values lie outside" in found.message


def test_words_that_the_model_does_not_know_are_counted_and_not_told(made):
    found = judged(made.examined(late(made, "w", "Amina"), declared=DECLARED))
    assert found.outcome is Outcome.FAILED
    assert "words are unknown" in found.message
    assert "Amina" not in found.model_dump_json()


def test_values_that_go_missing_are_counted(made):
    found = judged(made.examined(late(made, "n", None), declared=DECLARED))
    assert found.outcome is Outcome.FAILED
    assert "n: missing more often by 100.0%" in found.message
