"""What 64 callers that want a durable audit record get: records a second, and how long each waits.

On SQLite and on a PostgreSQL of the test wheels, each started for this run. The floor is one
durable transaction for each record, by the same driver, as long as it takes.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, quantile, report

from falaj.kernel.commits import Commits
from falaj.kernel.database import Database, metadata
from falaj.testing.audit import make_entry
from falaj.testing.servers import PostgresServer
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpoints
from falaj.trust.audit_verification import Verifier

CALLERS, RATE, P99_MS = 64, 20_000, 10
RECORDS = {"small": 12_800, "full": 64_000}
VERSIONS = {"sqlalchemy": version("sqlalchemy"), "psycopg": version("psycopg")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rows += measured("SQLite", f"sqlite:///{Path(folder) / 'audit.db'}", RECORDS[given.size])
    with tempfile.TemporaryDirectory() as folder:
        server = PostgresServer(Path(folder))
        name = server.create_database()
        try:
            rows += measured("PostgreSQL", server.url(name), RECORDS[given.size])
        finally:
            server.drop_database(name)
            server.close()
    report("trust", f"Durable audit records of {CALLERS} callers", rows, given)


def measured(engine: str, url: str, count: int) -> list[Row]:
    """Rates and waits of five rounds on one database; the log must be sound afterwards."""
    database = Database(url)
    metadata.create_all(database.engine)
    log = SqlAuditLog()
    commits = Commits(database, lambda: log)
    waits: list[float] = []
    rates, floors = [], []
    taken(commits, CALLERS * 10)
    for _ in range(5):
        rate, seconds = taken(commits, count)
        rates.append(rate)
        waits += seconds
        floors.append(one_by_one(database, log, 200))
    with database.reading() as connection:
        size = log.size(connection)
        found = Verifier(Checkpoints(keys())).verify(connection)
    database.close()
    if not found.sound or size != CALLERS * 10 + 5 * (count + 200):
        sys.exit(f"{engine}: {size} records, {found}")
    rate, p99 = median(rates), quantile(waits, 0.99) * 1e3
    stands = f"{CALLERS} callers, {count:,} records"
    return [
        Row(
            f"durable records, {engine}",
            stands,
            "records/s",
            rate,
            floor=median(floors),
            goal=f"≥ {RATE:,}/s",
            met=rate >= RATE,
            better="more",
            versions=VERSIONS,
        ),
        Row(
            f"wait of a caller, {engine}, p99",
            stands,
            "ms",
            p99,
            goal=f"≤ {P99_MS} ms",
            met=p99 <= P99_MS,
        ),
    ]


def taken(commits: Commits, count: int) -> tuple[float, list[float]]:
    """Records a second, and the seconds that each caller waited for each of its records."""
    waits: list[list[float]] = [[] for _ in range(CALLERS)]
    ready = threading.Barrier(CALLERS + 1)

    def caller(number: int) -> None:
        mine, each = waits[number], count // CALLERS
        entries = [make_entry(number * each + at) for at in range(each)]
        ready.wait()
        for entry in entries:
            started = time.perf_counter()
            commits.record((entry,))
            mine.append(time.perf_counter() - started)

    rate = timed(caller, ready, count)
    return rate, [seconds for mine in waits for seconds in mine]


def one_by_one(database: Database, log: SqlAuditLog, count: int) -> float:
    """Records a second when each has a durable transaction of its own, one after another."""
    started = time.perf_counter()
    for number in range(count):
        with database.transaction() as connection:
            log.append(connection, make_entry(number))
    return count / (time.perf_counter() - started)


def timed(work: Callable[[int], None], ready: threading.Barrier, count: int) -> float:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - started)


def keys() -> object:
    """Keys that sign nothing here: the log has no checkpoint yet."""
    from falaj.kernel.clock import SystemClock
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

    place = Path(tempfile.mkdtemp())
    return FileKeyring.create(
        place / "keys.json", MachineSeal.create(place / "secret"), clock=SystemClock()
    )


if __name__ == "__main__":
    main()
