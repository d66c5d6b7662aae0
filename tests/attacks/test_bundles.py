"""Somebody puts another model where an approved one was, or brings one of their own."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

from falaj.kernel.errors import Corrupt, NotFound
from falaj.models.bundles import MODEL
from falaj.models.provenance import ProvenanceDiffers
from falaj.models.revocations import BundleRevoked
from falaj.models.tables import version_rows
from falaj.testing.smallbundles import FILES
from falaj.trust.ports import UnknownKey

TOOL = Path(__file__).parents[2] / ".venv-peers/model-signing/bin/model_signing"


def bundle_of(shipped, model="late", version=1):
    with shipped.premises.database.reading() as connection:
        return connection.execute(
            select(version_rows.c.bundle).where(
                version_rows.c.model == model, version_rows.c.version == version
            )
        ).scalar_one()


@contextmanager
def in_place(shipped, digest):
    """Another bundle under the approved version; as whoever owns the database can do it."""
    where = (version_rows.c.model == "late") & (version_rows.c.version == 1)
    before = bundle_of(shipped)
    with shipped.world.call() as call:
        call.connection.execute(update(version_rows).where(where).values(bundle=digest))
    try:
        yield
    finally:
        with shipped.world.call() as call:
            call.connection.execute(update(version_rows).where(where).values(bundle=before))


def envelope_of(shipped):
    return json.loads(shipped.premises.blobs.fetch(bundle_of(shipped)))


def kept(shipped, envelope):
    return shipped.premises.blobs.keep(json.dumps(envelope).encode())


def replaced(shipped, envelope):
    envelope["blobs"][MODEL] = shipped.premises.blobs.keep(b"another model")


def added(shipped, envelope):
    envelope["blobs"]["more.bin"] = shipped.premises.blobs.keep(b"more")


def removed(_shipped, envelope):
    del envelope["blobs"]["attestation.json"]


def swapped(_shipped, envelope):
    blobs = envelope["blobs"]
    blobs["card.md"], blobs["statistics.json"] = blobs["statistics.json"], blobs["card.md"]


def unsigned(_shipped, envelope):
    envelope["signatures"] = []


def half_signed(_shipped, envelope):
    envelope["signatures"] = envelope["signatures"][1:]


def signed_twice_by_one(_shipped, envelope):
    envelope["signatures"] = [envelope["signatures"][1]] * 2


def signature_of_another(shipped, envelope):
    other = kept_bundle_of(shipped, shipped.world.lone_model())
    envelope["signatures"] = other["signatures"]


def other_algorithm(_shipped, envelope):
    for one in envelope["signatures"]:
        one["algorithm"] = "none"


def kept_bundle_of(shipped, model):
    return json.loads(shipped.premises.blobs.fetch(bundle_of(shipped, model)))


@pytest.mark.parametrize(
    "change",
    [replaced, added, removed, swapped, unsigned, half_signed, signed_twice_by_one,
     signature_of_another, other_algorithm],
)  # fmt: skip
def test_a_bundle_that_is_not_what_was_signed_is_not_deployed(shipped, change):
    envelope = envelope_of(shipped)
    change(shipped, envelope)
    n_before = len(shipped.refusals("endpoints.deploy"))
    with in_place(shipped, kept(shipped, envelope)), pytest.raises(Corrupt):
        shipped.ask("endpoints.deploy", name="late")
    assert len(shipped.refusals("endpoints.deploy")) == n_before + 1


def test_a_bundle_of_an_unknown_signer_is_not_deployed(shipped, tmp_path, kept_in):
    stranger = kept_in(tmp_path)
    manifest = shipped.premises.bundles.open_bundle(bundle_of(shipped)).manifest
    theirs = json.loads(stranger.blobs.fetch(stranger.bundles.keep(manifest, FILES)))
    for digest in theirs["blobs"].values():
        shipped.premises.blobs.keep(stranger.blobs.fetch(digest))
    with in_place(shipped, kept(shipped, theirs)), pytest.raises(UnknownKey):
        shipped.ask("endpoints.deploy", name="late")
    assert shipped.refusals("endpoints.deploy")[-1] == "unknown-key"


def test_the_bundle_of_another_version_is_not_deployed_in_the_place_of_the_approved_one(shipped):
    """It verifies, and attests truly; but nobody judged and approved it under that name."""
    older = bundle_of(shipped, shipped.world.lone_model())
    shipped.premises.bundles.open_bundle(older)
    with in_place(shipped, older), pytest.raises(ProvenanceDiffers, match="judged with"):
        shipped.ask("endpoints.deploy", name="late")
    assert shipped.refusals("endpoints.deploy")[-1] == "provenance-differs"


def test_a_folder_that_the_command_exports_is_accepted_by_the_official_tool(shipped, tmp_path):
    from falaj.interfaces.cli import app

    if not TOOL.exists():
        pytest.skip("the official verifier is not here: `make model-signing` makes it")
    folder, key = tmp_path / "late-1", tmp_path / "signer.pem"
    words = ["--folder", str(shipped.world.folder), "models", "export", "late", "1", str(folder)]
    with shipped.world.opened(stepped_up=True), pytest.raises(SystemExit) as ended:
        app(words, prog_name="falaj")
    assert ended.value.code == 0
    signed_by = json.loads((folder / "model.sig").read_text())
    hint = signed_by["verificationMaterial"]["publicKey"]["hint"]
    signers = {one.hint: one.public_key for one in shipped.ask("models.signers")}
    key.write_text(signers[hint])
    command = [TOOL, "verify", "key", folder, "--signature", folder / "model.sig",
               "--public_key", key]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "attestation.json").write_bytes(b"{}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0


def promoted(shipped, name):
    """A version of its own in production, and the endpoint that serves it."""
    from falaj import declare as of
    from falaj.models.model import Stage

    made, policy = shipped.premises, of.ModelPolicy(
        name=name, feature_service="delays", label="late", champion=None, calibration=None,
        latency=None, leakage=None, floors=(of.MetricRule(metric="auc", limit=0.6),),
    )  # fmt: skip
    endpoint = of.Endpoint(name=f"serve-{name}", model=name)
    with shipped.world.call() as call:
        made.definitions.apply(call, [policy.document(), endpoint.document()])
    shipped.ask("models.gates", name=name, version=1)
    shipped.run_jobs()
    change = shipped.ask(
        "models.promote", name=name, version=1, to=Stage.PRODUCTION, reason="It is as good."
    )
    with shipped.world.call("user:omar") as call:
        made.changes.approve(call, change.id, "The evidence is good.")
    shipped.ask("endpoints.deploy", name=endpoint.name, activate=True)
    return endpoint.name


def predicted(shipped, endpoint):
    return shipped.ask(
        "endpoints.predict", name=endpoint, inputs=[{"signal": 0.5, "carrier": "AA"}]
    )


def test_a_revoked_bundle_stops_serving_at_once_and_never_serves_again(shipped):
    name = shipped.world.lone_model()
    endpoint = promoted(shipped, name)
    assert predicted(shipped, endpoint).predictions
    told = shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    with pytest.raises(NotFound):  # the very next request
        predicted(shipped, endpoint)
    assert told.stopped == (endpoint,)
    assert endpoint not in shipped.premises.serving.routing.active()[1]
    (release,) = shipped.ask("endpoints.releases", name=endpoint)
    for action, more in (
        ("endpoints.deploy", {}),
        ("endpoints.activate", {"release": release.release.id}),
        ("endpoints.rollback", {}),
    ):
        with pytest.raises(BundleRevoked, match="It is poisoned"):
            shipped.ask(action, name=endpoint, **more)
        assert shipped.refusals(action)[-1] == "bundle-revoked"


def test_a_revoked_bundle_does_not_come_back_under_another_name(shipped):
    name = shipped.world.lone_model()
    bundle, run = bundle_of(shipped, name), shipped.world.facts["run"]
    shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    with shipped.world.call() as call, pytest.raises(BundleRevoked):
        shipped.premises.registry.register(call, "another", run=run, bundle=bundle)


def test_a_revoked_bundle_is_not_promoted(shipped):
    name = shipped.world.lone_model()
    shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    with pytest.raises(BundleRevoked):
        shipped.ask("models.promote", name=name, version=1, to="production", reason="Please.")


def test_a_scoring_job_that_waited_when_its_bundle_was_revoked_scores_nothing(shipped):
    from falaj.kernel.jobs import JobState

    name = shipped.world.lone_model()
    endpoint = promoted(shipped, name)
    job = shipped.ask("endpoints.score", name=endpoint, to="scored_too_late", table="flights")
    shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    shipped.run_jobs()
    made = shipped.premises
    with made.database.reading() as connection:
        ended = made.jobs.get(connection, job.id)
    assert ended.state is JobState.FAILED
    assert "It is poisoned" in str(ended.error)


def test_a_machine_that_was_not_asked_brings_its_routing_in_step_with_a_revocation(shipped):
    made, name = shipped.premises, shipped.world.lone_model()
    endpoint = promoted(shipped, name)
    release = made.serving.routing.active()[1][endpoint]
    shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    made.serving.routing.flip(endpoint, release)  # as the table of another machine still stands
    made.serving._routed()
    assert endpoint not in made.serving.routing.active()[1]


def test_a_revoked_signer_takes_its_bundles_with_it_and_no_other(shipped):
    made = shipped.premises
    made.keys.rotate("models.p256")
    name = shipped.world.lone_model()
    endpoint = promoted(shipped, name)
    key = shipped.ask("models.signers")[0].key
    told = shipped.ask("models.revoke_signer", key=key, reason="It was stolen.")
    assert told.stopped == (endpoint,)
    with pytest.raises(NotFound):
        predicted(shipped, endpoint)
    with pytest.raises(BundleRevoked, match="It was stolen"):
        shipped.ask("endpoints.deploy", name=endpoint)
    assert shipped.ask("models.signers")[0].key != key
    assert predicted(shipped, promoted(shipped, shipped.world.lone_model())).predictions
    assert predicted(shipped, "late").predictions


def test_a_key_that_signs_no_bundles_is_not_a_signer(shipped):
    audit = next(key.id for key in shipped.premises.keys.versions() if key.purpose == "audit")
    with pytest.raises(NotFound, match="signs bundles"):
        shipped.ask("models.revoke_signer", key=audit, reason="It was stolen.")


def test_a_revocation_is_listed_with_who_revoked_and_why(shipped):
    name = shipped.world.lone_model()
    shipped.ask("models.revoke", name=name, version=1, reason="It is poisoned.")
    (found,) = [
        one for one in shipped.ask("models.revocations") if one.value == bundle_of(shipped, name)
    ]
    assert (found.by, found.reason) == ("user:amina", "It is poisoned.")
