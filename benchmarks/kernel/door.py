"""An action through the local door: policy, transaction, durable audit record.

The floor is what cannot be avoided: one durable SQLite transaction that writes one row.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, quantile, report

from falaj.kernel.actions import Service, action
from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.kernel.door import Backend, LocalDoor, Services, face
from falaj.kernel.outbox import Outbox
from falaj.kernel.telemetry import Telemetry
from falaj.testing.fakes import MemoryResources
from falaj.trust.audit import SqlAuditLog
from falaj.trust.policy import CedarPolicy


class Accounts(Service):
    """A service with one small action."""

    name = "accounts"

    @action(get="/accounts/me")
    def me(self) -> str:
        """Who asks."""
        return self.call.principal.id


def made(folder: Path) -> Accounts:
    database = Database(f"sqlite:///{folder / 'falaj.db'}")
    metadata.create_all(database.engine)
    services = Services([Accounts()])
    backend = Backend(
        services=services,
        database=database,
        policy=CedarPolicy(services.actions.values()),
        audit=SqlAuditLog(),
        resources=MemoryResources(),
        events=Outbox(),
        clock=SystemClock(),
        telemetry=Telemetry(),
    )
    caller = Caller(Principal("user:amina", PrincipalKind.USER, ("viewer",)))
    return face(Accounts, LocalDoor(backend, caller))


def floor_commits(folder: Path, count: int) -> list[float]:
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a TEXT)")
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 400,))
        connection.execute("COMMIT")
        seconds.append(time.perf_counter() - started)
    connection.close()
    return seconds


def alone(accounts: Accounts, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        accounts.me()
        seconds.append(time.perf_counter() - started)
    return seconds


def together(accounts: Accounts, callers: int, each: int) -> float:
    threads = [
        threading.Thread(target=lambda: [accounts.me() for _ in range(each)])
        for _ in range(callers)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return callers * each / (time.perf_counter() - started)


def main() -> None:
    given = arguments(__doc__ or "")
    count = 300 if given.size == "small" else 2_000
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        accounts = made(folder)
        alone(accounts, 50)
        ours, floor = [], []
        for _ in range(5):
            ours += alone(accounts, count)
            floor += floor_commits(folder, count)
        p50 = median(ours) * 1e3
        rows.append(
            Row(
                "one action, alone, p50",
                f"{count * 5} calls",
                "ms",
                p50,
                floor=median(floor) * 1e3,
                goal="≤ 3 ms",
                met=p50 <= 3,
            )
        )
        rows.append(
            Row(
                "one action, alone, p99",
                f"{count * 5} calls",
                "ms",
                quantile(ours, 0.99) * 1e3,
                floor=quantile(floor, 0.99) * 1e3,
            )
        )
        for callers in (1, 4, 16):
            rates = [together(accounts, callers, count // callers) for _ in range(5)]
            goal = "≥ 2,000/s" if callers == 16 else ""
            rows.append(
                Row(
                    f"actions, {callers} callers",
                    f"{count} calls",
                    "1/s",
                    median(rates),
                    goal=goal,
                    met=median(rates) >= 2000 if goal else None,
                    better="more",
                )
            )
    report("kernel", "An action through the local door (SQLite)", rows, given)


if __name__ == "__main__":
    main()
