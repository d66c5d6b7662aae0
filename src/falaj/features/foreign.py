"""Foreign tables: what somebody else writes, opened where it lies, at one version.

A table is opened as *parts* (row groups or files) in the order of its rows, each of which
can be read column by column from any thread. What was opened carries a *pin*, a text that
names its version: a Delta version, an Iceberg snapshot, or the list of Parquet files with
their sizes and times. With a pin the same version is opened again, or it is said that it is
no longer there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from falaj.features.sources import ForeignTable, Format
from falaj.kernel.errors import Conflict, Unavailable


class ForeignChanged(Conflict):
    """A foreign table is not any more what it was when it was read."""

    code = "foreign-changed"


class ForeignUnreadable(Unavailable):
    """A foreign table cannot be read, or its reader is not installed."""

    code = "foreign-unreadable"
    retryable = False


class Part(Protocol):
    """Some consecutive rows of a foreign table.

    ``name`` tells people where they are. ``read`` gives the asked columns of all its rows,
    always in the same order, and may be called from any thread.
    """

    @property
    def name(self) -> str:
        """Where the rows are, for a message."""
        ...

    @property
    def n_rows(self) -> int | None:
        """How many there are, if that is known before they are read."""
        ...

    def least(self, column: str) -> object:
        """The smallest value of a column as its statistics have it; None if not known."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The rows; ``columns`` are of the table's schema."""
        ...


class Opened(Protocol):
    """A foreign table at one version."""

    @property
    def pin(self) -> str:
        """Names the version."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        ...

    @property
    def parts(self) -> Sequence[Part]:
        """All rows, in their order."""
        ...

    def check(self) -> None:
        """Raises ForeignChanged if what was read since it was opened may not be that version."""
        ...


class Reader(Protocol):
    """Opens the tables of one format."""

    def open(self, table: ForeignTable, pin: str | None) -> Opened:
        """The table, as it is now or as the pin says.

        Raises:
            SourceBroken: it is not there, or lies where it may not be read.
            ForeignChanged: the pinned version is gone.
            ForeignUnreadable: a file is broken, or a package is not installed.
        """
        ...


class Places(Protocol):
    """Says which files and folders may be read; ``ingest.files.Files`` fulfils it."""

    def matching(self, pattern: str, told: str) -> list[Path]:
        """The permitted files of a path or glob; raises SourceBroken."""
        ...

    def folder(self, path: str, told: str) -> Path:
        """A permitted folder; raises SourceBroken."""
        ...

    def check(self, path: Path, told: str) -> None:
        """Raises SourceBroken if a file may not be read."""
        ...


class ForeignTables:
    """Opens foreign tables of every format.

    Args:
        readers: by format.
    """

    def __init__(self, readers: Mapping[Format, Reader]) -> None:
        self._readers = dict(readers)

    def open(self, table: ForeignTable, pin: str | None = None) -> Opened:
        """A table at its present version, or at the pinned one; raises as ``Reader.open``."""
        reader = self._readers.get(table.format)
        if reader is None:
            raise ForeignUnreadable(
                f"Foreign tables of the format {table.format} cannot be read here."
            )
        return reader.open(table, pin)

    def schema(self, table: ForeignTable) -> pa.Schema:
        """The columns of a table; raises as ``open``."""
        return self.open(table).schema


def told(table: ForeignTable) -> str:
    """A table as an error names it."""
    return f"The foreign table {table.name!r}"


def changed(table: ForeignTable, why: str) -> ForeignChanged:
    """The error of a version that is gone."""
    return ForeignChanged(
        f"{told(table)} is not what it was: {why}.",
        hint="What was made of it stays as it was made; make it again from the table as it is.",
    )


def not_installed(table: ForeignTable, package: str, extra: str) -> ForeignUnreadable:
    """The error of a reader that is not installed."""
    return ForeignUnreadable(
        f"{told(table)} is in the format {table.format}, for which {package} is needed.",
        hint=f"Install it with `pip install 'falaj[{extra}]'`.",
    )


def unreadable(table: ForeignTable, error: Exception) -> ForeignUnreadable:
    """The error of a file that its reader refuses."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return ForeignUnreadable(
        f"{told(table)} cannot be read: {reason[:300]}.",
        hint=f"It must be a whole table in the format {table.format}.",
    )
