"""Whether views fit the sources that they read, before anything is applied.

A stream says its columns and types, a foreign table has them in its files. Every view of
such a source is held against them when the view or the source is planned, with the very
code that will read the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from sqlalchemy.engine import Connection

from falaj.catalog.definitions import Resulting
from falaj.catalog.planning import PlannedDefinition, Step
from falaj.features.columns import arrow_type
from falaj.features.model import Entity, FeatureView
from falaj.features.sources import ForeignTable, Stream
from falaj.features.types import DType
from falaj.features.views import ViewPlan
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.ports import Lake
from falaj.lake.rows import fitted, prepared

SchemaOf = Callable[[ForeignTable], pa.Schema]
"""The columns of a foreign table as its files have them; raises a FalajError."""
_SOURCES = (Stream.kind, ForeignTable.kind)


class Fitting:
    """Refuses sources that cannot be, and views that do not fit theirs; a ``Review``.

    Args:
        schema_of: reads the columns of foreign tables.
        lake: gives the lake, in which a stream's table may stand already.
    """

    def __init__(self, schema_of: SchemaOf, lake: Callable[[], Lake]) -> None:
        self._schema_of = schema_of
        self._lake = lake

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], after: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises InvalidInput."""
        effective = [one for one in items if one.step in (Step.CREATE, Step.UPDATE)]
        changed = {one.name for one in effective if one.kind in _SOURCES}
        views = {one.name for one in effective if one.kind == FeatureView.kind}
        if changed:
            _refuse_name_twice(after)
        for name in sorted(changed):
            stream = after.get(Stream.kind, name)
            if isinstance(stream, Stream):
                self._fits_its_table(stream)
        if changed or views:
            self._views(changed, views, after)
        return list(items)

    def _views(self, changed: set[str], views: set[str], after: Resulting) -> None:
        schemas: dict[str, pa.Schema | None] = {}
        for view in after.all(FeatureView.kind):
            if not isinstance(view, FeatureView):
                continue
            if view.name not in views and view.source not in changed:
                continue
            entity = after.get(Entity.kind, view.entity)
            if view.source not in schemas:
                schemas[view.source] = self._schema(view.source, after)
            schema = schemas[view.source]
            if schema is not None and isinstance(entity, Entity):
                fits(ViewPlan.of(view, entity), schema)

    def _schema(self, source: str, after: Resulting) -> pa.Schema | None:
        stream = after.get(Stream.kind, source)
        if isinstance(stream, Stream):
            return schema_of(stream)
        foreign = after.get(ForeignTable.kind, source)
        return self._schema_of(foreign) if isinstance(foreign, ForeignTable) else None

    def _fits_its_table(self, stream: Stream) -> None:
        rows = prepared(stream.table, schema_of(stream).empty_table())
        try:
            there = self._lake().schema(stream.table)
        except NotFound:
            return
        fitted(stream.table, rows, there, add_columns=True)


def schema_of(stream: Stream) -> pa.Schema:
    """The columns of a stream's lake table, ``recorded_at`` among them."""
    columns = {name: arrow_type(dtype) for name, dtype in stream.columns.items()}
    if stream.recorded_at is not None:
        columns.setdefault(stream.recorded_at, arrow_type(DType.TIMESTAMP))
    return pa.schema(list(columns.items()))


def fits(plan: ViewPlan, schema: pa.Schema) -> None:
    """Refuse a view that could not read a source with these columns; raises InvalidInput."""
    try:
        plan.events(schema.empty_table())
    except InvalidInput as error:
        raise InvalidInput(
            f"The view {plan.name!r} does not fit its source {plan.view.source!r}: {error.message}",
            hint=error.hint,
        ) from None


def _refuse_name_twice(after: Resulting) -> None:
    """A name of a table means one thing: a stream's table or dead letters, or a foreign one."""
    seen: dict[str, str] = {}
    for kind in _SOURCES:
        for one in after.all(kind):
            tables = [one.name]
            if isinstance(one, Stream):
                tables.append(one.dead_letters)
            for table in tables:
                owner = seen.setdefault(table, str(one.ref))
                if owner != str(one.ref):
                    raise InvalidInput(
                        f"Both {owner} and {one.ref} mean the table {table!r}.",
                        hint="Rename one of them.",
                    )
    for source in after.all("source"):
        table = getattr(source, "table", "")
        if table in seen and seen[table].startswith(ForeignTable.kind):
            raise InvalidInput(
                f"The source {source.name!r} loads the table {table!r}, which is foreign.",
                hint="Rename one of them.",
            )
