"""A model that is trained with an isolation forest, and tags what it is asked: over HTTPS."""

import time

import falaj
from falaj.declare import Endpoint, FeatureService, MetricRule, ModelPolicy
from falaj.training.model import Isolation, TrainingRequest

TAGGED = (
    FeatureService(name="signals", request_fields={"signal": "float64", "carrier": "string"}),
    ModelPolicy(
        name="tagged", feature_service="signals", label="late", latency=None, calibration=0.3,
        floors=(MetricRule(metric="auc", limit=0.6),), champion=None,
    ),
    Endpoint(name="tagged", model="tagged", feature_service="signals", anomalies="tag"),
)  # fmt: skip
ODD = {"carrier": "WN", "signal": 5_000.0}
PREDICT = "/v1/endpoints/tagged/predict"


def serving(engineer, approver, story):
    """A model of its own, with a forest, that serves on the shared platform."""
    engineer.definitions.apply(story.documents(*TAGGED))
    spec = story.SPEC.model_copy(update={"feature_service": "signals"})
    request = TrainingRequest(
        model="tagged",
        spec=spec,
        params=story.SMALL,
        isolation=Isolation(n_trees=50, share=0.05),
    )
    version = engineer.wait(engineer.training.train(request)).result["version"]
    engineer.wait(engineer.models.gates("tagged", version))
    change = engineer.models.promote("tagged", version, to="production", reason="It tags.")
    approver.changes.approve(change.id, reason="The gates passed.")
    engineer.endpoints.deploy("tagged", activate=True)


def logged(engineer, ids):
    """The rows of the prediction log with these ids, once they are all there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if "predictions_tagged" in {table.name for table in engineer.tables.list()}:
            found = engineer.tables.read("predictions_tagged", limit=1000).rows
            rows = {row["prediction_id"]: row for row in found}
            if set(ids) <= set(rows):
                return [rows[one] for one in ids]
        time.sleep(0.2)
    raise AssertionError("the predictions have not reached the lake in a minute")


def test_a_trained_forest_tags_usual_and_unusual_rows_on_the_answer_and_in_the_log(
    running, story, mint
):
    def far(**who):
        return falaj.connect(running.control, token=mint(**who), ca=running.ca)

    engineer = far(roles=story.ENGINEER)
    approver = far(name="salma", roles=("approver", "auditor"))
    serving(engineer, approver, story)

    with running.asked(mint(roles=story.ENGINEER)) as web:
        told = web.post(PREDICT, json={"inputs": [story.QUESTION, ODD]}).json()["predictions"]
        (alone,) = web.post(PREDICT, json={"inputs": [ODD]}).json()["predictions"]
        document = web.get("/v1/endpoints/tagged/openapi.json").json()
    assert [one["anomaly"]["anomalous"] for one in told] == [False, True]
    assert told[1]["anomaly"]["score"] > told[0]["anomaly"]["score"]
    assert alone["anomaly"] == told[1]["anomaly"]
    prediction = document["components"]["schemas"]["Answer"]["properties"]["predictions"]["items"]
    assert "anomaly" in prediction["required"]

    rows = logged(engineer, [one["id"] for one in (*told, alone)])
    assert [row["anomalous"] for row in rows] == [False, True, True]
    assert [row["anomaly_score"] for row in rows] == [
        one["anomaly"]["score"] for one in (*told, alone)
    ]
    traffic = engineer.endpoints.status("tagged").traffic
    assert (traffic.tagged, traffic.anomalous) == (3, 2)
