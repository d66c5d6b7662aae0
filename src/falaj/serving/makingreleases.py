"""Making releases: what an endpoint declares, with approved versions, as one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ids import new_id
from falaj.serving.logorigins import log_origins
from falaj.serving.model import Approved, Endpoint, PinnedMember, Release, RequestField, Variant
from falaj.serving.names import table_of
from falaj.serving.subjects import subject_of

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.serving.ports import ApprovedModels, FeatureReaders


def release_ref(endpoint: str, release: str) -> AssetRef:
    """The asset of a release."""
    return AssetRef("release", f"{endpoint}/{release}")


class ReleaseMaker:
    """Makes the documents of releases, and records them in the catalogue.

    Args:
        approved: tells which model versions may be served.
        features: describes feature services; None where there are none.
        catalog: where endpoints and releases are assets.
    """

    def __init__(
        self, approved: ApprovedModels, features: FeatureReaders | None, catalog: Catalog
    ) -> None:
        self._approved = approved
        self._features = features
        self._catalog = catalog

    def made(self, call: Call, endpoint: Endpoint, approved: Approved) -> Release:
        """The release of an endpoint, as it is declared now, with an approved version.

        Raises:
            Conflict: a member of its composition is not in production.
            InvalidInput: it needs a feature store, and there is none; its unit is no field of
                its requests.
        """
        service = endpoint.feature_service or approved.feature_service
        document: dict[str, Any] | None = None
        fields: tuple[RequestField, ...] = ()
        if service is not None:
            if self._features is None:
                raise InvalidInput(
                    f"{endpoint.name!r} needs the feature service {service!r}, and there is no "
                    "feature store here.",
                    hint="Set `online` in the settings.",
                )
            document, fields = self._features.describe(call.connection, service)
        named = {item.name for item in fields}
        fields += tuple(item for item in endpoint.fields if item.name not in named)
        _check_unit(endpoint, fields)
        subject, subject_kind = subject_of(endpoint, document, fields)
        resource = self._catalog.load(call.connection, endpoint.ref)
        return Release(
            id=new_id("release"),
            endpoint=endpoint.name,
            variants=(self._variant(call, endpoint, approved),),
            feature_service=service,
            features=document,
            fields=fields,
            outputs=approved.outputs,
            unit=endpoint.unit,
            limits=endpoint.limits,
            durability=endpoint.durability,
            missing=endpoint.missing,
            anomalies=endpoint.anomalies,
            subject=subject,
            subject_kind=subject_kind,
            attributes=dict(resource.attributes),
            change=approved.change,
            created_at=call.now,
            created_by=call.principal.id,
        )

    def _variant(self, call: Call, endpoint: Endpoint, approved: Approved) -> Variant:
        """The approved version alone, or with the versions in production of all members."""
        composition = endpoint.composition
        if composition is None:
            return approved.variant()
        pinned = []
        for member in composition.members:
            found = approved
            if member.model != endpoint.model:
                found = self._approved.approved(call.connection, member.model, None)
            pinned.append(
                PinnedMember(
                    model=member.model,
                    version=found.version,
                    bundle=found.bundle,
                    weight=member.weight,
                    gives=member.gives,
                )
            )
        return Variant(
            model=approved.model,
            version=approved.version,
            bundle=approved.bundle,
            combine=composition.combine,
            members=tuple(pinned),
        )

    def record(self, call: Call, release: Release) -> None:
        """Make a release an asset: from what it was made, and where its predictions go."""
        ref = release_ref(release.endpoint, release.id)
        self._catalog.record(
            call,
            ref,
            attributes={
                "endpoint": release.endpoint,
                "model": release.model,
                "bundle": release.variants[0].bundle,
                "change": release.change,
            },
        )
        for label in {one.label for variant in release.variants for one in variant.pinned}:
            source = AssetRef("model_version", label)
            if not self._catalog.exists(call.connection, source):
                self._catalog.record(call, source)
            self._catalog.link(call, source, ref, Relation.SERVES)
        target = AssetRef("endpoint", release.endpoint)
        if not self._catalog.exists(call.connection, target):
            self._catalog.record(call, target)
        self._catalog.link(call, ref, target, Relation.SERVES)
        self._record_log(call, release, target)

    def _record_log(self, call: Call, release: Release, endpoint: AssetRef) -> None:
        """The lake table of the predictions, as secret as the endpoint that makes them (and at
        least personal if they are about persons), and its columns as the features in them."""
        name, known = release.endpoint, self._catalog.get(call.connection, endpoint)
        secret = known.classification
        if release.subject is not None and secret is not Classification.SENSITIVE:
            secret = Classification.PERSONAL
        log = AssetRef("table", table_of(name))
        self._catalog.record(
            call,
            log,
            description=f"What the endpoint {name} predicted.",
            owner=known.owner,
            classification=secret,
            origins=log_origins(release),
        )
        self._catalog.link(call, endpoint, log, Relation.PREDICTED)


def _check_unit(endpoint: Endpoint, fields: tuple[RequestField, ...]) -> None:
    """No plan can know this: the feature service of the deployed version asks for fields too."""
    unit, names = endpoint.unit, [item.name for item in fields]
    if unit is not None and unit not in names:
        raise InvalidInput(
            f"The unit {unit!r} of {endpoint.name!r} is no field of its requests, which are "
            f"{', '.join(names) or 'none'}.",
            hint=f'Declare it: `fields=(RequestField(name="{unit}", type="string"),)`.',
        )
