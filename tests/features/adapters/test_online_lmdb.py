"""The online store on LMDB keeps the port's promises, over processes and kills."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.ports import Write
from falaj.kernel.errors import FalajError, LimitExceeded, Unavailable
from falaj.testing.online import OnlineStoreSuite, row

WRITER = """
import sys
from pathlib import Path
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.ports import Merge, Write
from falaj.features.order import order_of

def row(at, body):
    return order_of(at, 0) + body

store = LmdbOnlineStore(Path(sys.argv[1]), map_bytes=1 << 18)
start = int(sys.argv[2])

def add(stored):
    n = int(stored[0][24:]) if stored[0] else 0
    return [row(0, str(n + 1).encode())]

for number in range(start, start + 10_000):
    rows = [(b"row %d" % i, row(number, b"%d " % number * 3000)) for i in range(5)]
    store.write(Write(newer=rows, merges=[Merge([b"count"], add)], once=b"write %d" % number))
    print(number, flush=True)
"""


class TestLmdbOnlineStore(OnlineStoreSuite):
    @pytest.fixture
    def reopen(self, tmp_path):
        opened = []

        def again():
            for store in opened:
                store.close()
            opened[:] = [LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 20)]
            return opened[0]

        yield again
        for store in opened:
            store.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "online"


def writer(folder: Path, start: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_kill_9_of_a_writer_loses_nothing_acknowledged_and_tears_nothing(folder):
    start, chance = 1, random.Random(7)
    for _ in range(10):
        process = writer(folder, start)
        acknowledged = int(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        told = process.stdout.read().split("\n")
        process.wait()
        acknowledged = int(told[-2]) if len(told) > 1 else acknowledged
        store = LmdbOnlineStore(folder)
        rows = store.read([b"row %d" % i for i in range(5)])
        (count,) = store.read([b"count"])
        store.close()
        assert len(set(rows)) == 1
        written = int(rows[0][24:].split()[0])
        assert rows[0] == row(written, b"%d " % written * 3000)
        assert int(count[24:]) == written
        assert written >= acknowledged
        start = written  # this write is repeated, and must count once


def test_another_process_reads_what_was_acknowledged_and_follows_a_grown_map(folder):
    store = LmdbOnlineStore(folder, map_bytes=1 << 18)
    process = writer(folder, 1)
    try:
        newest = 0
        while newest < 60:
            newest = int(process.stdout.readline())
            (found,) = store.read([b"row 3"])
            assert int(found[24:].split()[0]) >= newest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    store.write(Write(newer=[(b"mine", row(1, b"x" * (1 << 20)))]))
    assert store.read([b"mine"]) == [row(1, b"x" * (1 << 20))]
    store.close()


def test_the_map_grows_when_it_is_full(folder):
    store = LmdbOnlineStore(folder, map_bytes=1 << 16)
    big = [(b"%d" % i, row(1, os.urandom(50_000))) for i in range(40)]
    store.write(Write(newer=big))
    assert store.read([key for key, _ in big]) == [body for _, body in big]
    store.close()


def test_a_full_disk_is_told_and_changes_nothing(folder):
    store = LmdbOnlineStore(folder, map_bytes=1 << 22)
    store.write(Write(newer=[(b"k", row(1, b"old"))]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, before[1]))
    try:
        with pytest.raises(FalajError) as told:
            store.write(Write(newer=[(b"k", row(2, os.urandom(1 << 20)))]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(told.value, LimitExceeded | Unavailable)
    assert store.read([b"k"]) == [row(1, b"old")]
    store.close()


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        LmdbOnlineStore(tmp_path / "file")


def test_the_files_are_for_the_owner_only(folder):
    store = LmdbOnlineStore(folder)
    store.close()
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
