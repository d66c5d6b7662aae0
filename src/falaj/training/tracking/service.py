"""The actions on experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden
from falaj.kernel.ports import Resource
from falaj.training.model import (
    DEFAULT_WORKSPACE,
    Experiment,
    ExperimentName,
    ExperimentPage,
    Stage,
    Workspace,
)
from falaj.training.tracking import inputs
from falaj.training.tracking.inputs import DatasetSummary
from falaj.training.tracking.searching import ExperimentQuestion

if TYPE_CHECKING:
    from falaj.training.tracking.experiments import Experiments
    from falaj.training.tracking.pageseal import PageSeal
    from falaj.training.tracking.searching import ExperimentSearch

May = Callable[[Call, str, Resource], bool]
"""True if the caller may do the named action on the resource."""
Limit = Annotated[int, Field(ge=1, le=50_000)]
Names = list[str]
Tags = dict[str, str]
Few = Annotated[list[str], Field(min_length=1, max_length=20)]
Summaries = list[DatasetSummary]


class ExperimentService(Service):
    """Experiments: names under which runs are gathered, in workspaces."""

    name = "experiments"

    def __init__(
        self, experiments: Experiments, search: ExperimentSearch, may: May, pages: PageSeal
    ) -> None:
        self._pages = pages
        self._experiments = experiments
        self._search = search
        self._may = may

    @action(post="/experiments")
    def create(
        self,
        name: ExperimentName,
        *,
        workspace: Workspace = DEFAULT_WORKSPACE,
        tags: Tags = {},  # noqa: B006 - never changed; the default of a signature
    ) -> Experiment:
        """Make an experiment; its name is its own in its workspace."""
        within = Resource(AssetRef("experiment", "*"), {"workspace": workspace})
        if not self._may(self.call, "experiments.create", within):
            raise Forbidden(
                f"You may not make experiments in the workspace {workspace!r}.",
                hint="Ask an administrator for a role that permits it.",
                permission="experiments.create",
            )
        return self._experiments.create(self.call, name, workspace=workspace, tags=tags)

    @action(post="/experiment-search", reads=True)
    def search(
        self,
        *,
        filter: str = "",
        order_by: Names = [],  # noqa: B006 - never changed; the default of a signature
        stage: Stage = Stage.ACTIVE,
        limit: Limit = 100,
        page: str | None = None,
        workspace: Workspace = DEFAULT_WORKSPACE,
    ) -> ExperimentPage:
        """The experiments that fit a filter, the newest first or in another order."""
        asked = ExperimentQuestion(
            filter=filter, order_by=tuple(order_by), stage=stage, workspace=workspace
        )
        page = self._pages.open(page)
        found = self._search.page(self.call, asked, limit=limit, page=page)
        return found.model_copy(update={"next_page": self._pages.close(found.next_page)})

    @action(get="/experiment-by-name")
    def named(
        self, name: ExperimentName, *, workspace: Workspace = DEFAULT_WORKSPACE
    ) -> Experiment:
        """The experiment of a name, deleted or not."""
        found = self._experiments.named(self.call.connection, name, workspace)
        if not self._search.sees(self.call, found.id, workspace):
            self._experiments.missing(name)
        return found

    @action(get="/experiments/{experiment}", on="experiment")
    def get(self, experiment: str, *, workspace: Workspace | None = None) -> Experiment:
        """One experiment with its tags."""
        return self._experiments.get(self.call.connection, experiment, workspace)

    @action(post="/experiments/{experiment}", on="experiment")
    def rename(
        self, experiment: str, name: ExperimentName, *, workspace: Workspace | None = None
    ) -> Experiment:
        """Give an experiment another name."""
        self._within(experiment, workspace)
        return self._experiments.rename(self.call, experiment, name)

    @action(delete="/experiments/{experiment}", on="experiment")
    def delete(self, experiment: str, *, workspace: Workspace | None = None) -> None:
        """Delete an experiment with its runs; it can be restored."""
        self._within(experiment, workspace)
        self._experiments.delete(self.call, experiment)

    @action(post="/experiments/{experiment}/restoration", on="experiment")
    def restore(self, experiment: str, *, workspace: Workspace | None = None) -> None:
        """Restore an experiment that was deleted, with the runs that went with it."""
        self._within(experiment, workspace)
        self._experiments.restore(self.call, experiment)

    @action(post="/experiments/{experiment}/tags", on="experiment")
    def tag(self, experiment: str, tags: Tags, *, workspace: Workspace | None = None) -> None:
        """Set tags of an experiment."""
        self._within(experiment, workspace)
        self._experiments.tag(self.call, experiment, tags)

    @action(post="/experiments/{experiment}/tag-removals", on="experiment")
    def untag(self, experiment: str, key: str, *, workspace: Workspace | None = None) -> None:
        """Take a tag away from an experiment."""
        self._within(experiment, workspace)
        self._experiments.untag(self.call, experiment, key)

    @action(post="/experiment-datasets", reads=True)
    def datasets(self, experiments: Few, *, workspace: Workspace = DEFAULT_WORKSPACE) -> Summaries:
        """The datasets that went into the runs of experiments, a thousand at most."""
        ids = [one for one in experiments if self._search.sees(self.call, one, workspace)]
        return inputs.summaries(self.call.connection, ids)

    def _within(self, experiment: str, workspace: str | None) -> None:
        if workspace is not None:
            self._experiments.get(self.call.connection, experiment, workspace)
