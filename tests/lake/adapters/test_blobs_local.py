from __future__ import annotations

import subprocess
import sys

import pytest

from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.testing.blobs import BlobStoreSuite


class TestLocalBlobs(BlobStoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalBlobs(tmp_path / "blobs")


def test_a_blob_and_its_folders_are_closed_to_others(tmp_path):
    store = LocalBlobs(tmp_path / "blobs")
    store.put("a/b", b"1")
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "blobs" / "a" / "b").stat().st_mode & 0o077 == 0


def test_a_full_disk_leaves_the_old_bytes_and_no_rest(tmp_path):
    body = """
import resource, sys, pathlib
from falaj.kernel.errors import LimitExceeded
from falaj.lake.adapters.blobs_local import LocalBlobs
store = LocalBlobs(pathlib.Path(sys.argv[1]))
store.put("k", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put("k", b"n" * 1_000_000)
except LimitExceeded as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", body, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "is full" in done.stdout
    store = LocalBlobs(tmp_path)
    assert store.get("k") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
