"""The words of the lake: tables, columns, snapshots, and what can be wrong with them."""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from falaj.catalog.model import Classification
from falaj.kernel.errors import FalajError, InvalidInput

TABLE_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
COLUMN_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
KEPT_PREFIXES = ("ducklake_", "duckdb_", "sqlite_", "pragma_", "pg_")
"""Names that the engine keeps for itself."""


class SchemaMismatch(InvalidInput):
    """Rows do not have the columns or the types of the table that they are written to."""

    code = "schema-mismatch"


class QueryRefused(InvalidInput):
    """A query asks for more than reading the lake's own tables."""

    code = "query-refused"


class LakeBroken(FalajError):
    """The engine failed in a way that no input explains."""

    code = "lake-broken"


class Snapshot(BaseModel):
    """One committed state of the whole lake.

    ``id`` grows by one with each commit; ``at`` is the instant of the commit (UTC).
    """

    model_config = ConfigDict(frozen=True)

    id: int
    at: datetime
    changes: tuple[str, ...] = ()
    """What the commit did, such as ``tables_inserted_into``."""


class Column(BaseModel):
    """A column of a lake table; ``type`` is an Arrow type in words (``timestamp[us, tz=UTC]``)."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    classification: Classification | None = None
    """How secret the column is, where that is known of the column itself."""


class TableInfo(BaseModel):
    """A lake table as it stands at a snapshot.

    Of a table of which somebody sees some rows only, actions tell the number of those, and
    neither files nor bytes.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    columns: tuple[Column, ...]
    n_rows: int | None
    n_files: int | None
    n_bytes: int | None
    snapshot: int


class Extent(BaseModel):
    """How far the log of a table reaches at a snapshot.

    ``identity`` names the table itself: one that was dropped and made anew has another.
    ``n_rows`` are there, each at a position of its own below ``end``.
    """

    model_config = ConfigDict(frozen=True)

    identity: str
    n_rows: int
    end: int


class Compaction(BaseModel):
    """What a round of maintenance did."""

    model_config = ConfigDict(frozen=True)

    n_files_before: int
    n_files_after: int
    n_files_deleted: int = 0
    n_snapshots_expired: int = 0


def table_name(name: str) -> str:
    """The name itself, if a lake table may have it.

    Raises:
        InvalidInput: it is not lower snake case of at most 63 characters.
    """
    if not TABLE_NAME.match(name) or name.startswith(KEPT_PREFIXES):
        raise InvalidInput(
            f"{name!r} cannot be the name of a lake table.",
            hint="Use lower snake case of at most 63 characters, such as flight_delays.",
        )
    return name
