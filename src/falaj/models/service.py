"""The actions of the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from falaj.kernel.actions import action
from falaj.kernel.binary import Archive
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.jobs import Job
from falaj.kernel.ports import Resource
from falaj.models.attestation import Attestation
from falaj.models.model import (
    GateReport,
    Model,
    ModelFormat,
    ModelName,
    ModelVersion,
    Revocation,
    Signer,
    Stage,
)
from falaj.models.quarantine import Quarantine, quarantine, release_from_quarantine
from falaj.models.quarantine import listed as quarantined
from falaj.models.registered import Reason, RegistryActions, RegistryParts, VersionNumber
from falaj.models.revocations import listed
from falaj.operations.model import Change
from falaj.training.encoding import EncodedFeature
from falaj.training.model import BUNDLE_TAG

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.jobs import Jobs
    from falaj.models.adoption import Adopting
    from falaj.models.brought import Bringing
    from falaj.models.bundles import Bundles
    from falaj.models.cards import Cards
    from falaj.models.gating.asking import GateAsking
    from falaj.models.promotion import Promotions
    from falaj.models.revocations import Revocations
    from falaj.models.vulnerabilities import Vulnerabilities
    from falaj.training.tracking.runs import Runs

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""
ModelList = list[Model]
VersionList = list[ModelVersion]
Inputs = Annotated[tuple[EncodedFeature, ...], Field(min_length=1)]
Note = Annotated[str, Field(max_length=2_000)]
SignerList = list[Signer]
Bom = dict[str, Any]
RevocationList = list[Revocation]
QuarantineList = list[Quarantine]


class ModelService(RegistryActions):
    """Registered models: what may be served, and why."""

    name = "models"

    def __init__(
        self,
        *,
        parts: RegistryParts,
        promotions: Promotions,
        bundles: Bundles,
        runs: Runs,
        jobs: Jobs,
        catalog: Catalog,
        visible: Visible,
        bringing: Bringing,
        adopting: Adopting,
        revocations: Revocations,
        gates: GateAsking,
        cards: Cards,
        advisories: Vulnerabilities | None = None,
    ) -> None:
        super().__init__(parts)
        self._gates = gates
        self._cards = cards
        self._advisories = advisories
        self._revocations = revocations
        self._bringing = bringing
        self._adopting = adopting
        self._registry = parts.registry
        self._promotions = promotions
        self._bundles = bundles
        self._runs = runs
        self._jobs = jobs
        self._catalog = catalog
        self._visible = visible

    @action(post="/models/{name}/versions", on="model")
    def register(self, name: ModelName, *, run: str) -> ModelVersion:
        """Add what a run made as the next version of a model."""
        made = self._runs.get(self.call.connection, run)
        bundle = made.tags.get(BUNDLE_TAG)
        if bundle is None:
            raise InvalidInput(
                f"The run {run} has packaged no bundle.",
                hint="Train with `falaj training train`, which packages one.",
            )
        return self._registry.register(self.call, name, run=run, bundle=bundle)

    @action(post="/models/{name}/bringings", on="model")
    def bring(
        self,
        name: ModelName,
        *,
        file: str,
        model_format: ModelFormat,
        inputs: Inputs,
        training_set: str | None = None,
        trained_until: AwareDatetime | None = None,
        sample: str | None = None,
        note: Note = "",
        secrets_allowed: Reason | None = None,
    ) -> Job:
        """Add a model that was trained elsewhere as the next version of a model.

        The model needs a policy, as every model does. A job tries the file, packages it
        and registers the version, which then goes through gates and approval as any other.

        Args:
            name: the model.
            file: in the data folders; never a pickle.
            model_format: onnx, lightgbm, xgboost, torch or python.
            inputs: name, type and known words of each input, in the model's order.
            training_set: the set of this platform whose test rows judge the version;
                without one its gates fail.
            trained_until: the latest instant that the model's own training rows knew of;
                only later rows judge it, and without it its gates fail.
            sample: rows of inputs (CSV or Parquet, in the data folders) for the statistics
                that drift is told from; else rows of the training set.
            note: where it comes from, for its card.
            secrets_allowed: why what looks like a secret in the file is none; without a
                reason such a file is refused, with one it is recorded.
        """
        request = {
            "model": name, "file": file, "model_format": model_format, "inputs": inputs,
            "training_set": training_set, "trained_until": trained_until, "sample": sample,
            "note": note, "secrets_allowed": secrets_allowed,
        }  # fmt: skip
        return self._bringing.ask(self.call, request)

    @action(post="/models/{name}/versions/{version}/adoptions", on="model_version")
    def adopt(
        self,
        name: ModelName,
        version: VersionNumber,
        *,
        training_set: str | None = None,
        trained_until: AwareDatetime | None = None,
        inputs: Inputs | None = None,
        note: Note = "",
        secrets_allowed: Reason | None = None,
    ) -> Job:
        """Make a bundle of a version that an MLflow client registered.

        A job reads its `MLmodel`, takes a flavour that needs no pickle, tries and packages
        it; then gates can judge the version, and another person approve it.

        Args:
            name: the model, which needs a policy.
            version: without a bundle.
            training_set: the set of this platform whose test rows judge it; else the tag
                `falaj.training_set`; without one its gates fail.
            trained_until: the latest instant that its own training rows knew of; else the
                tag `falaj.trained_until`; without one its gates fail.
            inputs: name, type and known words of each input, in the model's order; else the
                columns of its signature, which must then be numbers.
            note: where it comes from, for its card.
            secrets_allowed: why what looks like a secret in the file is none.
        """
        given = {
            "training_set": training_set, "trained_until": trained_until, "inputs": inputs,
            "note": note, "secrets_allowed": secrets_allowed,
        }  # fmt: skip
        return self._adopting.ask(self.call, name, version, **given)

    @action(post="/models/{name}/versions/{version}/quantizations", on="model_version")
    def quantize(self, name: ModelName, version: VersionNumber) -> Job:
        """Make an int8 variant of a version's ONNX model, as a new version of its own.

        Its bundle names the version that it was made from and how their scores differ; its
        gates compare the two within the limits of the model's policy (``parent``).
        """
        from falaj.models.quantized import ask

        found = self._registry.bundled(self.call.connection, name, version)
        manifest = self._bundles.open_bundle(found.bundle).manifest
        return ask(self.call, self._jobs, found, manifest)

    @action(get="/models")
    def list(self) -> ModelList:
        """All models with the versions that stand in staging and production."""
        found = self._registry.models(self.call.connection)
        return [
            model
            for model in found
            if self._visible(
                self.call,
                self._catalog.load(self.call.connection, AssetRef("model", model.name)),
            )
        ]

    @action(get="/models/{name}/versions", on="model")
    def versions(self, name: ModelName) -> VersionList:
        """All versions of a model, the newest first."""
        return self._registry.versions(self.call.connection, name)

    @action(get="/models/{name}/versions/{version}", on="model_version")
    def get(self, name: ModelName, version: VersionNumber) -> ModelVersion:
        """One version: its run, bundle, metrics, stage and whether its gates passed."""
        return self._registry.version(self.call.connection, name, version)

    @action(post="/models/{name}/versions/{version}/gates", on="model_version")
    def gates(self, name: ModelName, version: VersionNumber) -> Job:
        """Run the gates of a version under the model's policy of today.

        Where the policy cuts the rows by a personal column (slices, fairness), it takes what
        reading that column takes: a purpose and a fresh second factor.
        """
        return self._gates.ask(self.call, name, version)

    @action(get="/models/{name}/versions/{version}/gates", on="model_version")
    def gate_report(self, name: ModelName, version: VersionNumber) -> GateReport:
        """The latest report of a version's gates, with what each measured."""
        self._registry.version(self.call.connection, name, version)
        report = self._registry.report(self.call.connection, name, version)
        if report is None:
            raise NotFound(
                f"No gate has been run on version {version} of {name}.",
                hint=f"Run `falaj models gates {name} {version}`.",
            )
        return report

    @action(post="/models/{name}/versions/{version}/promotions", on="model_version", step_up=True)
    def promote(self, name: ModelName, version: VersionNumber, *, to: Stage, reason: str) -> Change:
        """Ask for a version to take a stage; opens a change for another's approval."""
        return self._promotions.ask(self.call, name, version, to, reason)

    @action(get="/models/{name}/versions/{version}/card", on="model_version")
    def card(
        self,
        name: ModelName,
        version: VersionNumber,
        *,
        form: Literal["markdown", "html"] = "markdown",
    ) -> str:
        """The card of a version, made from today's evidence: Markdown, or a page of HTML.

        The page is whole in itself: it has no script and loads nothing.
        """
        found = self._cards.of(self.call.connection, name, version)
        return found.page() if form == "html" else found.markdown()

    @action(post="/models/{name}/versions/{version}/exports", on="model_version", step_up=True)
    def export(self, name: ModelName, version: VersionNumber) -> Archive:
        """Take a version's bundle out: its files and `model.sig`, as a zip archive.

        Unpacked into a folder, `model_signing verify key` verifies it with the public key
        that `falaj models signers` tells.
        """
        from falaj.models.exporting import archive

        found = self._registry.bundled(self.call.connection, name, version)
        self.call.note(bundle=found.bundle)
        return archive(self._bundles, found.bundle)

    @action(get="/models/{name}/versions/{version}/attestation", on="model_version")
    def attestation(self, name: ModelName, version: VersionNumber) -> Attestation:
        """How a version was made, as its bundle attests it: SLSA provenance, verified.

        Raises:
            ProvenanceDiffers: this platform recorded something else.
        """
        found = self._registry.bundled(self.call.connection, name, version)
        attested = self._registry.trusted(self.call.connection, found).attestation
        if attested is None:
            raise NotFound(
                f"The bundle of version {version} of {name} has no attestation.",
                hint="An older version of the platform packaged it; train the model again.",
            )
        return attested

    @action(post="/models/{name}/versions/{version}/revocations", on="model_version", step_up=True)
    def revoke(self, name: ModelName, version: VersionNumber, *, reason: Reason) -> Revocation:
        """Revoke a version's bundle for good: it is never served again, under no name.

        Endpoints that serve it stop at once: they serve nothing until another release is
        activated.
        """
        found = self._registry.bundled(self.call.connection, name, version)
        return self._revocations.bundle(self.call, found.bundle, reason)

    @action(post="/model-signers/{key}/revocations", step_up=True)
    def revoke_signer(self, key: str, *, reason: Reason) -> Revocation:
        """Revoke a key that bundles are signed with, and so every bundle that it signed.

        Endpoints that serve one of them stop at once. If the key signs now, a new one takes
        its place.
        """
        return self._revocations.signer(self.call, key, reason)

    @action(get="/model-revocations")
    def revocations(self) -> RevocationList:
        """The bundles and signers that were revoked, the newest first."""
        return listed(self.call.connection)

    @action(post="/models/{name}/versions/{version}/quarantines", on="model_version")
    def quarantine(self, name: ModelName, version: VersionNumber, *, reason: Reason) -> Quarantine:
        """Let a version neither be served nor promoted until it is released.

        An endpoint that serves it already goes on: roll that back, or stop its rollout.
        """
        return quarantine(self.call, name, version, reason)

    @action(post="/models/{name}/versions/{version}/releases", on="model_version", step_up=True)
    def release(self, name: ModelName, version: VersionNumber, *, reason: Reason) -> None:
        """Release a version from quarantine: it may be served again, if all else permits it."""
        release_from_quarantine(self.call, name, version, reason)

    @action(get="/model-quarantines")
    def quarantined(self) -> QuarantineList:
        """The versions in quarantine, and why."""
        return quarantined(self.call.connection)

    @action(get="/models/{name}/versions/{version}/bom", on="model_version")
    def bom(self, name: ModelName, version: VersionNumber) -> Bom:
        """The bill of materials of a version: CycloneDX 1.6, with what is known of it today.

        Its ``vulnerabilities`` are those of the file that the setting
        ``supply_chain.vulnerabilities`` names; without one there is no such part.
        """
        from falaj.models.mlbom import BOM, distributions, read, with_vulnerabilities

        found = self._registry.bundled(self.call.connection, name, version)
        files = self._bundles.open_bundle(found.bundle).files
        if BOM not in files:
            raise NotFound(
                f"The bundle of version {version} of {name} has no bill of materials.",
                hint="An older version of the platform packaged it; train the model again.",
            )
        document = read(files[BOM])
        if self._advisories is None:
            return document
        known = self._advisories.of(distributions(document))
        return with_vulnerabilities(document, known.findings)

    @action(get="/model-signers")
    def signers(self) -> SignerList:
        """The public keys that bundles are signed with: P-256, then Ed25519, the newest first.

        The official tool of the format verifies with the P-256 key that `model.sig` names.
        """
        return self._bundles.signing.signers()
