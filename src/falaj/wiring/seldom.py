"""What is done once in a while."""

from __future__ import annotations

import threading
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


class Beside:
    """A chore that is done on a thread of its own; called while it goes on, it is not begun."""

    def __init__(self, chore: Callable[[], object], *, name: str) -> None:
        self._chore = chore
        self._name = name
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._chore, name=self._name, daemon=True)
            self._thread.start()
