"""A contract of 30 checks, one of them a foreign key of 200,000 keys, over 20 columns.

Ours: the rows as an Arrow table, as a load has them; and a lake table that streams by. The
floor is the bare aggregate of the same checks on the same engine and rows, written by hand.
Peers validate the same Parquet file, read beforehand, in interpreters of their own
(``make bench-monitoring`` makes them); each must find the same number of broken checks.

Each measurement of memory is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.measuring import ROOT, Row, arguments, in_turn, median, peak_megabytes, report

from falaj.ingest.contracts import judge
from falaj.ingest.model import Contract
from falaj.ingest.tablechecks import hold
from falaj.ingest.typing import RAW, ROWS, bench

KEYS = 200_000
SET = ["a", "b", "c", "d", "e"]
CHECKS: list[dict[str, Any]] = [
    {"check": "unique", "columns": ["id"]},
    {"check": "foreign_key", "column": "customer", "table": "customers", "to_column": "key"},
    {"check": "row_count", "least": 1},
    {"check": "freshness", "column": "at", "max_age_seconds": 1e9},
    {"check": "matches", "column": "code", "pattern": "[A-Z]{2}[0-9]{4}"},
    {"check": "matches", "column": "mail", "pattern": "[^@]+@[^@]+"},
    *({"check": "not_null", "column": one}
      for one in ("id", "customer", "x0", "x1", "x2", "n0", "n1", "c0", "code")),
    *({"check": "between", "column": f"x{i}", "least": -4.0, "greatest": 4.0} for i in range(8)),
    *({"check": "between", "column": f"n{i}", "least": 0, "greatest": 99} for i in range(3)),
    *({"check": "in_set", "column": f"c{i}", "values": SET} for i in range(3)),
    {"check": "expression", "sql": "n0 + n1 >= n0"},
]  # fmt: skip
CONTRACT = Contract(name="orders", table="orders", checks=tuple(CHECKS))  # type: ignore[arg-type]


def made(n: int) -> pa.Table:
    """Rows of 20 columns: of the eight normal ones each breaks its bounds in a few rows."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {"id": np.arange(n), "customer": rng.integers(0, KEYS, n)}
    columns |= {f"x{i}": rng.normal(0, 1, n) for i in range(8)}
    columns |= {f"n{i}": rng.integers(0, 100, n) for i in range(4)}
    columns |= {f"c{i}": np.array(SET)[rng.integers(0, 5, n)] for i in range(3)}
    columns["code"] = np.array([f"AB{i:04d}" for i in range(10_000)])[rng.integers(0, 10_000, n)]
    columns["mail"] = np.array([f"u{i}@x.org" for i in range(1000)])[rng.integers(0, 1000, n)]
    at = pa.array(1_780_000_000_000_000 + np.arange(n), pa.timestamp("us", tz="UTC"))
    return pa.table({**columns, "at": at})


def customers() -> pa.Table:
    """The table that the foreign key names."""
    return pa.table({"key": np.arange(KEYS)})


def bare_sql() -> str:
    """The aggregate of the same checks, by hand."""
    told = ["count(*)", 'epoch_us(max("at"))', "count(id) - count(DISTINCT id)",
            "count(*) FILTER (WHERE customer NOT IN (SELECT key FROM customers))"]  # fmt: skip
    for one in CHECKS:
        column, kind = one.get("column"), one["check"]
        if kind == "matches":
            wrong = f"NOT regexp_full_match({column}, '{one['pattern']}')"
        elif kind == "not_null":
            wrong = f"{column} IS NULL"
        elif kind == "between":
            wrong = f"{column} < {one['least']} OR {column} > {one['greatest']}"
        elif kind == "in_set":
            wrong = f"{column} NOT IN ({', '.join(map(repr, one['values']))})"
        elif kind == "expression":
            wrong = f"NOT ({one['sql']})"
        else:
            continue
        told.append(f"count(*) FILTER (WHERE {wrong})")
    return f"SELECT {', '.join(told)} FROM {ROWS}"


def in_memory(file: Path) -> dict[str, Any]:
    """Ours and the bare aggregate, in turn, over the rows as an Arrow table."""
    rows = pq.read_table(file)
    rows = rows.append_column("_row", pa.array(np.arange(1, rows.num_rows + 1)))
    known, broken = customers(), 0

    def ours() -> None:
        nonlocal broken
        with bench(memory="8GB") as engine:
            engine.register(RAW, rows)
            engine.execute(f"CREATE TEMP VIEW {ROWS} AS SELECT * FROM {RAW}")
            found = judge(engine, [CONTRACT], now=datetime.now(UTC), lookup=lambda *_: known)
            broken = sum(not one.passed for one in found.results)

    def floor() -> None:
        with bench(memory="8GB") as engine:
            engine.register(ROWS, rows)
            engine.register("customers", known)
            engine.execute(bare_sql()).fetchone()

    seconds, bare = in_turn(ours, floor)
    return {"seconds": median(seconds), "bare": median(bare), "broken": broken}


def from_lake(file: Path) -> dict[str, Any]:
    """Ours over an encrypted lake table, and the memory of the process that does it."""
    from falaj.lake.adapters.lake_ducklake import DuckLake

    folder = file.parent / f"lake-{file.stem}"
    if not folder.exists():
        folder.mkdir()
        lake = DuckLake.in_folder(folder, threads=2)
        for number, batch in enumerate(pq.ParquetFile(file).iter_batches(1_000_000)):
            lake.append("orders", pa.Table.from_batches([batch]), key=str(number))
        lake.append("customers", customers())
        lake.close()
        return from_lake_in_process(file)
    lake = DuckLake.in_folder(folder, threads=2)
    started = time.perf_counter()
    found = hold(lake, "orders", [CONTRACT], now=datetime.now(UTC), show_values=True)
    seconds = time.perf_counter() - started
    broken = sum(not one.passed for one in found)
    lake.close()
    return {"seconds": seconds, "broken": broken, "megabytes": peak_megabytes()}


def from_lake_in_process(file: Path) -> dict[str, Any]:
    """``from_lake`` in a process of its own: writing the table must not count."""
    return _asked([sys.executable, __file__, "--part", "from_lake", str(file)])


def _asked(command: list[str]) -> dict[str, Any]:
    surroundings = {**os.environ, "GX_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{command[1:]} failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _peer(environment: str, name: str, file: Path) -> dict[str, Any] | None:
    python = ROOT / ".venv-peers" / environment / "bin" / "python"
    if not python.exists():
        print(f"{name} is not installed (make bench-monitoring) and is left out.")
        return None
    script = Path(__file__).parent / "peers" / "contract_peers.py"
    return _asked([str(python), str(script), name, str(file)])


def _rows_of(n: int, folder: Path, peers: bool) -> list[Row]:
    file = folder / f"rows-{n}.parquet"
    pq.write_table(made(n), file)
    size = f"{n // 1000:,}k rows x 20"
    lake = from_lake(file)
    rows = [
        Row("memory of that, a lake table", size, "MB", lake["megabytes"],
            goal=f"≤ {400 if n <= 1_000_000 else 1500}",
            met=lake["megabytes"] <= (400 if n <= 1_000_000 else 1500)),
        Row("30 checks, a lake table", size, "s", lake["seconds"],
            goal="≤ 6" if n > 1_000_000 else "",
            met=lake["seconds"] <= 6 if n > 1_000_000 else None),
    ]  # fmt: skip
    if not peers:
        return rows
    ours = _asked([sys.executable, __file__, "--part", "in_memory", str(file)])
    assert ours["broken"] == lake["broken"], (ours, lake)
    ratio = ours["seconds"] / ours["bare"]
    rows.append(
        Row("30 checks against the bare aggregate", size, "s", ours["seconds"],
            floor=ours["bare"], goal="≤ 1.3 times", met=ratio <= 1.3)
    )  # fmt: skip
    for environment, name, least in (
        ("greatexpectations", "great_expectations", 30.0),
        ("validators", "pandera", 1.0),
        ("validators", "pointblank", 1.0),
        ("validators", "dataframely", 1.0),
    ):
        theirs = _peer(environment, name, file)
        if theirs is None:
            continue
        if theirs["broken"] != ours["broken"]:
            print(f"{name} finds {theirs['broken']} broken checks, ours {ours['broken']}")
        rows.append(
            Row("30 checks", size, "s", ours["seconds"], theirs["seconds"],
                f"{name} {theirs['version']}", goal=f"≥ {least:g} times",
                met=theirs["seconds"] / ours["seconds"] >= least)
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--part"]:
        part = {"in_memory": in_memory, "from_lake": from_lake}[sys.argv[2]]
        print(json.dumps(part(Path(sys.argv[3]))))
        return
    given = arguments(__doc__ or "")
    sizes = [100_000] if given.size == "small" else [100_000, 1_000_000, 10_000_000]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            rows += _rows_of(n, Path(folder), peers=n <= 1_000_000)
    report("monitoring", "Contracts: 30 checks in one pass", rows, given)


if __name__ == "__main__":
    main()
