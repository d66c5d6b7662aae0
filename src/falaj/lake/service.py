"""The actions of the lake: which tables there are, and what stands in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from falaj.catalog.assets import Catalog, as_resource
from falaj.catalog.columns import ColumnLineage
from falaj.catalog.model import Classification
from falaj.catalog.service import Visible
from falaj.kernel.actions import Service, action
from falaj.kernel.binary import ArrowStream
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound
from falaj.lake.model import Snapshot, TableInfo
from falaj.lake.personal import record_rule, rule_of_upload
from falaj.lake.sight import SeenInPart

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.lake.reading import GuardedLake
    from falaj.lake.sight import May

TABLE = "table"
"""The kind of a lake table's asset; its key is the table's name."""
MOST_ROWS = 1000


class TableSummary(BaseModel):
    """A lake table in a list."""

    name: str
    n_rows: int | None
    """None if a read rule shows the caller some of its rows only."""
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


class Found(BaseModel):
    """What a query gave, JSON-ready as ``Rows``."""

    snapshot: int
    columns: list[str]
    rows: list[dict[str, Any]]
    cut: bool = False
    """True if there are more rows than were asked for."""


Tables = list[TableSummary]
Snapshots = list[Snapshot]
Names = list[str]
Classes = dict[str, Classification | None]
Given = dict[str, Classification]
Sql = Annotated[str, Field(min_length=1, max_length=20_000)]


class TableService(Service):
    """Tables of the lake: their columns, snapshots and rows."""

    name = "tables"

    def __init__(
        self, lake: Lake, guarded: GuardedLake, catalog: Catalog, visible: Visible, may: May
    ) -> None:
        self._lake = lake
        self._guarded = guarded
        self._catalog = catalog
        self._visible = visible
        self._may = may

    @action(get="/tables")
    def list(self) -> Tables:
        """Every table that the caller may know of, with its number of rows if all are seen."""
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
                        n_rows=self._guarded.count_of_all(self.call, name),
                        description=asset.description,
                        owner=asset.owner,
                        classification=asset.classification,
                    )
                )
        return found

    @action(get="/tables/{table}", on=TABLE)
    def get(self, table: str, *, snapshot: int | None = None) -> TableInfo:
        """A table's columns, types and classifications, rows, files and bytes, now or then.

        Where a read rule hides rows, the number of those that the caller sees; how many files
        and bytes there are is then not told.
        """
        self._must_be_known(table)
        return self._info(table, snapshot)

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
        """The first rows of a table, at most 1,000, now or at a snapshot, as the caller sees them.

        Columns that the caller may not read are masked, rows that a read rule hides are absent.
        """
        if not 1 <= limit <= MOST_ROWS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_ROWS}.")
        self._must_be_known(table)
        at = snapshot if snapshot is not None else self._lake.latest()
        found = self._guarded.scan(
            self.call, table, columns=columns, order_by=order_by, limit=limit, snapshot=at
        )
        self.call.note(table=table, snapshot=at, rows=found.num_rows)
        return Rows(
            table=table,
            snapshot=at,
            columns=found.column_names,
            rows=[_readable(row) for row in found.to_pylist()],
            n_total=self._guarded.count(self.call, table, at),
        )

    @action(post="/queries")
    def query(self, sql: Sql, *, limit: int = 100, snapshot: int | None = None) -> Found:
        """One SELECT over tables as the caller sees them; its first rows, at most 1,000."""
        if not 1 <= limit <= MOST_ROWS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_ROWS}.")
        for table in sorted(self._guarded.tables_of(sql)):
            self._must_be_readable(table)
        at = snapshot if snapshot is not None else self._lake.latest()
        found = self._guarded.query(self.call, sql, snapshot=at)
        rows = found.slice(0, limit)
        self.call.note(snapshot=at, rows=rows.num_rows)
        return Found(
            snapshot=at,
            columns=rows.column_names,
            rows=[_readable(row) for row in rows.to_pylist()],
            cut=found.num_rows > limit,
        )

    @action(post="/tables/{table}/columns", on=TABLE)
    def classify(self, table: str, columns: Classes) -> TableInfo:
        """Say how secret single columns of a table are; lowering one takes a steward.

        null takes away what was said of a column.
        """
        self._must_be_known(table)
        self._must_have(table, columns)
        self._catalog.describe(self.call, AssetRef(TABLE, table), columns=columns)
        self.call.note(columns=sorted(columns))
        return self._info(table, None)

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
        classifications: Given = {},  # noqa: B006 - never changed; the default of a signature
    ) -> Uploaded:
        """Keep rows (an Arrow stream) in a table named by their content, in their order.

        The same rows have the same name, so a repeat changes nothing. The table belongs to
        the caller. ``classifications`` say how secret single columns are. Where ``subject``
        names the column of whom the rows are about, it and the ``personal`` columns are
        sealed under that person's key.
        """
        given, digest = _from_stream(rows)
        _known_columns("The upload", given.column_names, classifications)
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
            columns=classifications,
        )
        self.call.note(table=table, n_rows=given.num_rows, snapshot=snapshot)
        return Uploaded(
            table=table,
            n_rows=given.num_rows,
            content_hash=digest,
            snapshot=snapshot,
            repeated=repeated,
        )

    def _info(self, table: str, snapshot: int | None) -> TableInfo:
        info = self._lake.info(table, snapshot)
        classes = ColumnLineage(self._catalog, self.call.connection).classes(table)
        columns = [
            one.model_copy(update={"classification": classes.get(one.name.lower())})
            for one in info.columns
        ]
        told: dict[str, Any] = {"columns": tuple(columns)}
        if self._guarded.count_of_all(self.call, table, info.snapshot) is None:
            told |= {"n_rows": self._seen(table, info.snapshot), "n_files": None, "n_bytes": None}
        return info.model_copy(update=told)

    def _seen(self, table: str, snapshot: int) -> int | None:
        """The number of rows that the caller sees; None if those cannot be told from others."""
        try:
            return self._guarded.count(self.call, table, snapshot)
        except SeenInPart:
            return None

    def _must_be_known(self, table: str) -> None:
        """A table that the catalogue does not know has no classification to decide by."""
        if not self._catalog.exists(self.call.connection, AssetRef(TABLE, table)):
            raise NotFound(
                f"There is no table {table!r} in the catalogue.",
                hint="`falaj tables list` shows all that you may see.",
            )

    def _must_be_readable(self, table: str) -> None:
        """As the door decides about ``tables.read`` of one table."""
        self._must_be_known(table)
        resource = self._catalog.load(self.call.connection, AssetRef(TABLE, table))
        if self._may(self.call, "tables.read", resource):
            return
        if not self._visible(self.call, resource):
            raise NotFound(
                f"There is no table {table!r} in the catalogue.",
                hint="`falaj tables list` shows all that you may see.",
            )
        raise Forbidden(
            f"You may not read table:{table} as you stand.",
            hint="Personal data needs a purpose and a second factor from the last five minutes;"
            " else ask its owner for access.",
        )

    def _must_have(self, table: str, columns: Classes) -> None:
        if self._lake.exists(table):
            _known_columns(f"The table {table!r}", self._lake.schema(table).names, columns)


def _known_columns(told: str, there: Iterable[str], named: Iterable[str]) -> None:
    known = {name.lower() for name in there}
    for name in named:
        if name.lower() not in known:
            raise InvalidInput(
                f"{told} has no column {name!r}.", hint=f"It has: {', '.join(there)}."
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
    columns: Mapping[str, Classification] | None = None,
    origins: Mapping[str, Sequence[str]] | None = None,
) -> AssetRef:
    """Record a lake table as an asset, with its snapshot and number of rows; returns its ref.

    ``columns`` and ``origins`` are as for ``Catalog.record``.
    """
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
        columns=columns,
        origins=origins,
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
