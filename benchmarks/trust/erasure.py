"""What an erasure takes: destroying a key among many, durably, and what is left to read.

A store is filled with 1,000, 100,000 and (full) 1,000,000 subjects; 200 keys of it, drawn at
random, are destroyed one by one. A destruction counts until ``destroy`` returns: the row is
overwritten, its journal too, both synced. Then a table of 1,000 persons is written, ten of
them are erased, and the lake is read at every snapshot for what is still readable of them.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule
from falaj.lake.sealedcolumns import SubjectLake
from falaj.testing.scanning import files_with
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys
from falaj.trust.subjects import Subject

GOAL_MS = 10.0
DESTROYED = 200
AT_ONCE = 10_000
VERSIONS = {"cryptography": version("cryptography")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    sizes = [1_000, 100_000] if given.size == "small" else [1_000, 100_000, 1_000_000]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        seal = MachineSeal.create(place / "seal")
        ring = FileKeyring.create(place / "ring", seal, clock=SystemClock())
        rows = [row for size in sizes for row in destroyed(place / str(size), ring, size)]
        rows.append(readable(place / "lake", ring))
    report("trust", "Erasing data subjects", rows, given)


def names(n: int) -> Iterator[list[Subject]]:
    """All subjects, some thousands at a time."""
    for start in range(0, n, AT_ONCE):
        yield [Subject("person", f"p{place}") for place in range(start, min(n, start + AT_ONCE))]


def destroyed(folder: Path, ring: FileKeyring, n: int) -> list[Row]:
    """Make n keys, find them, destroy some."""
    keys = StoredKeys(SqliteKeyTable(folder), ring, SystemClock(), most=1)
    started = time.perf_counter()
    for part in names(n):
        keys.of(part, make=True)
    making = time.perf_counter() - started
    part = next(names(n))
    started = time.perf_counter()
    keys.of(part, make=False)
    finding = time.perf_counter() - started
    chosen = random.Random(11).sample(range(n), DESTROYED)
    taken = []
    for place in chosen:
        subject = Subject("person", f"p{place}")
        started = time.perf_counter()
        done = keys.destroy(subject)
        taken.append((time.perf_counter() - started) * 1000)
        if done is None or keys.of([subject], make=False) != [None]:
            sys.exit("a destroyed key is there")
    keys.close()
    size = f"{n:,} subjects"
    p50, p99 = (float(one) for one in np.percentile(taken, [50, 99]))
    goal = f"≤ {GOAL_MS:g} ms"
    return [
        Row("make a key", size, "us", making / n * 1e6, versions=VERSIONS),
        Row("find a key, in thousands", size, "us", finding / len(part) * 1e6, versions=VERSIONS),
        Row("destroy, p50", size, "ms", p50, goal=goal, met=p50 <= GOAL_MS, versions=VERSIONS),
        Row("destroy, p99", size, "ms", p99, goal=goal, met=p99 <= GOAL_MS, versions=VERSIONS),
    ]


def readable(folder: Path, ring: FileKeyring) -> Row:
    """How many copies of erased persons can be read in a lake with several snapshots."""
    keys = StoredKeys(SqliteKeyTable(folder / "subjects"), ring, SystemClock())
    lake = SubjectLake(DuckLake.in_folder(folder / "data"), keys)
    group = PersonalGroup(subject="person", columns=("name",))
    record_rule(lake, PersonalRule(table="people", groups=(group,)))
    marks = [f"Marker-{place:05d}-Zq" for place in range(1000)]
    for start in range(0, 1000, 100):
        part = marks[start : start + 100]
        lake.append("people", pa.table({"person": part, "name": [f"{m} Name" for m in part]}))
    erased = marks[::100]
    before = copies(lake, folder, erased)
    for mark in erased:
        keys.destroy(Subject("person", mark))
    lake.compact()
    left = copies(lake, folder, erased)
    lake.close()
    if not before:
        sys.exit("the search finds nothing before the erasure either")
    return Row(
        "readable copies of 10 erased persons",
        f"{before} before, in 11 snapshots",
        "copies",
        left,
        goal="0",
        met=left == 0,
        versions=VERSIONS,
    )


def copies(lake: SubjectLake, folder: Path, marks: list[str]) -> int:
    """Cells of the lake at every snapshot, and files, that hold one of these texts."""
    n = sum(len(files_with(folder, mark.encode())) for mark in marks)
    for snapshot in lake.snapshots():
        if "people" in lake.tables(snapshot.id):
            said = str(lake.scan("people", snapshot=snapshot.id).to_pydict())
            n += sum(said.count(mark) for mark in marks)
    return n


if __name__ == "__main__":
    main()
