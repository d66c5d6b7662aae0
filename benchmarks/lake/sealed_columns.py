"""What sealed columns cost: writing and reading a table about people, against a plain one.

Rows of a person's number, name, address, age and balance, a town and an amount; twenty rows
of each person. The same rows are written to a sealed and to a plain table in turn and read
back, whole and by clear columns alone; medians of the rounds. The two are compared first.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule
from falaj.lake.sealedcolumns import SubjectLake
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys

VERSIONS = {"duckdb": version("duckdb"), "cryptography": version("cryptography")}
ROWS_OF_EACH = 20
PERSONAL = ("name", "address", "age", "balance")


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    sizes = [2_000, 20_000, 100_000] if given.size == "small" else [10_000, 100_000, 1_000_000]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        seal = MachineSeal.create(place / "seal")
        ring = FileKeyring.create(place / "ring", seal, clock=SystemClock())
        keys = StoredKeys(SqliteKeyTable(place / "subjects"), ring, SystemClock())
        plain = DuckLake.in_folder(place / "lake")
        lake = SubjectLake(plain, keys)
        for size in sizes:
            rows += measured(lake, plain, size)
        lake.close()
        keys.close()
    report("lake", "Sealed columns", rows, given)


def people(n: int) -> pa.Table:
    """Rows about n / 20 persons."""
    chance = np.random.default_rng(11)
    who = chance.permutation(n) // ROWS_OF_EACH
    return pa.table(
        {
            "person": pa.array(who, pa.int64()),
            "name": pa.array([f"Person Number {one}" for one in who]),
            "address": pa.array([f"{one % 97} Corniche Street, Apartment {one}" for one in who]),
            "age": pa.array(18 + who % 70, pa.int32()),
            "balance": pa.array(chance.normal(1000, 300, n)),
            "town": pa.array(chance.choice(["AUH", "DXB", "SHJ"], n)),
            "amount": pa.array(chance.normal(50, 10, n)),
        }
    )


def measured(lake: SubjectLake, plain: DuckLake, n: int) -> list[Row]:
    """Write and read n rows, sealed and plain."""
    given = people(n)
    rule = PersonalRule(table="sealed", groups=(PersonalGroup(subject="person", columns=PERSONAL),))
    record_rule(lake, rule)
    lake.replace("sealed", given)  # makes the keys: counted by benchmarks/trust/erasure.py
    plain.replace("clear", given)
    order = ["person", "balance", "amount"]
    if not lake.scan("sealed", order_by=order).equals(plain.scan("clear", order_by=order)):
        sys.exit("the sealed table does not read as the plain one")
    size = f"{n:,} rows"
    clear = ["town", "amount"]
    pairs = {
        "write": (
            lambda: lake.replace("sealed", given),
            lambda: plain.replace("clear", given),
        ),
        "read all": (lambda: lake.scan("sealed"), lambda: plain.scan("clear")),
        "read clear columns": (
            lambda: lake.scan("sealed", columns=clear),
            lambda: plain.scan("clear", columns=clear),
        ),
        "filter on a personal column": (
            lambda: lake.scan("sealed", where="age > 80"),
            lambda: plain.scan("clear", where="age > 80"),
        ),
    }
    rows = []
    for work, (ours, theirs) in pairs.items():
        sealed, bare = in_turn(ours, theirs, rounds=3, warm=1)
        rows.append(
            Row(
                work,
                size,
                "s",
                median(sealed),
                peer=median(bare),
                peer_name="plain table",
                versions=VERSIONS,
            )
        )
    return rows


if __name__ == "__main__":
    main()
