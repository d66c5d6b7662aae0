"""The actions of studies: what a tuner keeps, and what everybody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.ports import Resource
from falaj.training.model import RunState
from falaj.training.tuning.model import (
    Study,
    StudyInsight,
    StudySpec,
    TrialRecord,
    best_of,
    history_of,
)

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.training.tuning.studies import Studies

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""
Limit = Annotated[int, Field(ge=1, le=1000)]
Tuner = Annotated[str, Field(min_length=1, max_length=200)]
Trials = Annotated[list[TrialRecord], Field(max_length=1000)]
TrialList = list[TrialRecord]
StudyList = list[Study]
Tags = dict[str, str]
Attrs = dict[str, Any]


class StudyService(Service):
    """Studies: what was tried to make a model better, and which trial was best."""

    name = "studies"

    def __init__(self, studies: Studies, catalog: Catalog, visible: Visible) -> None:
        self._studies = studies
        self._catalog = catalog
        self._visible = visible

    @action(post="/studies")
    def begin(
        self,
        spec: StudySpec,
        tuner: Tuner,
        *,
        parent: str | None = None,
        tags: Tags = {},  # noqa: B006 - never changed; the default of a signature
    ) -> Study:
        """Begin a study, which this tuner works on; `platform.training.tune` does it all."""
        return self._studies.begin(self.call, spec, tuner, parent=parent, tags=tags)

    @action(post="/studies/{run}/tuner", on="run")
    def take(
        self, run: str, spec: StudySpec, tuner: Tuner, *, instead_of: Tuner | None = None
    ) -> Study:
        """Take a study up again, unless another tuner works on it."""
        return self._studies.take(self.call, run, spec, tuner, instead_of=instead_of)

    @action(post="/studies/{run}/trials", on="run")
    def keep(
        self,
        run: str,
        tuner: Tuner,
        trials: Trials,
        *,
        attrs: Attrs = {},  # noqa: B006
    ) -> None:
        """Keep trials as they stand now, each with its nested run."""
        self._studies.keep(self.call, run, tuner, trials, attrs)

    @action(post="/studies/{run}/end", on="run")
    def leave(
        self, run: str, tuner: Tuner, *, state: RunState | None = None, reason: str = ""
    ) -> Study:
        """Give a study back, so that another tuner may take it up; end its run with a state."""
        return self._studies.leave(self.call, run, tuner, state, reason)

    @action(get="/studies")
    def list(self, name: str | None = None, limit: Limit = 100) -> StudyList:
        """The studies, the newest first."""
        found = self._studies.listed(self.call.connection, name=name, limit=limit)
        return [study for study in found if self._may_see(study.run)]

    @action(get="/studies/{run}", on="run")
    def get(self, run: str) -> Study:
        """One study: what it looks for, and how many trials it has."""
        return self._studies.get(self.call.connection, run)

    @action(get="/studies/{run}/trials", on="run")
    def trials(self, run: str) -> TrialList:
        """All trials of a study by number, with parameters, values and reports on the way."""
        return self._studies.trials(self.call.connection, run)

    @action(get="/studies/{run}/insight", on="run")
    def insight(self, run: str) -> StudyInsight:
        """The best trials, the history of the best value, and which parameters mattered."""
        from falaj.training.tuning.importance import importances

        study = self._studies.get(self.call.connection, run)
        trials = self._studies.trials(self.call.connection, run)
        return StudyInsight(
            run=run,
            name=study.spec.name,
            n_trials=study.n_trials,
            best_trials=best_of(study.spec, trials),
            history=history_of(study.spec, trials),
            importance=importances(study.spec, trials),
        )

    def _may_see(self, run: str) -> bool:
        resource = self._catalog.load(self.call.connection, AssetRef("run", run))
        return self._visible(self.call, resource)
