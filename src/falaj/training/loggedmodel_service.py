"""The actions of logged models."""

from __future__ import annotations

from collections.abc import Callable

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
from falaj.training.model import Artifact, ArtifactEntry

ArtifactList = list[ArtifactEntry]
Texts = dict[str, str]


class LoggedModelService(Service):
    """Logged models: models as runs wrote them down, before one is registered."""

    name = "loggedmodels"

    def __init__(
        self,
        models: LoggedModels,
        artifacts: Artifacts,
        catalog: Catalog,
        may: Callable[[Call, str, Resource], bool],
    ) -> None:
        self._models = models
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
    ) -> LoggedModel:
        """Begin a logged model of an experiment, perhaps of a run; it is pending at first."""
        if source_run is not None:
            self._check_run(source_run)
        return self._models.create(
            self.call,
            experiment=experiment,
            name=name,
            model_type=model_type,
            source_run=source_run,
            params=params,
            tags=tags,
        )

    @action(get="/logged-models/{model}", on="logged_model")
    def get(self, model: str, *, deleted: bool = False) -> LoggedModel:
        """One logged model; a deleted one only if that is asked for."""
        return self._models.get(self.call.connection, model, deleted=deleted)

    @action(post="/logged-models/{model}/status", on="logged_model")
    def finish(
        self,
        model: str,
        *,
        status: LoggedStatus = LoggedStatus.READY,
        message: str | None = None,
    ) -> LoggedModel:
        """Say that a logged model is whole, or that it failed."""
        return self._models.finish(self.call, model, status, message)

    @action(post="/logged-models/{model}/params", on="logged_model")
    def add_params(self, model: str, params: Texts) -> None:
        """Add parameters to a logged model; they are written once."""
        self._models.add_params(self.call, model, params)

    @action(post="/logged-models/{model}/tags", on="logged_model")
    def tag(self, model: str, tags: Texts) -> None:
        """Set tags of a logged model."""
        self._models.tag(self.call, model, tags)

    @action(post="/logged-models/{model}/tag-removals", on="logged_model")
    def untag(self, model: str, key: str) -> None:
        """Take a tag away from a logged model."""
        self._models.untag(self.call, model, key)

    @action(delete="/logged-models/{model}", on="logged_model")
    def delete(self, model: str) -> None:
        """Take a logged model out of sight; its files stay."""
        self._models.delete(self.call, model)

    @action(get="/logged-models/{model}/artifacts", on="logged_model")
    def artifacts(self, model: str, path: str = "") -> ArtifactList:
        """What lies in a folder of a logged model's files."""
        self._models.row(self.call.connection, model)
        return self._artifacts.listed(self.call.connection, LOGGED_MODELS, model, path)

    @action(get="/logged-models/{model}/artifact", on="logged_model")
    def fetch_artifact(self, model: str, path: str) -> FileAnswer:
        """The bytes of one file of a logged model."""
        self._models.row(self.call.connection, model)
        found = self._artifacts.content(self.call.connection, LOGGED_MODELS, model, path)
        self.call.note(digest=found.artifact.digest, size=found.artifact.size)
        return found

    @action(post="/logged-models/{model}/artifacts", on="logged_model")
    def keep_artifact(self, model: str, path: str, content: FileGiven) -> Artifact:
        """Keep a file of a logged model; what a finished one has is not replaced."""
        row = self._models.row(self.call.connection, model)
        pending = row.status == LoggedStatus.PENDING
        kept = arrived(self._artifacts.streams, content)
        made = self._artifacts.keep(self.call, LOGGED_MODELS, model, path, kept, replaces=pending)
        self.call.note(digest=made.digest, size=made.size)
        return made

    @action(delete="/logged-models/{model}/artifacts", on="logged_model")
    def remove_artifact(self, model: str, path: str) -> int:
        """Remove a file of a logged model, or a folder of them; returns how many went."""
        self._models.row(self.call.connection, model, deleted=True)
        return self._artifacts.remove(self.call, LOGGED_MODELS, model, path)

    def _check_run(self, run: str) -> None:
        """Only who may write into a run may say that it made a model."""
        resource = self._catalog.load(self.call.connection, AssetRef("run", run))
        if not resource.exists or not self._may(self.call, "runs.get", resource):
            raise NotFound(f"There is no run {run[:100]!r}.", hint="`falaj runs list` shows all.")
        if not self._may(self.call, "runs.log", resource):
            raise Forbidden(
                f"You may not log a model of the run {run}.", hint="Ask the owner of the run."
            )
