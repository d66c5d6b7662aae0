"""What happens when a source is applied: its table is an asset, as secret as it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog, check_may_lower
from falaj.catalog.columns import declared_of, most_secret, origin
from falaj.catalog.definitions import Resulting
from falaj.catalog.model import Classification, Relation, lowers
from falaj.catalog.planning import FieldChange, PlannedDefinition, Step
from falaj.ingest.model import Source
from falaj.kernel.call import AssetRef, Call
from falaj.lake.service import TABLE, record_table

Sources = Callable[[Connection], Sequence[Source]]
"""All sources as they stand in a transaction."""
Before = Callable[[Connection, Source], Source | None]
"""The version of a source before the one that is applied, or None."""


class DeclaredSources:
    """The applier of the kind ``source``: its table is an asset that it feeds.

    Args:
        catalog: where tables are assets.
        sources: all that are declared.
        before: the version of a source that the applied one takes the place of.
    """

    def __init__(
        self,
        catalog: Catalog,
        sources: Sources = lambda _connection: (),
        before: Before = lambda _connection, _source: None,
    ) -> None:
        self._catalog = catalog
        self._sources = sources
        self._before = before

    def __call__(self, call: Call, source: Source) -> None:
        """Record the table, its columns' classifications, and the edge from the source to it.

        Raises:
            Forbidden: a column's classification would fall, and the caller is no steward.
        """
        table = record_table(
            call,
            self._catalog,
            source.table,
            owner=source.owner,
            classification=source.classification,
            columns=source.column_classes,
        )
        self._catalog.link(call, source.ref, table, Relation.FEEDS)
        if self._catalog.exists(call.connection, AssetRef(TABLE, source.quarantine)):
            record_quarantine(call, self._catalog, source)
        self._lower(call, source, table)

    def _lower(self, call: Call, source: Source, table: AssetRef) -> None:
        """Lower what the source said before and no source of the table says now."""
        earlier = self._before(call.connection, source)
        if earlier is None or earlier.table != source.table:
            return
        fallen = lowered(earlier, source)
        if not fallen:
            return
        for column in fallen:
            check_may_lower(call, source.ref, column)
        others = [one for one in self._sources(call.connection) if one.table == source.table]
        given: dict[str, Classification | None] = {
            column: most_secret(one.column_classes.get(column) for one in others)
            for column in fallen
        }
        stands = declared_of(self._catalog.get(call.connection, table).attributes)
        given = {
            column: level
            for column, level in given.items()
            # What a steward has raised beyond the declaration stays.
            if stands.get(column.lower()) == earlier.column_classes[column]
        }
        if given:
            self._catalog.describe(call, table, columns=given)


def lowered(before: Source, after: Source) -> list[str]:
    """The columns that are stored as before and are classified lower."""
    then, now = before.column_classes, after.column_classes
    return [name for name in then if name in after.stored and lowers(then[name], now.get(name))]


def record_quarantine(call: Call, catalog: Catalog, source: Source) -> AssetRef:
    """Record the table of rows that were set aside: what it tells of a row is as secret as
    the most secret column of the source, whose values stand in it as text."""
    everything = [origin(source.table, name) for name in source.stored]
    secret = most_secret([*source.column_classes.values(), *source.classifications.values()])
    columns = {} if secret is None else dict.fromkeys(QUARANTINED, secret)
    return record_table(
        call,
        catalog,
        source.quarantine,
        owner=source.owner,
        classification=source.classification,
        columns=columns,
        origins=dict.fromkeys(QUARANTINED, everything),
    )


QUARANTINED = ("row_values", "reason")
"""The columns of a quarantine that hold values of the row."""


class ColumnsOfPlans:
    """Tells of each column whose classification changes; a ``Review``."""

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items, with one change for each such column."""
        return [_by_column(item) for item in items]


def _by_column(item: PlannedDefinition) -> PlannedDefinition:
    if item.kind != Source.kind or item.step is not Step.UPDATE:
        return item
    changes: list[FieldChange] = []
    for change in item.changes:
        if change.field != "classifications":
            changes.append(change)
            continue
        before, after = change.before or {}, change.after or {}
        for column in sorted({*before, *after}):
            was, becomes = before.get(column), after.get(column)
            if was != becomes:
                why = "it falls: for a steward to apply" if lowers(was, becomes) else ""
                changes.append(
                    FieldChange(
                        field=f"classifications.{column}", before=was, after=becomes, why=why
                    )
                )
    return item.model_copy(update={"changes": changes})


__all__ = ["ColumnsOfPlans", "DeclaredSources", "lowered", "record_quarantine"]
