"""The actions of logged models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from falaj.catalog.assets import Catalog
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, NotFound
from falaj.kernel.ports import Resource
from falaj.training.artifactfiles import FileAnswer, FileGiven, arrived
from falaj.training.artifacts import Artifacts
from falaj.training.loggedmodels import (
    LOGGED_MODELS,
    LoggedModel,
    LoggedModels,
    LoggedStatus,
    ModelText,
)
from falaj.training.loggedmodelsearch import (
    LoggedModelPage,
    LoggedModelQuestion,
    LoggedModelSearch,
    ModelOrder,
    OnDataset,
)
from falaj.training.model import DEFAULT_WORKSPACE, Artifact, ArtifactEntry, Workspace

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

    from falaj.training.tracking.pageseal import PageSeal
    from falaj.training.tracking.runs import Runs

ArtifactList = list[ArtifactEntry]
Texts = dict[str, str]
Names = Annotated[list[str], Field(max_length=10_000)]
Orders = Annotated[list[ModelOrder], Field(max_length=10)]
Datasets = Annotated[list[OnDataset], Field(max_length=50)]
Limit = Annotated[int, Field(ge=1, le=1_000)]


class LoggedModelService(Service):
    """Logged models: models as runs wrote them down, before one is registered."""

    name = "loggedmodels"

    def __init__(
        self,
        models: LoggedModels,
        search: LoggedModelSearch,
        runs: Runs,
        artifacts: Artifacts,
        catalog: Catalog,
        may: Callable[[Call, str, Resource], bool],
        visible: Callable[[Call, Resource], bool],
        pages: PageSeal,
    ) -> None:
        self._pages = pages
        self._visible = visible
        self._models = models
        self._search = search
        self._runs = runs
        self._artifacts = artifacts
        self._catalog = catalog
        self._may = may

    @action(post="/logged-models")
    def create(
        self,
        experiment: ModelText,
        *,
        name: ModelText | None = None,
        model_type: ModelText | None = None,
        source_run: str | None = None,
        params: Texts = {},  # noqa: B006 - never changed; the default of a signature
        tags: Texts = {},  # noqa: B006
        workspace: Workspace = DEFAULT_WORKSPACE,
    ) -> LoggedModel:
        """Begin a logged model of an experiment, perhaps of a run; it is pending at first."""
        self._check_experiment(experiment, workspace)
        if source_run is not None:
            self._check_run(source_run, workspace)
        return self._models.create(
            self.call,
            experiment=experiment,
            name=name,
            model_type=model_type,
            source_run=source_run,
            params=params,
            tags=tags,
            workspace=workspace,
        )

    @action(post="/logged-model-search", reads=True)
    def search(
        self,
        *,
        filter: str = "",
        order_by: Orders = [],  # noqa: B006 - never changed; the default of a signature
        experiments: Names = [],  # noqa: B006
        datasets: Datasets = [],  # noqa: B006
        limit: Limit = 100,
        page: str | None = None,
        workspace: Workspace = DEFAULT_WORKSPACE,
    ) -> LoggedModelPage:
        """The logged models that fit a filter, in an order, page by page."""
        question = LoggedModelQuestion(
            filter=filter,
            order_by=tuple(order_by),
            experiments=tuple(experiments),
            datasets=tuple(datasets),
            workspace=workspace,
        )
        page = self._pages.open(page)
        found = self._search.page(self.call, question, limit=limit, page=page)
        return found.model_copy(update={"next_page": self._pages.close(found.next_page)})

    @action(get="/logged-models/{model}", on="logged_model")
    def get(
        self, model: str, *, deleted: bool = False, workspace: Workspace | None = None
    ) -> LoggedModel:
        """One logged model; a deleted one only if that is asked for."""
        return self._models.get(self.call.connection, model, deleted=deleted, workspace=workspace)

    @action(post="/logged-models/{model}/status", on="logged_model")
    def finish(
        self,
        model: str,
        *,
        status: LoggedStatus = LoggedStatus.READY,
        message: str | None = None,
        workspace: Workspace | None = None,
    ) -> LoggedModel:
        """Say that a logged model is whole, or that it failed."""
        self._row(model, workspace)
        return self._models.finish(self.call, model, status, message)

    @action(post="/logged-models/{model}/params", on="logged_model")
    def add_params(self, model: str, params: Texts, *, workspace: Workspace | None = None) -> None:
        """Add parameters to a logged model; they are written once."""
        self._row(model, workspace)
        self._models.add_params(self.call, model, params)

    @action(post="/logged-models/{model}/tags", on="logged_model")
    def tag(self, model: str, tags: Texts, *, workspace: Workspace | None = None) -> None:
        """Set tags of a logged model."""
        self._row(model, workspace)
        self._models.tag(self.call, model, tags)

    @action(post="/logged-models/{model}/tag-removals", on="logged_model")
    def untag(self, model: str, key: str, *, workspace: Workspace | None = None) -> None:
        """Take a tag away from a logged model."""
        self._row(model, workspace)
        self._models.untag(self.call, model, key)

    @action(delete="/logged-models/{model}", on="logged_model")
    def delete(self, model: str, *, workspace: Workspace | None = None) -> None:
        """Take a logged model out of sight; its files stay."""
        self._row(model, workspace)
        self._artifacts.check_free(self.call.connection, LOGGED_MODELS, model)
        self._models.delete(self.call, model)

    @action(get="/logged-models/{model}/artifacts", on="logged_model")
    def artifacts(
        self, model: str, path: str = "", *, workspace: Workspace | None = None
    ) -> ArtifactList:
        """What lies in a folder of a logged model's files."""
        self._row(model, workspace)
        return self._artifacts.listed(self.call.connection, LOGGED_MODELS, model, path)

    @action(get="/logged-models/{model}/artifact", on="logged_model")
    def fetch_artifact(
        self, model: str, path: str, *, workspace: Workspace | None = None
    ) -> FileAnswer:
        """The bytes of one file of a logged model."""
        self._row(model, workspace)
        found = self._artifacts.content(self.call.connection, LOGGED_MODELS, model, path)
        self.call.note(digest=found.artifact.digest, size=found.artifact.size)
        return found

    @action(post="/logged-models/{model}/artifacts", on="logged_model")
    def keep_artifact(
        self, model: str, path: str, content: FileGiven, *, workspace: Workspace | None = None
    ) -> Artifact:
        """Keep a file of a logged model; what a finished one has is not replaced."""
        row = self._row(model, workspace)
        pending = row.status == LoggedStatus.PENDING
        kept = arrived(self._artifacts.streams, content)
        made = self._artifacts.keep(self.call, LOGGED_MODELS, model, path, kept, replaces=pending)
        self.call.note(digest=made.digest, size=made.size)
        return made

    @action(get="/logged-models/{model}/artifact-place", on="logged_model")
    def check_artifact(self, model: str, path: str, *, workspace: Workspace | None = None) -> None:
        """Answer if a file could be kept under a path as things stand; else say why not."""
        self._row(model, workspace)
        self._artifacts.check_place(self.call.connection, LOGGED_MODELS, model, path)

    @action(delete="/logged-models/{model}/artifacts", on="logged_model")
    def remove_artifact(self, model: str, path: str, *, workspace: Workspace | None = None) -> int:
        """Remove a file of a logged model, or a folder of them; returns how many went."""
        self._row(model, workspace, deleted=True)
        return self._artifacts.remove(self.call, LOGGED_MODELS, model, path)

    def _row(self, model: str, workspace: str | None, *, deleted: bool = False) -> Row[Any]:
        return self._models.row(self.call.connection, model, deleted=deleted, workspace=workspace)

    def _check_experiment(self, experiment: str, workspace: str) -> None:
        """Only who may log models in an experiment may begin one there."""
        connection, kept = self.call.connection, self._runs.experiments_kept
        found = kept.found(connection, experiment, workspace)
        if found is None:
            kept.missing(experiment)
        resource = self._catalog.load(connection, AssetRef("experiment", found.id))
        if self._may(self.call, "loggedmodels.create", resource):
            return
        if not self._visible(self.call, resource):
            kept.missing(experiment)
        raise Forbidden(
            f"You may not log models in the experiment {experiment[:200]!r}.",
            hint="Ask an administrator for a role that permits it.",
            permission="loggedmodels.create",
        )

    def _check_run(self, run: str, workspace: str) -> None:
        """Only who may write into a run may say that it made a model."""
        self._runs.standing(self.call.connection, run, workspace)
        resource = self._catalog.load(self.call.connection, AssetRef("run", run))
        if not resource.exists or not self._may(self.call, "runs.get", resource):
            raise NotFound(f"There is no run {run[:100]!r}.", hint="`falaj runs list` shows all.")
        if not self._may(self.call, "runs.log", resource):
            raise Forbidden(
                f"You may not log a model of the run {run}.", hint="Ask the owner of the run."
            )
