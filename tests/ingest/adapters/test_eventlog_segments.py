"""The embedded event log: the suite of its port, and what only files can suffer."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.adapters.segment_files import segment_bases, segment_path
from falaj.ingest.adapters.segment_partition import Limits
from falaj.ingest.ports import JSON
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded
from falaj.testing.eventlog import EventLogSuite, all_of
from falaj.testing.streams import TestKeys

SMALL = Limits(segment_bytes=2_000, waiting_bytes=20_000, record_bytes=16 << 20)


@pytest.fixture
def keys():
    return TestKeys()


@pytest.fixture
def open_log(tmp_path, keys):
    opened = []

    def open_it(limits=None):
        opened.append(SegmentLog(tmp_path / "log", keys, limits=limits))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log):
    return open_log()


@pytest.fixture
def small(open_log):
    return open_log(SMALL)


def payloads(log, begin=0):
    return [record.payload for record in all_of(log, "t", begin=begin)]


class TestSegmentLog(EventLogSuite):
    @pytest.fixture
    def reopen(self, open_log):
        before = []

        def open_again():
            if before:
                before[-1].close()
            before.append(open_log())
            return before[-1]

        return open_again


def test_segments_roll_and_are_read_on_as_one(open_log):
    small = open_log(Limits(segment_bytes=2_000))
    for number in range(200):
        small.append("t", [b"%03d" % number * 20], media=JSON)
    assert len(segment_bases(small.folder / "t" / "0")) > 5
    assert payloads(small) == [b"%03d" % number * 20 for number in range(200)]
    assert small.read("t", 0, 150, max_bytes=1)[0].payload == b"150" * 20


def test_segments_whose_records_are_released_are_deleted(small):
    for number in range(100):
        small.append("t", [b"%03d" % number * 20], media=JSON)
    small.release("t", 0, 60)
    begin = small.begin("t", 0)
    assert 40 < begin <= 60
    assert payloads(small)[0] == b"%03d" % begin * 20  # asked for 0, which is gone
    small.release("t", 0, 10_000)
    assert segment_bases(small.folder / "t" / "0") == [small.begin("t", 0)]
    assert small.append("t", [b"on"], media=JSON) == 100


def test_an_old_segment_that_was_released_does_not_stay_on_disk(open_log):
    log = open_log(Limits(segment_seconds=0.05))
    log.append("t", [b"secret"], media=JSON)
    time.sleep(0.06)
    log.release("t", 0, 1)
    assert (log.begin("t", 0), log.end("t", 0)) == (1, 1)


def test_too_much_that_waits_is_refused_until_it_was_released(small):
    with pytest.raises(LimitExceeded) as refused:
        for _ in range(1000):
            small.append("t", [b"x" * 500], media=JSON)
    assert "falaj up" in refused.value.hint
    end = small.end("t", 0)
    assert 20 < end < 50
    small.release("t", 0, end)
    assert small.append("t", [b"x" * 500], media=JSON) == end


def test_nothing_of_a_record_stands_in_clear(log):
    log.append("t", [b"a-known-card-number"], media=JSON, mark="a-known-mark")
    for file in log.folder.rglob("*"):
        if file.is_file():
            assert b"known" not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0


def torn(log, change):
    """Change the bytes of the last segment, as a crash would, and forget what was told of it."""
    folder = log.folder / "t" / "0"
    path = segment_path(folder, segment_bases(folder)[-1])
    log.close()
    (folder / "state").unlink()
    path.write_bytes(change(path.read_bytes().rstrip(b"\0")))


@pytest.mark.parametrize("missing", [1, 10, 40, 60])
def test_a_torn_last_record_is_cut_off_and_the_others_stay(log, open_log, missing):
    log.append("t", [b"one"], media=JSON)
    log.append("t", [b"two"], media=JSON)
    torn(log, lambda data: data[:-missing])
    again = open_log()
    assert payloads(again) == [b"one"]
    assert again.append("t", [b"other"], media=JSON) == 1
    assert payloads(again) == [b"one", b"other"]


def test_a_whole_record_behind_a_torn_one_never_comes_back(log, open_log):
    log.append("t", [b"one"], media=JSON)
    folder = log.folder / "t" / "0"
    whole = len(segment_path(folder, 0).read_bytes().rstrip(b"\0"))
    log.append("t", [b"two", b"six"], media=JSON)

    def spoiled(data):
        return data[: whole + 30] + b"\0\1\2" + data[whole + 33 :]

    torn(log, spoiled)
    again = open_log()
    assert again.end("t", 0) == 1
    again.append("t", [b"new"], media=JSON)
    again.close()
    assert payloads(open_log()) == [b"one", b"new"]


def test_a_record_that_was_changed_is_never_read(log, open_log):
    log.append("t", [b"one", b"two", b"three"], media=JSON)
    folder = log.folder / "t" / "0"
    path = segment_path(folder, 0)
    data = bytearray(path.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        payloads(log)


def test_a_segment_of_another_place_is_refused(log):
    log.append("t", [b"one"], media=JSON)
    log.append("u", [b"other"], media=JSON)
    one, other = (segment_path(log.folder / topic / "0", 0) for topic in "tu")
    one.write_bytes(other.read_bytes())
    fresh = SegmentLog(log.folder, TestKeys())
    with pytest.raises(Corrupt):
        fresh.read("t", 0, 0)


def test_what_a_killed_process_left_unpublished_is_taken_over(log, open_log):
    """It wrote and synced, and died before it could say so: the record was not acknowledged."""
    log.append("t", [b"one", b"two"], media=JSON)
    partition = log._partition("t", 0)
    partition._state[0], partition._state[3] = 1, 1  # as before the second, in the middle
    again = open_log()
    assert again.append("t", [b"three"], media=JSON) == 2
    assert payloads(again) == [b"one", b"two", b"three"]
    assert payloads(log) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".groups", "x" * 201])
def test_a_topic_cannot_leave_its_folder(log, name):
    with pytest.raises(InvalidInput):
        log.append(name, [b"x"], media=JSON)


APPENDER = """
import sys
from pathlib import Path
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.adapters.segment_partition import Limits
from falaj.testing.streams import TestKeys
log = SegmentLog(Path(sys.argv[1]), TestKeys(), limits=Limits(segment_bytes=100_000))
for number in range(1_000_000):
    log.append("t", [b"%s %d" % (sys.argv[2].encode(), number)] * (1 + number % 3), media="x/y")
    print(number, flush=True)
"""


def test_killed_appenders_lose_nothing_that_was_acknowledged(log):
    told = {}
    for turn in range(4):
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", APPENDER, str(log.folder), f"{turn}{name}"],
                stdout=subprocess.PIPE, text=True,
            )
            for name in "ab"
        ]  # fmt: skip
        for one in pair:
            one.stdout.readline()
        time.sleep(0.03 * turn)
        for one in pair:
            one.send_signal(signal.SIGKILL)
        for one, name in zip(pair, "ab", strict=True):
            lines = one.stdout.read().splitlines()
            one.wait()
            told[f"{turn}{name}"] = int(lines[-1]) if lines else 0
    log.append("t", [b"end 0"], media="x/y")
    found = {}
    for record in all_of(log, "t"):
        who, number = record.payload.split()
        found.setdefault(who.decode(), []).append(int(number))
    for who, last in told.items():
        wanted = [number for number in range(last + 1) for _ in range(1 + number % 3)]
        assert found[who][: len(wanted)] == wanted
        rest = found[who][len(wanted) :]  # at most the one that was being written
        assert rest in ([], [last + 1] * len(rest))
        assert len(rest) <= 3


def test_a_killed_worker_frees_its_partitions(log, tmp_path):
    log.ensure("t", 2)
    program = APPENDER.partition("for number")[0] + (
        "share = log.share('g', ['t']); print(len(share.held()), flush=True)\n"
        "import time; time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(log.folder), "x"], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "2\n"
    mine = log.share("g", ["t"])
    assert list(mine.held()) == []
    other.kill()
    other.wait()
    time.sleep(0.5)
    assert len(mine.held()) == 2
    mine.close()


def test_a_full_disk_leaves_nothing_half_written(log, monkeypatch):
    log.append("t", [b"one"], media=JSON)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *given: _full(write, *given))
    with pytest.raises(LimitExceeded):
        log.append("t", [b"x" * 1000], media=JSON)
    monkeypatch.undo()
    assert payloads(log) == [b"one"]
    assert log.append("t", [b"two"], media=JSON) == 1
    assert payloads(log) == [b"one", b"two"]


def _full(write, handle, data, at):
    write(handle, bytes(data)[:50], at)  # some of it, as a full disk does
    raise OSError(28, "No space left on device")


def test_another_process_that_appends_is_waited_for(log):
    log.append("t", [b"one"], media=JSON)
    lock = os.open(log.folder / "t" / "0" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="unavailable"):
        fcntl.flock(log._partition("t", 0)._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert payloads(log) == [b"one"]  # a reader takes no lock
    os.close(lock)
