"""Versions that MLflow's clients register: a folder of artifacts, in development at once.

Such a version is loaded by clients as it is. Falaj runs nothing of it: for gates, approval
and serving it must become a bundle first (``models.adoption``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sqlalchemy import insert

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.models.heldfolders import lock_owner
from falaj.models.mlflowsources import Folder, OtherVersion, source_of
from falaj.models.model import ModelVersion, Stage
from falaj.models.registry import version_ref
from falaj.models.tables import version_rows

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.ports import Resource
    from falaj.models.descriptions import Descriptions
    from falaj.models.registry import Registry

LONGEST_LINK = 500


class MlflowVersions:
    """Registers folders of artifacts as versions.

    Args:
        visible: answers whether a caller may know of a resource.
    """

    def __init__(
        self,
        registry: Registry,
        descriptions: Descriptions,
        catalog: Catalog,
        visible: Callable[[Call, Resource], bool],
    ) -> None:
        self._registry = registry
        self._descriptions = descriptions
        self._catalog = catalog
        self._visible = visible

    def register(
        self,
        call: Call,
        model: str,
        *,
        source: str,
        run: str = "",
        run_link: str = "",
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Add a folder of artifacts as the next version of a model.

        A source ``models:/NAME/VERSION`` adds what that version is: its bundle if a run of
        this platform packaged it, else its folder.

        Raises:
            NotFound: there is no such model, run, logged model or version, or the caller may
                not know of it.
            InvalidInput: the source is no folder of artifacts here, or of another run.
        """
        self._registry.locked(call.connection, model)
        found = source_of(source)
        if isinstance(found, OtherVersion):
            made = self._copied(call, model, found, run)
        else:
            made = self._added(call, model, found, source, run, run_link)
        if description:
            self._descriptions.describe_version(call, model, made.version, description)
        if tags:
            self._descriptions.tag_version(call, model, made.version, tags)
        return self._registry.version(call.connection, model, made.version)

    def _copied(self, call: Call, model: str, of: OtherVersion, run: str) -> ModelVersion:
        self._check_visible(call, version_ref(of.model, of.version))
        other = self._registry.version(call.connection, of.model, of.version)
        if other.source:
            folder = source_of(other.source)
            if not isinstance(folder, Folder):
                raise TypeError(f"the source of {of.model}/{of.version} is another version")
            return self._added(call, model, folder, other.source, run or other.source_run, "")
        return self._registry.register(call, model, run=other.run, bundle=other.bundle)

    def _added(
        self, call: Call, model: str, folder: Folder, source: str, run: str, run_link: str
    ) -> ModelVersion:
        if len(run_link) > LONGEST_LINK:
            raise InvalidInput(f"The run link has more than {LONGEST_LINK} characters.")
        if folder.kind == "run" and run and folder.owner != run:
            raise InvalidInput(
                f"The source {source[:200]!r} is not of the run {run[:64]!r}.",
                hint="Register it with its own run.",
            )
        self._check_visible(call, folder.ref)
        lock_owner(call.connection, folder.ref, registering=True)
        if folder.kind == "run":
            run = folder.owner
        elif run:
            self._check_visible(call, AssetRef("run", run))
        version = self._registry.ensured(call, model) + 1
        self._registry.changed(call, model, latest=version)
        call.connection.execute(
            insert(version_rows).values(
                model=model,
                version=version,
                stage=Stage.DEVELOPMENT,
                run="",
                bundle=None,
                training_set="",
                feature_service="",
                metrics={},
                created_at=call.now,
                created_by=call.principal.id,
                updated_at=call.now,
                source=source,
                source_run=run or None,
                run_link=run_link or None,
            )
        )
        ref = version_ref(model, version)
        self._catalog.record(
            call,
            ref,
            description=f"version {version} of {model}",
            owner=call.principal.id,
            attributes={"source": source, "stage": str(Stage.DEVELOPMENT)},
        )
        self._catalog.link(call, AssetRef("model", model), ref, Relation.DEFINES)
        self._catalog.link(call, folder.ref, ref, Relation.PACKAGED)
        call.emit("model_version.registered", model=model, version=version, run=run)
        return self._registry.version(call.connection, model, version)

    def _check_visible(self, call: Call, ref: AssetRef) -> None:
        resource = self._catalog.load(call.connection, ref)
        if not resource.exists or not self._visible(call, resource):
            raise NotFound(
                f"There is no {ref.kind.replace('_', ' ')} {ref.key[:100]!r}.",
                hint="Register a model that was logged here.",
            )
