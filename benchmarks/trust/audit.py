"""What the audit log costs: one append, a batch, a check of everything, one proof.

On SQLite. The floor of an append is the same insert without chain; that of the check is
one SHA-256 a record.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report

from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.testing.audit import fill, make_entry
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpointer, Checkpoints
from falaj.trust.audit_verification import Verifier

SIZES = {"small": [5_000, 20_000, 80_000], "full": [100_000, 500_000, 2_000_000]}
APPEND_MS, VERIFIED = 0.25, 300_000
VERSIONS = {"sqlalchemy": version("sqlalchemy")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keys = FileKeyring.create(
            place / "keys.json", MachineSeal.create(place / "secret"), clock=SystemClock()
        )
        database = Database(f"sqlite:///{place / 'audit.db'}")
        metadata.create_all(database.engine)
        checkpoints = Checkpoints(keys)
        rows = [appended(database)]
        for size in SIZES[given.size]:
            rows += checked(database, checkpoints, size)
        rows.append(proven(database, checkpoints))
        database.close()
    report("trust", "The audit log (SQLite)", rows, given)


def appended(database: Database) -> Row:
    """CPU time of one append in a transaction that is open already."""
    log, count = SqlAuditLog(), 2_000
    entries = [make_entry(number) for number in range(1, count + 1)]
    with database.transaction() as connection:
        started = time.process_time()
        for entry in entries:
            log.append(connection, entry)
        ours = (time.process_time() - started) / count * 1000
        connection.execute(text("CREATE TABLE plain AS SELECT * FROM audit_records WHERE 0"))
        values = dict(connection.execute(text("SELECT * FROM audit_records")).first()._mapping)
        names = ", ".join(f":{name}" for name in values)
        insert = text(f"INSERT INTO plain VALUES ({names})")
        started = time.process_time()
        for _ in range(count):
            connection.execute(insert, values)
        floor = (time.process_time() - started) / count * 1000
    return Row(
        "append",
        "1 record",
        "ms CPU",
        ours,
        floor=floor,
        goal=f"≤ {APPEND_MS} ms",
        met=ours <= APPEND_MS,
        versions=VERSIONS,
    )


def checked(database: Database, checkpoints: Checkpoints, size: int) -> list[Row]:
    """Fill the log to a size, sign it each 1,000 records, check it all."""
    checkpointer = Checkpointer(database, checkpoints, clock=SystemClock())
    with database.reading() as connection:
        held = SqlAuditLog().size(connection)
    started = time.perf_counter()
    for first in range(held + 1, size + 1, 1_000):
        fill(database, min(1_000, size + 1 - first), first=first)
        checkpointer.run_once(force=True)
    batch = (size - held) / (time.perf_counter() - started)
    with database.reading() as connection:
        started = time.perf_counter()
        found = Verifier(checkpoints).verify(connection)
        rate = size / (time.perf_counter() - started)
    if not found.sound or found.n_records != size or found.signed != size:
        sys.exit(f"the log is not what was written: {found}")
    data = bytes(300)
    started = time.perf_counter()
    for _ in range(100_000):
        hashlib.sha256(data).digest()
    floor = 100_000 / (time.perf_counter() - started)
    stands = f"{size:,} records"
    return [
        Row("append 1,000, sign", stands, "records/s", batch, floor=floor, better="more"),
        Row(
            "verify",
            stands,
            "records/s",
            rate,
            floor=floor,
            goal=f"≥ {VERIFIED:,}/s",
            met=rate >= VERIFIED,
            better="more",
            versions=VERSIONS,
        ),
    ]


def proven(database: Database, checkpoints: Checkpoints) -> Row:
    """Time of the proof of one record in the middle of the log."""
    with database.reading() as connection:
        size = SqlAuditLog().size(connection)
        started = time.perf_counter()
        for number in range(20):
            checkpoints.record_proof(connection, size // 2 + number)
        ours = (time.perf_counter() - started) / 20 * 1000
    return Row("proof of a record", f"{size:,} records", "ms", ours, versions=VERSIONS)


if __name__ == "__main__":
    main()
