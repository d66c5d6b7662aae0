from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, FalajError
from falaj.serving.adapters import runtime_python
from falaj.serving.adapters.runtime_python import ProcessLimits, PythonModel, PythonRuntime
from falaj.serving.errors import ModelFailed
from falaj.serving.model import ServableModel
from falaj.testing.runtimes import RuntimeSuite

SIGMOID = """
import numpy as np

class Model:
    def __init__(self, folder):
        self.weights = np.array([0.4, -0.3, 0.2])

    def predict(self, rows):
        return 1 / (1 + np.exp(-np.nan_to_num(rows, posinf=9, neginf=-9) @ self.weights))
"""
HOSTILE = """
import ctypes, os, socket, subprocess, sys, threading
import numpy as np

class Model:
    def __init__(self, folder):
        self.folder = folder

    def predict(self, rows):
        name = DEEDS[int(rows[0, 0])]
        return np.full(len(rows), float(getattr(self, name)() or 0))

    def works(self): return 7
    def loops(self):
        while True: pass
    def allocates(self): np.ones(1 << 29)
    def forks(self): os.fork()
    def exits(self): os._exit(3)
    def leaves(self): sys.exit(0)
    def crashes(self): ctypes.string_at(0)
    def connects(self): socket.create_connection(("127.0.0.1", 9))
    def reads(self): open("/etc/passwd").read()
    def lists(self): os.listdir("/home")
    def writes(self): open("/tmp/falaj-was-here", "w").write("x")
    def changes_itself(self): open(self.folder / "model.py", "w").write("x")
    def runs(self): subprocess.run(["/bin/true"])
    def kills(self): os.kill(os.getppid(), 9)
    def signals(self):
        import fcntl
        read, write = os.pipe()
        fcntl.fcntl(read, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(read, 10, 9)
        fcntl.fcntl(read, fcntl.F_SETFL, fcntl.fcntl(read, fcntl.F_GETFL) | os.O_ASYNC)
        os.write(write, b"x")
    def signals_later(self):
        import fcntl
        fcntl.fcntl(os.pipe()[0], 10, 9)
    def moves_its_parent(self): os.sched_setaffinity(os.getppid(), {0})
    def slows_its_parent(self): os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
    def opens_its_file(self): os.fchmod(os.open(self.folder / "model.py", os.O_RDONLY), 0o666)
    def limits(self):
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    def survives(self):
        if ctypes.CDLL(None).prctl(1, 0) != 0: raise PermissionError("prctl")
    def begins_threads(self):
        told = []
        thread = threading.Thread(target=lambda: told.append(5))
        thread.start(); thread.join()
        return told[0]
    def sees_the_environment(self):
        return len([n for n in os.environ if n.startswith("FALAJ")])

DEEDS = ["works", "loops", "allocates", "forks", "exits", "leaves", "crashes", "connects",
         "reads", "lists", "writes", "changes_itself", "runs", "kills", "limits", "survives",
         "begins_threads", "sees_the_environment", "signals", "signals_later", "moves_its_parent",
         "slows_its_parent", "opens_its_file"]
"""
DEEDS = re.findall(r'"(\w+)"', HOSTILE.split("DEEDS =")[1])
LIMITS = ProcessLimits(memory_bytes=1 << 30, call_seconds=0.5)


def servable(text: str | bytes, names: tuple[str, ...] = ("a", "b", "c")) -> ServableModel:
    return ServableModel("python", text if isinstance(text, bytes) else text.encode(), names)


class TestPythonRuntime(RuntimeSuite):
    """A custom Python model in a process of its own keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> PythonRuntime:
        return PythonRuntime()

    @pytest.fixture
    def model(self) -> ServableModel:
        return servable(SIGMOID)

    @pytest.fixture
    def native(self):  # type: ignore[no-untyped-def]
        space: dict[str, object] = {}
        exec(SIGMOID, space)
        made = space["Model"](None)  # type: ignore[operator]
        return made.predict


@pytest.fixture(scope="module")
def hostile() -> Iterator[PythonModel]:
    loaded = PythonRuntime(LIMITS).load(servable(HOSTILE))
    yield loaded
    loaded.close()


def done(model: PythonModel, deed: str) -> float:
    rows = np.array([[DEEDS.index(deed), 0, 0]], dtype=np.float32)
    return float(model.run(rows)[0, 0])


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("loops", "longer than 0.5 s"),
        ("allocates", "MemoryError"),
        ("forks", "Error"),
        ("exits", "exit code 3"),
        ("leaves", "SystemExit"),
        ("crashes", "signal 11"),
        ("connects", "PermissionError"),
        ("reads", "PermissionError"),
        ("lists", "PermissionError"),
        ("writes", "PermissionError"),
        ("changes_itself", "PermissionError"),
        ("runs", "PermissionError"),
        ("kills", "PermissionError"),
        ("limits", "Error"),
        ("survives", "PermissionError"),
        ("signals", "PermissionError"),
        ("signals_later", "PermissionError"),
        ("moves_its_parent", "PermissionError"),
        ("slows_its_parent", "PermissionError"),
        ("opens_its_file", "PermissionError"),
    ],
)
def test_a_bad_deed_fails_its_own_request_and_the_next_is_answered(
    hostile: PythonModel, deed: str, why: str
) -> None:
    with pytest.raises(ModelFailed, match=why):
        done(hostile, deed)
    assert done(hostile, "works") == 7


def test_threads_are_allowed_and_the_workers_environment_is_not_seen(
    hostile: PythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done(hostile, "begins_threads") == 5
    monkeypatch.setenv("FALAJ_PASSPHRASE", "secret")
    with pytest.raises(ModelFailed):
        done(hostile, "exits")  # the next process starts with the variable set here
    assert done(hostile, "sees_the_environment") == 0


def test_a_process_killed_from_outside_is_started_again() -> None:
    loaded = PythonRuntime().load(servable(SIGMOID))
    row = np.zeros((1, 3), dtype=np.float32)
    first = loaded.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ModelFailed, match="signal 9"):
        loaded.run(row)
    assert loaded.run(row)[0, 0] == 0.5
    assert loaded.pid != first


def test_a_model_that_is_let_go_leaves_neither_process_nor_files() -> None:
    loaded = PythonRuntime().load(servable(SIGMOID))
    pid, folder = loaded.pid, Path(f"/proc/{loaded.pid}/cwd").resolve()
    assert folder.exists()
    del loaded
    assert gone(pid)
    assert not folder.exists()


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_dies_with_its_parent_even_while_it_loops(tmp_path: Path) -> None:
    program = f"""
import threading, time
import numpy as np
from falaj.serving.adapters.runtime_python import ProcessLimits, PythonRuntime
from falaj.serving.model import ServableModel
model = PythonRuntime(ProcessLimits(call_seconds=60)).load(
    ServableModel("python", {HOSTILE.encode()!r}, ("a", "b", "c")))
threading.Thread(target=lambda: model.run(np.array([[1, 0, 0]], dtype=np.float32))).start()
time.sleep(0.2)
print(model.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(child)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_an_archive_brings_files_and_modules_of_its_own() -> None:
    module = b"""
import numpy as np
from more.words import FACTOR

class Model:
    def __init__(self, folder):
        self.weights = np.loadtxt(folder / "weights.txt") * FACTOR

    def predict(self, rows):
        return rows @ self.weights
"""
    data = zipped({"model.py": module, "weights.txt": b"1 2 3", "more/words.py": b"FACTOR = 2"})
    loaded = PythonRuntime().load(servable(data))
    assert loaded.run(np.ones((2, 3), dtype=np.float32)).tolist() == [[12], [12]]


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_is_larger_than_it_says_costs_no_memory(how: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr("model.py", SIGMOID)
        archive.writestr("zeros", bytes(64 << 20))
    data = bytearray(buffer.getvalue())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 10)  # the size that it says
    tracemalloc.start()
    with pytest.raises(Corrupt, match="damaged"):
        PythonRuntime(LIMITS).load(servable(bytes(data)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "data",
    [
        zipped({"../evil.py": b"", "model.py": SIGMOID.encode()}),
        zipped({"/tmp/evil.py": b"", "model.py": SIGMOID.encode()}),
        zipped({"other.py": b"x = 1"}),
        zipped({"model.py": SIGMOID.encode()})[:-30],
        b"class Other: pass",
        b"import nothing_of_that_name",
        b"def f(:",
        b"class Model:\n    def __init__(self, folder): raise SystemExit",
        b"while True: pass",
    ],
)
def test_what_is_no_model_is_refused_before_it_serves(data: bytes) -> None:
    runtime = PythonRuntime(ProcessLimits(start_seconds=1.5))
    with pytest.raises(Corrupt):
        runtime.load(servable(data))


def test_a_large_batch_goes_through_the_pipe_whole() -> None:
    loaded = PythonRuntime().load(servable(SIGMOID))
    rows = np.random.default_rng(0).normal(size=(200_000, 3)).astype(np.float32)
    scores = loaded.run(rows)
    assert scores.shape == (200_000, 1)
    np.testing.assert_allclose(scores[-1], loaded.run(rows[-1:])[0])


def test_a_process_that_cannot_start_again_is_a_failed_request_and_not_a_hang() -> None:
    loaded = PythonRuntime(LIMITS).load(servable(HOSTILE))
    folder = Path(f"/proc/{loaded.pid}/cwd").resolve()
    (folder / "model.py").write_text("raise ValueError('spoilt')")
    with pytest.raises(ModelFailed, match="exit code 3"):
        done(loaded, "exits")
    for _ in range(2):
        with pytest.raises(FalajError, match="spoilt"):
            done(loaded, "works")
    (folder / "model.py").write_text(HOSTILE)
    assert done(loaded, "works") == 7


def test_a_batch_of_many_rows_is_several_calls_each_with_the_time_of_a_call() -> None:
    text = """
import time
class Model:
    def __init__(self, folder):
        pass
    def predict(self, rows):
        time.sleep(len(rows) * 0.0002)
        return rows[:, :1]
"""
    model = PythonRuntime(ProcessLimits(call_seconds=0.5)).load(servable(text))
    rows = np.arange(4_000 * 3, dtype=np.float32).reshape(-1, 3)  # 0.8 s in one call
    assert model.run(rows)[:, 0].tolist() == rows[:, 0].tolist()
    model.close()


LINGERING = """
import threading, time

class Model:
    def __init__(self, folder):
        pass

    def predict(self, rows):
        deed = int(rows[0, 0])
        if deed == 1:
            threading.Thread(target=self.burn, daemon=True).start()
        if deed == 2:
            for _ in range(3):
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return rows[:, :1]

    def burn(self):
        while True:
            pass
"""


def until(true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def ask(model: PythonModel, deed: float) -> float:
    return float(model.run(np.array([[deed, 0, 0]], dtype=np.float32))[0, 0])


def test_a_model_that_computes_while_it_is_asked_nothing_is_ended_until_somebody_asks() -> None:
    model = PythonRuntime().load(servable(LINGERING))
    first = model.pid
    assert ask(model, 1) == 1
    assert gone(first)
    until(lambda: model.n_idle_kills == 1)
    assert ask(model, 5) == 5, "the next call is answered"
    assert model.pid != first
    model.close()


def test_a_burning_thread_is_found_between_two_calls_however_often_it_is_asked() -> None:
    model = PythonRuntime(ProcessLimits(idle_cpu_seconds=0.2)).load(servable(LINGERING))
    ask(model, 1)

    def ended() -> bool:
        time.sleep(0.01)
        return ask(model, 5) == 5 and model.n_idle_kills == 1

    until(ended)
    model.close()


def test_threads_that_a_call_leaves_behind_are_told_once_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = mock.Mock()  # not by capture_logs: another test may have left a higher level behind
    monkeypatch.setattr(runtime_python, "logger", lambda _name: told)
    model = PythonRuntime().load(servable(LINGERING))
    ask(model, 2)
    until(lambda: model.n_threads_left == 3)
    ask(model, 2)
    until(lambda: model.n_threads_left == 6)
    told.warning.assert_called_once_with("custom model leaves threads behind", threads=3)
    assert model.n_idle_kills == 0
    model.close()


def test_a_model_at_rest_is_left_alone() -> None:
    model = PythonRuntime(ProcessLimits(idle_cpu_seconds=0.05)).load(servable(SIGMOID))
    first = model.pid
    for _ in range(4):
        ask(model, 1)
        time.sleep(0.3)
    assert (model.pid, model.n_idle_kills, model.n_threads_left) == (first, 0, 0)
    model.close()


def test_a_model_that_is_closed_is_not_started_again() -> None:
    model = PythonRuntime().load(servable(SIGMOID))
    pid = model.pid
    model.close()
    model.look()
    assert gone(pid)
