"""A bundle that is exported and revoked while it serves: over HTTPS, on running workers."""

import time

import pytest

import falaj
from falaj.declare import Endpoint, MetricRule, ModelPolicy
from falaj.kernel.errors import FalajError, StepUpRequired
from falaj.models.exporting import unpack
from falaj.training.model import TrainingRequest

DOOMED = (
    ModelPolicy(
        name="doomed", feature_service="delays", label="late", latency=None, calibration=0.3,
        floors=(MetricRule(metric="auc", limit=0.6),), champion=None,
    ),
    Endpoint(name="doomed", model="doomed", feature_service="delays"),
)  # fmt: skip
PREDICT = "/v1/endpoints/{}/predict"


def serving(engineer, approver, story, training_set):
    """A model of its own that serves on the shared platform; its version."""
    engineer.definitions.apply(story.documents(*DOOMED))
    request = TrainingRequest(model="doomed", training_set=training_set, params=story.SMALL)
    version = engineer.wait(engineer.training.train(request)).result["version"]
    engineer.wait(engineer.models.gates("doomed", version))
    change = engineer.models.promote("doomed", version, to="production", reason="It is as good.")
    approver.changes.approve(change.id, reason="The gates passed.")
    engineer.endpoints.deploy("doomed", activate=True)
    return version


def test_a_revoked_bundle_stops_on_running_workers_with_the_next_request(
    running, story, mint, tmp_path
):
    def far(**who):
        return falaj.connect(running.control, token=mint(**who), ca=running.ca)

    engineer = far(roles=story.ENGINEER)
    approver = far(name="salma", roles=("approver", "auditor"))
    training_set = running.told["training_set"]["training_set"]
    version = serving(engineer, approver, story, training_set)

    with far(roles=story.ENGINEER, factor=False) as without_factor:
        for ask in (
            lambda: without_factor.models.export("doomed", version),
            lambda: without_factor.models.revoke("doomed", version, reason="No factor."),
        ):
            with pytest.raises(StepUpRequired):
                ask()
    names = unpack(engineer.models.export("doomed", version), tmp_path / "out")
    assert {"model.sig", "model.onnx", "attestation.json", "bom.json"} <= set(names)

    asked = {"inputs": [story.QUESTION]}
    with running.asked(mint(roles=story.ENGINEER)) as web:
        assert web.post(PREDICT.format("doomed"), json=asked).status_code == 200
        told = engineer.models.revoke("doomed", version, reason="It is poisoned.")
        assert web.post(PREDICT.format("doomed"), json=asked).status_code == 404
        assert told.stopped == ("doomed",)
        time.sleep(1.5)  # long enough for every chore that mends the routing table
        assert web.post(PREDICT.format("doomed"), json=asked).status_code == 404
        assert web.post(PREDICT.format("late"), json=asked).status_code == 200
    with pytest.raises(FalajError, match="It is poisoned") as error:
        engineer.endpoints.deploy("doomed", activate=True)
    assert error.value.code == "bundle-revoked"
    refused = approver.audit.search(action="endpoints.deploy", limit=50).records
    assert any(one.details.get("error") == "bundle-revoked" for one in refused)
