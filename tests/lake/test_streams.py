from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.streams import SealedStreams, begun_at
from falaj.trust.ports import WRAPPING
from falaj.trust.sealing import FRAME_BYTES

SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, 3_000_000]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "blobs"


@pytest.fixture
def streams(folder, keys):
    return SealedStreams(LocalBlobs(folder), keys)


def kept(streams, data, piece=300_007):
    incoming = streams.begin()
    for first in range(0, len(data), piece):
        incoming.write(data[first : first + piece])
    return incoming.finish()


def read(streams, stream, start=0):
    return b"".join(bytes(piece) for piece in streams.read(stream, start=start))


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [100_003, FRAME_BYTES, 5_000_000])
def test_a_stream_comes_back_with_its_digest_and_size(streams, size, piece):
    data = os.urandom(size)
    found = kept(streams, data, piece)
    assert (found.size, found.digest) == (size, "sha256:" + hashlib.sha256(data).hexdigest())
    assert read(streams, found.stream) == data == streams.fetch(found)


@pytest.mark.parametrize("size", SIZES)
def test_a_stream_is_read_from_any_of_its_bytes_on(streams, size):
    data = os.urandom(size)
    found = kept(streams, data)
    starts = {0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, size // 2, size - 1, size}
    for start in sorted(one for one in starts if 0 <= one <= size):
        assert read(streams, found.stream, start) == data[start:]


def test_not_a_clear_byte_is_on_the_disk_at_any_moment(streams, folder):
    word = b"a word that nobody may read on a disk"
    incoming = streams.begin()
    incoming.write(word * 60_000)
    (unfinished,) = files(folder)
    assert word not in unfinished.read_bytes()
    incoming.finish()
    (whole,) = files(folder)
    assert word not in whole.read_bytes()


def test_an_abandoned_stream_leaves_nothing(streams, folder):
    incoming = streams.begin()
    incoming.write(os.urandom(2_000_000))
    incoming.abandon()
    assert files(folder) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_or_cut_stream_is_corrupt_from_wherever_it_is_read(streams, folder, seed):
    chance = random.Random(seed)
    found = kept(streams, os.urandom(2_500_000))
    (path,) = files(folder)
    sealed = bytearray(path.read_bytes())
    if seed % 2:
        sealed[chance.randrange(-400_000, -1)] ^= 1
    else:
        del sealed[-chance.randrange(1, 1_500_000) :]
    path.write_bytes(sealed)
    for start in (0, FRAME_BYTES, 2_400_000):
        with pytest.raises(Corrupt):
            read(streams, found.stream, start)


def test_a_stream_in_the_place_of_another_is_corrupt(streams, folder):
    one, other = kept(streams, b"one"), kept(streams, b"two")
    paths = {path.name: path for path in files(folder)}
    paths[one.stream].write_bytes(paths[other.stream].read_bytes())
    with pytest.raises(Corrupt):
        read(streams, one.stream)


def test_a_missing_stream_and_a_wrong_id_are_told(streams):
    found = kept(streams, b"1")
    streams.drop(found.stream)
    streams.drop(found.stream)
    with pytest.raises(NotFound):
        read(streams, found.stream)
    for wrong in ("", "stream_..", "../" + found.stream, "run_" + found.stream[7:]):
        with pytest.raises(InvalidInput):
            read(streams, wrong)


def test_a_stream_survives_new_keys(streams, keys):
    data = os.urandom(1_200_000)
    found = kept(streams, data)
    before = dict(streams.items())
    keys.rotate(WRAPPING)
    assert streams.rewrap(found.stream)
    after = dict(streams.items())
    assert before.keys() == after.keys() == {found.stream}
    assert before != after
    assert streams.reseal(found.stream)
    assert read(streams, found.stream) == data
    streams.drop(found.stream)
    assert not streams.rewrap(found.stream)


def test_a_sweep_removes_only_what_nobody_knows_and_is_old(streams):
    mine, lost = kept(streams, b"mine"), kept(streams, b"lost")
    known = {mine.stream}
    young = begun_at(lost.stream)
    assert streams.sweep(lambda ids: known & set(ids), young - timedelta(seconds=1)) == 0
    assert streams.sweep(lambda ids: known & set(ids), young + timedelta(seconds=1)) == 1
    assert list(streams.streams()) == [mine.stream]


KILLED = """
import os, sys
from pathlib import Path
from falaj.lake.adapters.blobs_local import LocalBlobs
writer = LocalBlobs(Path(sys.argv[1])).create("streams/aa/x")
writer.write(b"x" * 100_000)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_writer_left_is_never_seen_and_is_swept(streams, folder):
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -9
    assert len(files(folder)) == 1
    assert list(streams.streams()) == []
    now = datetime.now(UTC)
    assert streams.sweep(set, now - timedelta(hours=1)) == 0
    assert streams.sweep(set, now + timedelta(hours=1)) == 1
    assert files(folder) == []
