"""What a local disk can do to a write."""

import resource

import pytest

from falaj.lake.disk import reserved


def test_reserved_space_is_really_taken(tmp_path):
    reserved(tmp_path / "lock", 100_000)
    found = (tmp_path / "lock").stat()
    assert found.st_size == 100_000
    assert found.st_blocks * 512 >= 100_000
    assert found.st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "lock").write_bytes(b"kept")
    reserved(tmp_path / "lock", 100_000)
    assert (tmp_path / "lock").read_bytes() == b"kept"


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            reserved(tmp_path / "lock", 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
