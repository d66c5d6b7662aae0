"""Segments of the event log under another key, while others append and read."""

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime

import pytest

from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.adapters.segment_files import segment_path
from falaj.ingest.adapters.segment_partition import Limits
from falaj.ingest.ports import JSON
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt
from falaj.testing.eventlog import all_of
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.ports import WRAPPING

SMALL = Limits(segment_bytes=1_500, waiting_bytes=1 << 20)


@pytest.fixture
def keys(tmp_path):
    clock = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
    seal = MachineSeal.create(tmp_path / "secret")
    return FileKeyring.create(tmp_path / "keys.json", seal, clock=clock)


@pytest.fixture
def open_log(tmp_path, keys):
    opened = []

    def open_it():
        opened.append(SegmentLog(tmp_path / "log", keys, limits=SMALL))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


@pytest.fixture
def longer(keys):
    class Longer:
        """Another key service, whose wrapped keys and ids are longer."""

        def __init__(self, by):
            self.by = by

        def wrap(self, data_key, *, context):
            found = keys.wrap(data_key, context=context)
            return type(found)(found.key_id + "." * self.by, found.value)

        def unwrap(self, wrapped, *, context):
            plain = type(wrapped)(wrapped.key_id.rstrip("."), wrapped.value)
            return keys.unwrap(plain, context=context)

    return Longer(0)


def append(log, *texts):
    log.append("t", [text.encode() for text in texts], media=JSON)


def texts(log, begin=0):
    return [record.payload.decode() for record in all_of(log, "t", begin=begin)]


def moved(log, *, reseal=False):
    for item, _ in list(log.items()):
        assert (log.reseal if reseal else log.rewrap)(item)


def standing(log):
    return {key_id for _, key_id in log.items()}


@pytest.mark.parametrize("reseal", [False, True])
def test_full_growing_and_empty_segments_move_and_everything_is_read(open_log, keys, reseal):
    log, other = open_log(), open_log()
    log.ensure("empty", 2)
    assert log.end("empty", 0) == log.end("empty", 1) == 0
    written = [f"record {number} {'x' * 100}" for number in range(40)]
    for text in written:
        append(log, text)
    assert texts(other) == written
    assert len(list(log.items())) > 4
    made = keys.rotate(WRAPPING)
    moved(log, reseal=reseal)
    assert standing(log) == {made.id}
    for reader in (log, other, open_log()):
        assert texts(reader) == written
        assert texts(reader, begin=25) == written[25:]


@pytest.mark.parametrize("reseal", [False, True])
def test_processes_that_have_it_open_go_on_appending_and_reading(open_log, keys, reseal):
    log, other = open_log(), open_log()
    log.ensure("t", 1)
    assert (log.end("t", 0), other.end("t", 0)) == (0, 0)
    keys.rotate(WRAPPING)
    moved(log, reseal=reseal)  # an empty segment: another file takes its place
    append(other, "a")
    append(log, "b")
    keys.rotate(WRAPPING)
    moved(other, reseal=reseal)  # one that grows: it is ended
    append(log, "c")
    append(other, "d")
    assert texts(log) == texts(other) == texts(open_log()) == ["a", "b", "c", "d"]


def test_a_header_of_another_length_moves_the_records_and_nothing_is_lost(open_log, longer):
    log, other = open_log(), open_log()
    log.ensure("t", 1)
    assert other.end("t", 0) == 0

    service = longer
    logs = [log, other]
    for one in logs:
        one._keys = service
        one.close()
        assert one.end("t", 0) == 0
    expected = []
    for by in (40, 0, 90, 10):
        service.by = by
        moved(log)
        for number, one in enumerate(logs):
            expected.append(f"{by} {number}")
            append(one, expected[-1])
        assert texts(log) == texts(other) == expected


def test_a_reader_that_goes_on_in_the_middle_of_a_segment_finds_its_place_in_the_new_file(
    open_log, keys, longer
):
    log, other = open_log(), open_log()
    for one in (log, other):
        one._keys = longer
    written = [f"record {number}" for number in range(60)]
    for text in written:
        append(log, text)
    found = []
    for number in range(60):
        if number % 7 == 3:
            longer.by = (37 * number) % 90  # another length of the header
            moved(log)
        (record,) = other.read("t", 0, number, max_bytes=1)
        found.append(record.payload.decode())
    assert found == written


def test_a_released_segment_does_not_come_back(open_log, keys, monkeypatch):
    log = open_log()
    for number in range(40):
        append(log, f"record {number} {'x' * 100}")
    first = next(iter(log.items()))[0]
    keys.rotate(WRAPPING)
    copy_to = type(log._partition("t", 0)._segment(0)).copy_to

    def released_meanwhile(self, *arguments, **more):
        copy_to(self, *arguments, **more)
        log.release("t", 0, 39)

    monkeypatch.setattr("falaj.ingest.adapters.segment_files.Segment.copy_to", released_meanwhile)
    assert log.rewrap(first) is False
    assert not segment_path(log.folder / "t" / "0", 0).exists()
    assert log.rewrap(first) is False
    assert not list(log.folder.rglob("*.begun"))


def test_a_changed_record_is_noticed_when_it_is_sealed_anew(open_log, keys):
    log = open_log()
    for number in range(40):
        append(log, f"record {number} {'x' * 100}")
    path = segment_path(log.folder / "t" / "0", 0)
    content = bytearray(path.read_bytes())
    log.close()
    log = open_log()
    segment = log._partition("t", 0)._segment(0)
    frame = next(segment.frames(segment.first_byte))
    content[frame.end - 1] ^= 1
    # A whole frame with a right checksum, but of other bytes.
    sealed = bytes(content[frame.begin + 24 : frame.end])
    place = bytes(content[frame.begin + 8 : frame.begin + 24])
    content[frame.begin + 4 : frame.begin + 8] = struct.pack(
        "<I", zlib.crc32(sealed, zlib.crc32(place))
    )
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        log.reseal("t/0/00000000000000000000")
    assert path.read_bytes() == content


def test_appenders_and_readers_go_on_while_segments_move(open_log, keys):
    log, other = open_log(), open_log()
    n, failures, stop = 300, [], threading.Event()

    def appends(one, name):
        try:
            for number in range(n):
                append(one, f"{name} {number} {'x' * 50}")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    def rotates():
        try:
            while not stop.is_set():
                keys.rotate(WRAPPING)
                for item, _ in list(other.items()):
                    other.rewrap(item)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    def reads(found):
        try:
            begin = 0
            while begin < 2 * n:
                for record in log.read("t", 0, begin, wait_seconds=1.0):
                    found.append(record.payload.decode())
                    begin = record.offset + 1
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    found = []
    workers = [
        threading.Thread(target=appends, args=(log, "a")),
        threading.Thread(target=appends, args=(other, "b")),
        threading.Thread(target=reads, args=(found,)),
    ]
    log.ensure("t", 1)
    rotating = threading.Thread(target=rotates)
    for thread in (*workers, rotating):
        thread.start()
    for thread in workers:
        thread.join(120)
    stop.set()
    rotating.join(60)
    assert failures == []
    for name in "ab":
        own = [text.split()[1] for text in found if text.startswith(name)]
        assert own == [str(number) for number in range(n)]
    assert texts(open_log()) == found


_MOVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.adapters.segment_partition import Limits
from falaj.kernel.clock import SetClock
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

folder = Path(sys.argv[1])
clock = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
keys = FileKeyring(folder / "keys.json", MachineSeal(folder / "secret"), clock=clock)
log = SegmentLog(folder / "log", keys, limits=Limits(segment_bytes=1500, waiting_bytes=1 << 20))
print("ready", flush=True)
while True:
    keys.rotate("wrapping")
    for item, _ in list(log.items()):
        log.rewrap(item)
"""


def test_killed_at_any_moment_it_leaves_every_record_readable(open_log, keys, tmp_path):
    log = open_log()
    log.ensure("t", 1)
    expected = []
    for round_ in range(4):
        mover = subprocess.Popen(
            [sys.executable, "-c", _MOVER, str(tmp_path)], stdout=subprocess.PIPE
        )
        try:
            assert mover.stdout.readline() == b"ready\n"
            for number in range(25):
                expected.append(f"{round_} {number} {'x' * 60}")
                append(log, expected[-1])
        finally:
            os.kill(mover.pid, signal.SIGKILL)
            mover.wait()
            mover.stdout.close()
        append(log, f"{round_} after")
        expected.append(f"{round_} after")
        assert texts(log) == expected
    moved(log)
    assert texts(open_log()) == texts(log) == expected
