"""Model versions of the registry, as serving needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.errors import Conflict
from falaj.models.bundles import Bundles as ModelBundles
from falaj.models.model import GatesNotPassed, Stage
from falaj.models.quarantine import check_not_quarantined
from falaj.serving.model import Approved, ServableModel
from falaj.training.encoding import FeatureType

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.models.model import ModelVersion
    from falaj.models.registry import Registry


class BundledModels:
    """Opens the registry's bundles; fulfils ``ports.Bundles``."""

    def __init__(self, bundles: ModelBundles) -> None:
        self._bundles = bundles

    def open(self, digest: str) -> ServableModel:
        """The model of a bundle that verifies; see ``ports.Bundles.open``."""
        bundle = self._bundles.open_bundle(digest)
        encoding = bundle.manifest.signature.encoding
        native_format, native = bundle.native or ("", b"")
        return ServableModel(
            format=str(bundle.manifest.model_format),
            model=bundle.model,
            native_format=native_format,
            native=native,
            isolation=bundle.isolation,
            inputs=encoding.names,
            outputs=bundle.manifest.signature.target.outputs,
            categories={
                feature.name: feature.categories
                for feature in encoding.features
                if feature.type is FeatureType.CATEGORY
            },
            facts={"run": bundle.manifest.run, "training_set": bundle.manifest.training_set},
        )


class RegisteredModels:
    """Asks the registry what may be served; fulfils ``ports.ApprovedModels``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def approved(self, connection: Connection, model: str, version: int | None) -> Approved:
        """The version in production, or that one; see ``ports.ApprovedModels.approved``."""
        if version is None:
            found = self._registry.champion(connection, model)
            if found is None:
                raise Conflict(
                    f"No version of {model!r} is in production.",
                    hint="Ask for one: `falaj models promote MODEL VERSION --to production`.",
                )
        else:
            found = self._registry.version(connection, model, version)
            if found.stage is not Stage.PRODUCTION:
                raise Conflict(
                    f"{model}/{version} is in {found.stage}; only what is approved for "
                    "production may be served.",
                    hint="Ask for it: `falaj models promote MODEL VERSION --to production`.",
                )
        return self._approved(connection, found)

    def challenging(self, connection: Connection, model: str, version: int) -> Approved:
        """A version that passed its gates; see ``ports.ApprovedModels.challenging``."""
        found = self._registry.version(connection, model, version)
        if not found.stage.guarded:
            raise Conflict(
                f"{model}/{version} is in {found.stage}; a challenger must at least stand in "
                "staging.",
                hint=f"Ask for it: `falaj models promote {model} {version} --to staging`.",
            )
        report = self._registry.report(connection, model, version)
        if report is None or not report.passed or report.bundle != found.bundle:
            raise GatesNotPassed(
                f"The latest gates of {model}/{version} were not passed.",
                hint=f"Run `falaj models gates {model} {version}`.",
            )
        return self._approved(connection, found)

    def _approved(self, connection: Connection, found: ModelVersion) -> Approved:
        check_not_quarantined(connection, found.model, found.version)
        bundle = self._registry.trusted(connection, found)
        moves = self._registry.history(connection, found.model)
        change = next(
            (
                move.change
                for move in moves
                if move.version == found.version and move.to_stage is found.stage
            ),
            None,
        )
        return Approved(
            model=found.model,
            version=found.version,
            bundle=found.bundle,
            feature_service=found.feature_service,
            outputs=bundle.manifest.signature.target.outputs,
            change=change,
        )

    def may_return(self, connection: Connection, model: str, version: int) -> None:
        """Refuse what was taken out of production; see ``ports.ApprovedModels.may_return``."""
        check_not_quarantined(connection, model, version)
        self._registry.trusted(connection, self._registry.version(connection, model, version))
        own = [
            move for move in self._registry.history(connection, model) if move.version == version
        ]
        if own and own[0].to_stage is not Stage.PRODUCTION:
            raise Conflict(
                f"{model}/{version} was taken out of production: it is in {own[0].to_stage} "
                f"({own[0].reason}).",
                hint="Serve another version, or have this one approved for production again.",
            )
