"""Foreign tables in the Delta format, read at one version of their log.

The order of rows is that in which their files were added, then that within a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from falaj.features.foreign import Opened, Places, changed, not_installed, told, unreadable
from falaj.features.sources import ForeignTable
from falaj.ingest.model import SourceBroken

_PIN = "delta:"


class DeltaReader:
    """Opens Delta tables in a folder.

    Args:
        places: which folders and files may be read: those that the log names as well.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def open(self, table: ForeignTable, pin: str | None) -> Opened:
        """The newest version of the log, or the pinned one; see ``foreign.Reader.open``."""
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import DeltaError
        except ImportError:
            raise not_installed(table, "deltalake", "delta") from None
        folder = self._places.folder(table.location, told(table))
        self._places.check(folder / "_delta_log", told(table))
        identity, version = _parsed(pin)
        try:
            found = DeltaTable(str(folder), version=version)
        except (DeltaError, OSError) as error:
            if version is not None:
                raise changed(table, f"version {version} cannot be read any more") from None
            raise unreadable(table, error) from None
        if identity not in ("", found.metadata().id):
            raise changed(table, "there is another Delta table in its folder")
        try:
            self._confine(table, folder, found.file_uris())
            return _DeltaVersion(table, found)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise unreadable(table, error) from None

    def _confine(self, table: ForeignTable, folder: Path, files: Sequence[str]) -> None:
        """The log may name files anywhere: refuse those outside of the permitted folders."""
        for uri in files:
            parts = urlsplit(uri)
            if parts.scheme not in ("", "file"):
                raise SourceBroken(
                    f"{told(table)} names the file {uri[:200]!r}, which is not on this disk.",
                    hint="Only tables that lie in the project's folder are read.",
                )
            path = Path(unquote(parts.path) if parts.scheme else uri)
            self._places.check(path if path.is_absolute() else folder / path, told(table))


def _parsed(pin: str | None) -> tuple[str, int | None]:
    if pin is None:
        return "", None
    identity, _, version = pin.removeprefix(_PIN).rpartition(":")
    return identity, int(version)


@dataclass(frozen=True)
class _Fragment:
    """One row group of one file, with the values of its partition."""

    table: ForeignTable
    fragment: Any
    schema: pa.Schema

    @property
    def name(self) -> str:
        return f"{Path(self.fragment.path).name}"

    @property
    def n_rows(self) -> int | None:
        return int(sum(group.num_rows for group in self.fragment.row_groups))

    def least(self, column: str) -> object:
        groups = self.fragment.row_groups
        known = groups[0].statistics if len(groups) == 1 else None
        return known[column]["min"] if known and column in known else None

    def read(self, columns: Sequence[str]) -> pa.Table:
        try:
            return self.fragment.to_table(
                schema=self.schema, columns=list(columns), use_threads=False
            )
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.table, error) from None


class _DeltaVersion:
    """One version; its files are never changed, only removed."""

    def __init__(self, table: ForeignTable, found: Any) -> None:
        dataset = found.to_pyarrow_dataset()
        self.pin = f"{_PIN}{found.metadata().id}:{found.version()}"
        self.schema: pa.Schema = dataset.schema
        added = pa.table(found.get_add_actions())
        times = dict(
            zip(
                added.column("path").to_pylist(),
                added.column("modification_time").to_pylist(),
                strict=True,
            )
        )
        fragments = sorted(
            dataset.get_fragments(),
            key=lambda one: (str(times.get(_relative(one.path), "")), one.path),
        )
        self.parts = [
            _Fragment(table, group, dataset.schema)
            for fragment in fragments
            for group in fragment.split_by_row_group()
        ]

    def check(self) -> None:
        """Files of a version are immutable: what was read is what the log says."""


def _relative(path: str) -> str:
    return path.lstrip("/")
