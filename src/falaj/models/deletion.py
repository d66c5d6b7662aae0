"""Deleting versions and models that nothing serves; what they were stays on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict
from falaj.models.model import ModelVersion, Stage
from falaj.models.registry import version_ref

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.models.aliases import Aliases
    from falaj.models.ports import ServedVersions
    from falaj.models.registry import Registry


class Deletions:
    """Deletes versions and models.

    Args:
        served: tells which endpoints hold a release of a version.
    """

    def __init__(
        self, registry: Registry, aliases: Aliases, catalog: Catalog, served: ServedVersions
    ) -> None:
        self._registry = registry
        self._aliases = aliases
        self._catalog = catalog
        self._served = served

    def version(self, call: Call, model: str, version: int, reason: str) -> ModelVersion:
        """Delete a version: its number is never given again, its history and bundle stay.

        Raises:
            NotFound: there is no such version.
            Conflict: it stands in staging or production, or a release holds it.
            AliasGuarded: a guarded alias points at it.
        """
        self._registry.locked(call.connection, model)
        found = self._registry.version(call.connection, model, version)
        self._check_unused(call, found)
        self._deleted(call, found, reason)
        return found

    def model(self, call: Call, model: str, reason: str) -> list[ModelVersion]:
        """Delete a model with all its versions, or none of them.

        Raises:
            NotFound: there is no such model.
            Conflict, AliasGuarded: a version of it may not be deleted.
        """
        self._registry.locked(call.connection, model)
        found = self._registry.versions(call.connection, model)
        for version in found:
            self._check_unused(call, version)
        for version in found:
            self._deleted(call, version, reason)
        self._registry.changed(call, model, deleted_at=call.now)
        self._catalog.record(call, AssetRef("model", model), attributes={"deleted": "yes"})
        call.emit("model.deleted", model=model)
        return found

    def _check_unused(self, call: Call, version: ModelVersion) -> None:
        name = f"Version {version.version} of {version.model}"
        if version.stage.guarded:
            raise Conflict(
                f"{name} stands in {version.stage}.",
                hint=f"Archive it first: `falaj models promote {version.model} "
                f"{version.version} --to archived --reason …`.",
            )
        endpoints = self._served.holding(call.connection, version.model, version.version)
        if endpoints:
            raise Conflict(
                f"{name} is held by a release of {', '.join(endpoints)}.",
                hint="Retire the release first: `falaj endpoints retire NAME RELEASE`.",
            )
        self._aliases.check_free(call, version)

    def _deleted(self, call: Call, version: ModelVersion, reason: str) -> None:
        self._aliases.freed(call, version, reason)
        self._registry.version_changed(
            call,
            version,
            stage=Stage.ARCHIVED,
            deleted_at=call.now,
            deleted_by=call.principal.id,
            deletion_reason=reason,
        )
        self._registry.changed(call, version.model)
        self._catalog.record(
            call, version_ref(version.model, version.version), attributes={"deleted": "yes"}
        )
        call.emit("model_version.deleted", model=version.model, version=version.version)
