"""kill -9 in the middle of a training job: another worker finishes it, nothing is doubled."""

import subprocess
import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from falaj.kernel.jobs import JobState
from falaj.training.model import PREPARE_JOB, TRAIN_JOB, TrainingRequest
from falaj.training.options import Checkpointing
from falaj.training.products import fetched_model

TREES = {"n_trees": 40, "checkpoint_rounds": 10, "num_threads": 1}
IN_STEPS = {
    "lightgbm": {**TREES, "min_data_in_leaf": 50, "num_leaves": 7},
    "xgboost": {**TREES, "max_depth": 3},
    "torch": {"epochs": 5, "hidden": [8], "dropout": 0.1},
}


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


@pytest.mark.parametrize(
    "trainer",
    [
        "lightgbm",
        pytest.param("xgboost", marks=pytest.mark.nightly),
        pytest.param("torch", marks=pytest.mark.nightly),
    ],
)
def test_a_fit_that_is_killed_goes_on_after_its_last_checkpoint_to_the_same_bytes(
    sqlite_database, tmp_path, made_up, trainer
):
    if trainer == "torch" and find_spec("torch") is None:
        pytest.skip("needs PyTorch: `make torch` installs it")
    home = tmp_path / "home"
    world = made_up.World(sqlite_database, home, jobs_lease=timedelta(seconds=1))
    world.fill(n=1500)
    prepared = world.done(PREPARE_JOB, made_up.SPEC.model_dump(mode="json"))
    request = TrainingRequest(
        model="late", trainer=trainer, params=IN_STEPS[trainer],
        training_set=prepared.result["training_set"], checkpoint=Checkpointing(seconds=0),
    ).model_dump(mode="json")  # fmt: skip
    job = world.submitted(TRAIN_JOB, request)
    world.close()
    script = str(Path(__file__).with_name("killed.py"))
    killed = subprocess.run(
        [sys.executable, script, f"sqlite:///{sqlite_database.url.database}", str(home),
         "checkpoint"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr

    told = []
    fit = world.trainers[trainer].fit

    def noted(*rows, checkpoints, **options):
        told.append(checkpoints.last() is not None)
        return fit(*rows, checkpoints=checkpoints, **options)

    world.trainers[trainer].fit = noted
    deadline = time.monotonic() + 60
    while not _ended(world, job) and time.monotonic() < deadline:
        if not world.worker("second").run_one():
            time.sleep(0.1)
    undisturbed = world.done(TRAIN_JOB, request)
    assert told == [True, False]
    with sqlite_database.reading() as connection:
        resumed = world.jobs.get(connection, job)
        models = [
            fetched_model(world.blobs, world.runs.get(connection, one.result["run"]))
            for one in (resumed, undisturbed)
        ]
    assert resumed.attempts == 2
    assert models[0].data == models[1].data
    assert models[0].facts == models[1].facts
    assert _bundle(world, resumed).onnx == _bundle(world, undisturbed).onnx
    world.close()


def _bundle(world, job):
    return world.bundles.open_bundle(job.result["bundle"])
