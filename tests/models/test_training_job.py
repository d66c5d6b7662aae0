"""Training jobs that go wrong say so and leave an ended run; runs by hand through the door."""

import pytest
from pydantic import ValidationError

from falaj.kernel.door import face
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.jobs import JobState
from falaj.models.model import ModelPolicy
from falaj.testing.calls import opened_call
from falaj.training.model import TRAIN_JOB, MetricPoint, RunState, TrainingRequest
from falaj.training.service import RunService, TrainingService


def failed(world, **changes):
    import models_world

    request = {**models_world.REQUEST.model_dump(mode="json"), **changes}
    job = world.done(TRAIN_JOB, request)
    with world.database.reading() as connection:
        return job, world.runs.listed(connection)


@pytest.mark.parametrize(
    ("changes", "told", "n_runs"),
    [
        ({"trainer": "magic"}, "no trainer 'magic'", 0),
        ({"params": {"leaves": 3}}, "no parameter 'leaves'", 0),
        ({"params": {"num_leaves": 1}}, "refused", 1),
        ({"features": ["signal", "weather"]}, "no feature 'weather'", 1),
    ],
)
def test_a_request_that_cannot_be_met_fails_with_the_reason(sqlite_world, changes, told, n_runs):
    job, runs = failed(sqlite_world, **changes)
    assert job.state is JobState.FAILED
    assert told in job.error["message"]
    assert [run.state for run in runs] == [RunState.FAILED] * n_runs
    assert all(told in run.tags["falaj.error"] for run in runs)


def test_a_job_that_is_cancelled_while_it_fits_ends_its_run_as_killed(sqlite_world, made_up):
    world = sqlite_world
    job = world.submitted(TRAIN_JOB, made_up.REQUEST.model_dump(mode="json"))
    fit = world.trainer.fit

    def asked_to_stop(*rows, **options):
        with opened_call(world.database) as call:
            world.jobs.cancel(call.connection, job)
        return fit(*rows, **options)

    world.trainer.fit = asked_to_stop
    world.worker().run_one()
    with world.database.reading() as connection:
        assert world.jobs.get(connection, job).state is JobState.CANCELLED
        (run,) = world.runs.listed(connection)
    assert run.state is RunState.KILLED


def test_only_the_named_features_are_learned_from(sqlite_world, made_up):
    world = sqlite_world
    request = made_up.REQUEST.model_copy(update={"features": ("carrier",)})
    job = world.done(TRAIN_JOB, request.model_dump(mode="json"))
    opened = world.bundles.open_bundle(job.result["bundle"])
    assert opened.manifest.signature.encoding.names == ("carrier",)
    assert set(opened.manifest.signature.encoding.features[0].categories) == {"AA", "UA", "WN"}
    assert opened.statistics.features[0].type == "category"


def test_jobs_on_what_does_not_exist_are_refused_before_they_are_submitted(sqlite_world, made_up):
    training = face(TrainingService, sqlite_world.door())
    other = made_up.SPEC.model_copy(update={"feature_service": "other"})
    with pytest.raises(NotFound):
        training.prepare(other)
    with pytest.raises(NotFound):
        training.train(TrainingRequest(model="late", spec=other))
    with pytest.raises(NotFound):
        training.train(TrainingRequest(model="late", training_set="ts_none"))
    with pytest.raises(NotFound):
        training.recreate("ts_none")
    assert training.train(made_up.REQUEST).kind == TRAIN_JOB
    with pytest.raises(ValidationError, match="not both"):
        TrainingRequest(model="late", training_set="ts_1", spec=made_up.SPEC)
    with pytest.raises(InvalidInput, match="model"):
        training.train({"spec": made_up.SPEC})


def test_runs_by_hand_go_through_the_door_and_only_what_may_be_seen_is_compared(sqlite_world):
    world = sqlite_world
    runs = face(RunService, world.door())
    one = runs.start("by-hand", params={"depth": 3}, tags={"who": "me"})
    two = runs.start("by-hand", params={"depth": 4}, parent=one.id)
    runs.log(one.id, metrics=[MetricPoint(key="auc", value=0.7)], tags={"who": "us"})
    runs.log(one.id, tags={"more": "x"})
    assert [point.value for point in runs.history(one.id, "auc")] == [0.7]
    assert runs.finish(two.id, state=RunState.FAILED).state is RunState.FAILED
    assert {run.id for run in runs.list(experiment="by-hand")} == {one.id, two.id}
    assert [(one.name, one.n_runs) for one in runs.experiments()] == [("by-hand", 2)]
    assert runs.compare([one.id, two.id]).params == {"depth": ("3", "4")}
    assert runs.get(one.id).tags == {"who": "us", "more": "x"}
    with pytest.raises(NotFound):
        runs.compare([one.id, "run_hidden"])


def test_a_policy_is_a_definition_with_limits_within_reason(made_up):
    document = made_up.POLICY.document()
    assert document["kind"] == "model"
    fields = {name: value for name, value in document.items() if name != "kind"}
    assert ModelPolicy.model_validate(fields) == made_up.POLICY
    with pytest.raises(ValidationError):
        ModelPolicy(name="late", feature_service="d", label="l", calibration=1.5)
    with pytest.raises(ValidationError):
        ModelPolicy(name="late", feature_service="d", label="l", latency={"n_rows": 10})
