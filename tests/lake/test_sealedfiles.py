"""Sealed files under another key: spool segments, and what a killed process leaves."""

import os
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from falaj.kernel.clock import SetClock
from falaj.lake.sealedfiles import SealedFiles
from falaj.lake.spool import Drain, Spool, sealed_segments
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.ports import WRAPPING
from falaj.trust.sealing import open_bytes, seal_bytes


@pytest.fixture
def keys(tmp_path):
    clock = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
    seal = MachineSeal.create(tmp_path / "secret")
    return FileKeyring.create(tmp_path / "keys.json", seal, clock=clock)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def files(folder, keys):
    return SealedFiles(
        "files", folder, keys, lambda path: str(path) if path.suffix == ".sealed" else None
    )


def put(folder, keys, name, content=b"content"):
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(seal_bytes(content, keys, context=name))


class MemoryLake:
    def __init__(self):
        self.rows = {}

    def append(self, table, rows, *, key, add_columns=False, since=None):
        self.rows.setdefault(key, rows.to_pylist())


def test_a_spool_drains_after_its_segments_moved_and_refused_ones_move_as_well(tmp_path, keys):
    spool = Spool(tmp_path / "spool", "events", keys)
    for number in range(3):
        spool.append(pa.table({"n": [number]}))
        path = spool.flush()
    path.rename(path.with_suffix(".refused"))
    made = keys.rotate(WRAPPING)
    store = sealed_segments(tmp_path / "spool", keys)
    for item, key_id in list(store.items()):
        assert key_id != made.id
        assert store.rewrap(item)
        assert store.reseal(item)
    assert [key_id for _, key_id in store.items()] == [made.id] * 3
    path.with_suffix(".refused").rename(path)
    lake = MemoryLake()
    assert Drain(tmp_path / "spool", keys, lake, "events").run_once().n_rows == 3
    assert sorted(rows[0]["n"] for rows in lake.rows.values()) == [0, 1, 2]


def test_items_are_sorted_by_name_and_begin_behind_a_given_one(files, folder, keys):
    for name in ("b.sealed", "a/x.sealed", "c.sealed", "other.txt"):
        put(folder, keys, name)
    (folder / "broken.sealed").write_bytes(b"nothing sealed")
    held = keys.versions()[0].id
    assert list(files.items()) == [
        ("a/x.sealed", held), ("b.sealed", held), ("broken.sealed", ""), ("c.sealed", held),
    ]  # fmt: skip
    assert list(files.items(after="b.sealed")) == [("broken.sealed", ""), ("c.sealed", held)]


def test_a_file_keeps_its_content_and_its_time_and_a_reader_goes_on(files, folder, keys):
    put(folder, keys, "a.sealed", b"x" * 100)
    os.utime(folder / "a.sealed", (1_000, 2_000))
    reader = (folder / "a.sealed").open("rb")
    made = keys.rotate(WRAPPING)
    assert files.rewrap("a.sealed")
    with reader:
        assert open_bytes(reader.read(), keys, context="a.sealed") == b"x" * 100
    assert (folder / "a.sealed").stat().st_mtime == 2_000
    assert (folder / "a.sealed").stat().st_mode & 0o777 == 0o600
    assert list(files.items()) == [("a.sealed", made.id)]


def test_a_file_that_was_released_does_not_come_back(files, folder, keys, monkeypatch):
    put(folder, keys, "a.sealed")
    wrap = FileKeyring.wrap

    def released_meanwhile(self, data_key, *, context):
        (folder / "a.sealed").unlink()
        return wrap(self, data_key, context=context)

    monkeypatch.setattr(FileKeyring, "wrap", released_meanwhile)
    assert files.rewrap("a.sealed") is False
    assert files.rewrap("a.sealed") is False
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_has_begun_is_removed_when_it_is_old(files, folder, keys):
    put(folder, keys, "a.sealed")
    left = folder / f"a.sealed.rewrapped-{'0' * 16}"
    fresh = folder / f"a.sealed.rewrapped-{'1' * 16}"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (1_000, 1_000))
    assert [item for item, _ in files.items()] == ["a.sealed"]
    assert sorted(folder.iterdir()) == [folder / "a.sealed", fresh]
