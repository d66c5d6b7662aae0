"""What happens when feature definitions are applied: they are compiled, or refused.

The catalogue draws the edges (table → view → service) from ``references()``; here every
name, type and function is checked against what it refers to, in the same transaction, so
that nothing is ever applied that could not be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definition
from falaj.catalog.model import Classification
from falaj.features import lineage, ondemand
from falaj.features.model import Entity, FeatureService, FeatureView, OnDemandFeatures
from falaj.features.plan import ServicePlan
from falaj.features.purposes import purposes_of
from falaj.features.sources import ForeignTable, Stream
from falaj.features.views import ViewPlan
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput

Find = Callable[[Connection, str, str], Definition]
"""The current definition of a kind and name, in a transaction; raises NotFound."""
KINDS: dict[str, type[Definition]] = {
    kind.kind: kind
    for kind in (Entity, Stream, ForeignTable, FeatureView, OnDemandFeatures, FeatureService)
}
"""The kinds of definition of this room."""


class _Within:
    """Definitions as the transaction of a call sees them."""

    def __init__(self, call: Call, find: Find) -> None:
        self._call = call
        self._find = find

    def get(self, kind: str, name: str) -> Definition:
        return self._find(self._call.connection, kind, name)

    def all(self, kind: str) -> Sequence[Definition]:
        return []


def appliers(
    find: Find, catalog: Catalog | None = None
) -> Mapping[str, Callable[[Call, Any], None]]:
    """The appliers of this room's kinds, for ``catalog.definitions.Definitions``.

    Args:
        find: ``Definitions.definition``, bound late.
        catalog: tells how source tables are classified; without it that is not asked.
    """

    def view(call: Call, definition: FeatureView) -> None:
        if catalog is not None:
            _as_secret_as_its_table(call, catalog, definition)
        entity = find(call.connection, Entity.kind, definition.entity)
        if isinstance(entity, Entity):
            ViewPlan.of(definition, entity)
        if catalog is not None:
            lineage.record_view(call, catalog, definition)

    def on_demand(call: Call, definition: OnDemandFeatures) -> None:
        ondemand.compiled(definition.source)
        if catalog is not None:
            lineage.record_on_demand(call, catalog, definition)

    def service(call: Call, definition: FeatureService) -> None:
        plan = ServicePlan.of(definition, _Within(call, find))
        if purposes_of(plan) == ():
            raise InvalidInput(
                f"The views of the service {definition.name!r} have no purpose in common.",
                hint="Nobody could read it: take features of different purposes into services"
                " of their own.",
            )
        if catalog is not None:
            lineage.record_service(call, catalog, plan)
        own = definition.classification
        for use in plan.views:
            needed = use.plan.view.classification
            if use.plan.sealed and needed is not None and _level(own) < needed.level:
                raise InvalidInput(
                    f"The service {definition.name!r} is {own or 'not classified'}, but takes "
                    f"from the {needed} view {use.plan.name!r}.",
                    hint=f"Set its classification to {needed}.",
                )

    return {
        FeatureView.kind: view,
        OnDemandFeatures.kind: on_demand,
        FeatureService.kind: service,
    }


def _as_secret_as_its_table(call: Call, catalog: Catalog, view: FeatureView) -> None:
    """Refuse a view that would hand out a personal table's values as harmless ones."""
    table = AssetRef("table", view.source)
    if not catalog.exists(call.connection, table):
        return
    needed = catalog.get(call.connection, table).classification
    if needed in (Classification.PERSONAL, Classification.SENSITIVE) and (
        _level(view.classification) < needed.level
    ):
        raise InvalidInput(
            f"The view {view.name!r} is {view.classification or 'not classified'}, but reads "
            f"the {needed} table {view.source!r}.",
            hint=f"Set its classification to {needed}.",
        )


def _level(classification: Classification | None) -> int:
    return -1 if classification is None else classification.level
