"""The registry: models, their versions, gate reports, and where each version stands.

A version is made from a bundle that verifies, gets its numbers counted up from 1, and
never changes but for its stage. A model has at most one version in production.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.models.model import (
    GateReport,
    GateResult,
    Manifest,
    Model,
    ModelPolicy,
    ModelVersion,
    Move,
    NotAdopted,
    Outcome,
    Stage,
)
from falaj.models.provenance import ProvenanceDiffers, check_provenance
from falaj.models.reading import ALIVE, PRESENT, assembled_models, assembled_versions, no_model
from falaj.models.revocations import check_not_revoked
from falaj.models.tables import (
    model_rows,
    move_rows,
    report_rows,
    result_rows,
    tag_rows,
    version_rows,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.models.bundles import Bundle, Bundles

KIND = "model_version"


def version_ref(model: str, version: int) -> AssetRef:
    """The asset of a version, ``model_version:name/3``."""
    return AssetRef(KIND, f"{model}/{version}")


class Registry:
    """Models and versions in the metadata database and the catalogue."""

    def __init__(self, bundles: Bundles, catalog: Catalog, definitions: Definitions) -> None:
        self._bundles = bundles
        self._catalog = catalog
        self._definitions = definitions

    def register(self, call: Call, model: str, *, run: str, bundle: str) -> ModelVersion:
        """Add a bundle as the next version; the same bundle again gives the same version.

        ``run`` is empty for a model that no run of this platform made.

        Raises:
            NotFound, Corrupt: there is no such bundle, or it does not verify.
            ProvenanceDiffers: it attests something else than what was recorded of its run.
            InvalidInput: the bundle is of another run.
        """
        connection = call.connection
        opened = self._bundles.open_bundle(bundle)
        if opened.manifest.run != run:
            raise InvalidInput(
                f"The bundle was made by {opened.manifest.run}, not by {run}.",
                hint="Register it from its own run.",
            )
        check_not_revoked(connection, bundle, opened.signers)
        check_provenance(connection, opened)
        version = self.ensured(call, model) + 1
        known = self._with_bundle(connection, model, bundle)
        if known is not None:
            return known
        self.changed(call, model, latest=version)
        manifest = opened.manifest
        connection.execute(
            insert(version_rows).values(
                model=model,
                version=version,
                stage=Stage.DEVELOPMENT,
                run=run,
                bundle=bundle,
                training_set=manifest.training_set,
                feature_service=manifest.feature_service,
                metrics=manifest.metrics,
                created_at=call.now,
                created_by=call.principal.id,
                updated_at=call.now,
            )
        )
        self._describe(call, version_ref(model, version), bundle, manifest)
        call.emit("model_version.registered", model=model, version=version, run=run)
        return self.version(connection, model, version)

    def adopted(self, call: Call, version: ModelVersion, bundle: str) -> None:
        """Give a version that has none the bundle that was made of its folder.

        Raises:
            Corrupt: the bundle does not verify.
            Conflict: the version has got another one meanwhile.
        """
        self.locked(call.connection, version.model)
        now = self.version(call.connection, version.model, version.version)
        if now.bundle == bundle:
            return
        if now.bundle:
            raise Conflict(
                f"Version {version.version} of {version.model} has got a bundle meanwhile.",
                hint="Register the model as another version.",
            )
        opened = self._bundles.open_bundle(bundle)
        check_not_revoked(call.connection, bundle, opened.signers)
        check_provenance(call.connection, opened)
        manifest = opened.manifest
        self.version_changed(
            call,
            now,
            bundle=bundle,
            training_set=manifest.training_set,
            feature_service=manifest.feature_service,
            metrics=manifest.metrics,
        )
        attributes = {"bundle": bundle}
        if manifest.brought is not None:
            attributes |= {"brought_as": manifest.brought.file, "sha256": manifest.brought.sha256}
        ref = version_ref(version.model, version.version)
        self._catalog.record(call, ref, attributes=attributes)
        call.emit("model_version.adopted", model=now.model, version=now.version)

    def _with_bundle(self, connection: Connection, model: str, bundle: str) -> ModelVersion | None:
        """The version that has the bundle already; raises Conflict if it was deleted."""
        row = connection.execute(
            select(version_rows.c.version, version_rows.c.deleted_by).where(
                version_rows.c.model == model, version_rows.c.bundle == bundle
            )
        ).first()
        if row is None:
            return None
        if row.deleted_by is not None:
            raise Conflict(
                f"Version {row.version} of {model}, which had this bundle, was deleted by "
                f"{row.deleted_by}.",
                hint="Package the model again.",
            )
        return self.version(connection, model, row.version)

    def trusted(self, connection: Connection, version: ModelVersion) -> Bundle:
        """The bundle of a version that may be used: it verifies, and says how it was made.

        Raises:
            NotFound, Corrupt: it is not there, or does not verify.
            NotAdopted: it has no bundle.
            BundleRevoked: it, or who signed it, was revoked.
            ProvenanceDiffers: it attests something else than what was recorded, or is not
                the one that the version was judged with.
        """
        self.bundled(connection, version.model, version.version)
        bundle = self._bundles.open_bundle(version.bundle)
        check_not_revoked(connection, version.bundle, bundle.signers)
        self._check_own(connection, version, bundle)
        check_provenance(connection, bundle)
        return bundle

    @staticmethod
    def _check_own(connection: Connection, version: ModelVersion, bundle: Bundle) -> None:
        """Raises ProvenanceDiffers if another bundle was put where the version's own was.

        A version never changes, so all its gate reports are of one bundle, and that is of
        its run and its training set.
        """
        judged = connection.execute(
            select(report_rows.c.bundle)
            .where(report_rows.c.model == version.model)
            .where(report_rows.c.version == version.version)
            .where(report_rows.c.bundle != version.bundle)
            .limit(1)
        ).scalar()
        manifest = bundle.manifest
        if judged is not None or (manifest.run, manifest.training_set) != (
            version.run,
            version.training_set,
        ):
            raise ProvenanceDiffers(
                f"The bundle {version.bundle[:19]}… is not the one that version "
                f"{version.version} of {version.model} was registered and judged with.",
                hint="Do not serve it; find out who changed the registry.",
            )

    def _describe(self, call: Call, ref: AssetRef, bundle: str, manifest: Manifest) -> None:
        model, _, version = ref.key.rpartition("/")
        run = manifest.run
        attributes = {"bundle": bundle, "stage": str(Stage.DEVELOPMENT)}
        if manifest.brought is not None:
            attributes |= {"brought_as": manifest.brought.file, "sha256": manifest.brought.sha256}
        self._catalog.record(
            call,
            ref,
            description=f"version {version} of {model}",
            owner=call.principal.id,
            attributes=attributes,
        )
        links = [(AssetRef("model", model), ref, Relation.DEFINES)]
        if run:
            learned = AssetRef("training_set", manifest.training_set)
            links.append((learned, AssetRef("run", run), Relation.TRAINED))
            links.append((AssetRef("run", run), ref, Relation.PACKAGED))
        if manifest.parent is not None:
            parent = version_ref(manifest.model, manifest.parent.version)
            links.append((parent, ref, Relation.PACKAGED))
        for source, target, relation in links:
            for end in (source, target):
                if not self._catalog.exists(call.connection, end):
                    self._catalog.record(call, end)
            self._catalog.link(call, source, target, relation)

    def ensured(self, call: Call, model: str) -> int:
        """Make the model if there is none (or bring a deleted one back) and lock its row;
        returns the greatest number that was given to a version of it."""
        connection = call.connection
        new = {"name": model, "created_at": call.now, "updated_at": call.now, "latest": 0}
        if insert_if_absent(connection, model_rows, new):
            self._catalog.record(call, AssetRef("model", model))
        row = connection.execute(
            select(model_rows).where(model_rows.c.name == model).with_for_update()
        ).one()
        if row.deleted_at is not None:
            self.changed(call, model, deleted_at=None, description=None)
            connection.execute(delete(tag_rows).where(tag_rows.c.model == model))
            self._catalog.record(call, AssetRef("model", model), attributes={"deleted": None})
        return int(row.latest)

    def changed(self, call: Call, model: str, **values: Any) -> None:
        """Set columns of a model, which was changed now."""
        call.connection.execute(
            update(model_rows)
            .where(model_rows.c.name == model)
            .values(updated_at=call.now, **values)
        )

    def version_changed(self, call: Call, version: ModelVersion, **values: Any) -> None:
        """Set columns of a version, which was changed now."""
        call.connection.execute(
            update(version_rows)
            .where(version_rows.c.model == version.model, version_rows.c.version == version.version)
            .values(updated_at=call.now, **values)
        )

    def locked(self, connection: Connection, model: str) -> None:
        """Let nobody else change the model until the transaction ends; raises NotFound."""
        query = select(model_rows.c.name).where(model_rows.c.name == model, ALIVE)
        if connection.execute(query.with_for_update()).first() is None:
            raise no_model(model)

    def model(self, connection: Connection, name: str) -> Model:
        """One model; raises NotFound."""
        query = select(model_rows).where(model_rows.c.name == name, ALIVE)
        for found in assembled_models(connection, connection.execute(query).all()):
            return found
        raise no_model(name)

    def models(self, connection: Connection) -> list[Model]:
        """All models by name, with the versions that stand in staging and production."""
        query = select(model_rows).where(ALIVE).order_by(model_rows.c.name)
        return assembled_models(connection, connection.execute(query).all())

    def versions(self, connection: Connection, model: str) -> list[ModelVersion]:
        """All versions of a model, the newest first; raises NotFound without the model."""
        self.model(connection, model)
        rows = connection.execute(
            select(version_rows)
            .where(version_rows.c.model == model, PRESENT)
            .order_by(version_rows.c.version.desc())
        ).all()
        return assembled_versions(connection, rows)

    def version(self, connection: Connection, model: str, version: int) -> ModelVersion:
        """One version; raises NotFound."""
        rows = connection.execute(
            select(version_rows).where(
                version_rows.c.model == model, version_rows.c.version == version, PRESENT
            )
        ).all()
        for found in assembled_versions(connection, rows):
            return found
        raise NotFound(
            f"There is no version {version} of the model {model!r}.",
            hint=f"`falaj models versions {model}` shows all.",
        )

    def bundled(self, connection: Connection, model: str, version: int) -> ModelVersion:
        """One version that has a bundle; raises NotFound, NotAdopted."""
        found = self.version(connection, model, version)
        if not found.bundle:
            raise NotAdopted(
                f"Version {version} of {model} is a folder of MLflow's that has no bundle yet.",
                hint=f"Make one: `falaj models adopt {model} {version}`.",
            )
        return found

    def champion(self, connection: Connection, model: str) -> ModelVersion | None:
        """The version in production, or None."""
        rows = connection.execute(
            select(version_rows).where(
                version_rows.c.model == model, version_rows.c.stage == Stage.PRODUCTION, PRESENT
            )
        ).all()
        return next(iter(assembled_versions(connection, rows)), None)

    def policy(self, connection: Connection, model: str) -> ModelPolicy:
        """What the model must keep; raises NotFound with what to declare."""
        try:
            found = self._definitions.definition(connection, ModelPolicy.kind, model)
        except NotFound:
            raise NotFound(
                f"No policy is declared for the model {model!r}, so that no gate can judge it.",
                hint=f'Declare ModelPolicy(name="{model}", …) and run `falaj apply`.',
            ) from None
        if not isinstance(found, ModelPolicy):
            raise TypeError(f"the kind 'model' is declared as {type(found).__name__}")
        return found

    def policy_facts(self, connection: Connection, model: str, asker: str) -> dict[str, Any]:
        """What an approver must know of a model's policy: its limits, and who set them.

        Args:
            asker: the principal's id of whoever asks for the promotion.
        """
        stands = self._definitions.version(connection, ModelPolicy.kind, model)
        return {
            "version": stands.version,
            "applied_by": stands.by,
            "applied_at": stands.at.isoformat(),
            "set_by_who_asks": stands.by == asker,
            "document": dict(stands.document),
        }

    def keep_report(
        self,
        call: Call,
        version: ModelVersion,
        *,
        policy_fingerprint: str,
        champion: int | None,
        results: Sequence[GateResult],
    ) -> GateReport:
        """Keep what the gates found; it stands beside all earlier reports."""
        report_id = new_id("gates")
        passed = all(result.outcome is not Outcome.FAILED for result in results)
        call.connection.execute(
            insert(report_rows).values(
                id=report_id,
                model=version.model,
                version=version.version,
                at=call.now,
                by=call.principal.id,
                policy_fingerprint=policy_fingerprint,
                bundle=version.bundle,
                champion=champion,
                passed=passed,
            )
        )
        call.connection.execute(
            insert(result_rows),
            [
                {"report": report_id, "place": place, **result.model_dump(mode="json")}
                for place, result in enumerate(results)
            ],
        )
        call.emit("gates.run", model=version.model, version=version.version, passed=passed)
        call.note(report=report_id, passed=passed)
        found = self.report(call.connection, version.model, version.version)
        if found is None:
            raise AssertionError
        return found

    def report(self, connection: Connection, model: str, version: int) -> GateReport | None:
        """The latest report of a version, or None."""
        row = connection.execute(
            select(report_rows)
            .where(report_rows.c.model == model, report_rows.c.version == version)
            .order_by(report_rows.c.at.desc(), report_rows.c.id.desc())
            .limit(1)
        ).first()
        if row is None:
            return None
        results = connection.execute(
            select(result_rows).where(result_rows.c.report == row.id).order_by(result_rows.c.place)
        )
        values = {name: getattr(row, name) for name in GateReport.model_fields if name != "results"}
        return GateReport(
            **values,
            results=tuple(
                GateResult(
                    gate=found.gate,
                    outcome=Outcome(found.outcome),
                    message=found.message,
                    evidence=found.evidence,
                )
                for found in results
            ),
        )

    def move(
        self,
        call: Call,
        version: ModelVersion,
        to: Stage,
        *,
        change: str,
        asked_by: str,
        reason: str,
        gate_report: str | None,
    ) -> Move:
        """Let a version take a stage; the one that was in production is archived."""
        replaced = self.champion(call.connection, version.model) if to is Stage.PRODUCTION else None
        if replaced is not None:
            self._set_stage(call, replaced, Stage.ARCHIVED)
        self._set_stage(call, version, to)
        move = Move(
            model=version.model,
            version=version.version,
            from_stage=version.stage,
            to_stage=to,
            at=call.now,
            asked_by=asked_by,
            approved_by=call.principal.id,
            reason=reason,
            change=change,
            gate_report=gate_report,
            replaced=replaced.version if replaced else None,
        )
        call.connection.execute(insert(move_rows).values(**move.model_dump()))
        ref, source = version_ref(version.model, version.version), AssetRef("change", change)
        if not self._catalog.exists(call.connection, source):
            self._catalog.record(call, source)
        self._catalog.link(call, source, ref, Relation.APPROVED)
        call.emit(
            "model_version.moved",
            model=move.model,
            version=move.version,
            to=str(to),
            change=change,
            replaced=move.replaced,
        )
        return move

    def history(
        self, connection: Connection, model: str, *, at: datetime | None = None
    ) -> list[Move]:
        """All moves of a model's versions, the newest first; only those until ``at`` if given."""
        query = (
            select(move_rows)
            .where(move_rows.c.model == model)
            .order_by(move_rows.c.at.desc(), move_rows.c.version.desc())
        )
        if at is not None:
            query = query.where(move_rows.c.at <= at)
        return [
            Move(**{name: getattr(row, name) for name in Move.model_fields})
            for row in connection.execute(query)
        ]

    def _set_stage(self, call: Call, version: ModelVersion, stage: Stage) -> None:
        self.version_changed(call, version, stage=stage)
        self.changed(call, version.model)
        self._catalog.record(
            call, version_ref(version.model, version.version), attributes={"stage": str(stage)}
        )
