"""The main flow on a running platform, from a file to a traced and monitored prediction."""

import pytest

from falaj.kernel.errors import NotFound
from falaj.testing.installations import eventually


@pytest.fixture(scope="module")
def told(running):
    """What was answered while the flow was told."""
    return running.told


@pytest.fixture(scope="module")
def engineer(running):
    """The platform as the engineer reaches it, with a new session."""
    running.engineer.login()
    with running.engineer.platform() as platform:
        yield platform


def test_every_row_of_the_file_is_in_the_lake(engineer, told, story):
    assert told["departures"]["n_read"] == told["departures"]["n_written"] == story.N_ROWS
    assert engineer.tables.get("departures").n_rows == story.N_ROWS


def test_the_contract_was_measured_on_the_load(told):
    checks = told["departures"]["checks"]
    assert {check["check"].partition("(")[0] for check in checks} >= {
        "not_null",
        "unique",
        "row_count",
    }
    assert all(check["passed"] for check in checks)


def test_loading_the_same_file_again_writes_nothing(engineer, story):
    again = engineer.wait(engineer.sources.load("departures")).result
    assert again["state"] == "unchanged"
    assert engineer.tables.get("departures").n_rows == story.N_ROWS


def test_the_model_learned_what_the_data_tells(told):
    assert told["trained"]["metrics"]["validation_auc"] > 0.65


def test_the_requester_cannot_approve_the_own_change(told):
    assert told["own_approval"] == "forbidden"


def test_the_other_person_approved_it(told):
    assert told["approved"]["state"] == "approved"
    assert told["approved"]["decided_by"] == "user:salma"


def test_the_approved_version_stands_in_production(engineer, told):
    version = engineer.models.get("late", told["trained"]["version"])
    assert version.stage == "production"


def test_a_prediction_names_the_release_and_the_version_that_made_it(told):
    assert told["answer"]["release"] == told["release"]["id"]
    assert told["answer"]["model"] == f"late/{told['trained']['version']}"


def test_both_doors_answer_with_the_same_score(engineer, told, story):
    near = engineer.endpoints.predict("late", [story.QUESTION])
    (first,) = told["answer"]["predictions"]
    assert near.predictions[0]["score"] == pytest.approx(first["score"], abs=1e-6)


def test_the_prediction_reaches_the_lake_through_the_worker(engineer, told):
    (first,) = told["answer"]["predictions"]

    def rows():
        if "predictions_late" not in {table.name for table in engineer.tables.list()}:
            return None
        found = engineer.tables.read("predictions_late", limit=1000).rows
        return [row for row in found if first["id"] in str(row)]

    assert len(eventually(rows, what="the prediction in the lake")) == 1


def test_a_prediction_is_traced_back_to_its_source(engineer, told):
    (first,) = told["answer"]["predictions"]

    def trace():
        try:
            return engineer.endpoints.trace(first["id"])
        except NotFound:
            return None

    kinds, stack = set(), [eventually(trace, what="the trace")]
    while stack:
        node = stack.pop()
        kinds.add(node.kind)
        stack += node.causes
    assert kinds >= {"prediction", "release", "model_version", "training_set", "table", "source"}


def test_the_drift_report_counts_the_predictions(engineer, story):
    engineer.endpoints.predict("late", [story.QUESTION] * 24)  # fewer than 20 tell no distances

    def report():
        try:
            return engineer.monitors.drift("late")
        except NotFound:
            return None

    assert eventually(report, what="the drift report").n_observed >= 20


def test_the_audit_log_of_the_whole_flow_verifies(running):
    running.approver.login()
    with running.approver.platform() as auditor:
        found = auditor.audit.verify()
        assert found.sound, found.findings
        for action in ("models.promote", "changes.approve", "endpoints.deploy", "sources.load"):
            assert auditor.audit.search(action=action, outcome="done").records, action


def test_the_refused_approval_is_in_the_audit_log(running):
    with running.approver.platform() as auditor:
        refused = auditor.audit.search(action="changes.approve", outcome="refused").records
    assert [record.principal for record in refused] == ["user:bilal"]
