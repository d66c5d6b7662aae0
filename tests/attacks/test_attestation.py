"""Somebody tells another story of how a model was made: changed records, another training set."""

import json
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from falaj.models.attestation import of_training
from falaj.models.bundles import ADDED
from falaj.models.provenance import ProvenanceDiffers
from falaj.training.tables import run_rows, training_set_rows


@contextmanager
def changed(shipped, table, key, **values):
    """A row of the database with other values, for a while; as whoever owns the database can."""
    where = table.c.id == key
    with shipped.world.call() as call:
        columns = [table.c[name] for name in values]
        before = call.connection.execute(select(*columns).where(where)).one()
        call.connection.execute(update(table).where(where).values(**values))
    try:
        yield
    finally:
        with shipped.world.call() as call:
            call.connection.execute(update(table).where(where).values(**before._mapping))


def document(shipped):
    with shipped.premises.database.reading() as connection:
        return connection.execute(
            select(training_set_rows.c.document).where(
                training_set_rows.c.id == shipped.world.facts["training_set"]
            )
        ).scalar_one()


def refused(shipped, action, **arguments):
    before = len(shipped.refusals(action))
    with pytest.raises(ProvenanceDiffers) as error:
        shipped.ask(action, **arguments)
    assert shipped.refusals(action)[before:] == ["provenance-differs"]
    return str(error.value)


def test_a_version_whose_training_set_was_given_other_rows_is_not_deployed(shipped):
    set_id, other = shipped.world.facts["training_set"], "sha256:" + "0" * 64
    with changed(shipped, training_set_rows, set_id, content_hash=other):
        assert "the rows of the training set" in refused(shipped, "endpoints.deploy", name="late")
    told = {**document(shipped), "content_hash": other}
    with changed(shipped, training_set_rows, set_id, content_hash=other, document=told):
        refused(shipped, "endpoints.deploy", name="late")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("definitions", {}, "the definitions"),
        ("spine_snapshot", 1, "pins"),
        ("purpose", "marketing", "pins"),
        ("n_rows", {"train": 1}, "pins"),
    ],
)
def test_a_version_is_not_deployed_when_the_record_of_its_training_set_was_changed(
    shipped, field, value, told
):
    set_id = shipped.world.facts["training_set"]
    with changed(shipped, training_set_rows, set_id, document={**document(shipped), field: value}):
        assert told in refused(shipped, "endpoints.deploy", name="late")


def test_a_version_is_not_deployed_when_its_run_is_said_to_have_had_another_training_set(shipped):
    with changed(shipped, run_rows, shipped.world.facts["run"], training_set="ts_of_another"):
        assert "the training set of the run" in refused(shipped, "endpoints.deploy", name="late")


def test_a_version_is_not_deployed_when_other_code_is_said_to_have_trained_it(shipped):
    code = {"content_hash": "sha256:" + "1" * 64, "entry": "mine:Trainer"}
    with changed(shipped, run_rows, shipped.world.facts["run"], code=code):
        assert "the code" in refused(shipped, "endpoints.deploy", name="late")


def test_a_version_is_not_deployed_when_somebody_else_is_said_to_have_asked_for_it(shipped):
    with changed(shipped, run_rows, shipped.world.facts["run"], started_by="user:omar"):
        assert "who asked" in refused(shipped, "endpoints.deploy", name="late")


def test_a_version_is_not_promoted_when_its_provenance_was_changed(shipped):
    with changed(shipped, run_rows, shipped.world.facts["run"], started_by="user:omar"):
        refused(
            shipped, "models.promote", name="late", version=1, to="staging", reason="Let me in."
        )


def test_a_bundle_that_names_another_training_set_is_not_registered(shipped):
    """Even one that this installation signed: its keys are not a reason to believe it."""
    made = shipped.premises
    version = shipped.ask("models.get", name="late", version=1)
    bundle = made.bundles.open_bundle(version.bundle)
    with made.database.reading() as connection:
        run = made.runs.get(connection, bundle.manifest.run)
        learned = made.training_sets.get(connection, bundle.manifest.training_set)
    other = "sha256:" + "2" * 64
    manifest = bundle.manifest.model_copy(update={"training_set_hash": other})
    learned = learned.model_copy(update={"content_hash": other})
    files = {n: d for n, d in bundle.files.items() if n not in ADDED}
    forged = made.bundles.keep(
        manifest, files, of_training(made.bundles.builder, manifest, run, learned)
    )
    with shipped.world.call() as call, pytest.raises(ProvenanceDiffers):
        made.registry.register(call, "late", run=run.id, bundle=forged)


def test_an_attestation_that_says_something_else_than_its_manifest_is_not_registered(shipped):
    made = shipped.premises
    version = shipped.ask("models.get", name="late", version=1)
    bundle = made.bundles.open_bundle(version.bundle)
    told = bundle.attestation.predicate.model_dump(mode="json", by_alias=True)
    told["buildDefinition"]["externalParameters"]["training_set"] = "ts_of_another"
    files = {n: d for n, d in bundle.files.items() if n not in ADDED}
    forged = made.bundles.keep(
        bundle.manifest, files, type(bundle.attestation.predicate).model_validate(told)
    )
    with shipped.world.call() as call, pytest.raises(ProvenanceDiffers):
        made.registry.register(call, "late", run=bundle.manifest.run, bundle=forged)


def test_the_version_is_deployed_when_nothing_was_changed(shipped):
    release = shipped.ask("endpoints.deploy", name="late")
    told = shipped.ask("models.attestation", name="late", version=1)
    assert told.predicate.definition.external["training_set"] == shipped.world.facts["training_set"]
    assert json.loads(release.model_dump_json())["endpoint"] == "late"
