"""The online store on LMDB keeps the port's promises, over processes and kills."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.ports import Write
from falaj.kernel.errors import FalajError, LimitExceeded, Unavailable
from falaj.testing.online import OnlineStoreSuite, row
from falaj.testing.onlineprocesses import OnlineProcessesSuite


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


class TestLmdbOnlineStoreAmongProcesses(OnlineProcessesSuite):
    @pytest.fixture
    def opening(self, folder):
        return (
            "from pathlib import Path\n"
            "from falaj.features.adapters.online_lmdb import LmdbOnlineStore\n"
            f"store = LmdbOnlineStore(Path({str(folder)!r}), map_bytes=1 << 18)"
        )

    @pytest.fixture
    def opened(self, folder):
        return lambda: LmdbOnlineStore(folder, map_bytes=1 << 18)


GROWER = """
import os, sys
from pathlib import Path
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.ports import Write
from falaj.features.order import order_of

store = LmdbOnlineStore(Path(sys.argv[1]), map_bytes=1 << 18)
for number in range(1, 10_000):
    rows = [(b"row %d" % i, order_of(number, 0) + b"%d " % number * 3000) for i in range(5)]
    store.write(Write(newer=rows))
    print(number, flush=True)
"""


def test_another_process_reads_what_was_acknowledged_and_follows_a_grown_map(folder):
    store = LmdbOnlineStore(folder, map_bytes=1 << 18)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", GROWER, str(folder)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
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
