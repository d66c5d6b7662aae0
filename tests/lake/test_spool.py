from __future__ import annotations

import io
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pytest

from falaj.kernel.errors import InvalidInput, LimitExceeded
from falaj.lake.spool import Drain, Spool


def rows(*values):
    return pa.table({"n": pa.array(values, pa.int64())})


def stored(lake):
    return sorted(lake.scan("log")["n"].to_pylist()) if lake.exists("log") else []


@pytest.fixture
def spool(tmp_path, keys):
    return Spool(tmp_path / "spool", "log", keys)


@pytest.fixture
def drain(tmp_path, keys, lake):
    return Drain(tmp_path / "spool", keys, lake, "log")


def test_what_is_flushed_arrives_once_and_the_segments_go(spool, drain, lake, tmp_path):
    spool.append(rows(1, 2))
    spool.append(rows(3).to_batches()[0])
    assert spool.n_waiting == 3
    assert spool.flush() is not None
    assert spool.flush() is None
    spool.append(rows(4))
    spool.flush()
    done = drain.run_once()
    assert (done.n_segments, done.n_rows, done.n_refused) == (2, 4, 0)
    assert drain.run_once().n_segments == 0
    assert stored(lake) == [1, 2, 3, 4]
    assert list((tmp_path / "spool" / "log").iterdir()) == []


def test_a_full_buffer_flushes_by_itself(tmp_path, keys):
    spool = Spool(tmp_path, "log", keys, rows_per_segment=3)
    assert spool.append(rows(1, 2)) is None
    path = spool.append(rows(3))
    assert path is not None
    assert path.exists()
    assert spool.n_waiting == 0


def test_bytes_that_are_kept_arrive_as_the_rows_that_the_drain_makes_of_them(
    spool, tmp_path, keys, lake
):
    spool.keep(io.BytesIO(b"1 2 3"), len(b"1 2 3"), "first")
    spool.keep(io.BytesIO(b"1 2 3"), len(b"1 2 3"), "first")
    drain = Drain(
        tmp_path / "spool", keys, lake, "log", read=lambda data: rows(*map(int, data.split()))
    )
    assert drain.run_once().n_rows == 3
    spool.keep(
        io.BytesIO(b"1 2 3"), len(b"1 2 3"), "first"
    )  # by a writer that did not know that it was drained
    drain.run_once()
    assert stored(lake) == [1, 2, 3]


def test_bytes_that_are_no_rows_are_set_aside(spool, drain):
    spool.keep(io.BytesIO(b"no Arrow"), len(b"no Arrow"), "first")
    done = drain.run_once()
    assert (done.n_segments, done.n_rows, done.n_refused) == (0, 0, 1)


def test_a_segment_holds_nothing_in_clear_and_is_private(spool, tmp_path):
    spool.append(pa.table({"secret_name": ["Amina bint Saif"] * 10}))
    path = spool.flush()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert b"Amina" not in path.read_bytes()
    assert b"secret_name" not in path.read_bytes()


def test_a_drain_that_dies_after_the_commit_writes_nothing_twice(spool, drain, lake, monkeypatch):
    spool.append(rows(1))
    path = spool.flush()
    kept = path.read_bytes()
    drain.run_once()
    path.write_bytes(kept)  # as if the process had died before it deleted the file
    assert drain.run_once().n_rows == 1
    assert stored(lake) == [1]
    assert not path.exists()


def test_what_has_moved_is_told_by_name_and_told_again_if_the_drain_died_before_it_was_done(
    spool, tmp_path, keys, lake
):
    told = []
    again = Drain(tmp_path / "spool", keys, lake, spool.stream, moved=lambda *one: told.append(one))
    spool.append(rows(1))
    path = spool.flush()
    kept = path.read_bytes()
    again.run_once()
    path.write_bytes(kept)
    again.run_once()
    assert [name for name, _ in told] == [f"spool/{spool.stream}/{path.stem}"] * 2
    assert told[0][1].equals(told[1][1])


def test_a_tampered_segment_is_set_aside_and_the_others_go_on(spool, drain, lake):
    spool.append(rows(1))
    bad = spool.flush()
    spool.append(rows(2))
    spool.flush()
    data = bytearray(bad.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    done = drain.run_once()
    assert (done.n_segments, done.n_refused) == (1, 1)
    assert stored(lake) == [2]
    assert bad.with_suffix(".refused").exists()


def test_a_segment_under_another_name_is_refused(spool, drain):
    spool.append(rows(1))
    path = spool.flush()
    path.rename(path.with_name("0" + path.name[1:-9] + "x.segment"))
    assert drain.run_once().n_refused == 1


def test_rows_of_another_form_are_refused_until_a_flush(spool):
    spool.append(rows(1))
    with pytest.raises(InvalidInput, match="other columns"):
        spool.append(pa.table({"m": [1]}))
    spool.flush()
    spool.append(pa.table({"m": [1]}))


def test_a_spool_that_nobody_drains_refuses_rows_and_loses_none(tmp_path, keys, lake):
    spool = Spool(tmp_path / "spool", "log", keys, rows_per_segment=2, max_bytes=1_500)
    accepted = []
    with pytest.raises(LimitExceeded):
        for value in range(100):
            try:
                spool.append(rows(value))
            except LimitExceeded as error:
                if "memory" in error.message:
                    raise
            accepted.append(value)
    assert 2 < len(accepted) < 20
    drain = Drain(tmp_path / "spool", keys, lake, "log")
    drain.run_once()
    spool.flush()
    drain.run_once()
    assert stored(lake) == accepted


WRITER = """
    import sys, os, pathlib, datetime as dt
    import pyarrow as pa
    from falaj.kernel.clock import SystemClock
    from falaj.lake.adapters.lake_ducklake import DuckLake
    from falaj.lake.spool import Drain, Spool
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
    home = pathlib.Path(sys.argv[1])
    keys = FileKeyring(home / "k.json", MachineSeal(home / "s"), clock=SystemClock())
"""


def started(body, *arguments):
    text = textwrap.dedent(WRITER) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_killed_drains_and_killed_writers_neither_lose_nor_double_a_flushed_row(
    tmp_path, keys, lake, drain
):
    lake.tables()
    writer = started(
        """
        spool = Spool(home / "spool", "log", keys)
        for n in range(100_000):
            spool.append(pa.table({"n": pa.array([n], pa.int64())}))
            spool.flush()
            print(n, flush=True)
        """,
        tmp_path,
    )
    flushed = -1
    for _ in range(3):
        drainer = started(
            """
            drain = Drain(home / "spool", keys, DuckLake.in_folder(home / "lake"), "log")
            while True:
                if drain.run_once(max_segments=1).n_segments:
                    print("moved", flush=True)
            """,
            tmp_path,
        )
        drainer.stdout.readline()
        drainer.stdout.readline()
        drainer.send_signal(signal.SIGKILL)
        drainer.wait()
        drainer.stdout.close()
    writer.send_signal(signal.SIGKILL)
    for line in writer.stdout:
        flushed = int(line)
    writer.wait()
    writer.stdout.close()
    folder = tmp_path / "spool" / "log"
    for path in sorted(folder.glob("*.segment"))[60:]:
        path.unlink()  # enough is enough: these were flushed, but never drained
        flushed = None
    while drain.run_once().n_segments:
        pass
    found = stored(lake)
    assert len(found) == len(set(found))
    # Names of segments of one millisecond come in any order: the last one may be cut off too soon.
    whole = found if flushed is not None else found[:-1]
    assert whole == list(range(len(whole)))
    assert flushed is None or len(found) >= flushed + 1
    assert not list(folder.glob("*.segment"))
