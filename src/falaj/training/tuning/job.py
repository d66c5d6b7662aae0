"""The tuning job: a study over one of the platform's trainers, its trials on the compute.

The job holds the study under its own name, so that the worker that takes it up after another
was lost goes on with the same study: trials that had ended are there, those that had not are
begun again. The trials are tasks of the compute (processes here, or Ray), which begins those
anew whose process was lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from falaj.kernel.compute import Compute, Plain, Task
from falaj.kernel.errors import FalajError, InvalidInput, NotFound, Unavailable
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import JobCancelled, JobTakenAway, LeaseLost
from falaj.training.costs.budgets import BudgetSpent
from falaj.training.model import TRAIN_JOB, RunState
from falaj.training.ports import chosen
from falaj.training.train import built_set, stated
from falaj.training.tuning.model import Study, StudyTaken, TrialRecord, best_of
from falaj.training.tuning.request import TuningRequest
from falaj.training.tuning.space import suggested
from falaj.training.tuning.trialcosts import TrialCosts

if TYPE_CHECKING:
    from optuna import Trial

    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun, Jobs
    from falaj.training.costs.meters import Meters
    from falaj.training.costs.queueing import RunQueue
    from falaj.training.model import TrainingSet
    from falaj.training.ports import Trainer
    from falaj.training.training_sets import TrainingSets
    from falaj.training.tuning.studies import Studies

PASSING = (BudgetSpent, JobCancelled, JobTakenAway, LeaseLost, StudyTaken, Unavailable)
"""What ends the work of this process, and says nothing of the trials that are under way."""
JOB_TAG, MODEL_TAG = "falaj.job", "falaj.model"


class _Progress(BaseModel):
    """The checkpoint: what has been made so far."""

    training_set: str
    set_recorded: bool = False
    study: str | None = None
    result: dict[str, Any] | None = None


class TuneJob:
    """Handles ``training.tune``.

    Args:
        calls: opens the transactions of the steps.
        training_sets, studies: where the steps are recorded.
        trainers: by name.
        jobs: takes the training with the best parameters.
        queue: what that training claims; None if nothing is counted.
        meters: charge the trials; None if nothing is charged.
        compute: opens what the trials run on.
        try_trial: the task that tries one set of parameters (see ``TrialBench``).
        settings: of the platform, as plain data, for the task.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        training_sets: TrainingSets,
        studies: Studies,
        trainers: Mapping[str, Trainer],
        jobs: Jobs,
        queue: RunQueue | None = None,
        meters: Meters | None = None,
        compute: Callable[[], Compute],
        try_trial: Task,
        settings: Mapping[str, Plain],
    ) -> None:
        self._calls = calls
        self._sets = training_sets
        self._studies = studies
        self._trainers = dict(trainers)
        self._jobs = jobs
        self._queue = queue
        self._meters = meters
        self._compute = compute
        self._try = try_trial
        self._settings = dict(settings)

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Tune; returns ``study``, ``best_trials``, and the ``job`` that trains the best."""
        given, purpose = stated(arguments)
        request = TuningRequest.model_validate(given)
        trainer = chosen(self._trainers, request.training.trainer)
        trainer.parameters(request.training.params)
        if job.checkpoint is None:
            known = request.training.training_set
            fresh = _Progress(training_set=known or new_id("ts"), set_recorded=known is not None)
            job.save(fresh.model_dump())
        progress = _Progress.model_validate(job.checkpoint)
        if progress.result is not None:  # it ended, and its worker died before it said so
            return progress.result
        made = self._prepared(job, request, purpose, progress)
        study = self._held(job, request, made, progress)
        try:
            trials = self._tried(job, request, made, study)
            return self._ended(job, request, made, study, trials, purpose, progress)
        except FalajError as error:
            self._given_up(job, study, error)
            raise

    def _prepared(
        self, job: JobRun, request: TuningRequest, purpose: str | None, progress: _Progress
    ) -> TrainingSet:
        if not progress.set_recorded and request.training.spec is not None:
            made = built_set(
                self._calls,
                self._sets,
                request.training.spec,
                set_id=progress.training_set,
                principal=job.submitted_by,
                purpose=purpose,
                report=lambda share, told: job.report(0.1 * share, told),
            )
            with self._opened(job, request) as call:
                self._sets.record(call, made)
                progress.set_recorded = True
                job.save(progress.model_dump(), connection=call.connection)
        with self._calls.database.reading() as connection:
            return self._sets.get(connection, progress.training_set)

    def _held(
        self, job: JobRun, request: TuningRequest, made: TrainingSet, progress: _Progress
    ) -> Study:
        """The study, begun by this job or taken up by it."""
        spec = request.spec()
        with self._opened(job, request) as call:
            known = self._studies.listed(call.connection, name=spec.name)
            if known and progress.study != known[0].run:
                raise InvalidInput(
                    f"There is a study {spec.name!r} already.",
                    hint="Take another name for this one.",
                )
            if known:
                before = known[0].tuner
                lost = before if before is not None and _of_job(before, job) else None
                study = self._studies.take(call, known[0].run, spec, _tuner(job), instead_of=lost)
                job.hold(call.connection)  # an attempt that was lost takes nothing from this one
                return study
            study = self._studies.begin(
                call,
                spec,
                _tuner(job),
                tags={JOB_TAG: job.id, MODEL_TAG: request.training.model},
                training_set=made.id,
            )
            progress.study = study.run
            job.save(progress.model_dump(), connection=call.connection)
            return study

    def _tried(
        self, job: JobRun, request: TuningRequest, made: TrainingSet, study: Study
    ) -> list[TrialRecord]:
        """Bring the study to its number of trials; all of them."""
        from falaj.training.tuning.recorder import Recorder
        from falaj.training.tuning.storage import StudyStorage
        from falaj.training.tuning.tuner import Tuner

        costs = self._costs(job, request, study)

        def keep(trials: list[TrialRecord], attrs: dict[str, Any]) -> None:
            with self._opened(job, request, study.run) as call:
                self._studies.keep(call, study.run, _tuner(job), trials, attrs)
                if costs is not None:
                    costs.alive(call.connection)

        def report(message: str) -> None:
            share = storage.n_ended() / request.n_trials
            job.report(0.1 + 0.85 * min(share, 1), message)

        def told(trial: TrialRecord) -> None:
            report(f"trial {trial.number}: {trial.state}")

        with self._calls.database.reading() as connection:
            before = self._studies.trials(connection, study.run)
        storage = StudyStorage(study.spec, before, study.attrs)
        job.report(0.1, "trying parameters")
        with closing(self._compute()) as compute:
            recorder = Recorder(storage, keep)
            try:
                Tuner(study.spec, storage, recorder, open_after=PASSING).run(
                    self._objective(job, request, made, compute, report, costs),
                    workers=min(request.workers or compute.n_slots, request.n_trials),
                    catch=(FalajError,),
                    told=told,
                )
            finally:
                recorder.close()
        with self._calls.database.reading() as connection:
            return self._studies.trials(connection, study.run)

    def _objective(
        self,
        job: JobRun,
        request: TuningRequest,
        made: TrainingSet,
        compute: Compute,
        report: Callable[[str], None],
        costs: TrialCosts | None,
    ) -> Callable[[Trial], list[float]]:
        from falaj.training.tuning.library import imported

        pruned = imported().TrialPruned
        rungs = request.budget.rungs if request.budget is not None else (0,)
        wanted = [*request.metrics, *(m for m in request.at_most if m not in request.metrics)]
        item = {
            "settings": self._settings,
            "bench": job.id,
            "training_set": made.id,
            "training": request.training.model_dump(mode="json"),
            "metrics": wanted,
        }

        def tried(trial: Trial, told: Callable[[Plain], None]) -> list[float]:
            params = {**request.training.params, **suggested(request.space, trial)}
            found: dict[str, float] = {}
            for rung in rungs:
                report(f"trying parameters of trial {trial.number}")
                if costs is not None and rung != rungs[0]:
                    costs.check()
                if request.budget is not None:
                    params = {**params, request.budget.parameter: rung}
                (answer,) = compute.ordered(self._try, [{**item, "params": params}])
                found = answer["metrics"]
                told(answer["used"])
                if request.budget is not None and len(request.metrics) == 1:
                    trial.report(found[request.metrics[0]], rung)
                    if rung != rungs[-1] and trial.should_prune():
                        raise pruned
            for metric, most in request.at_most.items():
                value = found[metric] - most
                trial.set_constraint(metric, math.inf if math.isnan(value) else value)
            return [found[metric] for metric in request.metrics]

        def objective(trial: Trial) -> list[float]:
            if costs is None:
                return tried(trial, lambda _used: None)
            with costs.charged(trial.number, passing=pruned) as told:
                return tried(trial, told)

        return objective

    def _costs(self, job: JobRun, request: TuningRequest, study: Study) -> TrialCosts | None:
        if self._meters is None:
            return None
        return TrialCosts(
            self._meters,
            self._calls.database,
            job=job,
            study=study.run,
            training=request.training,
        )

    def _ended(
        self,
        job: JobRun,
        request: TuningRequest,
        made: TrainingSet,
        study: Study,
        trials: list[TrialRecord],
        purpose: str | None,
        progress: _Progress,
    ) -> dict[str, Any]:
        best = best_of(study.spec, trials)
        result: dict[str, Any] = {
            "study": study.run,
            "training_set": made.id,
            "n_trials": len(trials),
            "best_trials": [
                {"number": one.number, "run": one.run, "params": one.params, "values": one.values}
                for one in best
            ],
        }
        if not best:
            raise _nothing_good(study, trials)
        with self._opened(job, request, study.run) as call:
            self._studies.leave(call, study.run, _tuner(job), RunState.FINISHED)
            if request.train_best:
                training = request.best(best[0].params, made.id)
                claim = None if self._queue is None else self._queue.claim(call, training)
                asked = {**training.model_dump(mode="json"), "purpose": purpose}
                result["job"] = self._jobs.submit(call, TRAIN_JOB, asked, claim=claim).id
            progress.result = result
            job.save(progress.model_dump(), connection=call.connection)
        return result

    def _given_up(self, job: JobRun, study: Study, error: FalajError) -> None:
        """End the study's run with the reason, unless the job will be taken up again."""
        if error.retryable or isinstance(error, LeaseLost | StudyTaken):
            return
        state = RunState.KILLED if isinstance(error, JobCancelled) else RunState.FAILED
        with self._calls.opened("training.tune", job.submitted_by) as call:
            self._studies.leave(call, study.run, _tuner(job), state, str(error))

    def _opened(self, job: JobRun, request: TuningRequest, study: str | None = None) -> Any:
        return self._calls.opened(
            "training.tune",
            job.submitted_by,
            resource=f"run:{study}" if study else "platform:*",
            arguments={"job": job.id, "study": request.study},
        )


def _tuner(job: JobRun) -> str:
    """Each attempt is a tuner of its own: one that was taken for lost keeps nothing more."""
    return f"job:{job.id}:{job.attempt}"


def _of_job(tuner: str, job: JobRun) -> bool:
    """True if the tuner is an attempt of this job; the lease of the job tells the last one."""
    return tuner.split(":")[:2] == ["job", job.id]


def _nothing_good(study: Study, trials: list[TrialRecord]) -> FalajError:
    reasons = [trial.reason for trial in trials if trial.reason]
    told = f" The last failed with: {reasons[-1]}" if reasons else ""
    return NotFound(
        f"No trial of the study {study.spec.name!r} is complete and keeps its constraints.{told}",
        hint="Loosen the constraints, mend what failed, or widen the space.",
    )
