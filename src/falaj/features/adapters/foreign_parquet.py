"""Foreign tables of Parquet files: a path or a glob, its files in the order of their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from falaj.features.foreign import ForeignUnreadable, Opened, Places, changed, told, unreadable
from falaj.features.sources import ForeignTable


class ParquetReader:
    """Opens foreign tables of Parquet files.

    Args:
        places: which files may be read.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def open(self, table: ForeignTable, pin: str | None) -> Opened:
        """The files as they are; see ``foreign.Reader.open``."""
        paths = self._places.matching(table.location, told(table))
        opened = _Files(table, [path.resolve() for path in paths])
        if pin is not None and pin != opened.pin:
            raise changed(table, "a file was added, removed or written anew")
        return opened


@dataclass(frozen=True)
class _RowGroup:
    table: ForeignTable
    path: Path
    metadata: pq.FileMetaData
    number: int

    @property
    def name(self) -> str:
        return f"row group {self.number} of {self.path.name}"

    @property
    def n_rows(self) -> int:
        return int(self.metadata.row_group(self.number).num_rows)

    def least(self, column: str) -> object:
        group = self.metadata.row_group(self.number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema == column:
                known = chunk.statistics
                return known.min if known is not None and known.has_min_max else None
        return None

    def read(self, columns: Sequence[str]) -> pa.Table:
        try:
            with pq.ParquetFile(
                self.path, metadata=self.metadata, memory_map=True, pre_buffer=False
            ) as file:
                return file.read_row_group(self.number, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.table, error) from None


class _Files:
    """Some Parquet files with the same columns."""

    def __init__(self, table: ForeignTable, paths: Sequence[Path]) -> None:
        self._table = table
        self._paths = tuple(paths)
        self.pin = self._stamp()
        self.parts: list[_RowGroup] = []
        self.schema: pa.Schema = pa.schema([])
        for path in self._paths:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            metadata = pq.read_metadata(path, memory_map=True)
            schema = metadata.schema.to_arrow_schema().remove_metadata()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self._table, error) from None
        if path != self._paths[0] and schema != self.schema:
            differing = set(schema) ^ set(self.schema)
            names = ", ".join(sorted({field.name for field in differing})[:5])
            raise ForeignUnreadable(
                f"The files {self._paths[0].name} and {path.name} of the foreign table "
                f"{self._table.name!r} differ in {names or 'the order of their columns'}.",
                hint="Write them with the same columns, or name fewer files.",
            )
        self.schema = schema
        self.parts += [
            _RowGroup(self._table, path, metadata, number)
            for number in range(metadata.num_row_groups)
        ]

    def _stamp(self) -> str:
        digest = hashlib.sha256()
        root = os.path.commonpath([path.parent for path in self._paths])
        for path in self._paths:
            try:
                known = path.stat()
            except OSError as error:
                raise unreadable(self._table, error) from None
            name = path.relative_to(root)  # the table may be moved as a whole
            digest.update(f"{name}\0{known.st_size}\0{known.st_mtime_ns}\0".encode())
        return f"parquet:{len(self._paths)}:{digest.hexdigest()}"

    def check(self) -> None:
        if self._stamp() != self.pin:
            raise changed(self._table, "its files were written while they were read")
