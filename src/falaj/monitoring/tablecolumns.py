"""Parquet files and tables in memory, as columns that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetColumns:
    """A Parquet file, read by columns.

    Args:
        path: of the file.
    """

    def __init__(self, path: Any) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return int(self._file.metadata.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._file.schema_arrow

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some columns, all rows."""
        return self._file.read(columns=list(names))


class ArrowColumns:
    """A table in memory.

    Args:
        table: its rows.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return int(self._table.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._table.schema

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some columns, all rows."""
        return self._table.select(list(names))
