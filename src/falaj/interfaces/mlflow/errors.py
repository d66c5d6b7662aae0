"""Errors of Falaj in the words that MLflow's client knows."""

from __future__ import annotations

from typing import Any

from falaj.kernel.errors import AlreadyExists, ErrorKind, FalajError, StorageFull
from falaj.kernel.problems import public
from falaj.training.tracking.values import ParameterWritten

_CODES = {
    ErrorKind.INVALID: ("INVALID_PARAMETER_VALUE", 400),
    ErrorKind.UNAUTHENTICATED: ("UNAUTHENTICATED", 401),
    ErrorKind.FORBIDDEN: ("PERMISSION_DENIED", 403),
    ErrorKind.STEP_UP: ("PERMISSION_DENIED", 403),
    ErrorKind.MISSING: ("RESOURCE_DOES_NOT_EXIST", 404),
    ErrorKind.CONFLICT: ("INVALID_STATE", 400),
    ErrorKind.UNAVAILABLE: ("TEMPORARILY_UNAVAILABLE", 503),
    ErrorKind.EXHAUSTED: ("REQUEST_LIMIT_EXCEEDED", 429),
    ErrorKind.CORRUPT: ("DATA_LOSS", 500),
}
"""Of each kind of trouble: the client's code for it and the status that goes with it."""


def told(error: FalajError) -> tuple[dict[str, Any], int]:
    """The document of an error, as MLflow's client reads it, and its HTTP status.

    A body that is too large is 413, a full disk 507: these the client does not try again, as
    it does a 429.
    """
    code, status = _CODES[error.kind]
    if isinstance(error, AlreadyExists):
        code = "RESOURCE_ALREADY_EXISTS"
    if isinstance(error, ParameterWritten):
        code = "INVALID_PARAMETER_VALUE"
    if error.details.get("refused") == "body-too-large":
        status = 413
    if isinstance(error, StorageFull):
        status = 507
    return {"error_code": code, "message": str(public(error))}, status
