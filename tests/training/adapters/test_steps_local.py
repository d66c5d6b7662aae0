"""Processes of steps that do not keep to the rules of their pipe."""

import pytest

from falaj.kernel.clock import monotonic
from falaj.training.adapters.steps_local import LocalSteps
from falaj.training.pipelines.frames import MOST_TOLD, packed, unpacked
from falaj.training.pipelines.model import StepFailed, StepTimedOut
from falaj.training.pipelines.ports import StepTask

PIPE = """
import os, struct, sys, time
OUT = int(sys.argv[4])
"""


@pytest.fixture
def steps():
    made = LocalSteps(1)
    yield made
    made.close()


def task(source, seconds=30.0, **inputs):
    given = {name: packed(value) for name, value in inputs.items()}
    return StepTask("s", "f", PIPE + source, {}, given, (), timeout_seconds=seconds)


@pytest.mark.parametrize("length", [1 << 50, MOST_TOLD + 1])
def test_a_frame_that_says_it_is_larger_than_it_may_be_is_refused_before_it_is_read(steps, length):
    endless = f"""
def f():
    os.write(OUT, struct.pack("<Q", {length}))
    while True:
        os.write(OUT, bytes(1 << 16))
"""
    with pytest.raises(StepFailed, match="told what it may not"):
        steps.run(task(endless), None)


def test_values_that_say_they_are_larger_than_the_process_are_refused():
    steps = LocalSteps(1, memory_bytes=1 << 30)
    large = """
def f():
    import msgspec
    told = {"outputs": {"": {"form": "plain", "size": (1 << 30) + 1, "name": ""}},
            "seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}
    data = msgspec.msgpack.encode(told)
    os.write(OUT, struct.pack("<Q", len(data)) + data)
    while True:
        os.write(OUT, bytes(1 << 16))
"""
    try:
        with pytest.raises(StepFailed, match="told what it may not"):
            steps.run(task(large), None)
    finally:
        steps.close()


@pytest.mark.parametrize("pause", ["0", "0.05"])
def test_a_frame_that_trickles_or_streams_ends_with_the_time_of_its_step(steps, pause):
    steps.run(task("def f(): return 1"), None)  # it is started
    trickle = f"""
def f():
    os.write(OUT, struct.pack("<Q", 1 << 24))
    while True:
        os.write(OUT, b"0")
        time.sleep({pause})
"""
    begun = monotonic()
    with pytest.raises(StepTimedOut):
        steps.run(task(trickle, seconds=1.0), None)
    assert monotonic() - begun < 20


def test_a_process_that_reads_nothing_more_holds_the_worker_no_longer_than_its_time(steps):
    deaf = """
def f():
    import __main__
    __main__.read_frame = lambda _given: time.sleep(600)
    return 1
"""
    steps.run(task(deaf), None)
    with pytest.raises(StepTimedOut):
        steps.run(task("def f(n): return 1", seconds=1.0, n="x" * (1 << 20)), None)


@pytest.mark.parametrize(
    "told", ["[1]", "{'outputs': 3}", "{'outputs': {'other': {'form': 'plain', 'size': 0}}}",
             "{'outputs': {'': {'form': 'plain', 'size': -1}}, 'seconds': 0.0,"
             " 'cpu_seconds': 0.0, 'peak_bytes': 0}"]
)  # fmt: skip
def test_what_a_process_makes_up_is_a_failure_of_its_step(steps, told):
    made_up = f"""
def f():
    import msgspec
    data = msgspec.msgpack.encode({told})
    os.write(OUT, struct.pack("<Q", len(data)) + data)
    time.sleep(600)
"""
    with pytest.raises(StepFailed, match="told what it may not"):
        steps.run(task(made_up), None)


def test_values_of_many_megabytes_pass_both_ways(steps, tmp_path):
    answer = steps.run(task("def f(n): return n + n", n="y" * (20 << 20)), None)
    assert unpacked(answer.outputs[""], tmp_path, "n") == "y" * (40 << 20)


def test_a_step_makes_no_file_in_memory_and_opens_few_files(steps, tmp_path):
    source = """
def f():
    import ctypes, platform
    libc = ctypes.CDLL(None, use_errno=True)
    create = {"x86_64": 319, "aarch64": 279}[platform.machine()]
    found = []
    for number, values in ((create, (b"kept", 0)), (447, (0,))):
        ctypes.set_errno(0)
        found.append([libc.syscall(number, *values), ctypes.get_errno()])
    opened = []
    try:
        while len(opened) < 5000:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for one in opened:
        os.close(one)
    compare = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)  # what needs memory that is run
    return {"denied": found, "few": len(opened) < 300, "called": compare()}
"""
    answer = steps.run(task(source), None)
    found = unpacked(answer.outputs[""], tmp_path, "n")
    assert found == {"denied": [[-1, 1], [-1, 1]], "few": True, "called": 7}
