"""Damaged inputs: a sturdy model stands, a brittle one falls, and it is told by what."""

import numpy as np
import pytest

from falaj.models.gating.robustness import robustness_gate
from falaj.models.gating.rules import RobustnessRule
from falaj.models.model import Outcome


def test_a_sturdy_model_stands_with_the_numbers_of_each_damage(made):
    found = robustness_gate(RobustnessRule())(made.examined())
    assert found.outcome is Outcome.PASSED, found.message
    assert set(found.evidence["damages"]) == {"missing", "noise", "unseen"}
    assert found.evidence["one_input_missing"][0]["input"] == "x"
    assert found.evidence["n_absurd_without_probability"] == 0
    missing = found.evidence["damages"]["missing"]
    assert missing["auc_loss"]["low"] <= missing["auc_loss"]["estimate"]
    assert 0 < missing["flips"]["estimate"] < 0.1


def test_a_model_that_turns_at_a_breath_fails_by_noise(made):
    brittle = made.examined(function=lambda m: (np.floor(m[:, 0] * 1000) % 2).clip(0.01, 0.99))
    found = robustness_gate(RobustnessRule())(brittle)
    assert found.outcome is Outcome.FAILED
    assert "noise" in found.message
    assert found.evidence["damages"]["noise"]["flips"]["low"] > 0.1


def test_a_model_that_hangs_on_words_falls_when_they_are_new(made):
    random = np.random.default_rng(4)
    words = np.array(["a", "b", "c"])[random.integers(0, 3, 3000)]
    late = random.random(3000) < np.where(words == "c", 0.9, 0.1)
    version = made.examined(
        made.rows(w=words.tolist(), y=late), function=lambda m: np.where(m[:, 2] == 2, 0.9, 0.1)
    )
    found = robustness_gate(RobustnessRule(unseen=0.5, missing=0.0, noise=0.0))(version)
    assert found.outcome is Outcome.FAILED
    assert "unseen" in found.message
    assert "noise" not in found.evidence["damages"]


def test_an_input_that_nothing_replaces_may_be_forbidden(made):
    rule = RobustnessRule(one_missing_auc_loss=0.1)
    found = robustness_gate(rule)(made.examined())
    assert found.outcome is Outcome.FAILED
    assert "without x the AUC falls" in found.message


def test_absurd_numbers_must_still_give_a_probability(made):
    version = made.examined(function=lambda m: np.where(np.abs(m[:, 0]) > 1e30, np.nan, 0.5))
    found = robustness_gate(RobustnessRule())(version)
    assert found.outcome is Outcome.FAILED
    assert found.evidence["n_absurd_without_probability"] > 0
    assert "give no probability" in found.message


def test_the_same_version_gives_the_same_numbers_again(made):
    one, other = (robustness_gate(RobustnessRule())(made.examined()) for _ in range(2))
    assert one == other


def surest(made, n, rows=3000):
    """Rows of which only so many test rows are of class 1, those with the greatest ``x``."""
    table = made.rows(rows)
    x, test = np.array(table["x"]), np.array(table["split"].to_pylist()) == "test"
    y = np.zeros(len(x), dtype=bool)
    y[np.flatnonzero(test)[np.argsort(-x[test])[:n]]] = True
    return made.rows(rows, y=y)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_the_fall_of_an_auc_of_few_rows_of_a_class_is_not_judged(made, n):
    rule = RobustnessRule(flips=1.0, one_missing_auc_loss=0.0, auc_loss=0.0)
    found = robustness_gate(rule)(made.examined(surest(made, n)))
    assert found.outcome is Outcome.SKIPPED
    assert f"only {n} of" in found.message
    assert found.evidence["damages"]["missing"]["auc_loss"] is None
    found = robustness_gate(rule)(made.examined(surest(made, 10)))
    assert found.outcome is Outcome.FAILED


def test_decisions_that_turn_over_are_found_without_enough_rows_of_a_class(made):
    brittle = made.examined(
        surest(made, 3), function=lambda m: (np.floor(m[:, 0] * 1000) % 2).clip(0.01, 0.99)
    )
    found = robustness_gate(RobustnessRule())(brittle)
    assert found.outcome is Outcome.FAILED
    assert "turn over" in found.message


def test_an_input_is_taken_from_all_rows_where_a_sample_has_too_few_of_a_class(made):
    version = made.examined(surest(made, 12, rows=18_000))
    found = robustness_gate(RobustnessRule(one_missing_auc_loss=0.1))(version)
    assert found.evidence["n_rows"] > 5_000
    first = found.evidence["one_input_missing"][0]
    assert (first["input"], found.outcome) == ("x", Outcome.FAILED)
    assert first["auc_loss"]["estimate"] == pytest.approx(0.5, abs=0.01)
