"""Columns: how secret single columns of a table are, and which columns they come from.

Both stand in the attributes of the asset whose rows they are: a table, or a feature view for
its outputs. What is said of a column is raised by anybody who may declare it, and lowered by
a steward. A column that was made of others (in a training set, in the log of an endpoint)
names its *origins*, ``table/column``; it is as secret as the most secret of them, as they
are classified when it is read, so that raising a column raises every copy at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from falaj.catalog.model import Classification, lowers
from falaj.kernel.call import AssetRef

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog

COLUMNS, ORIGINS = "columns", "origins"
"""The attributes of an asset that hold what is known of its columns."""
OF_PEOPLE = frozenset({Classification.PERSONAL, Classification.SENSITIVE})
_DEEPEST = 20


def most_secret(given: Iterable[Classification | str | None]) -> Classification | None:
    """The highest of some classifications; None if there is none among them."""
    known = [Classification(one) for one in given if one is not None]
    return max(known, key=lambda one: one.level, default=None)


def origin(table: str, column: str) -> str:
    """How a column is named as an origin."""
    return f"{table}/{column}"


def merged_columns(
    before: Mapping[str, Any], given: Mapping[str, str | None], *, raising_only: bool
) -> dict[str, str]:
    """Columns' classifications with what is given; None takes one away, unless only raising.

    Args:
        before: by column, as the attribute holds them.
        given: by column.
        raising_only: keep what is higher already.
    """
    after = {str(name): str(value) for name, value in before.items()}
    known = {name.lower(): name for name in after}
    for column, value in given.items():
        name = known.get(column.lower(), column)
        level = None if value is None else str(Classification(value))
        if raising_only and (level is None or lowers(after.get(name), level)):
            continue
        if level is None:
            after.pop(name, None)
        else:
            after[name] = level
    return dict(sorted(after.items()))


def lowered_columns(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The columns whose classification falls from one attribute to the next."""
    return [name for name, level in before.items() if lowers(level, after.get(name))]


def declared_of(attributes: Mapping[str, Any]) -> dict[str, Classification]:
    """By column, in lower case, what is said of it in an asset's attributes."""
    found = attributes.get(COLUMNS) or {}
    return {str(name).lower(): Classification(level) for name, level in found.items()}


def origins_of(attributes: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """By column, in lower case, the columns that it was made of."""
    found = attributes.get(ORIGINS) or {}
    return {str(name).lower(): tuple(made_of) for name, made_of in found.items()}


class ColumnLineage:
    """What is known of the columns of tables, through their origins, in one transaction."""

    def __init__(self, catalog: Catalog, connection: Connection) -> None:
        self._catalog = catalog
        self._connection = connection
        self._attributes: dict[str, Mapping[str, Any]] = {}

    def classes(self, table: str) -> dict[str, Classification]:
        """How secret each classified column of a table is, by its name in lower case."""
        found = {name: self._class(table, name, 0) for name in self.known(table)}
        return {name: level for name, level in found.items() if level is not None}

    def known(self, table: str) -> set[str]:
        """The columns of a table of which anything is known, in lower case."""
        attributes = self._of(table)
        return {*declared_of(attributes), *origins_of(attributes)}

    def sources(self, table: str, column: str) -> set[tuple[str, str]]:
        """All (table, column) that a column comes from, itself among them; in lower case."""
        found: set[tuple[str, str]] = set()
        waiting = [(table, column.lower())]
        while waiting:
            one = waiting.pop()
            if one in found:
                continue
            found.add(one)
            for text in origins_of(self._of(one[0])).get(one[1], ()):
                waiting.append(_split(text))
        return found

    def tables(self, table: str) -> set[str]:
        """All tables that rows of a table come from, itself among them."""
        found: set[str] = set()
        waiting = [table]
        while waiting:
            one = waiting.pop()
            if one in found:
                continue
            found.add(one)
            for made_of in origins_of(self._of(one)).values():
                waiting += [_split(text)[0] for text in made_of]
        return found

    def _class(self, table: str, column: str, depth: int) -> Classification | None:
        attributes = self._of(table)
        own = declared_of(attributes).get(column)
        if depth >= _DEEPEST:
            return own
        behind = origins_of(attributes).get(column, ())
        return most_secret([own, *(self._class(*_split(text), depth + 1) for text in behind)])

    def _of(self, table: str) -> Mapping[str, Any]:
        if table not in self._attributes:
            ref = AssetRef("table", table)
            known = self._catalog.exists(self._connection, ref)
            self._attributes[table] = (
                self._catalog.get(self._connection, ref).attributes if known else {}
            )
        return self._attributes[table]


def _split(text: str) -> tuple[str, str]:
    table, _, column = text.partition("/")
    return table, column.lower()


__all__ = [
    "COLUMNS",
    "OF_PEOPLE",
    "ORIGINS",
    "ColumnLineage",
    "declared_of",
    "lowered_columns",
    "merged_columns",
    "most_secret",
    "origin",
    "origins_of",
]
