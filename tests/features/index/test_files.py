"""Runs in files: found again, never in clear where they must not be, thrown away when damaged."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.index.files import _HEAD, RunFiles
from falaj.features.index.indexes import Indexes, meaning
from falaj.features.model import Entity, Feature, FeatureView, Knowledge
from falaj.features.offline import Offline
from falaj.features.views import ViewPlan
from falaj.kernel.clock import SetClock
from falaj.testing.features import MemoryLake
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

CLOCK = SetClock(datetime(2026, 11, 23, tzinfo=UTC))
TIME = pa.timestamp("us", "UTC")
TYPES = {"x": "float64", "note": "string", "tags": "list[string]"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return FileKeyring.create(folder / "k.json", MachineSeal.create(folder / "s"), clock=CLOCK)


@pytest.fixture(params=["sealed", "clear"])
def files(request, tmp_path, keys):
    return RunFiles(tmp_path / "index", keys if request.param == "sealed" else None)


def rows(n, seed=0):
    chance = np.random.default_rng(seed)
    notes = [f"a note that says {value}" for value in chance.integers(0, 5, n)]
    return pa.table(
        {
            "k": pa.array(chance.integers(0, 9, n)).cast(pa.string()),
            "at": pa.array(chance.integers(0, 100, n)).cast(TIME),
            "x": pa.array([None if v < -1 else v for v in chance.normal(size=n)], pa.float64()),
            "note": pa.array(notes, pa.string()),
            "tags": pa.array([[note[:3]] for note in notes], pa.list_(pa.string())),
        }
    )


def plan(**more):
    view = FeatureView(
        name="v", entity="e", source="events", event_time="at", **more,
        features=[Feature(name, dtype) for name, dtype in TYPES.items()],
    )  # fmt: skip
    return ViewPlan.of(view, Entity(name="e", keys={"k": "string"}))


def answers(lake, files, view=None):
    """Every entity's values at many instants, from a process that has nothing in memory."""
    view = view or plan()
    keys = [pa.array([str(k) for k in range(10) for _ in range(5)])]
    at = np.array([20 * i for _ in range(10) for i in range(5)], np.int64)
    offline = Offline(Indexes(lake, files))
    found = offline.values(view, list(TYPES), keys, at, Knowledge.RECORDED, lake.latest())
    return {name: column.to_pylist() for name, column in found.items()}


class Counting(MemoryLake):
    """Counts how often rows are read."""

    n_read = 0

    def log(self, *args, **how):
        self.n_read += 1
        return super().log(*args, **how)


def kept(files):
    return sorted(files._folder.iterdir())


def test_a_kept_run_answers_in_the_next_process_without_reading_the_lake(files):
    lake = Counting(events=rows(300))
    wanted = answers(lake, None)
    lake.n_read = 0
    assert answers(lake, files) == wanted
    assert answers(lake, files) == wanted
    assert lake.n_read == 1
    assert len(kept(files)) == 1
    assert [path.stat().st_mode & 0o777 for path in kept(files)] == [0o600]


def test_later_rows_are_kept_beside_and_in_the_end_in_one_file(files):
    lake = Counting(events=rows(300))
    for number, n in enumerate((100, 30, 10, 4, 500)):
        answers(lake, files)
        lake.append("events", rows(n, seed=number))
    assert answers(lake, files) == answers(lake, None)
    assert len(kept(files)) == 1
    lake.n_read = 0
    lake.append("events", rows(5))
    assert answers(lake, files) == answers(lake, None)
    assert len(kept(files)) == 2
    lake.n_read = 0
    answers(lake, files)
    assert lake.n_read == 0


def test_a_file_that_was_changed_anywhere_is_made_again(files):
    lake = Counting(events=rows(60))
    wanted = answers(lake, files)
    (path,) = kept(files)
    whole = path.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // 60))
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    cut = [whole[:at] for at in (0, 5, 30, len(whole) // 2, len(whole) - 1)]
    for content in [*damaged, *cut, whole + b"\0"]:
        path.write_bytes(content)
        assert answers(lake, files) == wanted
        assert answers(Counting(events=rows(60)), files) == wanted


def test_a_file_of_another_version_is_made_again(tmp_path):
    files = RunFiles(tmp_path, None)
    lake = Counting(events=rows(50))
    wanted = answers(lake, files)
    (path,) = kept(files)
    content = path.read_bytes()
    magic, version, n, crc = _HEAD.unpack(content[: _HEAD.size])
    path.write_bytes(_HEAD.pack(magic, version + 1, n, crc) + content[_HEAD.size :])
    lake.n_read = 0
    assert answers(lake, files) == wanted
    assert lake.n_read == 1


def test_a_file_under_the_name_of_another_run_is_made_again(tmp_path):
    files = RunFiles(tmp_path, None)
    answers(Counting(events=rows(50)), files)
    (path,) = kept(files)
    other = Counting(events=rows(51, seed=9))
    path.rename(path.with_name(path.name.replace("-50-50-", "-51-51-")))
    assert answers(other, files) == answers(other, None)


def test_sealed_files_hold_nothing_in_clear_and_open_with_no_other_key(tmp_path, keys):
    lake = Counting(events=rows(200))
    files = RunFiles(tmp_path / "index", keys)
    wanted = answers(lake, files)
    (path,) = kept(files)
    assert b"note" not in path.read_bytes()
    strange = FileKeyring.create(
        tmp_path / "k.json", MachineSeal.create(tmp_path / "s"), clock=CLOCK
    )
    lake.n_read = 0
    assert answers(lake, RunFiles(tmp_path / "index", strange)) == wanted
    assert lake.n_read == 1


@pytest.mark.parametrize("classification", ["personal", "sensitive"])
def test_views_that_must_not_stand_in_clear_leave_nothing_on_disk(files, classification):
    lake = Counting(events=rows(50))
    view = plan(classification=classification)
    assert answers(lake, files, view) == answers(lake, None)
    assert not files._folder.exists()


def test_views_that_mean_the_same_share_their_index_and_others_do_not(tmp_path):
    files, lake = RunFiles(tmp_path, None), Counting(events=rows(50))
    answers(lake, files)
    answers(lake, files, plan(description="the same", owner="team:x"))
    assert lake.n_read == 1
    assert meaning(plan()) != meaning(plan(where=[{"column": "x", "op": "not_null"}]))
    assert meaning(plan()) != meaning(plan(recorded_at="rec"))
    assert meaning(plan()) != meaning(plan(classification="personal"))


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, keys):
    (tmp_path / "index").write_text("a file where the folder should be")
    lake = Counting(events=rows(50))
    for sealing in (keys, None):
        files = RunFiles(tmp_path / "index" / "deeper", sealing)
        assert answers(lake, files) == answers(lake, None)


def test_files_that_nobody_has_used_for_long_are_removed(tmp_path):
    files, lake = RunFiles(tmp_path, None), Counting(events=rows(50))
    answers(lake, files)
    (old,) = kept(files)
    long_ago = time.time() - 30 * 86_400
    (tmp_path / f"{old.name}.unfinished7").touch()
    (tmp_path / "somebody's").touch()
    for path in kept(files):
        os.utime(path, (long_ago, long_ago))
    other = Counting()
    other.append("events", rows(70))  # another table of that name
    answers(other, files)
    assert [path.name.split("-")[1] for path in kept(files) if path.suffix == ".run"] == ["70"]
    assert (tmp_path / "somebody's").exists()
    assert len(kept(files)) == 2


def test_many_that_build_the_same_at_once_all_answer_right(files):
    whole = rows(900)
    wanted = [answers(Counting(events=whole.slice(0, n)), None) for n in (400, 500, 900)]
    begin = threading.Barrier(4)

    def build():
        begin.wait(30)
        return [answers(Counting(events=whole.slice(0, n)), files) for n in (400, 500, 900)]

    with ThreadPoolExecutor(4) as threads:
        told = [one.result() for one in [threads.submit(build) for _ in range(4)]]
    assert told == [wanted] * 4
    assert all(".unfinished" not in path.name for path in kept(files))
