"""What is done once in a while."""

from __future__ import annotations

from collections.abc import Callable

from falaj.kernel.clock import monotonic


class Seldom:
    """A chore that is done once in a while, however often it is called."""

    def __init__(self, chore: Callable[[], object], *, every_seconds: float) -> None:
        self._chore = chore
        self._every = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        if monotonic() >= self._due:
            self._chore()
            self._due = monotonic() + self._every
