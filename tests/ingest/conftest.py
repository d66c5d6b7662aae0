from __future__ import annotations

import csv
import gzip
import io
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.ingest.contract_service import ContractService
from falaj.ingest.declared import DeclaredSources
from falaj.ingest.failing import FailingChecks
from falaj.ingest.files import Files
from falaj.ingest.model import CHECK_JOB, SCHEDULED_JOB, Contract, Source
from falaj.ingest.openness import Openness
from falaj.ingest.pipelines import KIND, Loading
from falaj.ingest.scheduled import ContractSchedules, ScheduledCheckJob
from falaj.ingest.service import SourceService
from falaj.ingest.tablechecks import TableChecks
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import FalajError
from falaj.kernel.jobs import Jobs, JobState, Worker
from falaj.kernel.outbox import Outbox
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.testing.calls import make_door, opened_call
from falaj.testing.fakes import MemoryAudit

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


class Workshop:
    """A platform with sources, contracts and a worker, in one folder."""

    def __init__(self, folder: Path, database, lake) -> None:
        self.folder = folder
        self.database = database
        self.lake = lake
        self.clock = SetClock(NOW)
        self.catalog = Catalog()
        self.definitions = Definitions(
            self.catalog,
            {"source": Source, "contract": Contract},
            {"source": DeclaredSources(self.catalog)},
        )
        self.audit = MemoryAudit()
        self.jobs = Jobs(database, self.clock, lease=timedelta(seconds=30))
        self.files = Files([folder])
        calls = Calls(database, self.audit, Outbox(), self.clock)
        self.alerts = Alerts(self.catalog, Incidents(self.catalog))
        self.loading = Loading(
            lake=lake,
            files=self.files,
            definitions=self.definitions,
            catalog=self.catalog,
            calls=calls,
            clock=self.clock,
            alerts=self.alerts,
        )
        openness = Openness(self.definitions, self.catalog, lake)
        failing = FailingChecks(self.alerts)
        self.checks = TableChecks(lake, self.definitions, calls, failing, openness)
        self.schedules = ContractSchedules(calls, self.jobs, self.definitions, self.alerts)
        self.asked: list[tuple[str, str]] = []
        self.refusal: FalajError | None = None
        handlers = {
            KIND: self.loading,
            CHECK_JOB: self.checks,
            SCHEDULED_JOB: ScheduledCheckJob(self.asking),
        }
        self.worker = Worker(self.jobs, handlers, name="w1")
        services = [
            SourceService(self.jobs, self.loading),
            ContractService(self.jobs, self.checks, self.schedules, lambda *_: True),
        ]
        self.door = make_door(database, services, resources=self.catalog, clock=self.clock)
        self.actions = {found.verb: found for found in SourceService.actions()}
        self.actions |= {f"contracts.{found.verb}": found for found in ContractService.actions()}
        self.stopped = threading.Event()

    def apply(self, *definitions):
        with opened_call(self.database, now=self.clock.now()) as call:
            self.definitions.apply(call, list(definitions))

    def ask(self, verb, **arguments):
        return self.door.call(self.actions[verb], arguments)

    def asking(self, principal):
        """Asks as the worker does."""

        def ask(name, values, named, key):
            self.asked.append((principal, key))
            if self.refusal is not None:
                raise self.refusal
            return self.ask(name, contract=values[0], **named).model_dump(mode="json")

        return ask

    def look(self, after=timedelta(hours=1)):
        """Look at the schedules after a while, and do all that follows; how many began."""
        self.clock.move(after)
        begun = self.schedules.run_once()
        for _ in range(2):  # a job that asks, and the one that was asked for
            while self.worker.run_one():
                pass
            self.schedules.run_once()
        return begun

    def load(self, source, **arguments):
        """Submit a load and run the worker; the job as it ended."""
        return self.ended(self.ask("load", source=source, **arguments))

    def checked(self, contract):
        """What a check of a contract's whole table found."""
        job = self.ended(self.ask("contracts.check", contract=contract))
        assert job.state is JobState.DONE, job.error
        return job.result

    def open_alerts(self):
        """The alerts, the newest first."""
        with self.database.reading() as connection:
            return self.alerts.listed(connection)

    def ended(self, job):
        """The job as the worker ended it."""
        self.clock.move(timedelta(seconds=1))
        while not self.job(job.id).state.ended:
            assert self.worker.run_one()
        return self.job(job.id)

    def loaded(self, source, **arguments):
        """The report of a load that must succeed."""
        job = self.load(source, **arguments)
        assert job.state is JobState.DONE, job.error
        return job.result

    def job(self, job_id):
        with self.database.reading() as connection:
            return self.jobs.get(connection, job_id)

    def write(self, name, rows, header=None):
        """A CSV file (compressed as its name says) of lists of texts."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for row in [*([header] if header else []), *rows]:
            writer.writerow(row)
        data = buffer.getvalue().encode()
        path = self.folder / name
        if name.endswith(".gz"):
            data = gzip.compress(data)
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("inside.csv", data)
        else:
            path.write_bytes(data)
        return path


@pytest.fixture(scope="session")
def lake_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="session")
def shared_lake(lake_folder):
    lake = DuckLake.in_folder(lake_folder, threads=2)
    yield lake
    lake.close()


@pytest.fixture
def workshop(tmp_path, sqlite_database, shared_lake):
    """Opening a lake takes half a second: tests share one, emptied."""

    def empty(cursor):
        for table in shared_lake.tables():
            cursor.execute(f"DROP TABLE lake.{table}")
        cursor.execute("DELETE FROM lake._falaj_writes")

    shared_lake._write(empty, [], None)
    return Workshop(tmp_path, sqlite_database, shared_lake)
