"""What a process may open only once, shared by all platforms that are open in it.

LMDB refuses a folder that this process has open already. A notebook whose first cell is
run again has two platforms on one folder: the second takes what the first has opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """Something that is closed when its last user lets go."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closes)


class Shared(Generic[T]):
    """Open objects of one sort, one for each folder and process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, Path], tuple[T, int]] = {}

    def taken(self, folder: Path, make: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """The folder's object, made by the first to ask, and what gives it back (once)."""
        key = (os.getpid(), folder.resolve())  # after a fork the child opens its own
        with self._lock:
            found, users = self._open.get(key) or (make(), 0)
            self._open[key] = (found, users + 1)
        returned = threading.Event()

        def give_back() -> None:
            with self._lock:
                if returned.is_set() or key not in self._open:
                    return
                returned.set()
                held, left = self._open.pop(key)
                if left > 1:
                    self._open[key] = (held, left - 1)
                else:
                    held.close()

        return found, give_back
