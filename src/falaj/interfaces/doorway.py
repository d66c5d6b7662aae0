"""The door of a platform object: it outlives the doors behind it, and asks for factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from falaj.kernel.actions import Action
from falaj.kernel.errors import StepUpRequired
from falaj.kernel.ports import Door


class Doorway:
    """The door of a platform, which changes when its caller presents a second factor.

    ``ask`` is called when an action needs a factor; if it returns, the call is made again.
    """

    def __init__(self, door: Door, ask: Callable[[StepUpRequired], None] | None = None) -> None:
        self.door = door
        self._ask = ask

    def call(
        self, action: Action, arguments: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Make a call through the door of now."""
        return self.through(None, action, arguments, idempotency_key)

    def through(
        self,
        purpose: str | None,
        action: Action,
        arguments: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> Any:
        """Make a call, stating a purpose; once more when a factor was asked for and presented."""

        def call() -> Any:
            door = self.door.with_purpose(purpose) if purpose else self.door
            return door.call(action, arguments, idempotency_key=idempotency_key)

        try:
            return call()
        except StepUpRequired as required:
            if self._ask is None:
                raise
            self._ask(required)
            return call()

    def with_purpose(self, purpose: str | None) -> Door:
        """The same doorway for a caller who states a purpose."""
        return _Stating(self, purpose)


class _Stating:
    """A doorway whose caller states a purpose; it follows when the door behind it changes."""

    def __init__(self, doorway: Doorway, purpose: str | None) -> None:
        self._doorway = doorway
        self._purpose = purpose

    def call(
        self, action: Action, arguments: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        return self._doorway.through(self._purpose, action, arguments, idempotency_key)

    def with_purpose(self, purpose: str | None) -> Door:
        return _Stating(self._doorway, purpose or self._purpose)
