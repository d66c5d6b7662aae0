"""From a spine to an approved version, over real parts, on both databases."""

import json

import pytest

from falaj.catalog.model import Direction
from falaj.kernel.call import AssetRef
from falaj.kernel.door import face
from falaj.kernel.errors import Conflict, Forbidden, NotFound
from falaj.kernel.jobs import JobState
from falaj.models.model import GATES_JOB, GatesNotPassed, Stage
from falaj.models.service import ModelService
from falaj.operations.service import ChangeService
from falaj.testing.calls import opened_call
from falaj.training.model import RECREATE_JOB, TRAIN_JOB
from falaj.training.service import RunService, TrainingService


def faces(world, principal="user:amina"):
    door = world.door(principal)
    return face(ModelService, door), face(ChangeService, door)


def trained(world, **changes):
    request = world_request(world).model_copy(update=changes)
    job = world.done(TRAIN_JOB, request.model_dump(mode="json"))
    assert job.state is JobState.DONE, job.error
    return job.result


def world_request(world):
    import models_world

    return models_world.REQUEST


def test_a_spine_becomes_an_approved_version_with_its_whole_lineage(world):
    models, _ = faces(world)
    made = trained(world)
    assert made["version"] == 1
    assert 0.7 < made["metrics"]["test_auc"] < 0.9

    models.gates("late", 1)
    assert world.worker().run_one()
    report = models.gate_report("late", 1)
    assert report.passed, [one.message for one in report.results if one.outcome == "failed"]

    change = models.promote("late", 1, to=Stage.PRODUCTION, reason="better than nothing")
    limits = change.evidence["policy"]
    assert limits["set_by_who_asks"] is True
    assert limits["document"]["name"] == "late"
    assert models.get("late", 1).stage is Stage.DEVELOPMENT
    _, changes = faces(world, "user:omar")
    changes.approve(change.id, reason="the evidence is good")

    assert models.get("late", 1).stage is Stage.PRODUCTION
    (move,) = models.history("late").moves
    assert (move.asked_by, move.approved_by) == ("user:amina", "user:omar")
    assert (move.change, move.gate_report) == (change.id, report.id)
    assert models.list()[0].production == 1
    with world.database.reading() as connection:
        upstream = world.catalog.walk(
            connection, AssetRef("model_version", "late/1"), Direction.UPSTREAM
        ).refs()
    assert {
        AssetRef("change", change.id),
        AssetRef("run", made["run"]),
        AssetRef("training_set", made["training_set"]),
        AssetRef("feature_service", "delays"),
        AssetRef("table", "departures"),
        AssetRef("table", "arrivals"),
    } <= set(upstream)
    card = models.card("late", 1)
    assert "user:omar" in card
    assert "all passed" in card
    assert "&lt;b>real" in card


def test_nobody_approves_their_own_promotion(sqlite_world):
    models, changes = faces(sqlite_world)
    trained(sqlite_world)
    models.gates("late", 1)
    sqlite_world.worker().run_one()
    change = models.promote("late", 1, to=Stage.STAGING, reason="try it")
    with pytest.raises(Forbidden):
        changes.approve(change.id, reason="I am sure")
    assert models.get("late", 1).stage is Stage.DEVELOPMENT


def test_a_promotion_needs_gates_that_passed_under_todays_policy(sqlite_world, made_up):
    world = sqlite_world
    models, _ = faces(world)
    trained(world)
    with pytest.raises(GatesNotPassed, match="No gate has been run"):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="now")
    with pytest.raises(NotFound, match="No gate"):
        models.gate_report("late", 1)
    strict = made_up.POLICY.model_copy(
        update={"floors": (made_up.MetricRule(metric="auc", limit=0.99),)}
    )
    with opened_call(world.database) as call:
        world.definitions.apply(call, [strict])
    models.gates("late", 1)
    world.worker().run_one()
    assert not models.get("late", 1).gates_passed
    with pytest.raises(GatesNotPassed, match=r"failed the gate metric:auc: auc 0\.\d+"):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="now")
    with opened_call(world.database) as call:
        world.definitions.apply(call, [made_up.POLICY])
    with pytest.raises(GatesNotPassed, match="older policy"):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="now")


def test_a_second_version_replaces_the_champion_only_when_compared_with_it(sqlite_world):
    world = sqlite_world
    models, _ = faces(world)
    _, changes = faces(world, "user:omar")
    first = trained(world)
    trained(world, training_set=first["training_set"], spec=None, seed=11)
    for version in (1, 2):
        models.gates("late", version)
        world.worker().run_one()
    old = models.promote("late", 2, to=Stage.PRODUCTION, reason="asked before there is a champion")
    change = models.promote("late", 1, to=Stage.PRODUCTION, reason="first")
    changes.approve(change.id, reason="fine")
    with pytest.raises(Conflict, match="already"):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="again")
    with pytest.raises(GatesNotPassed, match="another champion"):
        changes.approve(old.id, reason="stale")
    assert models.get("late", 1).stage is Stage.PRODUCTION

    models.gates("late", 2)
    world.worker().run_one()
    report = models.gate_report("late", 2)
    assert report.champion == 1
    champion = next(one for one in report.results if one.gate == "champion")
    assert champion.outcome == "passed"
    assert champion.evidence["n_rows"] > 100
    changes.approve(old.id, reason="compared now")
    assert [one.stage for one in models.versions("late")] == [Stage.PRODUCTION, Stage.ARCHIVED]
    assert [move.replaced for move in models.history("late").moves] == [1, None]
    before = models.history("late").moves[0].at.replace(microsecond=0)
    assert len(models.history("late", at=before).moves) <= 1


def test_a_version_whose_bundle_was_tampered_with_cannot_be_promoted_or_pass(sqlite_world):
    world = sqlite_world
    models, _ = faces(world)
    trained(world)
    models.gates("late", 1)
    world.worker().run_one()
    bundle = world.bundles.open_bundle(models.get("late", 1).bundle)
    blob = next(one.blob for one in bundle.entries if one.name == "model.onnx")
    key = world.blobs._key(blob)
    data = bytearray(world.store.get(key))
    data[len(data) // 2] ^= 1
    world.store.put(key, bytes(data))
    from falaj.kernel.errors import Corrupt

    with pytest.raises(Corrupt):
        models.promote("late", 1, to=Stage.PRODUCTION, reason="now")
    job = world.done(GATES_JOB, {"model": "late", "version": 1})
    assert job.state is JobState.DONE
    assert not job.result["passed"]
    assert job.result["results"][0]["gate"] == "bundle"


def test_a_training_set_is_made_again_to_the_byte_although_the_lake_has_moved_on(
    sqlite_world, made_up
):
    world = sqlite_world
    training = face(TrainingService, world.door())
    job = training.prepare(made_up.SPEC)
    world.worker().run_one()
    made = training.sets()[0]
    assert made.n_rows["without_label"] == 42
    assert made.features == (
        "signal", "carrier", "recent__mean_1d", "recent__count_1d"
    )  # fmt: skip
    assert "feature_view:recent" in made.definitions
    spine, events = made_up.departures(n=500, seed=9)
    world.lake.append_many({"departures": spine, "arrivals": events})
    again = training.recreate(made.id)
    world.worker().run_one()
    with world.database.reading() as connection:
        assert world.jobs.get(connection, job.id).result["training_set"] == made.id
        found = world.jobs.get(connection, again.id).result
    assert found["identical"], found
    assert found["changed_definitions"] == []
    assert training.set(made.id) == made


def test_a_changed_definition_is_named_and_a_training_set_is_made_with_the_one_that_was_pinned(
    sqlite_world, made_up
):
    world = sqlite_world
    training = face(TrainingService, world.door())
    training.prepare(made_up.SPEC)
    world.worker().run_one()
    made = training.sets()[0]
    view = made_up.DEFINITIONS[1]
    shorter = [one.model_copy(update={"window": one.window / 2}) for one in view.aggregates]
    with opened_call(world.database) as call:
        world.definitions.apply(call, [view.model_copy(update={"aggregates": tuple(shorter)})])
    job = world.done(RECREATE_JOB, {"training_set": made.id})
    assert job.result["identical"]
    assert job.result["changed_definitions"] == ["feature_view:recent"]


def test_the_run_of_a_training_job_carries_what_it_was_made_with(sqlite_world):
    world = sqlite_world
    made = trained(world)
    runs = face(RunService, world.door())
    run = runs.get(made["run"])
    assert run.state == "finished"
    assert run.params["num_leaves"] == "15"
    assert run.metrics["validation_auc"] > 0.7
    assert run.environment.packages["lightgbm"]
    assert run.code.content_hash.startswith("sha256:")
    assert run.tags["falaj.bundle"] == made["bundle"]
    with world.database.reading() as connection:
        pinned = world.sets.get(connection, run.training_set)
    assert run.snapshot == pinned.spine_snapshot
    assert {one.path for one in run.artifacts} == {
        "model/fitted.json", "model/native.bin", "run/environment.txt", "run/request.json",
    }  # fmt: skip
    native = next(one for one in run.artifacts if one.path == "model/native.bin")
    assert world.blobs.fetch(native.digest).startswith(b"tree")
    opened = world.bundles.open_bundle(made["bundle"])
    assert json.loads(opened.files["manifest.json"])["run"] == run.id


def test_a_version_is_registered_once_for_a_run_under_each_name(sqlite_world):
    world = sqlite_world
    models, _ = faces(world)
    made = trained(world)
    assert models.register("late", run=made["run"]).version == 1
    assert models.register("other", run=made["run"]).version == 1
    runs = face(RunService, world.door())
    own = runs.start("by-hand")
    with pytest.raises(Exception, match="packaged no bundle"):
        models.register("late", run=own.id)
    with pytest.raises(NotFound):
        models.get("late", 2)
    with pytest.raises(NotFound, match="No policy"):
        models.gates("other", 1)
