"""Runs of one's own code through the doors of a platform: near and far."""

import math
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from falaj.interfaces.platform import near
from falaj.interfaces.sdkrun import ERROR_TAG
from falaj.interfaces.sdksender import ValuesNotSent
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.settings import Settings
from falaj.training.model import RunState
from falaj.wiring import setup
from falaj.wiring.assembly import assemble


def test_a_run_that_is_left_has_all_that_was_logged_and_has_finished(anywhere):
    with anywhere.training.run("late", name="first", params={"depth": 3}) as run:
        for step in range(2_500):
            run.log(loss=1 / (step + 1), step=step)
        run.log({"a/b c": math.nan}, auc=math.inf)
        run.param(rate=0.1)
        run.tag({"team": "delays"}, stage="trial")
    found = anywhere.runs.get(run.id)
    assert found.state is RunState.FINISHED
    assert found.name == "first"
    assert found.params == {"depth": "3", "rate": "0.1"}
    assert found.tags == {"team": "delays", "stage": "trial"}
    assert found.metrics["loss"] == 1 / 2_500
    assert math.isnan(found.metrics["a/b c"])
    assert found.metrics["auc"] == math.inf
    history = anywhere.runs.history(run.id, "loss")
    assert [point.step for point in history] == list(range(2_500))
    assert [point.value for point in history[:3]] == [1.0, 0.5, 1 / 3]


def test_code_and_environment_of_the_caller_are_recorded(platform):
    with platform.training.run("recorded") as run:
        pass
    found = platform.runs.get(run.id)
    assert found.code.entry.endswith(":test_code_and_environment_of_the_caller_are_recorded")
    assert found.code.content_hash.startswith("sha256:")
    commit = subprocess.run(  # what git itself says of this file
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    assert found.code.commit in (commit, None)
    assert found.environment.packages["pytest"] == pytest.__version__


def test_an_error_ends_the_run_as_failed_with_its_reason(anywhere):
    run = anywhere.training.run("broken")
    with pytest.raises(ZeroDivisionError), run:
        run.log(loss=0.5)
        run.log(loss=1 / 0)
    found = anywhere.runs.get(run.id)
    assert found.state is RunState.FAILED
    assert found.tags[ERROR_TAG] == "ZeroDivisionError: division by zero"
    assert found.metrics == {"loss": 0.5}


def test_an_interrupt_ends_the_run_as_killed(platform):
    run = platform.training.run("interrupted")
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert platform.runs.get(run.id).state is RunState.KILLED


def test_a_nested_run_names_its_parent(anywhere):
    with (
        anywhere.training.run("nesting") as parent,
        parent.nested("fold 1", params={"fold": 1}) as child,
    ):
        child.log(auc=0.7)
    found = anywhere.runs.get(child.id)
    assert found.parent == parent.id
    assert found.experiment == "nesting"
    assert found.name == "fold 1"


def test_a_metric_without_a_step_counts_its_own(platform):
    at = datetime(2026, 1, 2, tzinfo=UTC)
    with platform.training.run("counting") as run:
        run.log(loss=3)
        run.log(loss=2, auc=0.5, at=at)
        run.log(loss=1, step=7)
        run.log(loss=0)
    steps = [point.step for point in platform.runs.history(run.id, "loss")]
    assert steps == [0, 1, 7, 8]
    assert platform.runs.history(run.id, "auc")[0].at == at


def test_what_is_flushed_is_there_while_the_run_goes_on(anywhere):
    with anywhere.training.run("flushed") as run:
        run.log(loss=0.25)
        run.flush()
        assert anywhere.runs.get(run.id).metrics == {"loss": 0.25}


@pytest.mark.parametrize("value", ["0.5", b"1", None, [1, 2], object()])
def test_a_value_that_is_no_number_is_refused_at_once(platform, value):
    with platform.training.run("refusing") as run, pytest.raises(InvalidInput):
        run.log(loss=value)


@pytest.mark.parametrize("name", ["", "x" * 251, 7])
def test_a_metric_that_cannot_be_named_so_is_refused_at_once(platform, name):
    with platform.training.run("refusing") as run, pytest.raises(InvalidInput):
        run.log({name: 1.0})


def test_another_value_of_a_parameter_is_refused_where_it_is_given(anywhere):
    with anywhere.training.run("params", params={"depth": 3}) as run:
        run.param(depth=3)
        with pytest.raises(Conflict):
            run.param(depth=4)


def test_a_run_that_has_ended_takes_nothing_more(platform):
    run = platform.training.run("ended")
    run.end()
    run.end()
    with pytest.raises(InvalidInput):
        run.log(loss=1)


def test_values_that_cannot_be_sent_are_an_error_and_the_run_fails(platform):
    run = platform.training.run("lost")
    platform.runs.finish(run.id, state="killed")  # somebody else ends it meanwhile
    run.log(loss=1)
    with pytest.raises(ValuesNotSent) as raised:
        run.end()
    assert raised.value.details["n_values"] == 1
    assert platform.runs.get(run.id).state is RunState.KILLED


def test_an_error_of_sending_does_not_hide_the_users_own(platform):
    run = platform.training.run("both")
    with pytest.raises(ZeroDivisionError) as raised, run:
        platform.runs.finish(run.id, state="killed")
        run.log(loss=1)
        raise ZeroDivisionError
    assert "could not be" in raised.value.__notes__[0]


def test_threads_share_a_run_and_every_value_is_there_once(anywhere):
    with anywhere.training.run("threads") as run:

        def logged(name):
            for step in range(400):
                run.log({name: step}, step=step)

        threads = [threading.Thread(target=logged, args=(f"m{n}",)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n in range(5):
        values = [point.value for point in anywhere.runs.history(run.id, f"m{n}")]
        assert values == list(range(400))


def test_a_forked_child_sends_nothing_and_ends_nothing(platform):
    with platform.training.run("forked") as run:
        run.log(loss=1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with run:
                    try:
                        run.log(loss=2)
                    except InvalidInput as refused:
                        code = 0 if "resume" in refused.hint else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        run.log(loss=3)
    assert [point.value for point in platform.runs.history(run.id, "loss")] == [1, 3]
    assert platform.runs.get(run.id).state is RunState.FINISHED


def test_a_file_and_bytes_are_kept_as_artifacts(anywhere, tmp_path):
    file = tmp_path / "model.txt"
    file.write_bytes(b"trees" * 200_000)
    with anywhere.training.run("artifacts") as run:
        run.artifact(file)
        run.artifact(b"first", "notes/why.txt")
        run.artifact(b"second", "notes/why.txt")
        with pytest.raises(NotFound):
            run.artifact(tmp_path / "missing")
        with pytest.raises(InvalidInput):
            run.artifact(b"nameless")
    assert bytes(anywhere.runs.fetch_artifact(run.id, "model.txt")) == file.read_bytes()
    assert bytes(anywhere.runs.fetch_artifact(run.id, "notes/why.txt")) == b"second"


@pytest.mark.parametrize("path", ["../keys", "/etc/passwd", "a/../../b", "", "a//b"])
def test_an_artifact_stays_among_those_of_its_run(anywhere, path):
    with anywhere.training.run("artifacts") as run, pytest.raises(InvalidInput):
        run.artifact(b"x", path)


def test_a_run_is_taken_up_by_its_id(anywhere):
    first = anywhere.training.run("resumed")
    with anywhere.training.resume(first.id, ends=False) as part:
        part.log(loss=0.5, step=3)
    assert anywhere.runs.get(first.id).state is RunState.RUNNING
    assert anywhere.runs.get(first.id).metrics == {"loss": 0.5}
    first.end()
    with pytest.raises(NotFound):
        anywhere.training.resume("run_that_is_not")


def test_closing_the_platform_sends_what_waits_and_ends_its_runs_as_killed(premises):
    platform = near(premises)
    run = platform.training.run("closed")
    run.log(loss=0.5)
    platform.close()
    found = near(premises).runs.get(run.id)
    assert found.state is RunState.KILLED
    assert found.metrics == {"loss": 0.5}
    assert "closed" in found.tags[ERROR_TAG]


def test_the_machine_is_sampled_if_asked(platform):
    with platform.training.run("sampled", system_metrics=0.05) as run:
        run.log(loss=1)
    figures = platform.runs.get(run.id).metrics
    assert figures["system/system_memory_usage_megabytes"] > 0
    assert 0 <= figures["system/cpu_utilization_percentage"] <= 100
    assert figures["system/process_memory_megabytes"] > 1
    assert "system/disk_available_megabytes" in figures


def test_the_machine_is_not_sampled_unasked(platform):
    with platform.training.run("unsampled") as run:
        run.log(loss=1)
    assert set(platform.runs.get(run.id).metrics) == {"loss"}


PROGRAM = """
import sys, falaj
platform = falaj.open(sys.argv[1])
run = platform.training.run("program")
print(run.id, flush=True)
for step in range(500):
    run.log(loss=step, step=step)
"""


def test_a_program_that_just_ends_has_its_values_sent(tmp_path):
    settings = Settings.read(tmp_path)
    setup.initialise(settings, owner="amina")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=True
    )
    made = assemble(settings)
    try:
        found = near(made).runs.get(done.stdout.strip())
        n_points = len(near(made).runs.history(found.id, "loss"))
    finally:
        made.close()
    assert n_points == 500
    assert found.state is RunState.KILLED
    assert found.code.entry == "__main__:<module>"
