"""For tests of features: a lake in memory, and definitions out of a list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from falaj.catalog.definitions import Definition
from falaj.kernel.errors import NotFound
from falaj.lake.model import Snapshot
from falaj.trust.keys import checked_purpose


class GivenDefinitions:
    """Definitions that were given; fulfils ``features.plan.DefinitionAccess``."""

    def __init__(self, *definitions: Definition) -> None:
        self.found = {(item.kind, item.name): item for item in definitions}

    def get(self, kind: str, name: str) -> Definition:
        """The definition; raises NotFound."""
        if (kind, name) not in self.found:
            raise NotFound(f"There is no {kind} {name!r}.")
        return self.found[kind, name]

    def all(self, kind: str) -> Sequence[Definition]:
        """All of a kind."""
        return [item for item in self.found.values() if item.kind == kind]


class FixedSecrets:
    """Secrets that follow from their purpose; fulfils ``features.ports.Secrets``."""

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """The hash of the purpose; a name that no key service takes is refused."""
        return hashlib.shake_256(checked_purpose(purpose).encode()).digest(n_bytes)


class MemoryLake:
    """What features use of a lake, in memory: append, scan, schema, snapshots."""

    def __init__(self, **tables: pa.Table) -> None:
        self._states: list[dict[str, pa.Table]] = [dict(tables)]
        self._keys: dict[str, Snapshot] = {}

    def append(self, table: str, rows: pa.Table, *, key: str | None = None, **_: Any) -> Snapshot:
        """Add rows once per key."""
        return self.append_many({table: rows}, key=key)

    def append_many(
        self, rows: Mapping[str, pa.Table], *, key: str | None = None, **_: Any
    ) -> Snapshot:
        """Add rows to several tables once per key."""
        if key is not None and key in self._keys:
            return self._keys[key]
        state = dict(self._states[-1])
        for table, given in rows.items():
            before = [state[table]] if table in state else []
            state[table] = pa.concat_tables([*before, given], promote_options="default")
        self._states.append(state)
        snapshot = Snapshot(id=self.latest(), at=datetime.now(UTC))
        if key is not None:
            self._keys[key] = snapshot
        return snapshot

    def latest(self) -> int:
        """The newest snapshot; the first is 1."""
        return len(self._states)

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """The table's columns; raises NotFound."""
        return self._table(table, snapshot).schema

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        snapshot: int | None = None,
        **_: Any,
    ) -> pa.Table:
        """The rows in the order in which they were written; raises NotFound."""
        found = self._table(table, snapshot)
        return found if columns is None else found.select(list(columns))

    def _table(self, table: str, snapshot: int | None) -> pa.Table:
        state = self._states[(snapshot or self.latest()) - 1]
        if table not in state:
            raise NotFound(f"There is no table {table!r}.")
        return state[table]
