"""Reproduces a run: its data, its environment, its seed, and the model of them.

Nothing is registered and the run stays as it is: what came of it is the job's result.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.lake.blobs import digest_of
from falaj.training.checkpoints import SealedCheckpoints
from falaj.training.fitting import Fitting, summary
from falaj.training.model import PackageDifference, Reproduction
from falaj.training.ports import Trainer, chosen
from falaj.training.products import (
    NATIVE_MODEL,
    distributions,
    facts_of,
    fetched_lock,
    fetched_model,
    fetched_request,
)
from falaj.training.use import check_reproducible

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun
    from falaj.lake.blobs import SealedBlobs
    from falaj.training.costs.fits import Fits
    from falaj.training.ports import FittedModel
    from falaj.training.tracking.runs import Runs
    from falaj.training.training_sets import TrainingSets


class ReproduceJob:
    """Handles ``runs.reproduce``.

    Args:
        trainers: by name.
        blobs: hold what the run left behind.
        fits: where fits run, under which limits and on how many workers, as the run's own did;
            None: in this process, without.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        training_sets: TrainingSets,
        runs: Runs,
        trainers: Mapping[str, Trainer],
        blobs: SealedBlobs,
        fits: Fits | None = None,
    ) -> None:
        self._fits = fits
        self._calls = calls
        self._sets = training_sets
        self._runs = runs
        self._trainers = dict(trainers)
        self._blobs = blobs

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Reproduce; returns a ``Reproduction`` as JSON.

        Raises:
            NotFound: the run left no request or no model, or its data is not there any more.
            SubjectsErased: somebody in its data was erased.
            Conflict: the run did not finish.
        """
        with self._calls.database.reading() as connection:
            run = self._runs.get(connection, str(arguments["run"]))
            check_reproducible(run)
            made = self._sets.get(connection, str(run.training_set))
            then = self._sets.pinned_then(connection, made)
            now = self._sets.pinned(connection, made.spec)
        request = fetched_request(self._blobs, run)
        trainer = chosen(self._trainers, request.trainer)
        first = fetched_model(self._blobs, run)
        job.report(0.05, "making the training set again")
        again = self._sets.recreate(
            made, then, now, report=lambda share, told: job.report(0.05 + 0.35 * share, told)
        )
        job.report(0.4, "training again")
        alone = request.resources is None or request.resources.workers == 1
        there = trainer
        if self._fits is not None:
            there = self._fits.placed(trainer, request, job, run.id)
        fitting = Fitting(there, request, made, self._sets.load(made))
        folds = fitting.cross_validated(
            [], lambda _done: None, lambda share, told: job.report(0.4 + 0.2 * share, told)
        )
        fitted = fitting.fitted(
            report=lambda share, told: job.report(0.6 + 0.3 * share, told),
            checkpoints=self._checkpoints(job, request.checkpoint.seconds),
        )
        job.report(0.92, "comparing")
        metrics = fitting.measured(fitted) | summary(folds)
        code = trainer.code(request.params).content_hash
        found = Reproduction(
            run=run.id,
            model_identical=_identical(first, fitted),
            data=again,
            environment=_differences(fetched_lock(self._blobs, run), distributions()),
            python=(run.environment.python if run.environment else "", platform.python_version()),
            code_identical=run.code is not None and run.code.content_hash == code,
            seed=request.seed,
            digest=next(one.digest for one in run.artifacts if one.path == NATIVE_MODEL),
            reproduced_digest=digest_of(fitted.data),
            promised=trainer.traits.identical and alone,
            metrics={
                name: (run.metrics.get(name), metrics.get(name))
                for name in sorted({*run.metrics, *metrics})
                if not name.startswith("cv_") or name.startswith(("cv_mean_", "cv_std_"))
            },
        )
        with self._calls.opened(
            "runs.reproduce", job.submitted_by, resource=f"run:{run.id}"
        ) as call:
            call.note(model_identical=found.model_identical, data_identical=again.identical)
        if job.checkpoint:
            self._blobs.forget(job.checkpoint["fit"])
        return found.model_dump(mode="json")

    def _checkpoints(self, job: JobRun, seconds: float) -> SealedCheckpoints:
        digest = job.checkpoint["fit"] if job.checkpoint else None
        return SealedCheckpoints(
            self._blobs, job.id, digest, lambda new: job.save({"fit": new}), every_seconds=seconds
        )


def _identical(first: FittedModel, second: FittedModel) -> bool:
    """True if all that is packaged is the same: the native bytes, the encoding, the calibration."""
    return first.data == second.data and facts_of(first) == facts_of(second)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[PackageDifference, ...]:
    return tuple(
        PackageDifference(package=name, then=then.get(name), now=now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )
