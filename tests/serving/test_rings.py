from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Unavailable
from falaj.serving import rings
from falaj.serving.logged import LoggedRun, PackedRecords, encoded, rows_of_records
from falaj.serving.logwriter import LogWriter
from falaj.serving.rings import Ring, RingReader, Rings, ring_folder

CAPACITY = 8_192
RUN = LoggedRun(
    "delays", "release_1", "champion", "delay", 1, 1, 1, ["pred_1"], [1], ["r"], ["user:a"], [5],
    None, [{"a": 1.0}], 1, bytes(4), None, None, 1, bytes(8),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rings"
    made.mkdir()
    return made


@pytest.fixture
def ring(folder: Path) -> Iterator[Ring]:
    made = Ring(folder, CAPACITY)
    yield made
    made.close()


def test_what_is_put_is_taken_once_in_order(ring: Ring) -> None:
    reader = RingReader(ring.path)
    for number in range(5):
        assert ring.put(b"record %d" % number, n_rows=2)
    taken = reader.take()
    assert taken is not None
    assert list(taken.records) == [b"record %d" % number for number in range(5)]
    assert (taken.n_rows, reader.n_waiting) == (10, 10)
    reader.done(taken)
    assert reader.take() is None
    assert ring.n_waiting == 0


def test_a_full_ring_refuses_and_takes_again_when_the_reader_has_made_room(ring: Ring) -> None:
    reader = RingReader(ring.path)
    record = b"x" * 1_000
    put = 0
    while ring.put(record, 1):
        put += 1
    assert put == CAPACITY // 1_008
    taken = reader.take()
    assert taken is not None
    assert not ring.put(record, 1)
    reader.done(taken)
    assert ring.put(record, 1)


def test_a_reader_that_died_is_followed_by_one_that_takes_the_same_under_the_same_name(
    ring: Ring,
) -> None:
    first = RingReader(ring.path)
    ring.put(b"a", 1)
    begun = first.take()
    ring.put(b"b", 1)  # comes while the first reader is writing out
    second = RingReader(ring.path)
    again = second.take()
    assert begun is not None
    assert again is not None
    assert (again.name, list(again.records)) == (begun.name, [b"a"])
    second.done(again)
    rest = second.take()
    assert rest is not None
    assert list(rest.records) == [b"b"]
    assert rest.name != begun.name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=900), st.sampled_from(["take", "die"])),
        min_size=1,
        max_size=120,
    )
)
def test_every_record_that_was_accepted_arrives_once_whatever_comes_in_between(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]
) -> None:
    ring = Ring(tmp_path_factory.mktemp("rings"), CAPACITY)
    reader = RingReader(ring.path)
    accepted: list[bytes] = []
    kept: dict[str, list[bytes]] = {}
    for step in steps:
        if isinstance(step, bytes):
            if ring.put(step, 1):
                accepted.append(step)
            continue
        taken = reader.take(most_bytes=2_000)
        if taken is not None:
            kept[taken.name] = list(taken.records)
        if step == "die":
            reader.close()
            reader = RingReader(ring.path)
        elif taken is not None:
            reader.done(taken)
    while (taken := reader.take()) is not None:
        kept[taken.name] = list(taken.records)
        reader.done(taken)
    arrived = [record for name in sorted(kept) for record in kept[name]]
    assert arrived == accepted
    ring.close()
    reader.close()


WRITER = """
import sys, itertools
from pathlib import Path
from falaj.serving.logged import LoggedRun, encoded
from falaj.serving.logwriter import LogWriter
from falaj.serving.rings import Ring
ring = Ring(Path(sys.argv[1]), 1 << 20)
print(ring.path, flush=True)
for number in itertools.count():
    while not ring.put(b"%d" % number, 1):
        pass
    if number % 1000 == 0:
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_whole_records_and_its_ring_is_removed_when_empty(
    folder: Path,
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    path = Path(writer.stdout.readline().strip())
    writer.stdout.readline()
    held = Rings(folder)
    (reader,) = held.current()
    found: list[bytes] = []
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        if (taken := reader.take()) is not None:
            found += taken.records
            reader.done(taken)
    assert held.tidy() == 1  # its writer lives
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    while (taken := reader.take()) is not None:
        found += taken.records
        reader.done(taken)
    assert found == [b"%d" % number for number in range(len(found))]
    assert len(found) > 1_000
    assert held.tidy() == 0
    assert not path.exists()
    held.close()


def test_only_one_process_reads_the_rings_of_a_folder(folder: Path) -> None:
    first = Rings(folder)
    with pytest.raises(Unavailable, match="Another process"):
        Rings(folder)
    first.close()
    Rings(folder).close()


def test_memory_that_cannot_be_had_is_told_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rings.os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match="No space left"):
        Ring(folder, CAPACITY)
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_enter_holds_no_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "MEMORY", tmp_path)
    made = ring_folder(tmp_path / "home")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    with pytest.raises(Unavailable, match="not ours alone"):
        ring_folder(tmp_path / "home")


def test_a_record_that_cannot_be_read_is_left_out_and_those_behind_it_are_kept(
    folder: Path,
) -> None:
    class Kept:
        def __init__(self) -> None:
            self.rows = 0

        def open(self, table: str) -> Kept:
            return self

        def keep(self, data: PackedRecords, size: int, name: str) -> None:
            self.rows += rows_of_records(data.read(1 << 20)).num_rows

    ring, kept = Ring(folder, CAPACITY), Kept()
    ring.put(b"\xc1 no record", 1)
    ring.put(encoded(RUN), 1)
    rings = Rings(folder)
    LogWriter(rings, kept).run_once()
    assert kept.rows == 1
    ring.close()
    assert rings.tidy() == 0
    rings.close()
