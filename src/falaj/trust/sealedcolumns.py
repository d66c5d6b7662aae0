"""Secrets that are sealed into columns of the metadata database, to be put under another key."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, select, update

from falaj.kernel.database import Database
from falaj.kernel.errors import Corrupt
from falaj.trust.ports import KeyService
from falaj.trust.sealing import resealed, rewrapped, sealed_under


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values."""

    key: Column[str]
    """The primary key of its table."""
    value: Column[bytes]
    context: Callable[[str], str]
    """Under which the value of a row is sealed, by the row's key."""

    @property
    def name(self) -> str:
        """``table.column``."""
        return f"{self.value.table.name}.{self.value.name}"


class SealedColumns:
    """Sealed columns of a database; fulfils ``Rewrappable``. An item is ``table.column/key``.

    A value is exchanged only for the one that was read: what somebody else has changed
    meanwhile stands under the active key already.
    """

    name = "database"

    def __init__(
        self, database: Database, keys: KeyService, columns: Sequence[SealedColumn]
    ) -> None:
        self._database = database
        self._keys = keys
        self._columns = {column.name: column for column in columns}

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``."""
        found: list[tuple[str, str]] = []
        with self._database.reading() as connection:
            for column in self._columns.values():
                rows = select(column.key, column.value).where(column.value.is_not(None))
                found += [
                    (f"{column.name}/{key}", _key_id(value))
                    for key, value in connection.execute(rows)
                ]
        yield from (item for item in sorted(found) if item[0] > after)

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        return self._replaced(item, rewrapped)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        return self._replaced(item, resealed)

    def _replaced(self, item: str, copy: Callable[..., None]) -> bool:
        name, _, key = item.partition("/")
        column = self._columns[name]
        at = column.key == key
        with self._database.reading() as connection:
            value = connection.execute(select(column.value).where(at)).scalar()
        if value is None:
            return False
        target = io.BytesIO()
        copy(io.BytesIO(value), target, self._keys, context=column.context(key))
        change = update(column.value.table).where(at, column.value == value)
        with self._database.transaction() as connection:
            done = connection.execute(change.values({column.value.name: target.getvalue()}))
            return bool(done.rowcount)


def _key_id(value: bytes) -> str:
    try:
        return sealed_under(io.BytesIO(value)).key_id
    except Corrupt:
        return ""
