"""Contracts held to a whole table as it stands: on request, and when its time has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from falaj.catalog.definitions import Definitions
from falaj.ingest import history
from falaj.ingest.conditions import Extent, Lookup, extent_sql
from falaj.ingest.contracts import Earlier, judge
from falaj.ingest.failing import FailingChecks, Look
from falaj.ingest.model import CheckResult, Contract
from falaj.ingest.openness import Openness
from falaj.ingest.typing import ROWS, Bench, bench, name
from falaj.kernel.calls import Calls
from falaj.kernel.errors import NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import JobRun
from falaj.lake.ports import Lake

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

_STREAM = "_stream"
_ROWS = 16_384
"""That are handed over at a time: with four times as many a pass takes 40 MB more, and no
less time."""


def lookup_in(lake: Lake, snapshot: int | None = None) -> Lookup:
    """Reads the tables that foreign keys name from the lake."""

    def look_up(table: str, columns: Sequence[str]) -> pa.Table | None:
        try:
            return lake.scan(table, columns=columns, snapshot=snapshot)
        except NotFound:
            return None

    return look_up


def hold(
    lake: Lake,
    table: str,
    contracts: Sequence[Contract],
    *,
    now: datetime,
    show_values: bool,
    earlier: Earlier = lambda _contract, _check: (),
    loaded_at: datetime | None = None,
    memory: str = "2GB",
    threads: int = 2,
) -> list[CheckResult]:
    """Hold the rows of a table to contracts, as they stream by; changes nothing.

    A whole table passes through once, and once more for the examples of what is broken; all
    passes see the same snapshot.

    Raises:
        NotFound: there is no such table.
        InvalidInput: a check names a column or table that there is not, or is wrong.
    """
    snapshot = lake.info(table).snapshot
    with (
        bench(memory=memory, threads=threads) as engine,
        _Stream(lake, table, snapshot, engine) as stream,
    ):
        engine.execute(f"CREATE TEMP VIEW {ROWS} AS SELECT * FROM {_STREAM}")
        return judge(
            engine,
            contracts,
            now=now,
            lookup=lookup_in(lake, snapshot),
            show_values=show_values,
            earlier=earlier,
            loaded_at=loaded_at,
            again=stream,
            extent=_extent_in(lake, table, snapshot),
        ).results


def _extent_in(lake: Lake, table: str, snapshot: int) -> Extent:
    """Tells the extents of the columns of a table, which the lake reads by themselves."""

    def told(column: str) -> tuple[int | None, int | None]:
        low, high = lake.query(extent_sql(column, name(table)), snapshot=snapshot).columns
        return low[0].as_py(), high[0].as_py()

    return told


class _Stream:
    """A table's rows as they stream by, laid before an engine; see ``contracts.Again``."""

    def __init__(self, lake: Lake, table: str, snapshot: int, engine: Bench) -> None:
        self._lake = lake
        self._table = table
        self._snapshot = snapshot
        self._engine = engine
        self._reader: pa.RecordBatchReader | None = None
        self._laid = False

    def __enter__(self) -> Self:
        self.whole()
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.unregister(_STREAM)
        self._close()

    def whole(self) -> None:
        """All rows, once."""
        self._close()
        self._reader = reader = self._lake.batches(
            self._table, snapshot=self._snapshot, rows_per_batch=_ROWS
        )
        self._lay(reader)

    def pieces(self) -> Iterator[int]:
        """A batch after the other; what nobody asks for is not read."""
        import pyarrow as pa

        self._close()
        self._reader = reader = self._lake.batches(
            self._table, snapshot=self._snapshot, rows_per_batch=_ROWS
        )
        n_before = 0
        for batch in reader:
            self._lay(pa.Table.from_batches([batch]))
            yield n_before
            n_before += batch.num_rows

    def _lay(self, rows: pa.RecordBatchReader | pa.Table) -> None:
        if self._laid:
            self._engine.unregister(_STREAM)
        self._engine.register(_STREAM, rows)
        self._laid = True

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class TableChecks:
    """The handler of the job ``contracts.check``: ``{"contract": name}``.

    Args:
        lake: holds the tables.
        definitions: where contracts and sources are declared.
        calls: opens the transactions of the job.
        failing: raises alerts.
        openness: tells of which tables values may be shown.
    """

    def __init__(
        self,
        lake: Lake,
        definitions: Definitions,
        calls: Calls,
        failing: FailingChecks,
        openness: Openness,
    ) -> None:
        self._openness = openness
        self._lake = lake
        self._definitions = definitions
        self._calls = calls
        self._failing = failing

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Hold a table to a contract; the results are kept; what used to pass alerts, and what
        passes again ends its alert. An attempt that follows one that had kept its results and was
        lost returns them.

        Returns ``{"check": id, "passed": bool, "results": [CheckResult as JSON]}``.

        Raises:
            NotFound: no such contract or table. InvalidInput: a check is wrong.
            LeaseLost: another worker checks; nothing was kept.
        """
        if run.checkpoint is not None:  # they are kept, and their worker died before it said so
            return dict(run.checkpoint)
        now = self._calls.now()
        with self._calls.database.reading() as connection:
            contract = self.contract(connection, str(arguments["contract"]))
            show = self._openness.of(connection, contract.table)
            past = history.figures(connection, [contract], via=history.BY_CHECK)
            loaded_at = history.loaded_at(connection, contract.table)
        run.report(0.05, f"checking {contract.table}")
        results = hold(
            self._lake,
            contract.table,
            [contract],
            now=now,
            show_values=show,
            earlier=past,
            loaded_at=loaded_at,
        )
        check = new_id("load")
        told = {
            "check": check,
            "passed": all(one.passed for one in results),
            "results": [one.model_dump(mode="json") for one in results],
        }
        with self._calls.opened(
            "contracts.check",
            run.submitted_by,
            resource=str(contract.ref),
            arguments={"contract": contract.name},
        ) as call:
            run.save(told, connection=call.connection)  # proves the lease
            self._failing.follow(call, [contract], results, Look(check, whole=True))
            history.record_results(call, check, contract.table, results, via=history.BY_CHECK)
            call.note(check=check, broken=sum(not one.passed for one in results))
        return told

    def contract(self, connection: Connection, name: str) -> Contract:
        """The contract of that name; raises NotFound."""
        found = self._definitions.definition(connection, Contract.kind, name)
        assert isinstance(found, Contract)  # noqa: S101 - the kind says so
        return found
