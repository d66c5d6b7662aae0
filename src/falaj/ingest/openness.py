"""Whether values of a table's rows may stand in messages and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.catalog.columns import OF_PEOPLE, ColumnLineage
from falaj.ingest.model import Source
from falaj.ingest.personal import is_secret
from falaj.kernel.call import AssetRef
from falaj.lake.personal import rule_of
from falaj.lake.service import TABLE

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.catalog.definitions import Definitions
    from falaj.lake.ports import Lake


class Openness:
    """Tells tables of nobody from those of persons, by all that is known of them.

    Args:
        definitions: where sources are declared.
        catalog: knows how secret tables and columns are, which a steward may have raised.
        lake: knows whose columns are sealed.
    """

    def __init__(self, definitions: Definitions, catalog: Catalog, lake: Lake) -> None:
        self._definitions = definitions
        self._catalog = catalog
        self._lake = lake

    def of(self, connection: Connection, table: str) -> bool:
        """True if a source says what the table's rows are, and nothing says that they, or one
        of their columns, are personal or sensitive: no source, no class, no seal."""
        listed = self._definitions.listed(connection, kind=Source.kind)
        parsed = [self._definitions.definition(connection, Source.kind, v.name) for v in listed]
        of = [one for one in parsed if isinstance(one, Source) and one.table == table]
        if not of or any(map(is_secret, of)):
            return False
        own = self._catalog.load(connection, AssetRef(TABLE, table)).attributes
        columns = ColumnLineage(self._catalog, connection).classes(table)
        if {own.get("classification"), *columns.values()} & OF_PEOPLE:
            return False
        return rule_of(self._lake, table) is None


__all__ = ["Openness"]
