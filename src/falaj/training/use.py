"""Who trains on data uses it: what holds for its rows holds for a model of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.features.purposes import refuse_unless
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, Forbidden
from falaj.training.model import REPRODUCE_JOB, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from falaj.catalog.assets import Catalog
    from falaj.kernel.fairqueue import Claim
    from falaj.kernel.jobs import Job, Jobs
    from falaj.kernel.ports import Resource
    from falaj.lake.reading import GuardedLake
    from falaj.training.model import Run, TrainingSet
    from falaj.training.training_sets import TrainingSets


class DataUse:
    """Decides whether a caller may train on data as they stand.

    Args:
        may: True if the caller may do the named action on the resource.
        guarded: knows what a caller sees masked, or not at all.
    """

    def __init__(
        self, catalog: Catalog, may: Callable[[Call, str, Resource], bool], guarded: GuardedLake
    ) -> None:
        self._catalog = catalog
        self._may = may
        self._guarded = guarded

    def check_whole(self, call: Call, table: str, *, todo: str) -> None:
        """Nobody learns from masked values, or from some of the rows, unawares: refuse."""
        self._guarded.check_clear(call, table, None, todo=todo)

    def check_purpose(self, call: Call, made: TrainingSet) -> None:
        """Raise unless the set may be used for the purpose that the caller states."""
        refuse_unless(made.permitted_purposes, call.caller.purpose, made.spec.feature_service)

    def check_readable(self, call: Call, *read: AssetRef) -> None:
        """Raise Forbidden, naming what the caller may not read now."""
        for ref in read:
            resource = self._catalog.load(call.connection, ref)
            action = "features.read" if ref.kind == "feature_service" else "tables.read"
            if not self._may(call, action, resource):
                raise Forbidden(
                    f"You may not train on {ref} as you stand: you may not read it.",
                    hint="Personal data needs a purpose and a second factor from the last five"
                    " minutes; else ask its owner for access.",
                )


class Reproducing:
    """Starts the job that reproduces a run, for whoever may train on its data.

    Args:
        claim: what the fit of a run claims of the queue, again; None without a queue.
    """

    def __init__(
        self,
        training_sets: TrainingSets,
        jobs: Jobs,
        use: DataUse,
        claim: Callable[[Call, Run], Claim] | None = None,
    ) -> None:
        self._sets = training_sets
        self._jobs = jobs
        self._use = use
        self._claim = claim

    def __call__(self, call: Call, run: Run) -> Job:
        """The submitted job.

        Raises:
            Conflict: the run did not finish, or was not made by a training job.
            Forbidden: its data may not be read, or not for this purpose.
            BudgetSpent: nothing is left of the team's budget.
        """
        check_reproducible(run)
        made = self._sets.get(call.connection, str(run.training_set))
        self._use.check_purpose(call, made)
        self._use.check_readable(
            call, AssetRef("training_set", made.id), *self._sets.read_by(made.spec)
        )
        self._use.check_whole(call, made.table, todo="reproduce a run in")
        claim = None if self._claim is None else self._claim(call, run)
        return self._jobs.submit(call, REPRODUCE_JOB, {"run": run.id}, claim=claim)


def check_reproducible(run: Run) -> None:
    """Raise Conflict unless the run ended well and names its training set."""
    if run.state is not RunState.FINISHED or run.training_set is None:
        told = f"is {run.state}" if run.training_set else "was not made by a training job"
        raise Conflict(
            f"The run {run.id} {told}: there is nothing to reproduce.",
            hint="Name a finished run of `falaj training train`.",
        )
