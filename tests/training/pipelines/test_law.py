"""The law of the engine: whatever ends it at whatever moment, the result is that of a quiet run."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.training.pipelines.execution import Execution, Surround
from falaj.training.pipelines.frames import packed, unpacked
from falaj.training.pipelines.graph import record_run
from falaj.training.pipelines.model import StepState
from falaj.training.pipelines.ports import StepAnswer

NAMES = ("one", "two", "three", "four")
DECLARED = """
from falaj.declare import Pipeline, ToTable, step

def one():
    return 1

def two(one):
    return one + 1

def three(one):
    return None

def four(two, three):
    return two

law = Pipeline.of(
    "law", step(one, cached=False), step(two, cached=False),
    step(three, cached=False, writes=ToTable(table="law_rows", mode="append")),
    step(four, cached=False), parallel=PARALLEL,
)
"""


class Killed(BaseException):
    """The process ends here."""


class Fate:
    """Ends the process at the moments of a plan: counts what happens, and raises."""

    def __init__(self, moments):
        self.left = list(moments)
        self.seen = 0

    def now(self):
        if self.left:
            self.seen += 1
            if self.seen > self.left[0]:
                self.left.pop(0)
                self.seen = 0
                raise Killed


class Around:
    """Something whose named methods meet their fate before and after they work."""

    def __init__(self, whole, fate, *names):
        self._whole, self._fate, self._names = whole, fate, names

    def __getattr__(self, name):
        found = getattr(self._whole, name)
        if name not in self._names:
            return found

        def fated(*values, **named):
            self._fate.now()
            answer = found(*values, **named)
            self._fate.now()
            return answer

        return fated


class Here:
    """Runs the steps in this process, each of which tells what it did."""

    def __init__(self, fate, folder):
        self.fate, self.folder, self.done = fate, folder, Counter()

    def run(self, task, _ask):
        self.fate.now()
        inputs = {name: unpacked(one, self.folder, name) for name, one in task.inputs.items()}
        self.done[task.step] += 1
        values = {
            "one": lambda: 1,
            "two": lambda: inputs["one"] + 1,
            "three": lambda: pa.table({"n": [inputs["one"]]}),
            "four": lambda: inputs["two"] + inputs["three"].num_rows,
        }
        self.fate.now()
        return StepAnswer({"": packed(values[task.step]())})

    def stop(self):
        pass

    close = stop


class Job:
    """A job whose lease nobody contests."""

    id = "job_of_the_law"

    def report(self, progress, message="", *, connection=None):
        pass


@pytest.fixture(scope="module", params=[2])
def name(house, request):
    return house.declare(DECLARED.replace("PARALLEL", str(request.param)))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moments=st.lists(st.integers(0, 14), max_size=5))
def test_each_step_has_one_effect_and_the_result_is_that_of_an_undisturbed_run(
    house, name, tmp_path, moments
):
    made, fate = house.made, Fate(moments)
    with made.calls.opened("test.begin", "user:amina") as call:
        run = made.pipelines.runs.begin(call, name, {})
        pipeline = made.pipelines.runs.pipeline(call.connection, name, run.version)
        record_run(call, made.catalog, run, pipeline)
    before = made.lake.count("law_rows") if made.lake.exists("law_rows") else 0
    on = Surround(
        made.calls,
        made.clock,
        Around(made.pipelines.runs, fate, "record"),
        Around(made.lake, fate, "append"),
        Around(made.pipelines.values, fate, "kept", "fetched"),
        made.pipelines.platform,
    )
    here = Here(fate, tmp_path)
    for _ in range(len(moments) + 1):
        with made.database.reading() as connection:
            found = made.pipelines.runs.get(connection, run.id)
            pipeline = made.pipelines.runs.pipeline(connection, name, found.version)
        try:
            Execution(on, Job(), found, pipeline, here).finished()
            break
        except Killed:
            continue
    with made.database.reading() as connection:
        steps = {one.step: one for one in made.pipelines.runs.steps(connection, run.id)}
    assert set(steps) == set(NAMES)
    assert {one.state for one in steps.values()} == {StepState.DONE}
    assert unpacked(on.values.fetched(steps["four"].outputs[""]), tmp_path, "x") == 3
    assert made.lake.count("law_rows") == before + 1
    assert all(1 <= here.done[step] <= 1 + len(moments) for step in NAMES)
    if not moments:
        assert here.done == dict.fromkeys(NAMES, 1)
    # The run was never given to a worker: its job must not wait for one.
    with made.calls.opened("test.cancel", "user:amina") as call:
        made.jobs.cancel(call.connection, run.job)
