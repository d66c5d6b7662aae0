"""What it costs to see a table in part: reading and asking, masked against clear.

In one process, on a lake of its own: ``tables.read`` of 1,000 rows and one aggregate over all rows,
by callers who see everything, and by callers who see two of five columns masked (one hashed).
The floor is the lake itself, without rules and policy.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.catalog.model import Classification
from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings
from falaj.lake.service import record_table
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

SIZES = {"small": [1_000, 10_000, 100_000], "full": [10_000, 100_000, 1_000_000]}
VERSIONS = {"duckdb": version("duckdb"), "pyarrow": version("pyarrow")}
RULE = {
    "kind": "read_rule", "name": "names", "tables": ["people_*"], "mask": {"how": "hash"},
    "columns": ["name"], "except_for": {"purposes": ["payroll"]},
}  # fmt: skip
MASKED = {"name": Classification.PERSONAL, "salary": Classification.SENSITIVE}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        initialise(Settings.read(Path(folder)), owner="owner")
        premises = assemble(Settings.read(Path(folder)))
        try:
            with premises.calls.opened("definitions.apply", "user:owner") as call:
                premises.definitions.apply(call, [RULE])
            for size in SIZES[given.size]:
                rows += measured(premises, size)
        finally:
            premises.close()
    report("lake", "Tables seen in part", rows, given)


def people(size: int) -> pa.Table:
    """Rows of people: a name that one in ten shares, a salary, a branch, an instant."""
    chance = np.random.default_rng(7)
    return pa.table(
        {
            "id": np.arange(size),
            "name": pa.array([f"name {n}" for n in chance.integers(0, size // 10 + 1, size)]),
            "salary": chance.normal(10_000, 2_000, size).round(2),
            "branch": pa.array([f"branch {n}" for n in chance.integers(0, 50, size)]),
            "seen_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * size),
        }
    )


def measured(premises: Premises, size: int) -> list[Row]:
    """Read and ask a table of so many rows, masked, clear, and past the door."""
    table = f"people_{size}"
    premises.lake.append(table, people(size))
    with premises.calls.opened("tables.upload", "user:owner") as call:
        record_table(call, premises.catalog, table, columns=MASKED)
    sql = f"SELECT branch, count(*) AS n, max(salary) AS most FROM {table} GROUP BY branch"
    some, everything = asking(premises, None), asking(premises, "payroll")
    works: list[tuple[str, Callable[[], Any], Callable[[], Any], Callable[[], Any]]] = [
        (
            "read 1,000 rows",
            lambda: some("tables.read", table=table, limit=1_000),
            lambda: everything("tables.read", table=table, limit=1_000),
            lambda: premises.lake.scan(table, limit=1_000).to_pylist(),
        ),
        (
            "aggregate over all rows",
            lambda: some("tables.query", sql=sql),
            lambda: everything("tables.query", sql=sql),
            lambda: premises.lake.query(sql).to_pylist(),
        ),
    ]
    rows = []
    for work, masked, clear, floor in works:
        ours, plain, least = (median(one) * 1000 for one in in_turn(masked, clear, floor))
        rows.append(
            Row(f"{work}, masked", f"{size:,} rows", "ms", ours, plain, "the same in clear",
                floor=least, versions=VERSIONS)
        )  # fmt: skip
    return rows


def asking(premises: Premises, purpose: str | None) -> Callable[..., Any]:
    """Asks as a data scientist who presented a second factor, with a purpose or without."""
    backend = premises.backend

    def ask(action: str, /, **arguments: Any) -> Any:
        now = premises.clock.now() - timedelta(seconds=1)
        principal = Principal("user:dina", PrincipalKind.USER, ("data_scientist",))
        caller = Caller(principal, mfa_at=now, purpose=purpose)
        return LocalDoor(backend, caller).call(backend.services.actions[action], arguments)

    return ask


if __name__ == "__main__":
    main()
