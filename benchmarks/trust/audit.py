"""What the audit log costs: one append, a batch, a check of everything, one proof.

Run ``python benchmarks/trust/audit.py [--size small|full]`` (SQLite). The floor of an
append is the same insert without chain; that of the check is one SHA-256 a record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import text

from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.testing.audit import fill, make_entry
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpointer, Checkpoints
from falaj.trust.audit_verification import Verifier

RESULTS = Path("benchmarks/results/trust-audit.json")


def main() -> None:
    """Measure, print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    sizes = {"small": [10_000, 50_000, 200_000], "full": [100_000, 500_000, 2_000_000]}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keys = FileKeyring.create(
            place / "keys.json", MachineSeal.create(place / "secret"), clock=SystemClock()
        )
        database = Database(f"sqlite:///{place / 'audit.db'}")
        metadata.create_all(database.engine)
        checkpoints = Checkpoints(keys)
        rows = [appended(database)]
        for size in sizes[parser.parse_args().size]:
            rows += checked(database, checkpoints, size)
        rows.append(proven(database, checkpoints))
        database.close()
    print(f"{'work':<22}{'size':>10}{'ours':>10}{'floor':>10}{'ratio':>8}{'goal':>9} unit")
    for item in rows:
        print(
            f"{item['work']:<22}{item['size']:>10}{item['ours']:>10.4g}{item['floor']:>10.4g}"
            f"{item['ratio']:>8.2f}{item['goal'] or '':>9} {item['unit']}"
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1))


def appended(database: Database) -> dict[str, object]:
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
    return row("append", 1, "ms CPU", ours, floor, 0.25, lower=True)


def checked(database: Database, checkpoints: Checkpoints, size: int) -> list[dict[str, object]]:
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
    return [
        row("append 1,000, sign", size, "records/s", batch, floor, None, lower=False),
        row("verify", size, "records/s", rate, floor, 300_000, lower=False),
    ]


def proven(database: Database, checkpoints: Checkpoints) -> dict[str, object]:
    """Time of the proof of one record in the middle of the log."""
    with database.reading() as connection:
        size = SqlAuditLog().size(connection)
        started = time.perf_counter()
        for number in range(20):
            checkpoints.record_proof(connection, size // 2 + number)
        ours = (time.perf_counter() - started) / 20 * 1000
    return row("proof of a record", size, "ms", ours, ours, None, lower=True)


def row(
    work: str, size: int, unit: str, ours: float, floor: float, goal: float | None, *, lower: bool
) -> dict[str, object]:
    """One row of the results; ``ratio`` is how many times worse than the floor."""
    met = goal is None or (ours <= goal if lower else ours >= goal)
    return {
        "work": work,
        "size": size,
        "unit": unit,
        "ours": ours,
        "peer": None,
        "peer_name": None,
        "floor": floor,
        "ratio": ours / floor if lower else floor / ours,
        "goal": goal,
        "met": met,
        "versions": {"sqlalchemy": version("sqlalchemy"), "python": sys.version.split()[0]},
    }


if __name__ == "__main__":
    main()
