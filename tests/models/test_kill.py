"""kill -9 in the middle of a training job: another worker finishes it, nothing is doubled."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from falaj.kernel.jobs import JobState
from falaj.training.model import TRAIN_JOB


def _ended(world, job):
    with world.database.reading() as connection:
        return world.jobs.get(connection, job).state.ended


@pytest.mark.parametrize(
    "step",
    [
        "register",
        pytest.param("fit", marks=pytest.mark.nightly),
        pytest.param("record", marks=pytest.mark.nightly),
        pytest.param("package", marks=pytest.mark.nightly),
    ],
)
def test_a_killed_training_job_resumes_to_one_set_one_run_and_one_version(
    sqlite_database, tmp_path, made_up, step
):
    home = tmp_path / "home"
    world = made_up.World(sqlite_database, home, jobs_lease=timedelta(seconds=3))
    world.fill(n=2500)
    job = world.submitted(TRAIN_JOB, made_up.REQUEST.model_dump(mode="json"))
    world.close()
    killed = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("killed.py")),
            f"sqlite:///{sqlite_database.url.database}",
            str(home),
            step,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr

    deadline = time.monotonic() + 100
    worker = world.worker("second")
    while not _ended(world, job) and time.monotonic() < deadline:
        if not worker.run_one():
            time.sleep(0.1)
    with sqlite_database.reading() as connection:
        ended = world.jobs.get(connection, job)
        assert ended.state is JobState.DONE, ended.error
        assert ended.attempts >= 2
        (made,) = world.sets.listed(connection)
        (run,) = world.runs.listed(connection)
        (version,) = world.registry.versions(connection, "late")
    assert (version.run, version.training_set) == (run.id, made.id)
    assert run.state == "finished"
    assert len(world.sets.load(made)) == sum(
        made.n_rows[part] for part in ("train", "validation", "test")
    )
    undisturbed = world.done(
        TRAIN_JOB,
        made_up.REQUEST.model_copy(update={"training_set": made.id, "spec": None}).model_dump(
            mode="json"
        ),
    )
    again = world.bundles.open_bundle(undisturbed.result["bundle"])
    resumed = world.bundles.open_bundle(version.bundle)
    assert again.onnx == resumed.onnx
    world.close()
