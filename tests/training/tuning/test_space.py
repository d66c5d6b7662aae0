"""Search spaces that are declared: what they refuse, and that they suggest as Optuna does."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from falaj.training.model import TrainingRequest
from falaj.training.tuning.request import Budget, TuningRequest
from falaj.training.tuning.space import Choices, Floats, Integers, Space, suggested


class Holder(BaseModel):
    space: Space


def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))


def test_each_parameter_is_drawn_from_what_was_declared():
    space = Holder.model_validate({"space": {
        "rate": {"kind": "float", "low": 1e-4, "high": 0.1, "log": True},
        "share": {"kind": "float", "low": 0, "high": 1, "step": 0.25},
        "leaves": {"kind": "int", "low": 8, "high": 64, "log": True},
        "even": {"kind": "int", "low": 2, "high": 10, "step": 2},
        "kind": {"kind": "choice", "choices": ["a", 1, 1.5, True, None]},
    }}).space  # fmt: skip
    trial = study().ask()
    found = suggested(space, trial)
    assert 1e-4 <= found["rate"] <= 0.1
    assert found["share"] in (0, 0.25, 0.5, 0.75, 1)
    assert 8 <= found["leaves"] <= 64
    assert found["even"] in (2, 4, 6, 8, 10)
    assert found["kind"] in ("a", 1, 1.5, True, None)
    assert trial.distributions["rate"].log


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 9))
def test_a_parameter_is_asked_for_exactly_where_its_conditions_hold(chain, seed):
    """Against a naive reading: each parameter of a chain hangs on the one before."""
    space = {"p0": Choices(choices=(False, True))}
    for place, wanted in enumerate(chain):
        space[f"p{place + 1}"] = Choices(choices=(False, True), when={f"p{place}": (wanted,)})
    sampler = optuna.samplers.RandomSampler(seed=seed)
    found = suggested(space, optuna.create_study(sampler=sampler).ask())
    expected = {"p0"}
    for place, wanted in enumerate(chain):
        if f"p{place}" in expected and found[f"p{place}"] is wanted:
            expected.add(f"p{place + 1}")
    assert set(found) == expected


def test_one_and_true_are_different_values_of_a_condition():
    space = {
        "flag": Choices(choices=(True,)),
        "of_true": Integers(low=1, high=2, when={"flag": (True,)}),
        "of_one": Integers(low=1, high=2, when={"flag": (1,)}),
    }
    assert set(suggested(space, study().ask())) == {"flag", "of_true"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "float", "low": 2, "high": 1},
        {"kind": "float", "low": 0, "high": 1, "log": True},
        {"kind": "float", "low": 1, "high": 2, "log": True, "step": 0.5},
        {"kind": "float", "low": 0, "high": "NaN"},
        {"kind": "float", "low": 0, "high": 1, "step": 0},
        {"kind": "int", "low": 0.5, "high": 3},
        {"kind": "choice", "choices": []},
        {"kind": "choice", "choices": ["a", "a"]},
        {"kind": "choice", "choices": [["a"]]},
        {"kind": "code", "low": 0, "high": 1},
        {"kind": "int", "low": 0, "high": 1, "sql": "x"},
    ],
    ids=str,
)
def test_a_parameter_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Holder.model_validate({"space": {"x": wrong}})


def request(**more):
    training = TrainingRequest(model="late", training_set="ts_1", params={"n_trees": 50})
    given = {"study": "s", "training": training, "n_trials": 2,
             "space": {"x": Floats(low=0, high=1)}}  # fmt: skip
    return TuningRequest(**{**given, **more})


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"space": {"x": Floats(low=0, high=1, when={"y": (1,)})}}, "does not stand before it"),
        ({"pruner": {"kind": "median"}}, "a pruner needs a budget"),
        ({"budget": {"parameter": "x", "first": 1, "most": 2}}, "both tried and the budget"),
        ({"budget": {"first": 3, "most": 2}}, "greater than the most"),
        ({"metrics": ("auc", "log_loss"), "directions": ("maximize", "minimize")}, "train_best"),
        ({"metrics": ("auc",), "directions": ()}, "one direction"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_the_reason(more, told):
    with pytest.raises(ValidationError, match=told):
        request(**more)


def test_the_rungs_of_a_budget_grow_to_the_most():
    assert Budget(first=10, most=100).rungs == (10, 30, 90, 100)
    assert Budget(first=5, most=5).rungs == (5,)


def test_the_best_is_trained_with_the_whole_budget_on_the_set_that_was_tuned_on():
    asked = request(budget=Budget(first=10, most=90))
    best = asked.best({"x": 0.5}, "ts_2")
    assert best.params == {"n_trees": 90, "x": 0.5}
    assert best.training_set == "ts_2"
