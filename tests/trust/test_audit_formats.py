"""Records for other systems: one line each, whatever strangers wrote into them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.ports import Outcome
from falaj.trust.audit_formats import AuditFormat, formatted
from falaj.trust.audit_model import AuditRecord

EVERY = list(AuditFormat)
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Everything that ``str.splitlines`` takes for the end of a line."""


def record(**changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "seq": 7,
        "at": datetime(2026, 11, 30, 12, tzinfo=UTC),
        "call_id": "call_1",
        "parent": None,
        "principal": "user:amina",
        "via": "http",
        "address": "10.0.0.1",
        "action": "models.promote",
        "resource": "model_version:flight/2",
        "outcome": Outcome.DONE,
        "reasons": ["role-engineer"],
        "arguments": {"reason": "better"},
        "details": {},
        "hash": "00" * 32,
    }
    return AuditRecord(**{**values, **changes})


def cef_fields(line: str) -> tuple[list[str], dict[str, str]]:
    """A strict reader of CEF: the seven header fields, and the extension by name."""
    parts = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    extension = parts[7]
    found = {}
    for match in re.finditer(r"(\w+)=((?:\\.|[^\\=])*?)(?= \w+=|$)", extension):
        found[match[1]] = re.sub(
            r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), match[2]
        )
    return parts[:7], found


@pytest.mark.parametrize("form", EVERY)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_no_text_of_a_record_begins_a_second_line(form: AuditFormat, text: str) -> None:
    bad = f"{text}{BREAKS}CEF:0|Falaj|Falaj|1|forged|x|10|act=forged"
    line = formatted(
        record(
            principal=bad, address=bad, action=bad, resource=bad, reasons=[bad], call_id=bad,
            via=bad, parent=bad, arguments={bad: bad}, details={"error": bad},
        ),
        form,
    )  # fmt: skip
    assert len(line.splitlines()) == 1
    assert "\x1b" not in formatted(record(principal="\x1b[31m"), form)


def test_cef_escapes_what_would_begin_another_field() -> None:
    line = formatted(
        record(action="a|b\\", principal="user:x act=forged\nouter=1", resource="r\\=|é"),
        AuditFormat.CEF,
    )
    head, fields = cef_fields(line)
    assert head[:3] == ["CEF:0", "Falaj", "Falaj"]
    assert "a\\|b\\\\" in line
    assert fields["suser"] == "user:x act=forged\nouter=1"
    assert fields["cs1"] == "r\\=|é"
    assert fields["act"] == "a|b\\"
    assert "outer" not in fields


def test_cef_says_who_did_what_from_where() -> None:
    head, fields = cef_fields(
        formatted(record(outcome=Outcome.REFUSED, address="2001:db8::1"), AuditFormat.CEF)
    )
    assert head[4:] == ["models.promote", "models.promote refused", "7"]
    assert (fields["rt"], fields["externalId"]) == ("1796040000000", "7")
    assert (fields["suser"], fields["outcome"]) == ("user:amina", "refused")
    assert fields["c6a2"] == "2001:db8::1"
    assert (fields["cs1Label"], fields["cs1"]) == ("resource", "model_version:flight/2")
    assert json.loads(fields["cs4"]) == {"reason": "better"}


def test_json_lines_say_all_that_the_record_says() -> None:
    one = record(principal="user:أمينة", details={"deep": {"x": [1, None]}})
    line = formatted(one, AuditFormat.JSON)
    assert line.isascii()
    assert AuditRecord.model_validate_json(line) == one


def test_ocsf_has_what_its_class_demands() -> None:
    # The required attributes of API Activity (6003) in OCSF 1.3.0, and the enums that are used.
    event = json.loads(formatted(record(parent="call_0"), AuditFormat.OCSF))
    for name in (
        "activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id",
        "src_endpoint", "time", "type_uid",
    ):  # fmt: skip
        assert name in event
    assert event["class_uid"] == 6003
    assert event["category_uid"] == 6
    assert event["activity_id"] in {0, 1, 2, 3, 4, 99}
    assert event["type_uid"] == 600300 + event["activity_id"]
    assert event["severity_id"] in range(7)
    assert event["status_id"] == 1
    assert event["time"] == 1796040000000
    assert event["metadata"]["product"]["vendor_name"]
    assert event["metadata"]["version"] == "1.3.0"
    assert event["api"]["operation"] == "models.promote"
    assert event["actor"]["user"]["uid"] == "user:amina"
    assert event["src_endpoint"]["ip"] == "10.0.0.1"
    assert event["resources"] == [
        {"uid": "model_version:flight/2", "type": "model_version", "name": "flight/2"}
    ]


def test_ocsf_tells_a_refusal_as_a_failure() -> None:
    event = json.loads(
        formatted(
            record(outcome=Outcome.REFUSED, details={"error": "forbidden"}, address="others"),
            AuditFormat.OCSF,
        )
    )
    assert (event["status_id"], event["status_code"], event["severity_id"]) == (2, "refused", 3)
    assert event["api"]["response"] == {"error": "forbidden"}
    assert event["src_endpoint"] == {"svc_name": "http", "name": "others"}


@pytest.mark.parametrize(
    ("action", "activity"),
    [("runs.get", 2), ("runs.start", 1), ("accounts.deactivate", 4), ("models.promote", 3),
     ("auth.login", 99)],
)  # fmt: skip
def test_ocsf_tells_reads_from_changes(action: str, activity: int) -> None:
    event = json.loads(formatted(record(action=action), AuditFormat.OCSF))
    assert event["activity_id"] == activity
