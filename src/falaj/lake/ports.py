"""What this room needs of the world: a lake of tables and a store of blobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.model import Compaction, Extent, Snapshot, TableInfo


class Lake(Protocol):
    """Offline tables with snapshots.

    Guarantees of every adapter:

    - A write is whole or absent, also after ``kill -9`` and on a full disk, and is on disk
      when the call returns. Writers of many processes are served one after the other;
      a reader is never blocked by a writer and sees one snapshot.
    - ``key`` makes a write happen once: a repeat writes nothing and returns the first
      snapshot. Keys are remembered for 90 days at least.
    - Columns are matched by name. Integers and floats are widened without loss; any other
      difference of columns or types is a ``SchemaMismatch`` that names the column.
    - Instants are microseconds in UTC; a timestamp without a zone is refused.
    - Tables have no hidden columns: what was written is what is read.
    - Every row has a position in the log of its table. Positions grow with each write, are
      never given twice, and stay with their rows when files are compacted.
    """

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        key: str | None = None,
        add_columns: bool = False,
        since: int | None = None,
    ) -> Snapshot:
        """Add rows, creating the table at the first write.

        Args:
            table: lower snake case.
            rows: shape (n, columns); n may be 0.
            key: idempotency key; any text.
            add_columns: let columns that the table lacks be added (null in older rows).
            since: for a lake that seals: ``n_erasures`` before these rows were read, if they
                were kept by the platform before; None if they come from outside. Nobody who
                was erased since is sealed anew.

        Raises:
            ErasedWhileCopied: somebody may have been erased since; read the rows again.
            SchemaMismatch: names the wrong column. LimitExceeded: the disk is full.
            Conflict: the key was used for other tables. Unavailable: writers queue too long.
        """
        ...

    def append_many(
        self,
        rows: Mapping[str, pa.Table],
        *,
        key: str | None = None,
        add_columns: bool = False,
        replace: Collection[str] = (),
        since: int | None = None,
    ) -> Snapshot:
        """Append to several tables in one lake transaction: all or none.

        Args:
            rows: by table.
            key, add_columns, since: as for ``append``.
            replace: those of the tables whose rows are replaced instead.
        """
        ...

    def replace(self, table: str, rows: pa.Table, *, key: str | None = None) -> Snapshot:
        """Put these rows (and their columns) in the place of all rows of the table."""
        ...

    def replace_in_batches(self, table: str, batches: Callable[[], Iterable[pa.Table]]) -> Snapshot:
        """As ``replace``, of rows that are made while they are written, in one transaction.

        Args:
            batches: gives the rows from the first on; called again when the engine asks
                for another attempt. Other writers wait meanwhile; what it raises undoes
                the write.
        """
        ...

    def written(self, key: str) -> Snapshot | None:
        """The snapshot of the write with that idempotency key, if there was one."""
        ...

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """The rows of a table.

        Args:
            columns: which ones (default all).
            where: an SQL condition over the columns; ``$name`` stands for a parameter.
            order_by: column names, ascending; without it the order is not defined.
            snapshot: as of this snapshot (default the latest).

        Raises:
            NotFound: no such table at that snapshot. InvalidInput: no such column.
        """
        ...

    def batches(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        snapshot: int | None = None,
        order_by: Sequence[str] | None = None,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """As ``scan``, in batches, without holding the table in memory."""
        ...

    def extent(
        self, table: str, snapshot: int | None = None, *, before: int | None = None
    ) -> Extent:
        """How many rows there are, and where their positions end.

        Rows never change. So if of the positions before ``end`` of an earlier extent with
        the same identity as many rows are left as there were, the table has only been
        appended to since.

        Args:
            snapshot: as of this snapshot (default the latest).
            before: count only rows at positions below this one.

        Raises:
            NotFound: no such table at that snapshot.
        """
        ...

    def log(
        self,
        table: str,
        *,
        columns: Sequence[str],
        snapshot: int | None = None,
        since: int = 0,
        until: int | None = None,
        in_order: bool = False,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """The rows from a position on (and before another), in batches, in no order unless
        it is asked for.

        The first column of each batch holds the positions (int64), the others follow as
        asked for. Raises as ``scan`` does, and InvalidInput if the table has a column named
        ``rowid``, which hides the positions.
        """
        ...

    def query(
        self,
        sql: str,
        *,
        inputs: Mapping[str, pa.Table] | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """One SELECT over lake tables and ``inputs``, read-only, without files or network.

        Raises:
            QueryRefused: it is not one SELECT over these tables. InvalidInput: it is wrong.
        """
        ...

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """The columns and types; raises NotFound."""
        ...

    def info(self, table: str, snapshot: int | None = None) -> TableInfo:
        """Columns, number of rows, files and bytes; raises NotFound."""
        ...

    def count(self, table: str, snapshot: int | None = None) -> int:
        """The number of rows; raises NotFound."""
        ...

    def tables(self, snapshot: int | None = None) -> list[str]:
        """The names of all tables, sorted."""
        ...

    def exists(self, table: str) -> bool:
        """True if the table exists now."""
        ...

    def snapshots(self, table: str | None = None) -> list[Snapshot]:
        """The kept snapshots, oldest first; of a table, those that changed it."""
        ...

    def latest(self) -> int:
        """The id of the latest snapshot."""
        ...

    def compact(self) -> Compaction:
        """Merge small files; what is read stays the same at every kept snapshot."""
        ...

    def expire(self, *, older_than: datetime, grace_seconds: float = 3600.0) -> Compaction:
        """Forget snapshots before an instant (never the latest) and delete their files.

        Files are deleted once they have been unused for ``grace_seconds``, so that a reader
        that began earlier can finish.
        """
        ...

    def close(self) -> None:
        """Release files and memory; the lake opens again when it is used again."""
        ...


class StandInLake(Lake, Protocol):
    """A lake whose queries may read other rows in the place of a table's own."""

    def reads(self, sql: str, *, inputs: Collection[str] = ()) -> set[str]:
        """The tables of the lake that a query reads; raises as ``query`` does.

        Args:
            inputs: names that it may read besides.
        """
        ...

    def query(
        self,
        sql: str,
        *,
        inputs: Mapping[str, pa.Table] | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        stand_ins: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """See ``Lake.query``.

        Args:
            stand_ins: rows that are read where the query names these tables.
        """
        ...


class BlobWriter(Protocol):
    """Bytes on their way into a ``BlobStore``. Used by one thread at a time.

    Every method raises LimitExceeded if the disk is full, Unavailable if the store does not
    answer; then, too, the caller calls ``abandon``.
    """

    def write(self, data: bytes | memoryview, /) -> object:
        """Take bytes; the buffer may be used again when it returns."""
        ...

    def finish(self) -> None:
        """Bring the bytes to stable storage and under their key, as one ``put`` would."""
        ...

    def abandon(self) -> None:
        """Leave nothing behind; does nothing after ``finish``."""
        ...


class BlobStore(Protocol):
    """Bytes by key.

    A key is one or more parts of ``[A-Za-z0-9._=-]`` joined by ``/``. A ``put`` is atomic
    and on stable storage when it returns: a reader sees the old bytes or the new, whole.
    """

    def put(self, key: str, data: bytes | BinaryIO) -> int:
        """Keep bytes, replacing earlier ones; returns their number.

        Raises:
            InvalidInput: the key. LimitExceeded: the disk is full. Unavailable: no answer.
        """
        ...

    def create(self, key: str) -> BlobWriter:
        """Begin to keep bytes that arrive piece by piece; nothing is under the key before the end.

        Raises:
            InvalidInput: the key. LimitExceeded: the disk is full. Unavailable: no answer.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes; raises NotFound."""
        ...

    def open(self, key: str, *, start: int = 0) -> BinaryIO:
        """A stream of the bytes from one of them on, to be closed by the caller.

        Args:
            start: at most the number of bytes.

        Raises:
            NotFound: there are none. Unavailable: no answer.
        """
        ...

    def exists(self, key: str) -> bool:
        """True if there are bytes under this key."""
        ...

    def delete(self, key: str) -> None:
        """Remove; no error if there is nothing."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with a prefix, sorted."""
        ...

    def sweep(self, before: datetime) -> int:
        """Remove what killed writers left, begun before an instant; returns how many.

        A store that removes such things by a rule of its own does nothing.
        """
        ...
