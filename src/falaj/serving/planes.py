"""What an inference worker answers besides predictions, and what begins and ends with it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from falaj.serving.requests import Request, Told


class Plane(Protocol):
    """A part of the data plane, with paths of its own below one prefix."""

    prefix: bytes

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a request whose path begins with the prefix; raises FalajError."""
        ...

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body that a path takes, and the seconds in which it must arrive."""
        ...

    async def start(self) -> None:
        """Called before the first request."""
        ...

    async def stop(self) -> None:
        """Called behind the last answer."""
        ...


class Companion(Protocol):
    """What a worker also serves, on the same event loop: it begins and ends with the worker."""

    async def start(self) -> None:
        """Called when the worker can answer."""
        ...

    async def stop(self) -> None:
        """Called before the worker lets go of what it answers with."""
        ...
