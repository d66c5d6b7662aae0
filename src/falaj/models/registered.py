"""The actions on what is said of models and versions: descriptions, tags, aliases, search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field

from falaj.kernel.actions import Service, action
from falaj.models.aliases import Aliases
from falaj.models.deletion import Deletions
from falaj.models.descriptions import Descriptions
from falaj.models.finding import MOST_LISTED, Finder, ModelPage, Question, VersionPage
from falaj.models.histories import history
from falaj.models.mlflowmodels import MlflowVersions
from falaj.models.model import AliasName, History, Model, ModelName, ModelVersion
from falaj.operations.model import Change

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.ports import Resource
    from falaj.models.ports import ServedVersions
    from falaj.models.promotion import Promotions
    from falaj.models.registry import Registry
    from falaj.operations.changes import Changes

Reason = Annotated[str, Field(min_length=1, max_length=2_000)]
Why = Annotated[str, Field(max_length=2_000)]
VersionNumber = Annotated[int, Field(ge=1, lt=1 << 31)]
Tags = dict[str, str]
Keys = list[str]
Order = tuple[str, ...]
Limit = Annotated[int, Field(ge=1, le=MOST_LISTED)]
_DATE = len("2026-01-01")


def _dated(value: Any) -> Any:
    """A day stands for its first instant, in UTC."""
    return f"{value}T00:00:00Z" if isinstance(value, str) and len(value) == _DATE else value


At = Annotated[AwareDatetime, BeforeValidator(_dated)]
"""An instant, or a day."""


@dataclass(frozen=True)
class RegistryParts:
    """What these actions work with."""

    registry: Registry
    descriptions: Descriptions
    aliases: Aliases
    deletions: Deletions
    finder: Finder
    mlflow: MlflowVersions

    @classmethod
    def of(
        cls,
        registry: Registry,
        promotions: Promotions,
        changes: Changes,
        catalog: Catalog,
        visible: Callable[[Call, Resource], bool],
        served: ServedVersions,
    ) -> RegistryParts:
        """The parts over a registry."""
        aliases = Aliases(registry, promotions, changes)
        descriptions = Descriptions(registry, catalog)
        return cls(
            registry,
            descriptions,
            aliases,
            Deletions(registry, aliases, catalog, served),
            Finder(catalog, visible),
            MlflowVersions(registry, descriptions, catalog, visible),
        )


class RegistryActions(Service):
    """The part of the service ``models`` that keeps what is said of models and versions."""

    name = "models"

    def __init__(self, parts: RegistryParts) -> None:
        self._parts = parts

    @action(post="/models/{name}", on="model")
    def create(self, name: ModelName, *, description: str = "", tags: Tags = {}) -> Model:  # noqa: B006
        """Make a model without any version yet."""
        return self._parts.descriptions.create(self.call, name, description, tags)

    @action(get="/models/{name}", on="model")
    def show(self, name: ModelName) -> Model:
        """One model: its description, tags, aliases, and where its versions stand."""
        return self._parts.registry.model(self.call.connection, name)

    @action(get="/model-search")
    def search(
        self,
        *,
        filter: str = "",
        order_by: Order = (),
        limit: Limit = 100,
        page: str | None = None,
        workspace: str | None = None,
    ) -> ModelPage:
        """Find models by name and tags.

        Args:
            filter: as MLflow writes it: `name LIKE 'late%' AND tags.team = 'risk'`.
            order_by: name, creation_timestamp or last_updated_timestamp, with ASC or DESC.
            limit: as many at most.
            page: what the answer before told as ``next_page``.
            workspace: of MLflow's workspaces, that one alone; empty: those in none.
        """
        asked = Question(filter, order_by, limit, page, workspace)
        return self._parts.finder.models(self.call, asked)

    @action(get="/model-version-search")
    def search_versions(
        self,
        *,
        filter: str = "",
        order_by: Order = (),
        limit: Limit = 100,
        page: str | None = None,
        workspace: str | None = None,
    ) -> VersionPage:
        """Find versions by model, number, run, source, stage and tags.

        Args:
            filter: `name = 'late' AND version_number > 3 AND tags.team = 'risk'`.
            order_by: name, version_number, creation_timestamp or last_updated_timestamp.
            limit: as many at most.
            page: what the answer before told as ``next_page``.
            workspace: of MLflow's workspaces, that one alone; empty: those in none.
        """
        asked = Question(filter, order_by, limit, page, workspace)
        return self._parts.finder.versions(self.call, asked)

    @action(post="/models/{name}/mlflow-versions", on="model")
    def register_mlflow(
        self,
        name: ModelName,
        *,
        source: str,
        run: str = "",
        run_link: str = "",
        description: str = "",
        tags: Tags = {},  # noqa: B006
    ) -> ModelVersion:
        """Add a model that an MLflow client logged here as the next version of a model.

        It is in development, and clients can load it. To be judged and served it must be
        adopted.

        Args:
            name: of the model, which exists.
            source: the folder of artifacts: `mlflow-artifacts:/EXPERIMENT/RUN/artifacts/PATH`,
                `models:/LOGGED_MODEL`, or `models:/NAME/VERSION` for what another version is.
            run: that logged it.
            run_link: an address that says more of it.
            description, tags: what is said of the version.
        """
        return self._parts.mlflow.register(
            self.call, name, source=source, run=run, run_link=run_link,
            description=description, tags=tags,
        )  # fmt: skip

    @action(post="/models/{name}/descriptions", on="model")
    def describe(self, name: ModelName, *, description: str) -> Model:
        """Say what a model is."""
        return self._parts.descriptions.describe(self.call, name, description)

    @action(post="/models/{name}/versions/{version}/descriptions", on="model_version")
    def describe_version(
        self, name: ModelName, version: VersionNumber, *, description: str
    ) -> ModelVersion:
        """Say what a version is."""
        return self._parts.descriptions.describe_version(self.call, name, version, description)

    @action(post="/models/{name}/tags", on="model")
    def tag(self, name: ModelName, *, tags: Tags) -> Model:
        """Set tags of a model; others stay."""
        self._parts.descriptions.tag(self.call, name, tags)
        return self._parts.registry.model(self.call.connection, name)

    @action(post="/models/{name}/tag-removals", on="model")
    def untag(self, name: ModelName, *, keys: Keys) -> Model:
        """Take tags of a model away."""
        self._parts.descriptions.untag(self.call, name, keys)
        return self._parts.registry.model(self.call.connection, name)

    @action(post="/models/{name}/versions/{version}/tags", on="model_version")
    def tag_version(self, name: ModelName, version: VersionNumber, *, tags: Tags) -> ModelVersion:
        """Set tags of a version; others stay."""
        self._parts.descriptions.tag_version(self.call, name, version, tags)
        return self._parts.registry.version(self.call.connection, name, version)

    @action(post="/models/{name}/versions/{version}/tag-removals", on="model_version")
    def untag_version(self, name: ModelName, version: VersionNumber, *, keys: Keys) -> ModelVersion:
        """Take tags of a version away."""
        self._parts.descriptions.untag_version(self.call, name, version, keys)
        return self._parts.registry.version(self.call.connection, name, version)

    @action(post="/models/{name}/aliases", on="model")
    def set_alias(
        self, name: ModelName, *, alias: AliasName, version: VersionNumber, reason: Why = ""
    ) -> Model:
        """Let an alias point at a version; a guarded one is asked for with `propose-alias`."""
        self._parts.aliases.set(self.call, name, alias, version, reason)
        return self._parts.registry.model(self.call.connection, name)

    @action(post="/models/{name}/alias-removals", on="model")
    def remove_alias(self, name: ModelName, *, alias: AliasName, reason: Why = "") -> Model:
        """Take an alias away; a guarded one is asked for with `propose-alias`."""
        self._parts.aliases.remove(self.call, name, alias, reason)
        return self._parts.registry.model(self.call.connection, name)

    @action(post="/models/{name}/alias-changes", on="model", step_up=True)
    def propose_alias(
        self,
        name: ModelName,
        *,
        alias: AliasName,
        version: VersionNumber | None = None,
        reason: Reason,
    ) -> Change:
        """Ask for an alias to point at a version, or at none; opens a change for approval.

        What the model's policy guards (``guarded_aliases``) moves in this way alone. The
        version must have passed what it would have to pass for the stage production.
        """
        return self._parts.aliases.propose(self.call, name, alias, version, reason)

    @action(get="/models/{name}/resolved", on="model")
    def resolve(self, name: ModelName, *, alias: AliasName) -> ModelVersion:
        """The version that an alias points at."""
        return self._parts.aliases.resolve(self.call.connection, name, alias)

    @action(get="/models/{name}/history", on="model")
    def history(self, name: ModelName, *, at: At | None = None) -> History:
        """What was in production, and who moved which version and alias, when, why, on what.

        Args:
            name: of the model; one that was deleted keeps its history.
            at: an instant, or a day (its first instant, in UTC); now, if none is given.
        """
        moment: datetime = at or self.call.now
        return history(self.call.connection, self._parts.registry, name, moment)

    @action(post="/models/{name}/versions/{version}/deletions", on="model_version")
    def delete_version(
        self, name: ModelName, version: VersionNumber, *, reason: Reason
    ) -> ModelVersion:
        """Delete a version that nothing serves; its number is never given again."""
        return self._parts.deletions.version(self.call, name, version, reason)

    @action(post="/models/{name}/deletions", on="model")
    def delete(self, name: ModelName, *, reason: Reason) -> Model:
        """Delete a model with all its versions, of which nothing may serve; its history stays."""
        found = self._parts.registry.model(self.call.connection, name)
        self._parts.deletions.model(self.call, name, reason)
        return found
