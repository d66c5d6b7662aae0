"""What a route of MLflow's API is given: the caller, the fields of the request, and the door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from falaj.kernel.call import Caller
from falaj.kernel.door import Backend, LocalDoor
from falaj.kernel.errors import InvalidInput

DEFAULT_WORKSPACE = "default"
"""What ``/mlflow`` (without ``/t/{workspace}``) speaks of."""


@dataclass(frozen=True)
class Asked:
    """One request.

    ``fields`` holds the JSON body, or the parameters of the address (each a list of texts);
    ``path`` what the route's pattern took out of the address.
    """

    backend: Backend
    caller: Caller
    workspace: str
    fields: Mapping[str, Any]
    path: Mapping[str, str] = field(default_factory=dict)
    in_address: bool = False
    """True if the fields come from the address, where everything is text."""
    body: bytes = b""
    """The body as it came, for a route that reads it itself (``Route.reads_body``)."""

    def call(self, action: str, /, **arguments: Any) -> Any:
        """Call an action by its name (``runs.start``) through the door, as the caller."""
        found = self.backend.services.actions[action]
        return LocalDoor(self.backend, self.caller).call(found, arguments)

    def call_here(self, action: str, /, **arguments: Any) -> Any:
        """``call`` with the request's workspace as the argument ``workspace``."""
        return self.call(action, workspace=self.workspace, **arguments)

    def text(self, name: str, otherwise: str | None = None) -> str:
        """A field that is a text.

        Raises:
            InvalidInput: it is missing and ``otherwise`` is None, or it is no text.
        """
        value = self._single(name)
        if value is None:
            if otherwise is None:
                self._missing(name)
            return otherwise
        if not isinstance(value, str):
            raise self._unfit(name, value, "a text")
        return value

    def number(self, name: str, otherwise: int | None = None) -> int:
        """A field that is a whole number, or the text of one (as protobuf writes int64)."""
        value = self._single(name)
        if value is None:
            if otherwise is None:
                self._missing(name)
            return otherwise
        return int(self._converted(name, value, int, "a whole number"))

    def real(self, name: str) -> float:
        """A field that is a number, or the text of one (``"NaN"`` and ``"Infinity"`` too)."""
        value = self._single(name)
        if value is None:
            self._missing(name)
        return float(self._converted(name, value, float, "a number"))

    def truth(self, name: str, otherwise: bool = False) -> bool:
        """A field that is true or false."""
        value = self._single(name)
        if value is None:
            return otherwise
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        raise self._unfit(name, value, "true or false")

    def several(self, name: str) -> list[Any]:
        """A field that is a list; an empty one if it is missing."""
        value = self.fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._unfit(name, value, "a list")
        return value

    def part(self, name: str) -> Mapping[str, Any]:
        """A field that is an object; an empty one if it is missing."""
        value = self.fields.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._unfit(name, value, "an object")
        return value

    def within(self, fields: Any, name: str) -> Asked:
        """The same caller asking with the fields of an object inside the request.

        Raises:
            InvalidInput: it is no object.
        """
        if not isinstance(fields, dict):
            raise self._unfit(name, fields, "an object")
        return Asked(self.backend, self.caller, self.workspace, fields, self.path)

    def _single(self, name: str) -> Any:
        value = self.fields.get(name)
        if not self.in_address or value is None:
            return value
        if len(value) > 1:
            raise InvalidInput(f"The parameter {name!r} is given {len(value)} times.")
        return value[0]

    def _converted(self, name: str, value: Any, to: Callable[[Any], Any], what: str) -> Any:
        fits = (int, str) if to is int else (int, float, str)
        if isinstance(value, bool) or not isinstance(value, fits):
            raise self._unfit(name, value, what)
        try:
            return to(value)
        except (ValueError, OverflowError):
            raise self._unfit(name, value, what) from None

    def _missing(self, name: str) -> NoReturn:
        raise InvalidInput(
            f"Missing value for required parameter {name!r}.", hint="Give it in the request."
        )

    @staticmethod
    def _unfit(name: str, value: Any, what: str) -> InvalidInput:
        return InvalidInput(
            f"Invalid value {str(value)[:100]!r} for parameter {name!r}.",
            hint=f"It is {what}.",
        )
