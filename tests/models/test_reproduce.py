"""`runs.reproduce`: a run's data, environment and model are made again and compared."""

import json

import pytest

from falaj.kernel.door import face
from falaj.kernel.errors import Conflict, NotFound
from falaj.kernel.jobs import JobState
from falaj.training.model import REPRODUCE_JOB, TRAIN_JOB, Reproduction
from falaj.training.options import Calibrating
from falaj.training.products import LOCK
from falaj.training.service import RunService


def reproduced(world, run):
    job = face(RunService, world.door()).reproduce(run)
    assert job.kind == REPRODUCE_JOB
    assert world.worker().run_one()
    with world.database.reading() as connection:
        ended = world.jobs.get(connection, job.id)
    assert ended.state is JobState.DONE, ended.error
    return Reproduction.model_validate(ended.result)


def trained(world, made_up, **changes):
    request = made_up.REQUEST.model_copy(update=changes).model_dump(mode="json")
    return world.done(TRAIN_JOB, request).result["run"]


def test_two_reproductions_of_a_lightgbm_run_are_the_same_to_the_byte(sqlite_world, made_up):
    world = sqlite_world
    run = trained(world, made_up, calibration=Calibrating())
    first, second = reproduced(world, run), reproduced(world, run)
    assert first == second
    assert first.model_identical
    assert first.promised
    assert first.data.identical
    assert first.reproduced_digest == first.digest
    assert (first.environment, first.code_identical) == ((), True)
    assert first.python[0] == first.python[1]
    assert first.metrics["validation_auc"][0] == first.metrics["validation_auc"][1]
    assert len(first.metrics) > 10


def test_rows_that_came_later_change_nothing_of_what_is_reproduced(sqlite_world, made_up):
    world = sqlite_world
    run = trained(world, made_up)
    spine, events = made_up.departures(n=500, seed=9)
    world.lake.append_many({"departures": spine, "arrivals": events})
    found = reproduced(world, run)
    assert found.data.identical
    assert found.model_identical


def test_each_package_that_differs_is_named_with_both_versions(sqlite_world, made_up, monkeypatch):
    world = sqlite_world
    run = trained(world, made_up)
    with world.database.reading() as connection:
        kept = {one.path: one for one in world.runs.get(connection, run).artifacts}
    lock = world.blobs.fetch(kept[LOCK].digest).decode()
    assert "numpy==" in lock
    import falaj.training.reproduce as module

    now = {**module.distributions(), "numpy": "9.9", "novel": "1.0"}
    del now["lightgbm"]
    monkeypatch.setattr(module, "distributions", lambda: now)
    found = reproduced(world, run)
    differing = {one.package: (one.then, one.now) for one in found.environment}
    assert set(differing) == {"lightgbm", "novel", "numpy"}
    assert differing["numpy"][1] == "9.9"
    assert differing["novel"] == (None, "1.0")
    assert differing["lightgbm"][1] is None


def test_a_model_that_comes_out_otherwise_is_told_with_its_metrics(sqlite_world, made_up):
    world = sqlite_world
    run = trained(world, made_up)
    fit = world.trainer.fit

    def otherwise(*rows, params, seed, **options):
        return fit(*rows, params={**params, "n_trees": 5}, seed=seed + 1, **options)

    world.trainer.fit = otherwise
    found = reproduced(world, run)
    assert not found.model_identical
    assert found.reproduced_digest != found.digest
    then, now = found.metrics["validation_log_loss"]
    assert then < now
    json.loads(found.model_dump_json())


def test_only_a_finished_run_of_a_training_job_can_be_reproduced(sqlite_world):
    world = sqlite_world
    runs = face(RunService, world.door())
    by_hand = runs.start("by-hand")
    with pytest.raises(Conflict, match="not made by a training job"):
        runs.reproduce(by_hand.id)
    with pytest.raises(NotFound):
        runs.reproduce("run_none")
