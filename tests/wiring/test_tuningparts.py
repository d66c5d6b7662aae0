"""Tuning jobs of the platform's trainers, on a compute."""

import itertools
import os
import signal
import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.adapters.compute_ray import RayCompute
from falaj.kernel.jobs import JobRun, Jobs, JobState, LeaseLost, Worker, job_rows
from falaj.kernel.resources import Resources, Used
from falaj.kernel.settings_queue import QueueSettings, TeamRule
from falaj.testing.world import World, door_of
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.costs.budgets import Budgets
from falaj.training.costs.ledger import Ledger
from falaj.training.costs.meters import Meters
from falaj.training.costs.model import Grouping, UsageKind
from falaj.training.costs.reports import cost_report
from falaj.training.costs.teams import Teams
from falaj.training.model import RunState, TrainingRequest
from falaj.training.tuning.bench import TrialBench
from falaj.training.tuning.model import TUNE_JOB, StudyTaken, TrialState
from falaj.training.tuning.studies import Studies
from falaj.training.tuning.trialcosts import TrialCosts
from falaj.wiring import tuningparts
from falaj.wiring.computeparts import meters

_NAMES = itertools.count()
SPACE = {
    "num_leaves": {"kind": "int", "low": 4, "high": 31, "log": True},
    "learning_rate": {"kind": "float", "low": 0.02, "high": 0.3, "log": True},
}


class PowerCut(BaseException):
    """The worker is gone: nothing is told, nothing is cleaned up."""


class Here:
    """A ``Compute`` that runs tasks in this process, on stores that are open in it."""

    n_slots = 1

    def __init__(self, bench, *, before=lambda _n: None):
        self._bench = bench
        self._before = before
        self.items = []

    def ordered(self, task, items):
        for item in items:
            self._before(len(self.items))
            self.items.append(item)
            tuningparts._OPENED.setdefault(item["bench"], self._bench)
            yield task(item)

    def close(self):
        """Nothing was opened."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


@pytest.fixture(scope="module")
def bench(world):
    sets = world.premises.training_sets
    with world.premises.database.reading() as connection:
        made = sets.get(connection, world.facts["training_set"])
    request = TrainingRequest(model="late", training_set=made.id)
    return TrialBench(LightGbmTrainer(), request, made, sets.load(made))


@pytest.fixture
def asked(world):
    """Makes a request for tuning on the world's training set."""

    def made(**more):
        training = {
            "model": world.new("model"), "training_set": world.facts["training_set"],
            "params": {"n_trees": 12, "num_threads": 1},
        }  # fmt: skip
        return {
            "study": f"tuned-{next(_NAMES)}", "training": training, "space": SPACE,
            "n_trials": 5, "train_best": False, "workers": 1, **more,
        }  # fmt: skip

    return made


def submitted(world, request):
    made = world.premises
    action = made.backend.services.actions["training.tune"]
    return door_of(world, world.caller()).call(action, {"request": request}).id


def run(world, compute, *, jobs=None, name="tuner"):
    handlers = {TUNE_JOB: tuningparts.tuning(world.premises, compute=lambda: compute)}
    assert Worker(jobs or world.premises.jobs, handlers, name=name).run_one()


def ended(world, job):
    with world.premises.database.reading() as connection:
        return world.premises.jobs.get(connection, job)


def trials_of(world, job):
    with world.premises.database.reading() as connection:
        return Studies(world.premises.runs).trials(connection, ended(world, job).result["study"])


def test_the_best_parameters_are_found_and_a_version_is_trained_with_them(world, bench, asked):
    request = asked(metrics=["auc"], directions=["maximize"], train_best=True)
    job = submitted(world, request)
    run(world, Here(bench))
    done = ended(world, job)
    assert done.state is JobState.DONE, done.error
    (best,) = done.result["best_trials"]
    trials = trials_of(world, job)
    assert best["values"][0] == max(trial.values[0] for trial in trials)
    params = {"n_trees": 12, "num_threads": 1, **best["params"]}
    assert bench.measured(params, ["auc"]) == {"auc": best["values"][0]}
    training = ended(world, done.result["job"])
    assert training.arguments["params"] == params
    assert training.arguments["training_set"] == world.facts["training_set"]
    with world.premises.database.reading() as connection:
        parent = world.premises.runs.get(connection, done.result["study"])
    assert parent.state is RunState.FINISHED
    assert parent.tags["falaj.model"] == request["training"]["model"]


def test_a_worker_that_was_lost_is_followed_by_one_that_does_the_same(world, bench, asked):
    whole = submitted(world, asked())
    run(world, Here(bench))

    def cut(n):
        if n == 3:
            raise PowerCut

    job = submitted(world, asked())
    brief = Jobs(world.premises.database, world.premises.clock, lease=timedelta(seconds=0.5))
    with pytest.raises(PowerCut):
        run(world, Here(bench, before=cut), jobs=brief)
    threading.Event().wait(0.7)  # the lease of the job ends
    again = Here(bench)
    run(world, again, jobs=brief, name="another")
    assert ended(world, job).state is JobState.DONE, ended(world, job).error
    assert len(again.items) == 2  # the three that had ended are not tried again
    same = [(trial.params, trial.values) for trial in trials_of(world, whole)]
    assert [(trial.params, trial.values) for trial in trials_of(world, job)] == same
    assert [trial.attempt for trial in trials_of(world, job)] == [1, 1, 1, 2, 1]


def test_an_attempt_that_was_taken_for_lost_keeps_nothing_beside_the_next(world, bench, asked):
    made, request = world.premises, asked(train_best=True)
    job = submitted(world, request)
    brief = Jobs(made.database, made.clock, lease=timedelta(seconds=0.5))

    class HeldUp(Worker):
        def _keep_lease(self, job_id, kept):
            """Its threads stand still with it."""

    def study():
        with made.database.reading() as connection:
            (found,) = Studies(made.runs).listed(connection, name=request["study"])
        return found

    def late(n):
        if n == 2:  # this process is held up: the next attempt runs to its end meanwhile
            held = study()

            def refused(_n):
                assert study().tuner not in (None, held.tuner)
                with (
                    pytest.raises(StudyTaken),
                    made.calls.opened("training.tune", "user:amina") as call,
                ):
                    Studies(made.runs).keep(call, held.run, held.tuner, [])

            threading.Event().wait(0.7)
            run(world, Here(bench, before=refused), name="another")

    handlers = {TUNE_JOB: tuningparts.tuning(made, compute=lambda: Here(bench, before=late))}
    assert HeldUp(brief, handlers, name="held up").run_one()
    done = ended(world, job)
    assert done.state is JobState.DONE, done.error
    trials = trials_of(world, job)
    assert [trial.number for trial in trials] == list(range(5))
    assert [trial.attempt for trial in trials] == [1, 1, 2, 1, 1]
    assert trainings(world, request) == [done.result["job"]]


def trainings(world, request):
    """The jobs that train the model of a request."""
    with world.premises.database.reading() as connection:
        listed = world.premises.jobs.listed(connection, limit=1000)
    model = request["training"]["model"]
    return [job.id for job in listed if job.arguments.get("model") == model]


def test_a_job_that_ended_before_its_worker_could_say_so_trains_once(world, bench, asked):
    made, request = world.premises, asked(train_best=True, n_trials=1)
    job = submitted(world, request)
    brief = Jobs(made.database, made.clock, lease=timedelta(seconds=0.5))

    class Cut(Worker):
        def _end(self, *_args, **_named):
            raise PowerCut

    handlers = {TUNE_JOB: tuningparts.tuning(made, compute=lambda: Here(bench))}
    with pytest.raises(PowerCut):
        Cut(brief, handlers, name="cut").run_one()
    threading.Event().wait(0.7)
    run(world, Here(bench), jobs=brief, name="another")
    assert ended(world, job).state is JobState.DONE, ended(world, job).error
    assert trainings(world, request) == [ended(world, job).result["job"]]


def test_a_reclaim_ends_no_trial_and_the_job_goes_on_with_them(world, bench, asked):
    made = world.premises
    job = submitted(world, asked(budget={"first": 2, "most": 18}, n_trials=2))

    def reclaimed(n):
        if n == 4:  # within the second trial
            with made.database.transaction() as connection:
                mine = job_rows.c.id == job
                connection.execute(update(job_rows).where(mine).values(reclaim_asked=True))

    run(world, Here(bench, before=reclaimed))
    assert ended(world, job).state is JobState.WAITING, ended(world, job).error
    run(world, Here(bench))
    assert ended(world, job).state is JobState.DONE, ended(world, job).error
    trials = trials_of(world, job)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [trial.attempt for trial in trials] == [1, 2]


def test_trials_are_pruned_between_the_rungs_of_the_budget(world, bench, asked):
    request = asked(
        n_trials=10,
        budget={"first": 2, "most": 18},
        pruner={"kind": "hyperband", "min_resource": 2, "max_resource": 18},
    )
    job = submitted(world, request)
    compute = Here(bench)
    run(world, compute)
    trials = trials_of(world, job)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(compute.items) == sum(len(trial.intermediate) for trial in trials)
    assert [item["params"]["n_trees"] for item in compute.items[:3]] == [2, 6, 18]


def test_constraints_of_size_and_fairness_rule_out_trials(world, bench, asked):
    free = submitted(world, asked())
    run(world, Here(bench))
    sizes = [bench.measured({"n_trees": 12, "num_threads": 1, **trial.params}, ["size_bytes"])
             ["size_bytes"] for trial in trials_of(world, free)]  # fmt: skip
    limit = sorted(sizes)[1]
    request = asked(at_most={"size_bytes": limit, "parity/carrier": 1.0})
    job = submitted(world, request)
    run(world, Here(bench))
    (best,) = ended(world, job).result["best_trials"]
    found = next(trial for trial in trials_of(world, job) if trial.number == best["number"])
    assert found.constraints["size_bytes"] <= 0
    assert -1 <= found.constraints["parity/carrier"] <= 0
    impossible = submitted(world, asked(at_most={"size_bytes": 1.0}))
    run(world, Here(bench))
    assert "keeps its constraints" in ended(world, impossible).error["message"]


def test_what_is_wrong_with_every_trial_is_told(world, bench, asked):
    for more, told in (
        ({"metrics": ["beauty"]}, "no metric 'beauty'"),
        ({"space": {"leaves": {"kind": "int", "low": 1, "high": 2}}}, "no parameter 'leaves'"),
        ({"at_most": {"parity/weather": 1}}, "no column 'weather'"),
    ):
        job = submitted(world, asked(n_trials=2, **more))
        run(world, Here(bench))
        assert ended(world, job).state is JobState.FAILED
        assert told in ended(world, job).error["message"]


def test_a_job_that_is_cancelled_ends_its_study_as_killed(world, bench, asked):
    request = asked()
    job = submitted(world, request)

    def cancel(n):
        if n == 2:
            with world.premises.database.transaction() as connection:
                world.premises.jobs.cancel(connection, job)

    run(world, Here(bench, before=cancel))
    assert ended(world, job).state is JobState.CANCELLED
    with world.premises.database.reading() as connection:
        (study,) = Studies(world.premises.runs).listed(connection, name=request["study"])
        assert world.premises.runs.get(connection, study.run).state is RunState.KILLED
    assert study.tuner is None


def test_the_name_of_another_study_is_refused(world, bench, asked):
    request = asked(n_trials=1)
    submitted(world, request)
    run(world, Here(bench))
    job = submitted(world, request)
    run(world, Here(bench))
    assert "already" in ended(world, job).error["message"]


@pytest.mark.nightly
def test_trials_run_on_ray_as_they_do_here(world, bench, asked):
    here, there = submitted(world, asked(workers=1)), None
    run(world, Here(bench))
    compute = RayCompute(slots=1)
    try:
        there = submitted(world, asked(workers=1))
        run(world, compute)
    finally:
        compute.close()
    assert ended(world, there).state is JobState.DONE, ended(world, there).error
    same = [(trial.params, trial.values) for trial in trials_of(world, here)]
    assert [(trial.params, trial.values) for trial in trials_of(world, there)] == same


@pytest.mark.nightly
def test_trials_run_in_processes_of_which_one_is_killed(world, asked):
    compute = LocalCompute(2)
    stopped = threading.Event()

    def kill_one():
        while not stopped.wait(0.2):
            for pid in compute.pids()[:1]:
                os.kill(pid, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        job = submitted(world, asked(n_trials=6))
        run(world, compute)
    finally:
        stopped.set()
        killer.join()
    trials = trials_of(world, job)
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def usages_of(world, job):
    with world.premises.database.reading() as connection:
        found = Ledger().usages(connection)
    return {int(one.part): one for one in found if one.job == job}


def test_each_trial_is_charged_to_the_model_for_what_it_held(world, bench, asked):
    request = asked(
        n_trials=10,
        budget={"first": 2, "most": 18},
        pruner={"kind": "hyperband", "min_resource": 2, "max_resource": 18},
    )
    job = submitted(world, request)
    run(world, Here(bench))
    trials = {one.number: one for one in trials_of(world, job)}
    charged = usages_of(world, job)
    assert set(charged) == set(trials)
    for number, one in charged.items():
        assert (one.kind, one.model) == ("trial", request["training"]["model"])
        assert one.run == ended(world, job).result["study"]
        assert one.outcome == ("pruned" if trials[number].state is TrialState.PRUNED else "done")
        assert one.used.cpu_seconds > 0
    assert {one.outcome for one in charged.values()} == {"done", "pruned"}
    with world.premises.database.reading() as connection:
        found = cost_report(connection, Grouping.MODEL, model=request["training"]["model"])
    assert found.lines[0].n_attempts == 10


def test_a_trial_whose_worker_was_lost_is_charged_and_so_is_the_one_that_follows(
    world, bench, asked
):
    job = submitted(world, asked(n_trials=2))
    made = world.premises
    with made.database.transaction() as connection:  # what a killed attempt leaves behind
        meters(made).begin(
            connection, UsageKind.TRIAL, run="run_lost", part="0", model="m", team="everyone",
            job=job, resources=Resources(),
        )  # fmt: skip
    run(world, Here(bench))
    with made.database.reading() as connection:
        found = [one.outcome for one in Ledger().usages(connection) if one.job == job]
    assert sorted(found) == ["done", "done", "lost"]


def test_an_attempt_that_has_lost_the_job_leaves_all_accounts_to_the_next(world, bench, asked):
    made, request = world.premises, asked(n_trials=2)
    job = submitted(world, request)

    def overtaken(n):
        if n != 1:
            return
        training = TrainingRequest.model_validate(request["training"])
        late = JobRun(made.jobs, job, "late", "user:amina", None)
        with pytest.raises(LeaseLost):  # it would close the account of the trial that runs
            TrialCosts(meters(made), made.database, job=late, study="run_late", training=training)
        over = made.clock.now() - timedelta(seconds=1)
        taken = update(job_rows).where(job_rows.c.id == job)
        with made.database.transaction() as connection:
            connection.execute(taken.values(leased_by="another", leased_until=over))

    run(world, Here(bench, before=overtaken))
    assert ended(world, job).state is JobState.RUNNING
    run(world, Here(bench), name="another")
    assert ended(world, job).state is JobState.DONE
    with made.database.reading() as connection:
        found = [one.outcome for one in Ledger().usages(connection) if one.job == job]
    assert sorted(found) == ["done", "done", "lost"]


def test_a_team_whose_budget_is_spent_begins_no_more_trials(world, bench, asked):
    made = world.premises
    settings = QueueSettings(teams=(TeamRule(name="everyone", core_hours_per_month=10.0),))
    ledger = Ledger()
    budgets = Budgets(settings, ledger, made.clock)
    job = submitted(world, asked())

    def spent(n):
        if n == 2:  # somebody else of the team spends what is left
            with made.database.transaction() as connection:
                other = ledger.begin(
                    connection, run="run_other", model="other", team="everyone", job="job_other",
                    resources=Resources(cpus=1000), limited=False, now=made.clock.now(),
                )  # fmt: skip
                later = made.clock.now() + timedelta(minutes=1)
                ledger.close(connection, other, now=later, used=Used(), outcome="done")

    handler = tuningparts.tuning(made, compute=lambda: Here(bench, before=spent))
    handler._meters = Meters(ledger, budgets, Teams(settings), settings, made.clock)
    assert Worker(made.jobs, {TUNE_JOB: handler}, name="poor").run_one()
    found = ended(world, job)
    assert (found.state, found.error["code"]) == (JobState.FAILED, "budget-spent")
    with made.database.reading() as connection:
        (study,) = Studies(made.runs).listed(connection, name=found.arguments["study"])
        trials = Studies(made.runs).trials(connection, study.run)
        assert made.runs.get(connection, study.run).state is RunState.FAILED
    states = [trial.state for trial in trials]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.FAILED]
    assert "ended before this trial" in trials[3].reason
    assert set(usages_of(world, job)) == {0, 1, 2}
