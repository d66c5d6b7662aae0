"""The actions of the lake: which tables there are, and what stands in them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from falaj.catalog.assets import Catalog, as_resource
from falaj.catalog.model import Classification
from falaj.catalog.service import Visible
from falaj.kernel.actions import Service, action
from falaj.kernel.binary import ArrowStream
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.model import Snapshot, TableInfo
from falaj.lake.personal import record_rule, rule_of_upload

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake

TABLE = "table"
"""The kind of a lake table's asset; its key is the table's name."""
MOST_ROWS = 1000


class TableSummary(BaseModel):
    """A lake table in a list."""

    name: str
    n_rows: int
    description: str = ""
    owner: str | None = None
    classification: Classification | None = None


class Rows(BaseModel):
    """Rows of a table at a snapshot, JSON-ready: instants in ISO 8601, bytes in hex."""

    table: str
    snapshot: int
    columns: list[str]
    rows: list[dict[str, Any]]
    n_total: int


class Uploaded(BaseModel):
    """Rows that were handed over, in a table named by their content."""

    table: str
    n_rows: int
    content_hash: str
    snapshot: int
    repeated: bool = False
    """True if they were there already."""


Tables = list[TableSummary]
Snapshots = list[Snapshot]
Names = list[str]


class TableService(Service):
    """Tables of the lake: their columns, snapshots and rows."""

    name = "tables"

    def __init__(self, lake: Lake, catalog: Catalog, visible: Visible) -> None:
        self._lake = lake
        self._catalog = catalog
        self._visible = visible

    @action(get="/tables")
    def list(self) -> Tables:
        """Every table that the caller may know of, with its number of rows."""
        found = []
        for name in self._lake.tables():
            ref = AssetRef(TABLE, name)
            if not self._catalog.exists(self.call.connection, ref):
                continue
            asset = self._catalog.get(self.call.connection, ref)
            if self._visible(self.call, as_resource(asset)):
                found.append(
                    TableSummary(
                        name=name,
                        n_rows=self._lake.count(name),
                        description=asset.description,
                        owner=asset.owner,
                        classification=asset.classification,
                    )
                )
        return found

    @action(get="/tables/{table}", on=TABLE)
    def get(self, table: str, *, snapshot: int | None = None) -> TableInfo:
        """A table's columns and types, rows, files and bytes, now or at a snapshot."""
        self._must_be_known(table)
        return self._lake.info(table, snapshot)

    @action(get="/tables/{table}/snapshots", on=TABLE)
    def snapshots(self, table: str) -> Snapshots:
        """The kept snapshots that changed a table, the oldest first."""
        self._must_be_known(table)
        return self._lake.snapshots(table)

    @action(get="/tables/{table}/rows", on=TABLE)
    def read(
        self,
        table: str,
        *,
        limit: int = 100,
        columns: Names | None = None,
        order_by: Names | None = None,
        snapshot: int | None = None,
    ) -> Rows:
        """The first rows of a table, at most 1,000, now or at a snapshot."""
        if not 1 <= limit <= MOST_ROWS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_ROWS}.")
        self._must_be_known(table)
        at = snapshot if snapshot is not None else self._lake.latest()
        found = self._lake.scan(table, columns=columns, order_by=order_by, limit=limit, snapshot=at)
        self.call.note(table=table, snapshot=at, rows=found.num_rows)
        return Rows(
            table=table,
            snapshot=at,
            columns=found.column_names,
            rows=[_readable(row) for row in found.to_pylist()],
            n_total=self._lake.count(table, at),
        )

    @action(post="/tables")
    def upload(
        self,
        rows: ArrowStream,
        *,
        description: str = "",
        classification: Classification | None = None,
        subject: str | None = None,
        subject_kind: str = "person",
        personal: Names | None = None,
    ) -> Uploaded:
        """Keep rows (an Arrow stream) in a table named by their content, in their order.

        The same rows have the same name, so a repeat changes nothing. The table belongs to
        the caller. Where ``subject`` names the column of whom the rows are about, it and
        the ``personal`` columns are sealed under that person's key.
        """
        given, digest = _from_stream(rows)
        table = f"rows_{digest.removeprefix('sha256:')[:48]}"
        repeated = self._lake.exists(table)
        if (rule := rule_of_upload(table, given, subject, subject_kind, personal)) is not None:
            record_rule(self._lake, rule)
        if repeated:
            snapshot = self._lake.latest()
        else:
            snapshot = self._lake.append(table, given, key=f"upload/{table}").id
        record_table(
            self.call,
            self._catalog,
            table,
            n_rows=given.num_rows,
            description=description,
            classification=classification,
        )
        self.call.note(table=table, n_rows=given.num_rows, snapshot=snapshot)
        return Uploaded(
            table=table,
            n_rows=given.num_rows,
            content_hash=digest,
            snapshot=snapshot,
            repeated=repeated,
        )

    def _must_be_known(self, table: str) -> None:
        """A table that the catalogue does not know has no classification to decide by."""
        if not self._catalog.exists(self.call.connection, AssetRef(TABLE, table)):
            raise NotFound(
                f"There is no table {table!r} in the catalogue.",
                hint="`falaj tables list` shows all that you may see.",
            )


def _from_stream(stream: bytes) -> tuple[pa.Table, str]:
    """The rows of an Arrow stream as a table keeps them, and their hash."""
    import pyarrow as pa

    from falaj.lake.content import canonical, content_hash
    from falaj.lake.rows import creatable, prepared

    try:
        with pa.ipc.open_stream(stream) as reader:
            rows = reader.read_all()
            rows.validate(full=True)
    except (pa.ArrowInvalid, OSError, StopIteration) as error:
        raise InvalidInput(
            f"The rows are not a stream of Arrow record batches: {error}.",
            hint="Write them with pyarrow.ipc.new_stream.",
        ) from None
    kept = creatable("the upload", canonical(prepared("the upload", rows)))
    return kept, content_hash(kept)


def record_table(
    call: Call,
    catalog: Catalog,
    table: str,
    *,
    snapshot: int | None = None,
    n_rows: int | None = None,
    description: str = "",
    owner: str | None = None,
    classification: Classification | None = None,
) -> AssetRef:
    """Record a lake table as an asset, with its snapshot and number of rows; returns its ref."""
    ref = AssetRef(TABLE, table)
    attributes = {
        name: value
        for name, value in (("snapshot", snapshot), ("n_rows", n_rows))
        if value is not None
    }
    catalog.record(
        call,
        ref,
        description=description,
        owner=owner,
        classification=classification,
        attributes=attributes,
    )
    return ref


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_readable(item) for item in value] if hasattr(value, "__iter__") else str(value)


__all__ = ["TABLE", "Rows", "TableService", "TableSummary", "record_table"]
