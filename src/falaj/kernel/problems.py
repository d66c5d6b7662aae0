"""Errors as ``application/problem+json`` (RFC 9457), and back into the same class.

The one mapping between kinds of error and HTTP status codes; the domain knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import ErrorKind, FalajError, error_classes
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    ErrorKind.INVALID: 422,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.STEP_UP: 403,
    ErrorKind.MISSING: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.EXHAUSTED: 429,
    ErrorKind.CORRUPT: 500,
}


_log = logger(__name__)
_ARGUMENTS = frozenset({"self", "message", "hint"})


INTERNAL = "internal"
"""The code of errors that are no ``FalajError``."""


class RemoteError(FalajError):
    """The other side failed in a way that this version does not know."""

    code = "remote-error"
    kind = ErrorKind.UNAVAILABLE


def status_of(kind: ErrorKind) -> int:
    """The HTTP status code for a kind of error."""
    return _STATUS[kind]


def problem(error: FalajError, *, instance: str | None = None) -> dict[str, Any]:
    """The problem document of an error; ``instance`` names the call."""
    document: dict[str, Any] = {
        "type": f"urn:falaj:error:{error.code}",
        "title": (type(error).__doc__ or error.code).strip().splitlines()[0],
        "status": status_of(error.kind),
        "code": error.code,
        "detail": error.message,
    }
    if error.hint:
        document["hint"] = error.hint
    if error.details:
        document["details"] = error.details
    if instance:
        document["instance"] = instance
    return document


def public(error: FalajError) -> FalajError:
    """The error as a caller from afar may read it.

    An error that tells of the inside (``shown`` is False) keeps its class, so that programs
    can act on it, and says no more than the class's own sentence and a reference; its text
    goes to the log under that reference.
    """
    if error.shown:
        return error
    reference = _REFERENCES.of(error)
    sentence = (type(error).__doc__ or error.code).strip().splitlines()[0]
    return type(error)(
        sentence,
        hint=f"The operator finds the reason in the platform's log, under {reference}.",
        reference=reference,
    )


def public_failure(told: Mapping[str, Any], *, log: str) -> Mapping[str, Any]:
    """What was kept of an error (``code``, ``message``, ``hint``) as a caller may read it.

    Args:
        log: where its text stands.
    """
    code = str(told.get("code", ""))
    known = error_classes().get(code)
    if code != INTERNAL and (known is None or known.shown):
        return told
    sentence = (known.__doc__ if known else None) or "An error that was not expected."
    return {"code": code, "message": sentence.strip().splitlines()[0], "hint": log}


class _References:
    """References into the log; when a component fails, its errors do not flood it.

    After ``most`` errors of a code in one second the next ones get the last one's reference.
    """

    def __init__(self, *, most: int = 5) -> None:
        self._most = most
        self._last: dict[str, tuple[int, int, str]] = {}

    def of(self, error: FalajError) -> str:
        """The reference under which an error, or one like it, stands in the log."""
        second = int(monotonic())
        since, n, reference = self._last.get(error.code, (second - 1, 0, ""))
        if since == second and n >= self._most:
            return reference
        reference = new_id("problem")
        self._last[error.code] = (second, n + 1 if since == second else 1, reference)
        _log.error("told without its text", reference=reference, code=error.code, error=str(error))
        return reference


_REFERENCES = _References()


def rebuilt(document: Mapping[str, Any]) -> FalajError:
    """The error that a problem document describes, as its own class where it is known."""
    found = error_classes().get(str(document.get("code", "")), RemoteError)
    details = document.get("details")
    known = details if isinstance(details, dict) else {}
    return found(
        str(document.get("detail", "The server answered with an error.")),
        hint=str(document.get("hint", "")),
        # What the other side calls a detail must not take the place of an argument.
        **{name: value for name, value in known.items() if name not in _ARGUMENTS},
    )
