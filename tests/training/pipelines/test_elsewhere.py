"""Steps on the other compute: the task that Ray is given, run by a ``Compute`` of this machine."""

from types import SimpleNamespace

import pytest

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.errors import InvalidInput
from falaj.training.adapters.steps_local import LocalSteps
from falaj.training.pipelines.frames import packed, unpacked
from falaj.training.pipelines.model import StepFailed
from falaj.training.pipelines.ports import StepTask
from falaj.wiring.pipelineparts import RaySteps


def made(compute):
    settings = SimpleNamespace(compute=compute, pipelines=SimpleNamespace(confined=True))
    opened = SimpleNamespace(opened=lambda: LocalCompute(1))
    return SimpleNamespace(settings=settings, compute=opened)


def task(source):
    return StepTask("s", "f", source, {}, {"n": packed(20)}, ())


def test_a_step_is_run_by_the_compute_and_its_error_comes_back(tmp_path):
    steps = RaySteps(made("ray:"), LocalSteps(1), None)
    try:
        answer = steps.run(task("def f(n):\n    return n + 1\n"), None)
        assert unpacked(answer.outputs[""], tmp_path, "n") == 21
        with pytest.raises(StepFailed, match="ZeroDivisionError"):
            steps.run(task("def f(n):\n    return n / 0\n"), None)
    finally:
        steps.close()


def test_a_pipeline_that_asks_for_ray_where_there_is_none_is_told_so():
    steps = RaySteps(made("local:"), LocalSteps(1), None)
    try:
        with pytest.raises(InvalidInput, match="asks for Ray"):
            steps.run(task("def f(n):\n    return n\n"), None)
    finally:
        steps.close()
