"""Audit records as other systems read them: JSON lines, CEF, OCSF; one line for each record.

A record holds what strangers sent: names, addresses, arguments. Nothing in it may end its line
or begin another field. JSON is written in ASCII, so that no reader finds a line break in it;
CEF escapes as its specification says (ArcSight, revision 25), and writes every other control
character and line separator as U+FFFD.
"""

from __future__ import annotations

import ipaddress
import json
import unicodedata
from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib.metadata import version
from typing import Any

from falaj.kernel.clock import microseconds
from falaj.kernel.ports import Outcome
from falaj.trust.audit_model import AuditRecord

_VERSION = version("falaj")
_OCSF_VERSION = "1.3.0"
_API_ACTIVITY = 6003
"""The OCSF class of calls to an interface, in the category Application Activity."""
_ACTIVITIES = {"create": 1, "read": 2, "update": 3, "delete": 4, "other": 99}
_READS = ("get", "list", "search", "read", "history", "lineage", "verify", "proof", "lines", "why")
_DELETES = ("deactivate", "retire", "revoke", "erase", "cancel", "destroy")
_CREATES = ("create", "start", "register", "bring", "invite", "apply", "upload", "open", "train")
_CEF_SEVERITY = {Outcome.DONE: 3, Outcome.FAILED: 5, Outcome.REFUSED: 7}
_OCSF_SEVERITY = {Outcome.DONE: 1, Outcome.FAILED: 2, Outcome.REFUSED: 3}


class AuditFormat(StrEnum):
    """How records are written."""

    JSON = "json"
    CEF = "cef"
    OCSF = "ocsf"


def formatted(record: AuditRecord, form: AuditFormat) -> str:
    """The record as one line, without its end."""
    return _FORMS[form](record)


def _json(record: AuditRecord) -> str:
    return _ascii(record.model_dump(mode="json"))


def _ascii(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _cef(record: AuditRecord) -> str:
    head = (
        "CEF:0",
        "Falaj",
        "Falaj",
        _VERSION,
        record.action,
        f"{record.action} {record.outcome.value}",
        str(_CEF_SEVERITY[record.outcome]),
    )
    fields: dict[str, str] = {
        "rt": str(microseconds(record.at) // 1000),
        "externalId": str(record.seq),
        "act": record.action,
        "outcome": record.outcome.value,
        "suser": record.principal,
        "requestClientApplication": record.via,
        **_cef_address(record.address),
        **_custom(
            resource=record.resource,
            reasons=",".join(record.reasons),
            callId=record.call_id,
            arguments=_ascii(record.arguments),
            details=_ascii(record.details),
            recordHash=record.hash,
        ),
    }
    if record.parent:
        fields["externalParentId"] = record.parent
    extension = " ".join(f"{name}={_cef_value(value)}" for name, value in fields.items())
    return "|".join(_cef_header(part) for part in head) + "|" + extension


def _custom(**values: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, (label, value) in enumerate(values.items(), 1):
        found[f"cs{number}Label"] = label
        found[f"cs{number}"] = value
    return found


def _cef_address(address: str | None) -> dict[str, str]:
    parsed = _parsed(address)
    if parsed is None:
        return {"shost": address} if address else {}
    if parsed.version == 4:
        return {"src": str(parsed)}
    return {"c6a2Label": "Source IPv6 Address", "c6a2": str(parsed)}


def _parsed(address: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address or "")
    except ValueError:
        return None


def _cef_header(text: str) -> str:
    return _tamed(text.replace("\r", " ").replace("\n", " ").replace("\\", "\\\\")).replace(
        "|", "\\|"
    )


def _cef_value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("=", "\\=")
    return _tamed(escaped.replace("\r", "\\r").replace("\n", "\\n"))


def _tamed(text: str) -> str:
    """The text without characters that some reader takes for the end of a line."""
    if text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(one) in ("Cc", "Zl", "Zp", "Cs") else one for one in text
    )


def _ocsf(record: AuditRecord) -> str:
    kind, _, name = record.principal.partition(":")
    activity = _activity(record.action)
    failed = record.outcome is not Outcome.DONE
    parsed = _parsed(record.address)
    source: dict[str, Any] = {"svc_name": record.via}
    if parsed is not None:
        source["ip"] = str(parsed)
    elif record.address:
        source["name"] = record.address
    asset, _, key = record.resource.partition(":")
    event: dict[str, Any] = {
        "class_uid": _API_ACTIVITY,
        "class_name": "API Activity",
        "category_uid": 6,
        "category_name": "Application Activity",
        "activity_id": _ACTIVITIES[activity],
        "activity_name": activity.capitalize(),
        "type_uid": _API_ACTIVITY * 100 + _ACTIVITIES[activity],
        "time": microseconds(record.at) // 1000,
        "severity_id": _OCSF_SEVERITY[record.outcome],
        "status_id": 2 if failed else 1,
        "status": "Failure" if failed else "Success",
        "status_code": record.outcome.value,
        "metadata": {
            "version": _OCSF_VERSION,
            "uid": str(record.seq),
            "log_name": "audit",
            "product": {"name": "Falaj", "vendor_name": "Falaj", "version": _VERSION},
            **({"correlation_uid": record.parent} if record.parent else {}),
        },
        "actor": {
            "user": {
                "uid": record.principal,
                "name": name or kind,
                "type_id": 1 if kind == "user" else 3 if kind in ("service", "system") else 0,
            }
        },
        "api": {
            "operation": record.action,
            "service": {"name": record.action.partition(".")[0]},
            "request": {"uid": record.call_id},
            **_response(record),
        },
        "src_endpoint": source,
        "resources": [{"uid": record.resource, "type": asset, "name": key}],
        "unmapped": {
            "reasons": record.reasons,
            "arguments": record.arguments,
            "details": record.details,
            "hash": record.hash,
        },
    }
    return _ascii(event)


def _response(record: AuditRecord) -> Mapping[str, Any]:
    error = record.details.get("error")
    return {"response": {"error": str(error)}} if error else {}


def _activity(action: str) -> str:
    verb = action.partition(".")[2]
    for name, verbs in (("read", _READS), ("delete", _DELETES), ("create", _CREATES)):
        if verb.startswith(verbs):
            return name
    return "other" if action.startswith("auth.") else "update"


_FORMS: Mapping[AuditFormat, Callable[[AuditRecord], str]] = {
    AuditFormat.JSON: _json,
    AuditFormat.CEF: _cef,
    AuditFormat.OCSF: _ocsf,
}
