"""Models of numbers and of several classes, from rows to answers and their performance."""

import csv
import time
from datetime import UTC, datetime

import pytest

import falaj
from falaj.declare import (
    Endpoint,
    FeatureService,
    MetricRule,
    Mode,
    ModelPolicy,
    SliceRule,
    Source,
)
from falaj.interfaces.platform import JobFailed
from falaj.training.model import TrainingRequest, TrainingSetSpec

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
KINDS = ("early", "on time", "late")
MINUTES = ModelPolicy(
    name="minutes", feature_service="known", label="minutes", task="regression", latency=None,
    floors=(MetricRule(metric="rmse", limit=40.0), MetricRule(metric="r2", limit=0.05)),
    slices=(SliceRule(columns=("carrier",), metric="mae", limit=40.0, least_rows=30),),
)  # fmt: skip
KIND = ModelPolicy(
    name="kind", feature_service="known", label="kind", task="classes", classes=KINDS,
    latency=None, floors=(MetricRule(metric="accuracy", limit=0.4),),
)  # fmt: skip
OUTCOMES = Source(
    name="outcomes", table="outcomes", path="outcomes.csv", mode=Mode.REPLACE,
    columns={"prediction_id": "text", "minutes": "number", "kind": "text"},
)  # fmt: skip
DECLARED = (
    FeatureService(name="known", request_fields={"signal": "float64", "carrier": "string"}),
    MINUTES,
    KIND,
    Endpoint(name="minutes", model="minutes", feature_service="known"),
    Endpoint(name="kind", model="kind", feature_service="known"),
)
SPINE = (
    "SELECT d.flight, d.carrier, d.at, d.signal, a.delay AS minutes, "
    "CASE WHEN a.delay < 0 THEN 'early' WHEN a.delay < 15 THEN 'on time' ELSE 'late' END AS kind "
    "FROM departures d JOIN arrivals a USING (flight)"
)
ASKED = [{"carrier": "WN", "signal": 2.0}, {"carrier": "AA", "signal": -2.0}]


@pytest.fixture(scope="module")
def served(running, story, mint):
    """Both models, each served by an endpoint of its own: the platform as its engineer."""

    def far(**who):
        return falaj.connect(running.control, token=mint(**who), ca=running.ca)

    engineer = far(roles=story.ENGINEER)
    approver = far(name="salma", roles=("approver", "auditor"))
    engineer.definitions.apply(story.documents(*DECLARED))
    for model, told in (
        ("minutes", {"task": "regression"}), ("kind", {"task": "classes", "classes": KINDS}),
    ):  # fmt: skip
        spec = TrainingSetSpec(
            feature_service="known", label=model, spine_query=SPINE, timestamp="at",
            knowledge="event", split=story.SPEC.split, **told,
        )  # fmt: skip
        request = TrainingRequest(model=model, spec=spec, params=story.SMALL, features=("signal",))
        version = engineer.wait(engineer.training.train(request)).result["version"]
        report = engineer.wait(engineer.models.gates(model, version)).result
        assert report["passed"], report
        change = engineer.models.promote(model, version, to="production", reason="It is needed.")
        approver.changes.approve(change.id, reason="The gates passed.")
        engineer.endpoints.deploy(model, activate=True)
    return engineer


def predicted(running, story, mint, endpoint):
    with running.asked(mint(roles=story.ENGINEER)) as web:
        answer = web.post(f"/v1/endpoints/{endpoint}/predict", json={"inputs": ASKED})
    return answer.raise_for_status().json()["predictions"]


def logged(engineer, endpoint, ids):
    """The rows of the prediction log with these ids, once they are all there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if f"predictions_{endpoint}" in {table.name for table in engineer.tables.list()}:
            found = engineer.tables.read(f"predictions_{endpoint}", limit=1000).rows
            rows = {row["prediction_id"]: row for row in found}
            if set(ids) <= set(rows):
                return [rows[one] for one in ids]
        time.sleep(0.2)
    raise AssertionError("the predictions have not reached the lake in a minute")


def outcomes(engineer, running, rows):
    path = running.installation.folder / "outcomes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prediction_id", "minutes", "kind"), *rows])
    engineer.definitions.apply([OUTCOMES.document()])
    engineer.wait(engineer.sources.load("outcomes"))


def test_a_model_of_numbers_answers_with_numbers_that_are_logged_and_judged(
    served, running, story, mint
):
    told = predicted(running, story, mint, "minutes")
    assert told[0]["score"] > told[1]["score"]  # a greater signal is a longer delay
    assert max(one["score"] for one in told) > 1  # minutes, no probabilities
    rows = logged(served, "minutes", [one["id"] for one in told])
    assert [row["score"] for row in rows] == pytest.approx([one["score"] for one in told])

    outcomes(served, running, [(told[0]["id"], 25.0, "late"), (told[1]["id"], -1.0, "early")])
    report = served.monitors.performance(
        "minutes", "outcomes", "minutes", on="prediction_id", task="regression"
    )
    (period,) = [one for one in report.periods if one.n_labels]
    expected = (abs(told[0]["score"] - 25.0) + abs(told[1]["score"] + 1.0)) / 2
    assert period.mae.estimate == pytest.approx(expected, rel=1e-5)


def test_a_model_of_classes_answers_with_the_probability_of_each(served, running, story, mint):
    told = predicted(running, story, mint, "kind")
    for one in told:
        assert sum(one[name] for name in KINDS) == pytest.approx(1.0, abs=1e-5)
    assert told[0]["late"] > told[1]["late"]
    rows = logged(served, "kind", [one["id"] for one in told])
    assert rows[0]["outputs"] == pytest.approx([told[0][name] for name in KINDS])
    with running.asked(mint(roles=story.ENGINEER)) as web:
        document = web.get("/v1/endpoints/kind/openapi.json").json()
    prediction = document["components"]["schemas"]["Answer"]["properties"]["predictions"]["items"]
    assert set(KINDS) <= set(prediction["required"])


def test_the_gates_and_the_card_tell_what_is_of_the_task(served):
    report = served.models.gate_report("minutes", 1)
    gates = {one.gate: one for one in report.results}
    assert {"metric:rmse", "metric:r2", "slices:carrier", "leakage", "contract"} <= set(gates)
    assert not {"calibration"} & set(gates)
    assert gates["metric:rmse"].evidence["interval"]["low"] > 0
    card = served.models.card("minutes", 1)
    assert "rmse" in card
    assert "kind" not in card


def test_a_model_of_numbers_that_was_made_elsewhere_is_brought_and_judged(served, running):
    (running.installation.folder / "minutes.py").write_text(
        "import numpy as np\n"
        "class Model:\n"
        "    def __init__(self, folder): pass\n"
        "    def predict(self, rows): return 12 + 8 * np.nan_to_num(rows[:, 0])\n"
    )
    version = served.models.get("minutes", 1)
    job = served.models.bring(
        "minutes", file="minutes.py", model_format="python", inputs=[{"name": "signal"}],
        training_set=version.training_set, trained_until=BEGIN,
    )  # fmt: skip
    brought = served.wait(job).result["version"]
    served.wait(served.models.gates("minutes", brought))
    gates = {one.gate: one for one in served.models.gate_report("minutes", brought).results}
    assert str(gates["metric:rmse"].outcome) == "passed"
    assert gates["champion"].evidence["metric"] == "rmse"
    assert "Predicts the number" in served.models.card("minutes", brought)


def test_a_trainer_that_does_not_learn_the_task_says_so(served, story):
    spec = TrainingSetSpec(
        feature_service="known", label="minutes", spine_query=SPINE, timestamp="at",
        knowledge="event", split=story.SPEC.split, task="regression",
    )  # fmt: skip
    job = served.training.train(
        TrainingRequest(
            model="minutes", spec=spec, trainer="sklearn", params={"estimator": "naive_bayes"}
        )
    )
    with pytest.raises(JobFailed, match="does not learn the task 'regression'"):
        served.wait(job)
