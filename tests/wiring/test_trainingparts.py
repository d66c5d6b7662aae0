"""The trainers of the platform as it is wired: from a request to a version, and made again."""

import pytest
from sqlalchemy import select

from falaj.kernel.jobs import JobState, Worker, job_rows
from falaj.testing.world import World, door_of
from falaj.training.model import REPRODUCE_JOB, TRAIN_JOB
from falaj.wiring import trainingparts

FUNCTION = """
def fit(train, validation, *, names, seed, options):
    import lightgbm

    data = lightgbm.Dataset(train.matrix, train.labels, weight=train.weights)
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 4}
    booster = lightgbm.train(params, data, options["rounds"])
    return {"format": "lightgbm", "model": booster.model_to_string().encode()}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        (made.folder / "mine.py").write_text(FUNCTION)
        yield made
        made.close()


def run(world, action, arguments):
    made = world.premises
    job = door_of(world, world.caller()).call(made.backend.services.actions[action], arguments)
    handlers = {
        TRAIN_JOB: trainingparts.train_job(made), REPRODUCE_JOB: trainingparts.reproduce_job(made),
    }  # fmt: skip
    assert Worker(made.jobs, handlers, name="trainer").run_one()
    with made.database.reading() as connection:
        return made.jobs.get(connection, job.id)


def request(world, trainer, **params):
    return {
        "request": {
            "model": "late", "training_set": world.facts["training_set"], "trainer": trainer,
            "params": params,
        }
    }  # fmt: skip


def test_every_trainer_of_the_guide_is_there(world):
    assert sorted(trainingparts.trainers(world.premises)) == [
        "lightgbm", "python", "sklearn", "torch", "xgboost",
    ]  # fmt: skip


def test_a_model_of_another_trainer_is_registered_and_its_run_reproduced(world):
    job = run(world, "training.train", request(world, "xgboost", n_trees=10, num_threads=1))
    assert job.state is JobState.DONE, job.error
    assert job.result["version"] > 1
    found = run(world, "runs.reproduce", {"run": job.result["run"]})
    assert found.state is JobState.DONE, found.error
    assert found.result["model_identical"]
    assert found.result["data"]["identical"]
    with world.premises.database.reading() as connection:
        teams = select(job_rows.c.team).where(job_rows.c.id.in_([job.id, found.id]))
        assert list(connection.execute(teams).scalars()) == ["everyone"] * 2  # both are claimed


def test_a_function_of_the_project_trains_only_where_the_settings_say_so(world, monkeypatch):
    asked = request(world, "python", function="mine.py:fit", options={"rounds": 5})
    refused = run(world, "training.train", asked)
    assert refused.state is JobState.FAILED
    assert "may not train" in refused.error["message"]
    monkeypatch.setattr(world.premises.settings.trainers, "functions", True)
    allowed = run(world, "training.train", asked)
    assert allowed.state is JobState.DONE, allowed.error
    bundle = world.premises.bundles.open_bundle(allowed.result["bundle"])
    assert bundle.manifest.trainer == "python"
    assert bundle.manifest.facts["function"] == "mine.py:fit"
