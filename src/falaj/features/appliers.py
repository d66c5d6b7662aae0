"""What happens when feature definitions are applied: they are compiled, or refused.

The catalogue draws the edges (table → view → service) from ``references()``; here every
name, type and function is checked against what it refers to, in the same transaction, so
that nothing is ever applied that could not be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.columns import ColumnLineage, origin
from falaj.catalog.definitions import Definition
from falaj.catalog.model import Classification, Relation
from falaj.features import lineage, ondemand
from falaj.features.exposure import refuse_as_harmless
from falaj.features.model import Entity, FeatureService, FeatureView, OnDemandFeatures
from falaj.features.purposes import purposes_of
from falaj.features.sources import ForeignTable, Stream
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from falaj.features.plan import ServicePlan

Find = Callable[..., Definition]
"""``find(connection, kind, name)`` gives the current definition in a transaction, with a
fourth argument that version of it; raises NotFound."""
KINDS: dict[str, type[Definition]] = {
    kind.kind: kind
    for kind in (Entity, Stream, ForeignTable, FeatureView, OnDemandFeatures, FeatureService)
}
"""The kinds of definition of this room."""


class _Within:
    """Definitions as the transaction of a call sees them."""

    def __init__(self, connection: Connection, find: Find) -> None:
        self._connection = connection
        self._find = find

    def get(self, kind: str, name: str) -> Definition:
        return self._find(self._connection, kind, name)

    def version(self, kind: str, name: str, version: int) -> Definition:
        return self._find(self._connection, kind, name, version)

    def all(self, kind: str) -> Sequence[Definition]:
        return []


def appliers(
    find: Find, catalog: Catalog | None = None
) -> Mapping[str, Callable[[Call, Any], None]]:
    """The appliers of this room's kinds, for ``catalog.definitions.Definitions``.

    Args:
        find: ``Definitions.definition``, bound late.
        catalog: tells how source tables are classified; without it that is not asked, and
            the tables of streams are not recorded.
    """

    def view(call: Call, definition: FeatureView) -> None:
        if catalog is not None:
            _as_secret_as_its_table(call, catalog, definition)
        entity = find(call.connection, Entity.kind, definition.entity)
        if isinstance(entity, Entity):
            from falaj.features.views import ViewPlan

            ViewPlan.of(definition, entity)
        if catalog is not None:
            lineage.record_view(call, catalog, definition)

    def on_demand(call: Call, definition: OnDemandFeatures) -> None:
        from falaj.features.versions import refuse_retired

        refuse_retired(call.connection, definition)
        ondemand.compiled(definition.source)
        if catalog is not None:
            lineage.record_on_demand(call, catalog, definition)

    def service(call: Call, definition: FeatureService) -> None:
        from falaj.features.plan import ServicePlan
        from falaj.features.versions import refuse_retired

        refuse_retired(call.connection, definition)
        plan = ServicePlan.of(definition, _Within(call.connection, find))
        _as_secret_as_its_views(plan)
        if purposes_of(plan) == ():
            raise InvalidInput(
                f"The views of the service {definition.name!r} have no purpose in common.",
                hint="Nobody could read it: take features of different purposes into services"
                " of their own.",
            )
        if catalog is not None:
            lineage.record_service(call, catalog, plan)

    def source(call: Call, definition: Stream | ForeignTable) -> None:
        if catalog is not None:
            _recorded(call, catalog, definition)

    return {
        Stream.kind: source,
        ForeignTable.kind: source,
        FeatureView.kind: view,
        OnDemandFeatures.kind: on_demand,
        FeatureService.kind: service,
    }


def _recorded(call: Call, catalog: Catalog, source: Stream | ForeignTable) -> None:
    """The tables that a source is or feeds, as secret as itself, and the edges to them.

    Views refer to tables by name, so the name of a foreign table is an asset as well.
    """
    if isinstance(source, Stream):
        told = {
            source.table: f"The events of the stream {source.name}.",
            source.dead_letters: f"Events of the stream {source.name} that were set aside.",
        }
    else:
        told = {source.name: f"The foreign table at {source.location}, read where it lies."}
    for name, description in told.items():
        table = AssetRef("table", name)
        new = not catalog.exists(call.connection, table)
        catalog.record(
            call,
            table,
            description=description if new else "",
            owner=source.owner if new else None,
            classification=source.classification,
            region=source.region,
            origins=_set_aside(source) if name != source.name else None,
        )
        catalog.link(call, source.ref, table, Relation.FEEDS)


def _set_aside(source: Stream | ForeignTable) -> dict[str, list[str]]:
    """Of dead letters: what they tell of an event may be the value of any column."""
    if not isinstance(source, Stream):
        return {}
    columns = [origin(source.table, name) for name in source.columns]
    return dict.fromkeys(("payload", "reason"), columns)


def _as_secret_as_its_views(plan: ServicePlan) -> None:
    """Refuse a service that would hand out a personal view's features as harmless ones."""
    own = plan.service.classification
    for use in plan.views:
        needed = use.plan.view.classification
        if use.plan.sealed and needed is not None and _level(own) < needed.level:
            raise InvalidInput(
                f"The service {plan.service.name!r} is {own or 'not classified'}, but takes "
                f"from the {needed} view {use.plan.name!r}.",
                hint=f"Set its classification to {needed}.",
            )


def _as_secret_as_its_table(call: Call, catalog: Catalog, view: FeatureView) -> None:
    """Refuse a view that would hand out a personal table's values as harmless ones."""
    table = AssetRef("table", view.source)
    if not catalog.exists(call.connection, table):
        return
    refuse_as_harmless(view, ColumnLineage(catalog, call.connection).classes(view.source))
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
