"""Foreign tables in the Iceberg format, read at one snapshot.

Files are read through an input that looks at every path: metadata may name files anywhere,
and properties of a table could name code to load. The order of rows is that in which their
files were added (data sequence number), then by path, then that within a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from falaj.features.foreign import Opened, Places, changed, not_installed, told, unreadable
from falaj.features.sources import ForeignTable
from falaj.ingest.model import SourceBroken
from falaj.kernel.errors import FalajError

_PIN = "iceberg:"
_SUFFIX = ".metadata.json"
_NUMBER = re.compile(r"v?([0-9]+)")


class IcebergReader:
    """Opens Iceberg tables by their metadata file, or by their folder.

    Args:
        places: which folders and files may be read: those that the metadata names as well.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def open(self, table: ForeignTable, pin: str | None) -> Opened:
        """The current snapshot, or the pinned one; see ``foreign.Reader.open``."""
        try:
            from pyiceberg.catalog.noop import NoopCatalog
            from pyiceberg.serializers import FromInputFile
            from pyiceberg.table import StaticTable
        except ImportError:
            raise not_installed(table, "pyiceberg", "iceberg") from None
        location = str(self._metadata_file(table))
        files = _confined(self._places, table)
        try:
            metadata = FromInputFile.table_metadata(files.new_input(location))
            found = StaticTable(
                identifier=("static-table", location),
                metadata_location=location,
                metadata=metadata,
                io=files,
                catalog=NoopCatalog("static-table"),
            )
            return _Snapshot(table, found, _wanted(table, metadata, pin))
        except FalajError:
            raise
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise unreadable(table, error) from None

    def _metadata_file(self, table: ForeignTable) -> Path:
        """The metadata file, the newest one of a folder."""
        if table.location.endswith(_SUFFIX):
            return self._places.matching(table.location, told(table))[0].resolve()
        folder = self._places.folder(table.location, told(table))
        found = sorted((folder / "metadata").glob(f"*{_SUFFIX}"), key=_newness)
        if not found:
            raise SourceBroken(
                f"{told(table)} has no file metadata/*{_SUFFIX} in {table.location!r}.",
                hint="Name the folder or the metadata file of an Iceberg table.",
            )
        self._places.check(found[-1], told(table))
        return found[-1].resolve()


def _newness(path: Path) -> tuple[int, str]:
    number = _NUMBER.match(path.name)
    return (int(number[1]) if number else -1, path.name)


def _wanted(table: ForeignTable, metadata: Any, pin: str | None) -> int | None:
    """The number of the snapshot to read; None if the table has never been written."""
    current = metadata.current_snapshot_id
    if pin is None:
        return None if current in (None, -1) else int(current)
    identity, _, number = pin.removeprefix(_PIN).rpartition(":")
    if identity != str(metadata.table_uuid):
        raise changed(table, "there is another Iceberg table in its place")
    if number == "empty":
        return None
    if metadata.snapshot_by_id(int(number)) is None:
        raise changed(table, f"its snapshot {number} is expired")
    return int(number)


def _confined(places: Places, table: ForeignTable) -> Any:
    """Inputs that are opened only where files may be read."""
    from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

    class Confined(PyArrowFileIO):  # type: ignore[misc,unused-ignore]
        """Reads local files of permitted folders."""

        def new_input(self, location: str) -> PyArrowFile:
            """The file at a location; raises SourceBroken."""
            parts = urlsplit(location)
            if parts.scheme not in ("", "file"):
                raise SourceBroken(
                    f"{told(table)} names {location[:200]!r}, which is not on this disk.",
                    hint="Only tables that lie in the project's folder are read.",
                )
            path = unquote(parts.path) if parts.scheme else location
            places.check(Path(path), told(table))
            return super().new_input(path)

    return Confined({})


@dataclass(frozen=True)
class _File:
    """One data file with its deletes."""

    table: ForeignTable
    found: Any
    schema: Any
    task: Any

    @property
    def name(self) -> str:
        return Path(self.task.file.file_path).name

    @property
    def n_rows(self) -> int | None:
        return None if self.task.delete_files else int(self.task.file.record_count)

    def least(self, column: str) -> object:
        return None

    def read(self, columns: Sequence[str]) -> pa.Table:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        try:
            scan = ArrowScan(
                self.found.metadata, self.found.io, self.schema.select(*columns), AlwaysTrue()
            )
            return scan.to_table([self.task]).select(list(columns))
        except FalajError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unreadable(self.table, error) from None


class _Snapshot:
    """One snapshot; its files are never changed, only removed."""

    def __init__(self, table: ForeignTable, found: Any, number: int | None) -> None:
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        metadata = found.metadata
        self.pin = f"{_PIN}{metadata.table_uuid}:{'empty' if number is None else number}"
        scan = found.scan(snapshot_id=number)
        schema = scan.projection() if number is not None else metadata.schema()
        self.schema: pa.Schema = schema_to_pyarrow(schema, include_field_ids=False)
        tasks = [] if number is None else list(scan.plan_files())
        added = {} if number is None else _added(found, number)
        tasks.sort(key=lambda one: (*added[one.file.file_path], one.file.file_path))
        self.parts = [_File(table, found, schema, task) for task in tasks]

    def check(self) -> None:
        """Files of a snapshot are immutable: what was read is what the metadata says."""


def _added(found: Any, number: int) -> dict[str, tuple[int, int]]:
    """Of each data file of a snapshot, its data sequence number and when it was added (ms)."""
    metadata = found.metadata
    times = {one.snapshot_id: int(one.timestamp_ms) for one in metadata.snapshots}
    return {
        entry.data_file.file_path: (
            int(entry.sequence_number or 0),
            times.get(entry.snapshot_id, 0),
        )
        for manifest in metadata.snapshot_by_id(number).manifests(found.io)
        for entry in manifest.fetch_manifest_entry(found.io, discard_deleted=True)
    }
