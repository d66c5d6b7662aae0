"""Studies and their trials on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest

from falaj.kernel.errors import AlreadyExists, Conflict, NotFound
from falaj.testing.calls import opened_call
from falaj.training.model import RunState
from falaj.training.tuning.model import StudySpec, StudyTaken, TrialRecord, TrialState
from falaj.training.tuning.studies import LEASE, Studies

AT = datetime(2026, 1, 1, tzinfo=UTC)
ME, OTHER = "me", "other"


@pytest.fixture
def studies(runs):
    return Studies(runs)


def spec(**more):
    return StudySpec(**{"name": "depth", "n_trials": 10, "metrics": ("loss",), **more})


def trial(number, state=TrialState.COMPLETE, **more):
    values = (float(number),) if state is TrialState.COMPLETE else None
    given = {"number": number, "state": state, "values": values, "ended_at": AT, **more}
    return TrialRecord(**given)


def test_what_was_kept_is_given_back(studies, database):
    kept = trial(
        0,
        params={"x": 0.1, "kind": "tree", "deep": True, "none": None},
        distributions={"x": "{}"},
        intermediate={3: float("inf"), 1: 0.5},
        constraints={"size": -1.0},
        user_attrs={"why": ["a", 1]},
        system_attrs={"s": {"t": 1}},
        started_at=AT,
    )
    with opened_call(database) as call:
        study = studies.begin(call, spec(), ME)
        studies.keep(call, study.run, ME, [kept], {"system": {"generation": 4}})
        (found,) = studies.trials(call.connection, study.run)
        again = studies.get(call.connection, study.run)
    assert found.model_copy(update={"run": None}) == kept
    assert again.attrs == {"system": {"generation": 4}}
    assert again.n_trials == {"complete": 1}
    assert again.spec.seed is not None


def test_a_trial_that_comes_twice_counts_once(studies, runs, database):
    with opened_call(database) as call:
        study = studies.begin(call, spec(), ME)
        studies.keep(call, study.run, ME, [trial(0, TrialState.RUNNING)])
        for value in (1.0, 2.0):
            studies.keep(call, study.run, ME, [trial(0, values=(value,), intermediate={0: 5.0})])
        (found,) = studies.trials(call.connection, study.run)
        points = runs.history(call.connection, found.run, "loss")
        nested = [run for run in runs.listed(call.connection, experiment="depth") if run.parent]
    assert found.values == (1.0,)
    assert [point.value for point in points] == [5.0, 1.0]
    assert len(nested) == 1


def test_another_tuner_is_refused_while_the_lease_runs_and_let_in_after(studies, database):
    with opened_call(database, now=AT) as call:
        study = studies.begin(call, spec(), ME)
    with opened_call(database, now=AT + LEASE / 2) as call:
        with pytest.raises(StudyTaken):
            studies.take(call, study.run, spec(), OTHER)
        studies.keep(call, study.run, ME, [])  # renews it
    with opened_call(database, now=AT + LEASE) as call, pytest.raises(StudyTaken):
        studies.take(call, study.run, spec(), OTHER)
    with opened_call(database, now=AT + 2 * LEASE) as call:
        studies.take(call, study.run, spec(), OTHER)
        with pytest.raises(StudyTaken):
            studies.keep(call, study.run, ME, [trial(0)])


def test_a_tuner_that_is_known_to_have_ended_is_replaced_at_once(studies, database):
    with opened_call(database, now=AT) as call:
        study = studies.begin(call, spec(), ME)
        assert studies.take(call, study.run, spec(), OTHER, instead_of=ME).tuner == OTHER


def test_a_study_keeps_its_seed_and_refuses_other_metrics(studies, database):
    with opened_call(database) as call:
        study = studies.begin(call, spec(), ME)
        taken = studies.take(call, study.run, spec(n_trials=20), ME)
        assert taken.spec.seed == study.spec.seed
        assert taken.spec.n_trials == 20
        with pytest.raises(Conflict):
            studies.take(call, study.run, spec(metrics=("auc",)), ME)
        with pytest.raises(AlreadyExists):
            studies.begin(call, spec(), OTHER)


def test_leaving_names_the_best_trial_and_ends_the_run_if_told(studies, runs, database):
    with opened_call(database) as call:
        study = studies.begin(call, spec(), ME)
        trials = [trial(n, values=(v,)) for n, v in enumerate((3.0, 1.0, 2.0))]
        bad = trial(3, values=(0.0,), constraints={"size": 1.0})
        studies.keep(call, study.run, ME, [*trials, bad])
        studies.leave(call, study.run, OTHER, RunState.FAILED)  # holds nothing, ends nothing
        assert runs.get(call.connection, study.run).state is RunState.RUNNING
        left = studies.leave(call, study.run, ME, RunState.FINISHED, reason="enough")
        run = runs.get(call.connection, study.run)
    assert left.tuner is None
    assert run.state is RunState.FINISHED
    assert run.tags["falaj.best_trial"] == "1"
    assert run.tags["falaj.error"] == "enough"


def test_the_end_of_a_study_ends_the_trials_that_are_under_way(studies, runs, database):
    with opened_call(database) as call:
        study = studies.begin(call, spec(), ME)
        studies.keep(call, study.run, ME, [trial(0), trial(1, TrialState.RUNNING)])
        studies.leave(call, study.run, ME, RunState.KILLED, reason="cancelled")
        first, second = studies.trials(call.connection, study.run)
        run = runs.get(call.connection, second.run)
    assert first.state is TrialState.COMPLETE
    assert second.state is TrialState.FAILED
    assert run.state is RunState.KILLED
    assert run.tags["falaj.error"] == second.reason


def test_a_study_that_is_not_there_is_missing(studies, database):
    with opened_call(database) as call:
        for ask in (
            lambda: studies.get(call.connection, "run_no"),
            lambda: studies.trials(call.connection, "run_no"),
            lambda: studies.keep(call, "run_no", ME, []),
            lambda: studies.take(call, "run_no", spec(), ME),
        ):
            with pytest.raises(NotFound):
                ask()


def test_the_newest_studies_are_listed_first(studies, database):
    for day, name in enumerate(("first", "second")):
        with opened_call(database, now=AT + timedelta(days=day)) as call:
            studies.begin(call, spec(name=name), ME)
    with opened_call(database) as call:
        assert [one.spec.name for one in studies.listed(call.connection)] == ["second", "first"]
        (one,) = studies.listed(call.connection, name="first")
    assert one.spec.name == "first"
