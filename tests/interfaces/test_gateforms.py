"""Gate reports for CI systems: whole, stable, and not to be misled by names."""

import json
import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.interfaces.gateforms import junit, junit_of_error, sarif, sarif_of_error
from falaj.kernel.errors import NotFound
from falaj.models.model import GateReport, GateResult, Outcome

jsonschema = pytest.importorskip("jsonschema")


def closed(required=(), **properties):
    """The schema of an object with these properties and no other."""
    return {"type": "object", "properties": properties, "required": list(required),
            "additionalProperties": False}  # fmt: skip


TEXT = {"type": "string"}
MESSAGE = closed(["text"], text={"type": "string", "minLength": 1})
MANY = lambda one: {"type": "array", "items": one}  # noqa: E731
SARIF = closed(
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs=MANY(
        closed(
            ["tool", "results"],
            tool=closed(
                ["driver"],
                driver=closed(
                    ["name"],
                    name=TEXT,
                    version=TEXT,
                    rules=MANY(
                        closed(
                            ["id"],
                            id=TEXT,
                            name={"type": "string", "pattern": "^[A-Za-z]+$"},
                            shortDescription=MESSAGE,
                            help=MESSAGE,
                            defaultConfiguration=closed(
                                [], level={"enum": ["none", "note", "warning", "error"]}
                            ),
                        )
                    ),
                ),
            ),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            automationDetails=closed([], id=TEXT),
            invocations=MANY(
                closed(
                    ["executionSuccessful"],
                    executionSuccessful={"type": "boolean"},
                    endTimeUtc={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
                    toolExecutionNotifications=MANY(
                        closed(
                            ["message"],
                            message=MESSAGE,
                            level={"enum": ["none", "note", "warning", "error"]},
                            descriptor=closed(["id"], id=TEXT),
                        )
                    ),
                )
            ),
            results=MANY(
                closed(
                    ["message", "ruleId", "partialFingerprints", "locations"],
                    ruleId=TEXT,
                    ruleIndex={"type": "integer", "minimum": 0},
                    kind={"const": "fail"},
                    level={"enum": ["warning", "error"]},
                    message=MESSAGE,
                    locations=MANY(
                        closed(
                            [],
                            physicalLocation=closed(
                                ["artifactLocation"],
                                artifactLocation=closed(
                                    ["uri"],
                                    uri={"type": "string", "pattern": "^[A-Za-z0-9/._~%-]+$"},
                                ),
                                region=closed([], startLine={"type": "integer", "minimum": 1}),
                            ),
                            logicalLocations=MANY(closed([], name=TEXT, fullyQualifiedName=TEXT)),
                        )
                    ),
                    partialFingerprints={
                        "type": "object",
                        "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        "minProperties": 1,
                    },
                    properties={"type": "object"},
                )
            ),
            properties={"type": "object"},
        )
    ),
)
"""What sections 3.13 to 3.58 of SARIF 2.1.0 say of the parts that are written here."""


def found(gate, outcome, message="told", **evidence):
    """A result."""
    return GateResult(gate=gate, outcome=Outcome(outcome), message=message, evidence=evidence)


def report(*results, **more):
    """A report of these results."""
    given = {
        "id": "gates_1", "model": "late", "version": 3, "at": datetime(2026, 11, 30, 9, tzinfo=UTC),
        "by": "service:ci", "policy_fingerprint": "f", "bundle": "sha256:b", "champion": 2,
        "passed": all(one.outcome is not Outcome.FAILED for one in results), "results": results,
    }  # fmt: skip
    return GateReport(**{**given, **more})


MIXED = report(
    found("metric:auc", "passed", value=0.8),
    found("slices:carrier", "failed", "2 of 16 surely under 0.65", worst=[{"slice": "XX"}]),
    found("latency", "skipped", "only 10 distinct rows"),
    found("own:thing", "failed"),
)


def test_junit_has_a_case_for_each_gate_and_the_evidence_in_it():
    (suite,) = ElementTree.fromstring(junit(MIXED))
    assert suite.attrib == {
        "name": "late/3", "time": "0", "tests": "4", "failures": "2", "errors": "0", "skipped": "1",
        "timestamp": "2026-11-30T09:00:00",
    }  # fmt: skip
    cases = {one.get("name"): [part.tag for part in one] for one in suite.iter("testcase")}
    assert cases == {
        "metric:auc": ["system-out"],
        "slices:carrier": ["failure", "system-out"],
        "latency": ["skipped", "system-out"],
        "own:thing": ["failure", "system-out"],
    }
    assert '"slice": "XX"' in suite.findall("testcase")[1].find("system-out").text
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["bundle"] == "sha256:b"


def test_a_strict_ci_takes_a_skipped_gate_for_a_failure():
    (suite,) = ElementTree.fromstring(junit(MIXED, strict=True))
    assert (suite.get("failures"), suite.get("skipped")) == ("3", "0")
    results = json.loads(sarif(MIXED, strict=True))["runs"][0]["results"]
    assert [one["level"] for one in results] == ["error", "warning", "error"]


def test_sarif_is_as_the_standard_says_with_a_rule_for_each_family():
    log = json.loads(sarif(MIXED))
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules = [one["id"] for one in run["tool"]["driver"]["rules"]]
    assert rules == [
        "falaj.gate.metric", "falaj.gate.slices", "falaj.gate.latency", "falaj.gate.gate",
    ]  # fmt: skip
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("falaj.gate.slices", "error"), ("falaj.gate.gate", "error"),
    ]  # fmt: skip
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in run["results"])
    assert run["properties"]["outcomes"]["latency"] == "skipped"


def test_a_passing_report_is_a_log_without_results():
    log = json.loads(sarif(report(found("bundle", "passed"))))
    jsonschema.validate(log, SARIF)
    assert log["runs"][0]["results"] == []


def test_the_same_failure_of_the_next_version_is_the_same_alert():
    def prints(one):
        return [r["partialFingerprints"] for r in json.loads(sarif(one))["runs"][0]["results"]]

    later = report(found("slices:carrier", "failed", "another text"), version=4, id="gates_2")
    assert prints(MIXED)[0] == prints(later)[0]
    assert prints(MIXED)[0] != prints(MIXED)[1]
    assert prints(later) != prints(report(found("slices:carrier", "failed"), model="other"))


def test_a_result_may_stand_at_the_file_that_declares_the_policy():
    (first, _) = json.loads(sarif(MIXED, location="definitions/the model.py"))["runs"][0]["results"]
    location = first["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "definitions/the%20model.py"
    assert location["region"] == {"startLine": 1}


def test_what_could_not_be_judged_is_an_error_and_no_failure():
    error = NotFound("There is no version 9 of 'late'.", hint="`falaj models versions late`")
    (suite,) = ElementTree.fromstring(junit_of_error("late", 9, error))
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    assert suite.find("testcase/error").get("type") == "not-found"
    log = json.loads(sarif_of_error(error))
    jsonschema.validate(log, SARIF)
    assert log["runs"][0]["invocations"][0]["executionSuccessful"] is False


HOSTILE = "]]></failure><testcase name='x'/> [click](http://evil) {0} \x00\x1b[31m\u202e\ufffe\\"


def test_hostile_text_is_neither_markup_nor_a_link_nor_a_placeholder():
    bad = report(found(f"slices:{HOSTILE}", "failed", HOSTILE, word=HOSTILE), by=HOSTILE)
    (suite,) = ElementTree.fromstring(junit(bad))
    (case,) = suite.findall("testcase")
    assert "[click](http://evil)" in case.find("failure").get("message")
    assert not re.search("[\x00\x1b\u202e\ufffe]", junit(bad))
    log = json.loads(sarif(bad))
    jsonschema.validate(log, SARIF)
    text = log["runs"][0]["results"][0]["message"]["text"]
    assert "\\[click\\](http://evil)" in text
    assert "{{0}}" in text
    assert "\u202e" not in text


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.floats())
def test_any_text_and_any_number_give_whole_documents(gate, message, number):
    bad = report(found(gate, "failed", message or "m", number=number, word=message))
    assert len(list(ElementTree.fromstring(junit(bad)).iter("testcase"))) == 1
    jsonschema.validate(json.loads(sarif(bad, location=gate or None)), SARIF)
