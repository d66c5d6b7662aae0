"""Gate reports as CI systems read them: JUnit XML, and SARIF 2.1.0 (an OASIS standard).

Names and messages come from other people. In XML they are escaped, and what XML cannot hold is
replaced; in SARIF, whose messages know links and placeholders, they are neither.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from falaj.kernel.errors import FalajError
from falaj.models.model import GateReport, GateResult, Outcome

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FAMILIES = {
    "bundle": "The bundle is whole and signed.",
    "supply_chain": "It attests how it was made; licences and vulnerabilities are as permitted.",
    "contract": "Label and feature service are those of the policy.",
    "inputs": "Inputs are as declared, and as the training rows had them.",
    "leakage": "Neither the model nor a feature knows the answer already; no row is in two parts.",
    "metric": "A metric reaches its limit on rows that the model has not seen.",
    "champion": "The version is not worse than the one in production.",
    "slices": "No slice of the rows is surely beyond its limit.",
    "calibration": "Probabilities mean what they say.",
    "fairness": "Groups are decided about alike.",
    "robustness": "Damaged inputs cost no more than permitted.",
    "latency": "One row is scored in time on the target hardware.",
    "memory": "Loading and scoring fit into memory.",
    "size": "The bundle is small enough.",
    "parent": "The version answers as the one that it was made from.",
    "explainability": "What decisions rest on can be told.",
    "card": "The model card is complete.",
    "origin": "A brought model is judged on rows that it cannot know.",
    "rows": "There are rows to judge the version on.",
}
"""What each family of gates asks; a rule of the SARIF log each."""
OTHER = "gate"


def junit(report: GateReport, *, strict: bool = False) -> str:
    """A report as JUnit XML: a suite for the version, a case for each gate.

    Args:
        strict: skipped gates count as failures.
    """
    results = report.results
    failed = [one for one in results if fails(one, strict=strict)]
    skipped = [one for one in results if one.outcome is Outcome.SKIPPED and one not in failed]
    suite = _suite(report.model, report.version, len(results), len(failed), 0, len(skipped))
    suite.set("timestamp", f"{report.at:%Y-%m-%dT%H:%M:%S}")
    properties = ElementTree.SubElement(suite, "properties")
    told = {"report": report.id, "bundle": report.bundle, "policy": report.policy_fingerprint,
            "champion": report.champion or "none", "by": report.by}  # fmt: skip
    for name, value in told.items():
        ElementTree.SubElement(properties, "property", name=name, value=_xml(str(value)))
    for one in results:
        case = _case(suite, report.model, report.version, one.gate)
        if one in failed:
            _told(case, "failure", one.message).set("type", str(one.outcome))
        elif one in skipped:
            ElementTree.SubElement(case, "skipped", message=_xml(one.message))
        evidence = json.dumps(one.evidence, ensure_ascii=False, indent=1, default=str)
        ElementTree.SubElement(case, "system-out").text = _xml(f"{one.message}\n{evidence}")
    return _written(suite)


def junit_of_error(model: str, number: int | None, error: FalajError) -> str:
    """What to give a CI system when a version could not be judged: one case, with the error."""
    suite = _suite(model, number, 1, 0, 1, 0)
    case = _case(suite, model, number, "judged")
    _told(case, "error", f"{error.message} {error.hint}".strip()).set("type", error.code)
    return _written(suite)


def sarif(report: GateReport, *, location: str | None = None, strict: bool = False) -> str:
    """A report as a SARIF log: a result for each gate that failed.

    Its fingerprint is of the model and the gate, so that a failure of the next version is the
    same alert, and one that passes again closes it.

    Args:
        location: the file that declares the policy, for systems that show results at a line.
        strict: skipped gates are told as warnings.
    """
    told = [one for one in report.results if fails(one, strict=strict)]
    order = rules_of(report.results)
    results = [
        {
            "ruleId": _rule(one.gate),
            "ruleIndex": order.index(family(one.gate)),
            "kind": "fail",
            "level": "error" if one.outcome is Outcome.FAILED else "warning",
            "message": {"text": _message(f"{one.gate}: {one.message}")},
            "locations": [_location(report, one.gate, location)],
            "partialFingerprints": {"falajGate/v1": _fingerprint(report.model, one.gate)},
            "properties": {"evidence": _jsonable(one.evidence), "gate": one.gate},
        }
        for one in told
    ]
    invocation = {"executionSuccessful": True, "endTimeUtc": f"{report.at:%Y-%m-%dT%H:%M:%SZ}"}
    run = _run(order, invocation, results)
    run["automationDetails"] = {"id": f"falaj/gates/{quote(report.model, safe='')}/"}
    run["properties"] = {
        "report": report.id,
        "model": report.model,
        "version": report.version,
        "passed": report.passed,
        "outcomes": {one.gate: str(one.outcome) for one in report.results},
    }
    return _log(run)


def sarif_of_error(error: FalajError) -> str:
    """A SARIF log that says why a version could not be judged."""
    text = _message(f"{error.message} {error.hint}".strip())
    invocation = {
        "executionSuccessful": False,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": text}, "descriptor": {"id": error.code}}
        ],
    }
    return _log(_run([], invocation, []))


def fails(result: GateResult, *, strict: bool) -> bool:
    """True if a result stops a version, or, where one is strict, could not be measured."""
    return result.outcome is Outcome.FAILED or (strict and result.outcome is Outcome.SKIPPED)


def family(gate: str) -> str:
    """The family that a gate is of: ``slices`` of ``slices:carrier``."""
    name = gate.partition(":")[0]
    return name if name in FAMILIES else OTHER


def rules_of(results: Iterable[GateResult]) -> list[str]:
    """The families of results, each once, in their order."""
    return list(dict.fromkeys(family(one.gate) for one in results))


def _rule(gate: str) -> str:
    return f"falaj.gate.{family(gate)}"


def _run(
    order: list[str], invocation: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, Any]:
    rules = [
        {
            "id": f"falaj.gate.{name}",
            "name": "".join(part.title() for part in name.split("_")) + "Gate",
            "shortDescription": {"text": FAMILIES.get(name, "A gate of the policy.")},
            "defaultConfiguration": {"level": "error"},
            "help": {"text": "See the guide's page on gates, and the evidence of the result."},
        }
        for name in order
    ]
    driver = {"name": "falaj", "version": version("falaj"), "rules": rules}
    return {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "results": results,
    }


def _log(run: dict[str, Any]) -> str:
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _location(report: GateReport, gate: str, location: str | None) -> dict[str, Any]:
    name = quote(report.model, safe="")
    uri = quote(location, safe="/.-_~") if location else f"models/{name}/{report.version}"
    whole = f"{report.model}/{report.version}/{gate}"
    return {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
        "logicalLocations": [{"name": _tamed(gate), "fullyQualifiedName": _tamed(whole)}],
    }


def _fingerprint(model: str, gate: str) -> str:
    return hashlib.sha256(json.dumps([model, gate]).encode()).hexdigest()


def _message(text: str) -> str:
    """Text in which SARIF sees no link and no placeholder (sections 3.11.5 and 3.11.6)."""
    told = _tamed(text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return told.replace("{", "{{").replace("}", "}}")


def _jsonable(value: Any) -> Any:
    """Evidence as strict JSON: what is no number there is text."""
    if isinstance(value, dict):
        return {str(name): _jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and value - value != 0:  # NaN and infinities
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _tamed(text: str) -> str:
    """Text without control characters and what turns the reading direction."""
    return "".join(
        "\ufffd" if unicodedata.category(one) in {"Cc", "Cf", "Cs"} and one not in "\n\t" else one
        for one in text
    )


def _xml(text: str) -> str:
    """Text that XML 1.0 can hold."""
    return "".join("\ufffd" if ord(one) in {0xFFFE, 0xFFFF} else one for one in _tamed(text))


def _suite(
    model: str, number: int | None, tests: int, failures: int, errors: int, skipped: int
) -> ElementTree.Element:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    suite = ElementTree.Element("testsuite", name=_xml(_named(model, number)), time="0")
    for name, n in counts.items():
        suite.set(name, str(n))
    return suite


def _case(
    suite: ElementTree.Element, model: str, number: int | None, gate: str
) -> ElementTree.Element:
    classname = _xml(f"falaj.gates.{_named(model, number)}")
    return ElementTree.SubElement(suite, "testcase", classname=classname, name=_xml(gate), time="0")


def _told(case: ElementTree.Element, tag: str, message: str) -> ElementTree.Element:
    found = ElementTree.SubElement(case, tag, message=_xml(message))
    found.text = _xml(message)
    return found


def _named(model: str, number: int | None) -> str:
    return model if number is None else f"{model}/{number}"


def _written(suite: ElementTree.Element) -> str:
    suites = ElementTree.Element("testsuites", name="falaj gates")
    for name in ("tests", "failures", "errors", "skipped"):
        suites.set(name, suite.get(name, "0"))
    suites.append(suite)
    ElementTree.indent(suites, " ")
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
