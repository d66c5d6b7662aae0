"""Lineage of features: from the columns of a source to the services that take them.

Assets of the kind ``column`` are named table/column, those of the kind ``feature``
view:feature. A column that a feature's values come from, or that says which rows count,
flows into the feature; keys and instants flow into the view, which defines its features.
Walked downstream from a column, the catalogue so tells which training sets, runs and models
a change of it reaches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from falaj.catalog.model import LONGEST_KEY, Relation
from falaj.features.exposure import origins_of_service
from falaj.features.model import FeatureView, OnDemandFeatures, split_reference, split_version
from falaj.kernel.call import AssetRef

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.features.plan import ServicePlan
    from falaj.kernel.call import Call

FEATURE, COLUMN = "feature", "column"
MOST_FEATURES = 500
"""A view with more features than this is recorded as a whole: its columns flow into it."""


def feature_ref(owner: str, feature: str) -> AssetRef:
    """The asset of a feature of a view or of an on-demand definition."""
    return AssetRef(FEATURE, f"{owner}:{feature}")


def column_ref(table: str, column: str) -> AssetRef:
    """The asset of a column of a source table."""
    return AssetRef(COLUMN, f"{table}/{column}")


def record_view(call: Call, catalog: Catalog, view: FeatureView) -> None:
    """Record the features of a view, and the columns that they come from."""
    named = [(one.name, one.column, one.dtype.value, one.description, "") for one in view.features]
    named += [
        (one.name, one.column or "", one.output.value, one.description, str(one.function))
        for one in view.aggregates
    ]
    where = [item.column for item in view.where]
    keys = [*view.entity_columns.values(), view.event_time, view.recorded_at or ""]
    if len(named) > MOST_FEATURES:
        keys += [*where, *(column for _, column, _, _, _ in named)]
        _linked_columns(call, catalog, view, view.ref, keys)
        return
    _linked_columns(call, catalog, view, view.ref, keys)
    for name, column, dtype, description, function in named:
        ref = feature_ref(view.name, name)
        attributes = {"view": view.name, "source": view.source, "column": column or None,
                      "dtype": dtype, "function": function or None}  # fmt: skip
        catalog.record(
            call,
            ref,
            description=description,
            owner=view.owner,
            classification=view.classification,
            attributes=attributes,
        )
        catalog.link(call, view.ref, ref, Relation.DEFINES)
        _linked_columns(call, catalog, view, ref, [column, *where])


def record_on_demand(call: Call, catalog: Catalog, definition: OnDemandFeatures) -> None:
    """Record the outputs of an on-demand definition, and the features that they come from."""
    taken = []
    for reference in definition.inputs.values():
        owner, feature = split_reference(split_version(reference)[0])
        if catalog.exists(call.connection, feature_ref(owner, feature)):
            taken.append(feature_ref(owner, feature))
    for output in definition.outputs:
        ref = feature_ref(definition.name, output.name)
        catalog.record(
            call,
            ref,
            description=output.description,
            owner=definition.owner,
            classification=definition.classification,
            attributes={"on_demand": definition.name, "dtype": output.dtype.value},
        )
        catalog.link(call, definition.ref, ref, Relation.DEFINES)
        _linked(call, catalog, ref, taken)


def record_service(call: Call, catalog: Catalog, plan: ServicePlan) -> None:
    """Link the features that a service takes with it."""
    offered = [(use.plan.name, list(use.plan.outputs)) for use in plan.views]
    offered += [(use.definition.name, list(use.definition.output_types)) for use in plan.on_demand]
    taken = [
        feature_ref(owner, name)
        for owner, names in offered
        for name in names
        if f"{owner}__{name}" in plan.outputs
        and catalog.exists(call.connection, feature_ref(owner, name))
    ]
    _linked(call, catalog, plan.service.ref, taken)
    catalog.record(call, plan.service.ref, origins=origins_of_service(plan))


def _linked_columns(
    call: Call, catalog: Catalog, view: FeatureView, target: AssetRef, columns: Iterable[str]
) -> None:
    """Let these columns of the view's source, and no others, flow into an asset."""
    wanted = []
    for column in dict.fromkeys(columns):
        ref = column_ref(view.source, column)
        if not column or len(ref.key) > LONGEST_KEY or not column.isprintable():
            continue
        if not catalog.exists(call.connection, ref):
            catalog.record(call, ref, classification=view.classification)
            catalog.link(call, AssetRef("table", view.source), ref, Relation.FEEDS)
        wanted.append(ref)
    _linked(call, catalog, target, wanted)


def _linked(call: Call, catalog: Catalog, target: AssetRef, sources: list[AssetRef]) -> None:
    """Draw the edges from columns or features to an asset, and take away what is no more."""
    stands = {
        edge.source
        for edge in catalog.upstream(call.connection, target)
        if edge.source.kind in (COLUMN, FEATURE) and edge.relation is Relation.FEEDS
    }
    for gone in stands - set(sources):
        catalog.unlink(call, gone, target, Relation.FEEDS)
    for source in sources:
        if source not in stands:
            catalog.link(call, source, target, Relation.FEEDS)
