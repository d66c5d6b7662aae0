"""Every error that a caller can cause, as a class with a stable code and a way out.

An error says what is wrong (with which input) and what to do about it. It knows nothing
of HTTP or of terminals: a *kind* says what sort of trouble it is, and each interface
translates the kind in its own manner (a status code, an exit code).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class ErrorKind(StrEnum):
    """The sort of trouble, as an interface needs to know it."""

    INVALID = "invalid"  # the input can never be accepted as it is
    UNAUTHENTICATED = "unauthenticated"  # who is asking?
    FORBIDDEN = "forbidden"  # known, but not allowed
    STEP_UP = "step_up"  # allowed after a fresh second factor
    MISSING = "missing"  # no such thing, or not for this caller's eyes
    CONFLICT = "conflict"  # the state of the platform does not permit it now
    UNAVAILABLE = "unavailable"  # a component does not answer; try again
    EXHAUSTED = "exhausted"  # a limit (size, rate, disk, time) is reached
    CORRUPT = "corrupt"  # stored bytes are not the bytes that were written


class FalajError(Exception):
    """What is wrong, and what to do.

    Args:
        message: one sentence that names the offending input.
        hint: one sentence that says what the caller can do.
        details: JSON-ready facts for programs (never a secret).

    A subclass sets ``code`` (stable, kebab-case, unique over the whole package),
    ``kind``, whether a later identical call may succeed (``retryable``), and whether
    callers from afar are told its text (``shown``): the text of a component's failure
    names addresses, paths and what a driver said, which are for the operator alone.
    """

    code: ClassVar[str] = "falaj-error"
    kind: ClassVar[ErrorKind] = ErrorKind.INVALID
    retryable: ClassVar[bool] = False
    shown: ClassVar[bool] = True

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.details))


def _rebuild(
    error: type[FalajError], message: str, hint: str, details: dict[str, Any]
) -> FalajError:
    return error(message, hint=hint, **details)


class InvalidInput(FalajError):
    """An argument has the wrong type, shape or value."""

    code = "invalid-input"
    kind = ErrorKind.INVALID


class Unauthenticated(FalajError):
    """No credential, or one that is wrong, expired or revoked."""

    code = "unauthenticated"
    kind = ErrorKind.UNAUTHENTICATED


class Forbidden(FalajError):
    """The policy does not permit this caller to do this."""

    code = "forbidden"
    kind = ErrorKind.FORBIDDEN


class StepUpRequired(FalajError):
    """The action needs a second factor presented within the last five minutes."""

    code = "step-up-required"
    kind = ErrorKind.STEP_UP


class NotFound(FalajError):
    """No such thing; also the answer for a thing the caller may not know of."""

    code = "not-found"
    kind = ErrorKind.MISSING


class Conflict(FalajError):
    """The state of the platform does not permit this now."""

    code = "conflict"
    kind = ErrorKind.CONFLICT


class AlreadyExists(Conflict):
    """A thing of that name exists already."""

    code = "already-exists"


class Unavailable(FalajError):
    """A component does not answer; the same call may succeed later."""

    code = "unavailable"
    kind = ErrorKind.UNAVAILABLE
    retryable = True
    shown = False


class ComponentRefused(FalajError):
    """A server that the settings name does not let the platform in, or lacks what it needs."""

    code = "component-refused"
    kind = ErrorKind.UNAVAILABLE
    shown = False


class LimitExceeded(FalajError):
    """A limit of size, rate, time or disk space is reached."""

    code = "limit-exceeded"
    kind = ErrorKind.EXHAUSTED


class StorageFull(LimitExceeded):
    """A disk of the platform is full or failing, or a store's waiting room is."""

    code = "storage-full"
    shown = False


class Corrupt(FalajError):
    """Stored bytes are not the bytes that were written: tampering or a broken disk."""

    code = "corrupt"
    kind = ErrorKind.CORRUPT
    shown = False


def error_classes() -> dict[str, type[FalajError]]:
    """All loaded error classes by their code, for a door that rebuilds an error."""
    found: dict[str, type[FalajError]] = {}
    stack: list[type[FalajError]] = [FalajError]
    while stack:
        error = stack.pop()
        found.setdefault(error.code, error)
        stack.extend(error.__subclasses__())
    return found
