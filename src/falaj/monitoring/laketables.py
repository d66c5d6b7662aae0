"""Lake tables and their snapshots, as columns that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from falaj.kernel.errors import LimitExceeded
from falaj.monitoring.driftwords import TableDrift
from falaj.monitoring.tabledrift import compare_tables

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake

MOST_ROWS = 20_000_000
"""Of a table that is compared; a few of its columns are in memory at a time."""


class LakeColumns:
    """One table at one snapshot, read by columns.

    Reads of one snapshot give the rows in one order: the engine keeps that of insertion.

    Args:
        lake: holds the table.
        table: its name.
        snapshot: as of which.
    """

    def __init__(self, lake: Lake, table: str, snapshot: int) -> None:
        self._lake = lake
        self._table = table
        self._snapshot = snapshot
        self._n_rows = lake.count(table, snapshot)

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return self._n_rows

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._lake.schema(self._table, self._snapshot)

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some columns, all rows."""
        return self._lake.scan(self._table, columns=names, snapshot=self._snapshot)


class LakeTables:
    """Compares tables of a lake.

    Args:
        lake: holds them.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def compared(
        self,
        reference: str,
        observed: str,
        snapshots: tuple[int | None, int | None],
        columns: Sequence[str] | None = None,
        *,
        seed: int = 0,
        together: bool = False,
    ) -> TableDrift:
        """Compare two tables as of two snapshots; None is the latest.

        Raises:
            NotFound: there is no such table at that snapshot.
            LimitExceeded: a table is too large to be compared at once.
            InvalidInput: as ``compare_tables``.
        """
        latest = self._lake.latest()
        first, second = (latest if one is None else one for one in snapshots)
        sides = LakeColumns(self._lake, reference, first), LakeColumns(self._lake, observed, second)
        for table, side in zip((reference, observed), sides, strict=True):
            if side.n_rows > MOST_ROWS:
                raise LimitExceeded(
                    f"{table!r} has {side.n_rows:,} rows; at most {MOST_ROWS:,} are compared.",
                    hint="Keep a sample of it as a table, and compare that.",
                )
        return compare_tables(*sides, columns=columns, seed=seed, together=together)
