"""The catalogue's actions: what there is, what flows into what, what is declared."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from falaj.catalog.assets import Catalog, as_resource
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import (
    Asset,
    AssetVersion,
    Classification,
    Direction,
    Lineage,
)
from falaj.catalog.planning import Plan, Step, VersionedDefinition
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.kernel.ports import Resource
from falaj.trust.secretscan import Scan, scan_document

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""
MOST_RESULTS = 500
Reason = Annotated[str, Field(min_length=1, max_length=2_000)]

Found = list[Asset]
Versions = list[AssetVersion]
Declared = list[VersionedDefinition]
Documents = list[dict[str, Any]]


class AssetService(Service):
    """Assets and their lineage: what there is, whose it is, and what flows into what."""

    name = "assets"

    def __init__(self, catalog: Catalog, visible: Visible) -> None:
        self._catalog = catalog
        self._visible = visible

    @action(get="/assets")
    def search(
        self,
        text: str = "",
        *,
        kind: str | None = None,
        tag: str | None = None,
        owner: str | None = None,
        classification: Classification | None = None,
        limit: int = 50,
    ) -> Found:
        """Assets whose kind, name, description or tags contain every word of the text."""
        if not 1 <= limit <= MOST_RESULTS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_RESULTS}.")
        call = self.call
        found = self._catalog.search(
            call.connection, text, kind=kind, tag=tag, owner=owner, classification=classification
        )
        seen = (asset for asset in found if self._visible(call, as_resource(asset)))
        return list(islice(seen, limit))

    @action(get="/assets/{kind}/{key:path}", on="asset")
    def get(self, kind: str, key: str) -> Asset:
        """One asset as it stands now."""
        return self._catalog.get(self.call.connection, AssetRef(kind, key))

    @action(get="/asset-versions/{kind}/{key:path}", on="asset")
    def history(self, kind: str, key: str) -> Versions:
        """Every version of an asset, the newest first: who changed it, when, and how."""
        return self._catalog.versions(self.call.connection, AssetRef(kind, key))

    @action(get="/lineage/{kind}/{key:path}", on="asset")
    def lineage(
        self,
        kind: str,
        key: str,
        *,
        direction: Direction = Direction.UPSTREAM,
        max_depth: int = 20,
    ) -> Lineage:
        """What an asset came from (upstream) or what comes from it (downstream), as a tree."""
        if not 1 <= max_depth <= 100:
            raise InvalidInput(f"max_depth is {max_depth}; it is between 1 and 100.")
        call = self.call
        return self._catalog.walk(
            call.connection,
            AssetRef(kind, key),
            direction,
            max_depth=max_depth,
            seen=lambda resource: self._visible(call, resource),
        )

    @action(post="/assets/{kind}/{key:path}", on="asset")
    def describe(
        self,
        kind: str,
        key: str,
        *,
        description: str | None = None,
        owner: str | None = None,
        classification: Classification | None = None,
        region: str | None = None,
        tags: list[str] | None = None,
    ) -> Asset:
        """Set what is given of an asset: its description, owner, classification, region, tags."""
        given = {
            name: value
            for name, value in {
                "description": description,
                "owner": owner,
                "classification": classification,
                "region": region,
                "tags": tags,
            }.items()
            if value is not None
        }
        if not given:
            raise InvalidInput(
                "Nothing was given to set.",
                hint="Give a description, owner, classification, region or tags.",
            )
        return self._catalog.describe(self.call, AssetRef(kind, key), **given)


class DefinitionService(Service):
    """Definitions: what is declared in a repository, planned and applied as one."""

    name = "definitions"

    def __init__(self, definitions: Definitions, catalog: Catalog, visible: Visible) -> None:
        self._definitions = definitions
        self._catalog = catalog
        self._visible = visible

    @action(post="/plans")
    def plan(self, documents: Documents) -> Plan:
        """What applying these definitions would create, update, and keep; changes nothing."""
        plan = self._definitions.plan(self.call.connection, documents)
        self._permit(plan)
        return self._shown(plan)

    @action(post="/definitions")
    def apply(
        self,
        documents: Documents,
        *,
        planned: str | None = None,
        secrets_allowed: Reason | None = None,
    ) -> Plan:
        """Create and update the definitions that differ, all or none.

        Given the digest of a plan, exactly that plan is done, or nothing. Definitions that
        hold what looks like a secret are refused, unless ``secrets_allowed`` says why it is
        none; the reason is recorded.
        """
        self._check_secrets(documents, secrets_allowed)
        done = self._definitions.apply(self.call, documents, planned=planned, permit=self._allow)
        return self._shown(done)

    @action(get="/definitions")
    def list(self, kind: str | None = None) -> Declared:
        """The current version of every definition."""
        listed = self._definitions.listed(self.call.connection, kind=kind)
        return [one for one in listed if self._may_see(one.kind, one.name)]

    @action(get="/definitions/{kind}/{name}", on="definition")
    def get(self, kind: str, name: str, *, version: int | None = None) -> VersionedDefinition:
        """One definition, as it stands or as an earlier version of it stood."""
        return self._definitions.version(self.call.connection, kind, name, version)

    @action(get="/definitions/{kind}/{name}/versions", on="definition")
    def history(self, kind: str, name: str) -> Declared:
        """Every version of a definition, the newest first."""
        return self._definitions.history(self.call.connection, kind, name)

    def _check_secrets(self, documents: Documents, reason: str | None) -> None:
        """Raises SecretFound without a reason; with one, records what was let pass."""
        found = Scan()
        for number, document in enumerate(documents):
            scan = scan_document(f"definition {number}", document)
            found.findings += scan.findings
        found.refuse_unless(reason, "the definitions")
        if found.findings:
            self.call.note(secrets_allowed=reason, secrets=found.told())

    def _may_see(self, kind: str, name: str) -> bool:
        resource = self._catalog.load(self.call.connection, AssetRef(kind, name))
        return self._visible(self.call, resource)

    def _allow(self, plan: Plan) -> None:
        """As ``_permit``; and policies and read rules are not applied by whoever may declare
        things."""
        self._permit(plan)
        for item in plan.effective():
            if self._definitions.is_proposed(item.kind):
                raise Forbidden(
                    f"The {item.kind.replace('_', ' ')} {item.name!r} is not applied but proposed.",
                    hint="An administrator proposes it (`falaj apply`, `falaj policy propose`), "
                    "and another person approves.",
                )

    def _permit(self, plan: Plan) -> None:
        """Raises Forbidden if the plan would change what the caller may not know of."""
        for item in plan.items:
            if item.step in (Step.UPDATE, Step.UNCHANGED) and not self._may_see(
                item.kind, item.name
            ):
                raise Forbidden(
                    f"You may not declare a {item.kind} {item.name!r}.",
                    hint="Choose another name, or ask an administrator for access.",
                )

    def _shown(self, plan: Plan) -> Plan:
        """The plan without the kept definitions that the caller may not know of."""
        shown = [
            item
            for item in plan.items
            if item.step is not Step.KEPT or self._may_see(item.kind, item.name)
        ]
        return plan.model_copy(update={"items": shown})
