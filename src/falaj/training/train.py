"""The training job: training set, run, fit, bundle, version; each step survives a kill.

After each step a checkpoint is kept in the transaction of the step's record. A job that is
taken up again goes on after the last one; a step that was cut off is done again with the
same ids, so that nothing is made twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from falaj.kernel.errors import FalajError
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import JobCancelled, LeaseLost
from falaj.training.checkpoints import SealedCheckpoints
from falaj.training.environment import environment
from falaj.training.fitting import Fitting, summary
from falaj.training.model import (
    BUNDLE_TAG,
    MetricPoint,
    RunState,
    TrainingRequest,
    TrainingSet,
    TrainingSetSpec,
)
from falaj.training.ports import Candidate, FittedModel, Report, Trainer, chosen, untold
from falaj.training.products import fetched_model, kept_model, kept_request

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun
    from falaj.lake.blobs import SealedBlobs
    from falaj.training.costs.fits import Fits
    from falaj.training.ports import Packaging
    from falaj.training.tracking.runs import Runs
    from falaj.training.training_sets import TrainingSets


class Progress(BaseModel):
    """The checkpoint: what has been made so far."""

    training_set: str
    run: str
    set_recorded: bool = False
    run_started: bool = False
    folds: list[dict[str, float]] = []
    """Of a cross-validation, the metrics of the folds that are done."""
    fit: str | None = None
    """The digest of the state that the fit kept last."""
    fitted: bool = False
    bundle: str | None = None


class TrainJob:
    """Handles ``training.train``.

    Args:
        calls: opens the transactions of the steps.
        training_sets, runs: where the steps are recorded.
        trainers: by name.
        packaging: turns the fitted model into a version.
        blobs: keeps the fitted model between the steps, encrypted.
        fits: where fits run, under which limits; None: in this process, without.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        training_sets: TrainingSets,
        runs: Runs,
        trainers: Mapping[str, Trainer],
        packaging: Packaging,
        blobs: SealedBlobs,
        fits: Fits | None = None,
    ) -> None:
        self.fits = fits
        self.calls = calls
        self.training_sets = training_sets
        self.runs = runs
        self.trainers = dict(trainers)
        self.packaging = packaging
        self.blobs = blobs

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Train; returns ``training_set``, ``run``, ``bundle``, ``version`` and metrics."""
        given, purpose = stated(arguments)
        request = TrainingRequest.model_validate(given)
        if job.checkpoint is None:
            fresh = Progress(
                training_set=request.training_set or new_id("ts"),
                run=new_id("run"),
                set_recorded=request.training_set is not None,
            )
            job.save(fresh.model_dump())
        work = _Work(self, job, request, purpose, Progress.model_validate(job.checkpoint))
        try:
            return work.done()
        except FalajError as error:
            if not error.retryable and not isinstance(error, LeaseLost):
                work.end_badly(error)
            raise


@dataclass
class _Work:
    """One attempt at one job."""

    on: TrainJob
    job: JobRun
    request: TrainingRequest
    purpose: str | None
    progress: Progress

    def done(self) -> dict[str, Any]:
        self._prepare()
        self._start()
        metrics = self._fit()
        version = self._package()
        return {
            "training_set": self.progress.training_set,
            "run": self.progress.run,
            "bundle": self.progress.bundle,
            "model": self.request.model,
            "version": version,
            "metrics": metrics,
        }

    def end_badly(self, error: FalajError) -> None:
        """The run, if it began, ends as failed or killed, with the reason as a tag."""
        if not self.progress.run_started:
            return
        state = RunState.KILLED if isinstance(error, JobCancelled) else RunState.FAILED
        if self.progress.fit is not None:
            self.on.blobs.forget(self.progress.fit)
        with self._opened("training.fail") as call:
            self.on.runs.tag(call, self.progress.run, {"falaj.error": str(error)[:2000]})
            if self.on.runs.get(call.connection, self.progress.run).state is RunState.RUNNING:
                self.on.runs.finish(call, self.progress.run, state)

    def _opened(self, action: str) -> Any:
        return self.on.calls.opened(
            action,
            self.job.submitted_by,
            resource=f"run:{self.progress.run}",
            arguments={"job": self.job.id, "model": self.request.model},
        )

    def _kept(self, call: Any, **steps: Any) -> None:
        self.progress = self.progress.model_copy(update=steps)
        self.job.save(self.progress.model_dump(), connection=call.connection)

    def _prepare(self) -> None:
        if self.progress.set_recorded or self.request.spec is None:
            return
        self.job.report(0.02, "joining features to the spine")
        made = built_set(
            self.on.calls,
            self.on.training_sets,
            self.request.spec,
            set_id=self.progress.training_set,
            principal=self.job.submitted_by,
            purpose=self.purpose,
            report=lambda share, told: self.job.report(0.02 + 0.3 * share, told),
        )
        with self._opened("training.prepare") as call:
            self.on.training_sets.record(call, made)
            self._kept(call, set_recorded=True)

    @cached_property
    def _set(self) -> TrainingSet:
        with self.on.calls.database.reading() as connection:
            return self.on.training_sets.get(connection, self.progress.training_set)

    @cached_property
    def _fitting(self) -> Fitting:
        trainer = chosen(self.on.trainers, self.request.trainer)
        if self.on.fits is not None:
            trainer = self.on.fits.placed(trainer, self.request, self.job, self.progress.run)
        return Fitting(trainer, self.request, self._set, self.on.training_sets.load(self._set))

    def _start(self) -> None:
        if self.progress.run_started:
            return
        trainer = chosen(self.on.trainers, self.request.trainer)
        params = trainer.parameters(self.request.params)
        self.job.report(0.35, "starting the run")
        run_environment, code = environment(), trainer.code(self.request.params)
        kept = kept_request(self.on.blobs, self.request)
        with self._opened("training.start") as call:
            made = self._set
            self.on.runs.start(
                call,
                experiment=self.request.experiment or self.request.model,
                name=self.request.run_name or "",
                params={**params, "seed": self.request.seed, "trainer": trainer.name},
                tags={"falaj.model": self.request.model, "falaj.job": self.job.id},
                training_set=made.id,
                snapshot=made.spine_snapshot,
                environment=run_environment,
                code=code,
                run_id=self.progress.run,
            )
            self.on.runs.log(call, self.progress.run, artifacts=kept)
            self._kept(call, run_started=True)

    def _fit(self) -> dict[str, float]:
        if self.progress.fitted:
            with self.on.calls.database.reading() as connection:
                return self.on.runs.get(connection, self.progress.run).metrics
        self.job.report(0.4, "reading the training set")
        fitting = self._fitting
        folds = fitting.cross_validated(
            self.progress.folds,
            lambda done: self._noted(folds=list(done)),
            lambda share, told: self.job.report(0.4 + 0.2 * share, told),
        )
        fitted = fitting.fitted(
            report=lambda share, told: self.job.report(0.6 + 0.2 * share, told),
            checkpoints=SealedCheckpoints(
                self.on.blobs,
                self.job.id,
                self.progress.fit,
                lambda digest: self._noted(fit=digest),
                every_seconds=self.request.checkpoint.seconds,
            ),
        )
        self.job.report(0.82, "measuring")
        metrics = fitting.measured(fitted) | summary(folds)
        points = [MetricPoint(key=key, value=value) for key, value in metrics.items()]
        points += [
            MetricPoint(key=f"cv_{key}", value=value, step=fold)
            for fold, figures in enumerate(folds)
            for key, value in figures.items()
        ]
        kept = kept_model(self.on.blobs, fitted)
        with self._opened("training.log") as call:
            self.on.runs.log(call, self.progress.run, metrics=points, artifacts=kept)
            checkpoint = self.progress.fit
            self._kept(call, fitted=True, fit=None)
        if checkpoint is not None:
            self.on.blobs.forget(checkpoint)
        return metrics

    def _noted(self, **steps: Any) -> None:
        """Note how far a step is, in a transaction of its own."""
        self.progress = self.progress.model_copy(update=steps)
        self.job.save(self.progress.model_dump())

    def _fitted(self) -> FittedModel:
        """The fitted model as an earlier step kept it."""
        with self.on.calls.database.reading() as connection:
            run = self.on.runs.get(connection, self.progress.run)
        return fetched_model(self.on.blobs, run)

    def _package(self) -> int:
        if self.progress.bundle is None:
            self.job.report(0.88, "packaging and signing")
            bundle = self.on.packaging.package(self._candidate())
            with self._opened("training.package") as call:
                self._kept(call, bundle=bundle)
        bundle = str(self.progress.bundle)
        self.job.report(0.96, "registering the version")
        with self._opened("training.register") as call:
            self.on.runs.finish(call, self.progress.run)
            self.on.runs.tag(call, self.progress.run, {BUNDLE_TAG: bundle})
            return self.on.packaging.register(call, self.request.model, self.progress.run, bundle)

    def _candidate(self) -> Candidate:
        fitted, fitting = self._fitted(), self._fitting
        with self.on.calls.database.reading() as connection:
            run = self.on.runs.get(connection, self.progress.run)
        return Candidate(
            model=self.request.model,
            run=run,
            training_set=self._set,
            fitted=fitted,
            train=fitting.train,
            validation=fitting.validation,
            scores=fitting.trainer.scores(fitted, fitting.validation.matrix),
            isolation=self.request.isolation,
            seed=self.request.seed,
        )


class PrepareJob:
    """Handles ``training.prepare``: builds and records a training set."""

    def __init__(self, calls: Calls, training_sets: TrainingSets) -> None:
        self.calls = calls
        self.training_sets = training_sets

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Build; returns ``training_set`` and its rows by part."""
        given, purpose = stated(arguments)
        spec = TrainingSetSpec.model_validate(given)
        if job.checkpoint is None:
            job.save({"training_set": new_id("ts")})
        set_id = str(job.checkpoint["training_set"])
        made = built_set(
            self.calls,
            self.training_sets,
            spec,
            set_id=set_id,
            principal=job.submitted_by,
            purpose=purpose,
            report=job.report,
        )
        with self.calls.opened(
            "training.prepare", job.submitted_by, resource=f"training_set:{set_id}"
        ) as call:
            self.training_sets.record(call, made)
        return {"training_set": set_id, "n_rows": made.n_rows, "content_hash": made.content_hash}


class RecreateJob:
    """Handles ``training.recreate``: makes a training set again and compares."""

    def __init__(self, calls: Calls, training_sets: TrainingSets) -> None:
        self.calls = calls
        self.training_sets = training_sets

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Re-create; returns a ``Recreation`` as JSON."""
        with self.calls.database.reading() as connection:
            made = self.training_sets.get(connection, str(arguments["training_set"]))
            then = self.training_sets.pinned_then(connection, made)
            now = self.training_sets.pinned(connection, made.spec)
        found = self.training_sets.recreate(made, then, now, report=job.report)
        with self.calls.opened(
            "training.recreate", job.submitted_by, resource=f"training_set:{made.id}"
        ) as call:
            call.note(identical=found.identical)
        return found.model_dump(mode="json")


def stated(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What a job was asked to do, and for what purpose."""
    given = dict(arguments)
    purpose = given.pop("purpose", None)
    return given, None if purpose is None else str(purpose)


def built_set(
    calls: Calls,
    training_sets: TrainingSets,
    spec: TrainingSetSpec,
    *,
    set_id: str,
    principal: str,
    purpose: str | None = None,
    report: Report = untold,
) -> TrainingSet:
    """Pin and build a training set outside of any write transaction."""
    with calls.database.reading() as connection:
        pinned = training_sets.pinned(connection, spec)
    return training_sets.build(
        spec,
        set_id=set_id,
        pinned=pinned,
        created_by=principal,
        purpose=purpose,
        report=report,
    )
