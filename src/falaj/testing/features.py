"""For tests of features: a lake in memory, and definitions out of a list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.catalog.definitions import Definition
from falaj.features.model import FeatureView
from falaj.features.versions import State, ViewVersion
from falaj.kernel.errors import NotFound
from falaj.lake.model import Extent, Snapshot
from falaj.lake.personal import PersonalRule
from falaj.trust.keys import checked_purpose


class GivenDefinitions:
    """Definitions that were given; fulfils ``features.versions.AppliedViews``.

    Each is version 1 and current, but for views in ``earlier``: (view, version), which are
    live as well.
    """

    def __init__(self, *definitions: Definition) -> None:
        self.found = {(item.kind, item.name): item for item in definitions}
        self.earlier: list[tuple[FeatureView, int]] = []

    def get(self, kind: str, name: str) -> Definition:
        """The definition; raises NotFound."""
        if (kind, name) not in self.found:
            raise NotFound(f"There is no {kind} {name!r}.")
        return self.found[kind, name]

    def version(self, kind: str, name: str, version: int) -> Definition:
        """One version of a definition; raises NotFound."""
        for view, number in self.earlier:
            if (view.kind, view.name, number) == (kind, name, version):
                return view
        return self.get(kind, name)

    def view_versions(self) -> Sequence[ViewVersion]:
        """Every version of every view, by name, the newest first."""
        found = [ViewVersion(view, number, State.LIVE) for view, number in self.earlier]
        for view in self.all(FeatureView.kind):
            if isinstance(view, FeatureView):
                newest = max((n for one, n in self.earlier if one.name == view.name), default=0)
                found.append(ViewVersion(view, newest + 1, State.CURRENT))
        return sorted(found, key=lambda one: (one.view.name, -one.version))

    def all(self, kind: str) -> Sequence[Definition]:
        """All of a kind."""
        return [item for item in self.found.values() if item.kind == kind]


class FixedSecrets:
    """Secrets that follow from their purpose; fulfils ``features.ports.Secrets``."""

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """The hash of the purpose; a name that no key service takes is refused."""
        return hashlib.shake_256(checked_purpose(purpose).encode()).digest(n_bytes)


def _fixed_lists(schema: pa.Schema) -> set[str]:
    return {one.name for one in schema if pa.types.is_fixed_size_list(one.type)}


class MemoryLake:
    """What features use of a lake, in memory: append, replace, scan, log, snapshots.

    It keeps personal rules, and seals nothing: what it holds is in nobody's files.
    """

    def __init__(self, **tables: pa.Table) -> None:
        self._rules: dict[str, PersonalRule] = {}
        self._states: list[dict[str, _Log]] = [
            {
                name: _Log(0, np.arange(rows.num_rows), rows.num_rows, rows)
                for name, rows in tables.items()
            }
        ]
        self._keys: dict[str, Snapshot] = {}

    def record_rule(self, rule: PersonalRule) -> None:
        """Keep a rule."""
        self._rules[rule.table] = rule

    def rule(self, table: str) -> PersonalRule | None:
        """The rule of a table."""
        return self._rules.get(table)

    def rule_of_query(self, sql: str, table: str, columns: Sequence[str]) -> PersonalRule | None:
        """None: nothing is sealed here."""
        return None

    def n_erasures(self) -> int:
        """0: nothing is sealed here."""
        return 0

    def n_erased(self, table: str, snapshot: int | None = None) -> int:
        """0: nothing is sealed here."""
        return 0

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
            known = state.get(table)
            if known is None:
                known = _Log(len(self._states), np.arange(0), 0, given.slice(0, 0))
            end = known.end + given.num_rows
            positions = np.concatenate([known.positions, np.arange(known.end, end)])
            # Lists of one length and of any length are one kind of column to a real lake.
            fixed = [_fixed_lists(one.schema) for one in (known.rows, given)]
            how = "default" if fixed[0] == fixed[1] else "permissive"
            whole = pa.concat_tables([known.rows, given], promote_options=how)
            state[table] = _Log(known.identity, positions, end, whole)
        return self._kept(state, key)

    def replace(self, table: str, rows: pa.Table, *, key: str | None = None) -> Snapshot:
        """Put rows in the place of all rows; positions go on."""
        known = self._states[-1][table]
        end = known.end + rows.num_rows
        log = _Log(known.identity, np.arange(known.end, end), end, rows)
        return self._kept({**self._states[-1], table: log}, key)

    def _kept(self, state: dict[str, _Log], key: str | None) -> Snapshot:
        self._states.append(state)
        snapshot = Snapshot(id=self.latest(), at=datetime.now(UTC))
        if key is not None:
            self._keys[key] = snapshot
        return snapshot

    def latest(self) -> int:
        """The newest snapshot; the first is 1."""
        return len(self._states)

    def tables(self, snapshot: int | None = None) -> list[str]:
        """The names of all tables; raises NotFound of a snapshot."""
        return sorted(self._state(snapshot))

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """The table's columns; raises NotFound."""
        return self._table(table, snapshot).rows.schema

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        snapshot: int | None = None,
        **_: Any,
    ) -> pa.Table:
        """The rows in the order in which they were written; raises NotFound."""
        found = self._table(table, snapshot).rows
        return found if columns is None else found.select(list(columns))

    def extent(
        self, table: str, snapshot: int | None = None, *, before: int | None = None
    ) -> Extent:
        """See ``Lake.extent``."""
        log = self._table(table, snapshot)
        positions = log.positions if before is None else log.positions[log.positions < before]
        end = int(positions[-1]) + 1 if len(positions) else 0
        return Extent(identity=str(log.identity), n_rows=len(positions), end=end)

    def log(
        self,
        table: str,
        *,
        columns: Sequence[str],
        snapshot: int | None = None,
        since: int = 0,
        **_: Any,
    ) -> pa.RecordBatchReader:
        """See ``Lake.log``; the newest rows first, since the order is not defined."""
        log = self._table(table, snapshot)
        kept = np.flatnonzero(log.positions >= since)[::-1]
        rows = log.rows.select(list(columns)).take(pa.array(kept))
        rows = rows.add_column(0, "rowid", pa.array(log.positions[kept]))
        return rows.to_reader(max_chunksize=1000)

    def _table(self, table: str, snapshot: int | None) -> _Log:
        state = self._state(snapshot)
        if table not in state:
            raise NotFound(f"There is no table {table!r}.")
        return state[table]

    def _state(self, snapshot: int | None) -> dict[str, _Log]:
        at = self.latest() if snapshot is None else snapshot
        if not 0 < at <= self.latest():
            raise NotFound(f"The lake has no snapshot {at}.")
        return self._states[at - 1]


@dataclass(frozen=True)
class _Log:
    """The rows of a table at one snapshot, with the position of each."""

    identity: int
    positions: Any
    end: int
    rows: pa.Table
