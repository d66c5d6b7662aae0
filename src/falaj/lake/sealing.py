"""Sealing rows that were there before their table had a personal rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict
from falaj.lake.personal import n_erasures, refuse_erased_since

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falaj.lake.sealedcolumns import SubjectLake


@dataclass(frozen=True, slots=True)
class Resealed:
    """What came of it."""

    n_rows: int
    snapshot: int
    n_expired: int


@dataclass(frozen=True, slots=True)
class Sealing:
    """Writes tables anew under their rules."""

    lake: SubjectLake
    clock: Clock

    def seal(self, table: str, *, expire_snapshots: bool) -> Resealed:
        """Write all rows of a table anew, sealed; writers wait meanwhile, readers do not.

        Raises:
            NotFound: there is no such table. Conflict: it has no personal rule.
            ErasedWhileCopied: somebody was erased meanwhile; nothing was written.
        """
        n_rows = self.lake.count(table)
        if self.lake.rule(table) is None:
            raise Conflict(
                f"The table {table!r} has no personal rule to seal by.",
                hint="Name its subject in the source or the view that writes it, and apply that.",
            )

        def rows() -> Iterator[pa.Table]:
            before = n_erasures(self.lake)
            names = list(self.lake.schema(table).names)
            any_batch = False
            for batch in self.lake.log(table, columns=names, in_order=True):
                any_batch = True
                yield pa.Table.from_batches([batch]).select(names)
            if not any_batch:
                yield self.lake.schema(table).empty_table()
            refuse_erased_since(self.lake, before)

        written = self.lake.replace_in_batches(table, rows)
        n_expired = 0
        if expire_snapshots:
            done = self.lake.expire(older_than=self.clock.now(), grace_seconds=0)
            n_expired = done.n_snapshots_expired
        return Resealed(n_rows=n_rows, snapshot=written.id, n_expired=n_expired)


__all__ = ["Resealed", "Sealing"]
