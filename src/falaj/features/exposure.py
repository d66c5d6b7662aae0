"""What the features of a service tell of the columns of the tables that they are made of.

Features are for computing with, so they are never masked: whoever does not see all rows and
the columns behind a feature in clear does not read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from falaj.catalog.columns import OF_PEOPLE, most_secret, origin
from falaj.catalog.model import Classification
from falaj.features.model import FeatureService, FeatureView
from falaj.ingest.model import Source
from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition
    from falaj.features.plan import ServicePlan
    from falaj.kernel.call import Call
    from falaj.lake.reading import GuardedLake

READ = "features.read"


def columns_behind(plan: ServicePlan) -> dict[str, set[tuple[str, str]]]:
    """By output of a service, the (table, column) that its values come from.

    Those of on-demand features come from all features that they take. Request fields come
    with the request.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for use in plan.views:
        view = use.plan.view
        named: dict[str, str | None] = {one.name: one.column for one in view.features}
        named |= {one.name: one.column for one in view.aggregates}
        where = {one.column for one in view.where}
        for feature in use.features:
            columns = where | ({named[feature]} - {None})
            # A mere count tells of the rows of an entity, which its keys name.
            columns = columns or set(view.entity_columns.values()) or set(use.plan.keys)
            found[f"{view.name}__{feature}"] = {(view.source, str(one)) for one in columns}
    for computed in plan.on_demand:
        taken: set[tuple[str, str]] = set()
        for _, column, _ in computed.inputs:
            taken |= found.get(column, set())
        for output in computed.definition.outputs:
            found[f"{computed.definition.name}__{output.name}"] = taken
    return found


def columns_taken(view: FeatureView) -> list[str]:
    """The columns that values of a view's features come from."""
    named = [one.column for one in view.features]
    return [*named, *(one.column for one in view.aggregates if one.column is not None)]


def origins_of_service(plan: ServicePlan) -> dict[str, list[str]]:
    """By output of a service, its origins, as the catalogue keeps them."""
    return {
        output: sorted(origin(table, column) for table, column in behind)
        for output, behind in columns_behind(plan).items()
    }


class FeatureSight:
    """Decides whether a caller sees all that the features of a service are made of."""

    def __init__(self, guarded: GuardedLake) -> None:
        self._guarded = guarded

    def check(self, call: Call, plan: ServicePlan, todo: str) -> None:
        """Return if it does.

        Args:
            call: whose caller.
            plan: the service.
            todo: in the words of the refusal: ``read features of``.

        Raises:
            SeenInPart: names the table, the columns and the rules.
        """
        tables: dict[str, set[str]] = {}
        for behind in columns_behind(plan).values():
            for table, column in behind:
                tables.setdefault(table, set()).add(column)
        self.check_columns(call, tables, todo)

    def check_columns(self, call: Call, tables: Mapping[str, Iterable[str]], todo: str) -> None:
        """As ``check``, of columns by table."""
        for table in sorted(tables):
            self._guarded.check_clear(call, table, tables[table], todo=todo, action=READ)


class ClassifiedColumns:
    """Refuses views that hand out columns as more harmless than they are; a ``Review``."""

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises InvalidInput."""
        changed = {item.kind for item in items if item.changes or item.step == "create"}
        if changed & {Source.kind, FeatureView.kind, FeatureService.kind}:
            declared: dict[str, dict[str, Classification]] = {}
            for source in resulting.all(Source.kind):
                if isinstance(source, Source):
                    declared.setdefault(source.table, {}).update(source.column_classes)
            for view in resulting.all(FeatureView.kind):
                if isinstance(view, FeatureView) and view.source in declared:
                    refuse_as_harmless(view, declared[view.source])
        return list(items)


def refuse_as_harmless(view: FeatureView, classes: dict[str, Classification]) -> None:
    """Raise InvalidInput if a view is less secret than a personal column that it hands out.

    Args:
        view: the view.
        classes: of the columns of its source.
    """
    level = {name.lower(): one for name, one in classes.items()}
    taken = columns_taken(view)
    needed = most_secret(level.get(name.lower()) for name in taken)
    if needed not in OF_PEOPLE or needed is None:
        return
    if view.classification is None or view.classification.level < needed.level:
        names = sorted(name for name in set(taken) if level.get(name.lower()) is needed)
        raise InvalidInput(
            f"The view {view.name!r} is {view.classification or 'not classified'}, but takes the"
            f" {needed} column {names[0]!r} of {view.source!r}.",
            hint=f"Set its classification to {needed}.",
        )


__all__ = ["ClassifiedColumns", "FeatureSight", "columns_behind", "origins_of_service"]
