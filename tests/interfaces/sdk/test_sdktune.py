"""Tuning of one's own code through the doors of a platform: near and far."""

import itertools
import math
import signal
import subprocess
import sys
import threading

import optuna
import pytest

from falaj.interfaces.platform import near
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.settings import Settings
from falaj.training.model import RunState
from falaj.training.tuning.model import Pruner, StudyTaken, TrialState
from falaj.wiring import setup
from falaj.wiring.assembly import assemble

_NAMES = itertools.count()


@pytest.fixture
def name():
    return f"study-{next(_NAMES)}"


def square(trial):
    """Least where x is 2 and the kind is a circle; the radius is asked of circles alone."""
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["circle", "square"])
    radius = trial.suggest_int("radius", 1, 5) if kind == "circle" else 9
    return (x - 2) ** 2 + radius


def tried(trials):
    return [(trial.number, trial.params, trial.values) for trial in trials]


def test_the_best_trial_is_found_and_each_trial_is_a_nested_run(anywhere, name):
    found = anywhere.training.tune(square, study=name, n_trials=25, seed=3, metrics="loss")
    (best,) = found.best_trials
    assert best.values[0] == min(trial.values[0] for trial in found.trials)
    assert found.best_params == best.params == found.optuna.best_params
    parent = anywhere.runs.get(found.run)
    assert parent.state is RunState.FINISHED
    assert parent.params["study.sampler"] == "tpe"
    nested = [run for run in anywhere.runs.list(experiment=name) if run.parent == found.run]
    assert len(nested) == 25
    assert {run.state for run in nested} == {RunState.FINISHED}
    run = anywhere.runs.get(best.run)
    assert run.metrics == {"loss": best.values[0]}
    assert float(run.params["x"]) == best.params["x"]


def test_the_trials_are_those_of_optuna_with_the_same_samplers(platform, name):
    from falaj.training.tuning.library import sampler_of

    found = platform.training.tune(square, study=name, n_trials=15, seed=5)
    study = optuna.create_study()
    spec = platform.studies.get(found.run).spec
    for number in range(15):
        study.sampler = sampler_of(spec, number)
        trial = study.ask()
        study.tell(trial, square(trial))
    assert [one.params for one in found.trials] == [one.params for one in study.trials]


def test_a_study_that_was_interrupted_goes_on_with_the_same_trials(anywhere, name):
    whole = anywhere.training.tune(square, study=name, n_trials=14, seed=11)
    calls = itertools.count()

    def interrupted(trial):
        value = square(trial)
        if next(calls) == 7:
            raise KeyboardInterrupt
        return value

    again = f"{name}-again"
    with pytest.raises(KeyboardInterrupt):
        anywhere.training.tune(interrupted, study=again, n_trials=14, seed=11)
    study = anywhere.studies.list(name=again)[0]
    assert study.n_trials == {"complete": 7, "running": 1}
    assert anywhere.runs.get(study.run).tags["falaj.error"] == "KeyboardInterrupt"
    resumed = anywhere.training.tune(square, study=again, n_trials=14, seed=11)
    assert tried(resumed.trials) == tried(whole.trials)
    assert resumed.trials[7].attempt == 2
    nested = [run for run in anywhere.runs.list(experiment=again) if run.parent == resumed.run]
    assert len(nested) == 14


PROGRAM = """
import os, signal, sys, time
import falaj

def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    for step in range(3):
        trial.report(x * step, step)
    if trial.number == int(sys.argv[2]):
        time.sleep(1.2)  # the trials before, and that this one runs, are kept by now
        os.kill(os.getpid(), signal.SIGKILL)
    return (x - 2) ** 2

with falaj.open(sys.argv[1]) as platform:
    found = platform.training.tune(objective, study="killed", n_trials=9, seed=7)
"""


def test_a_tuner_that_was_killed_is_taken_up_and_no_trial_counts_twice(tmp_path):
    settings = Settings.read(tmp_path)
    setup.initialise(settings, owner="amina")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")

    def run(kill_at):
        return subprocess.run(
            [sys.executable, str(program), str(tmp_path), str(kill_at)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run(5).returncode == -signal.SIGKILL
    done = run(-1)
    assert done.returncode == 0, done.stderr
    made = assemble(settings)
    try:
        platform = near(made)
        study = platform.studies.list(name="killed")[0]
        trials = platform.studies.trials(study.run)
        runs = [run for run in platform.runs.list(experiment="killed") if run.parent]

        def whole(trial):
            return (trial.suggest_float("x", -10, 10) - 2) ** 2

        expected = platform.training.tune(whole, study="whole", n_trials=9, seed=7).trials
        points = platform.runs.history(trials[5].run, "value")
    finally:
        made.close()
    assert [trial.params for trial in trials] == [trial.params for trial in expected]
    assert [trial.attempt for trial in trials] == [1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert study.n_trials == {"complete": 9}
    assert len(runs) == 9
    assert [point.step for point in points] == [0, 1, 2, 3]  # three reports and the value


def test_trials_run_side_by_side_and_each_counts_once(anywhere, name):
    both = threading.Barrier(2, timeout=30)

    def objective(trial):
        if trial.number < 2:
            both.wait()  # neither goes on before the other has begun
        return square(trial)

    found = anywhere.training.tune(objective, study=name, n_trials=12, workers=2)
    assert [trial.number for trial in found.trials] == list(range(12))
    assert {trial.state for trial in found.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    "pruner",
    [
        Pruner(kind="median", n_startup_trials=2),
        Pruner(kind="hyperband", min_resource=1, max_resource=9),
        Pruner(kind="halving"),
    ],
    ids=lambda pruner: pruner.kind,
)
def test_a_trial_that_promises_little_is_pruned(platform, name, pruner):
    def objective(trial):
        x = trial.suggest_float("x", 0, 10)
        for step in range(9):
            trial.report(x + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    found = platform.training.tune(objective, study=name, n_trials=30, seed=1, pruner=pruner)
    pruned = [trial for trial in found.trials if trial.state is TrialState.PRUNED]
    assert pruned
    assert min(len(trial.intermediate) for trial in pruned) < 9
    run = platform.runs.get(pruned[0].run)
    assert run.tags["falaj.trial_state"] == "pruned"
    assert run.state is RunState.FINISHED
    steps = [point.step for point in platform.runs.history(run.id, "value")]
    assert steps == sorted(pruned[0].intermediate)


def test_of_several_metrics_the_front_is_kept_and_constraints_hold(anywhere, name):
    def objective(trial):
        size = trial.suggest_float("size", 0, 10)
        trial.set_constraint("size", size - 6)
        return 10 - size, size

    found = anywhere.training.tune(
        objective, study=name, n_trials=20, seed=2, sampler="nsga2",
        metrics=("error", "megabytes"), directions=("minimize", "minimize"),
    )  # fmt: skip
    assert {trial.number for trial in found.best_trials} == {
        trial.number for trial in found.optuna.best_trials
    }
    assert all(trial.params["size"] <= 6 for trial in found.best_trials)
    insight = anywhere.studies.insight(found.run)
    assert [history.metric for history in insight.history] == ["error", "megabytes"]
    assert set(insight.importance) == {"error", "megabytes"}


def test_the_insight_tells_the_history_and_what_mattered(anywhere, name):
    def objective(trial):
        return 100 * trial.suggest_float("much", 0, 1) + trial.suggest_float("little", 0, 1)

    found = anywhere.training.tune(
        objective, study=name, n_trials=30, seed=4, directions="maximize"
    )
    insight = anywhere.studies.insight(found.run)
    (history,) = insight.history
    assert history.best == tuple(itertools.accumulate(history.values, max))
    shares = insight.importance["value"]
    assert shares["much"] > shares["little"]
    assert sum(shares.values()) == pytest.approx(1)
    assert [trial.number for trial in insight.best_trials] == [found.best_trials[0].number]


def test_an_error_of_the_objective_fails_its_trial_and_stops_unless_it_is_caught(platform, name):
    def objective(trial):
        trial.suggest_float("x", 0, 1)
        if trial.number % 2:
            raise ValueError("no such leaf")
        return 1.0

    with pytest.raises(ValueError, match="no such leaf"):
        platform.training.tune(objective, study=name, n_trials=6)
    found = platform.training.tune(objective, study=name, n_trials=6, catch=(ValueError,))
    assert [trial.state.value for trial in found.trials] == ["complete", "failed"] * 3
    assert found.trials[1].reason == "ValueError: no such leaf"
    run = platform.runs.get(found.trials[1].run)
    assert run.state is RunState.FAILED
    assert run.tags["falaj.error"] == "ValueError: no such leaf"


@pytest.mark.parametrize("given", [math.nan, None, "much", (1.0, 2.0)])
def test_a_trial_that_gives_no_number_fails_and_says_so(platform, name, given):
    found = platform.training.tune(lambda _trial: given, study=name, n_trials=1)
    assert found.trials[0].state is TrialState.FAILED
    assert "It gave" in found.trials[0].reason
    with pytest.raises(InvalidInput):
        _ = found.best_params


def test_two_tuners_never_work_on_one_study(anywhere, name):
    refused = []

    def objective(trial):
        if trial.number == 0:
            try:
                anywhere.training.tune(square, study=name, n_trials=3)
            except StudyTaken as taken:
                refused.append(taken)
        return square(trial)

    found = anywhere.training.tune(objective, study=name, n_trials=3)
    assert len(refused) == 1
    assert len(found.trials) == 3


def test_a_study_of_other_metrics_is_not_taken_up(platform, name):
    platform.training.tune(square, study=name, n_trials=1)
    with pytest.raises(Conflict):
        platform.training.tune(square, study=name, n_trials=2, directions="maximize")


def test_a_study_may_get_more_trials_later(platform, name):
    first = platform.training.tune(square, study=name, n_trials=3, seed=1)
    more = platform.training.tune(square, study=name, n_trials=5)
    assert tried(more.trials[:3]) == tried(first.trials)
    assert len(more.trials) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampler": "guess"}, {"pruner": "shears"}, {"directions": "up"}, {"n_trials": 0},
        {"workers": 0}, {"metrics": ("a", "b")}, {"study": "../x"}, {"seed": -1},
        {"pruner": "median", "metrics": ("a", "b"), "directions": ("minimize", "minimize")},
    ],
    ids=str,
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_before_anything_is_tried(platform, name, wrong):
    def objective(_trial):
        raise AssertionError("nothing is tried")

    with pytest.raises(InvalidInput):
        platform.training.tune(objective, **{"study": name, "n_trials": 1, **wrong})


def test_time_that_is_over_begins_no_more_trials_and_leaves_the_study_open(platform, name):
    found = platform.training.tune(square, study=name, n_trials=5, timeout_seconds=0)
    assert found.trials == ()
    assert platform.runs.get(found.run).state is RunState.RUNNING


def test_who_hears_of_trials_may_stop(platform, name):
    def heard(trial):
        if trial.number == 2:
            raise StopIteration

    with pytest.raises(StopIteration):
        platform.training.tune(square, study=name, n_trials=9, on_trial=heard)
    assert platform.studies.list(name=name)[0].n_trials == {"complete": 3}
