"""Shares of partitions by file locks: whoever dies frees what it held at once.

Each member of a group holds a lock on a *seat* of its own, and one for each partition that
it works on. Who is there is told by which seats are locked; each takes its fair share of
the partitions, and gives back what is above it. All of that happens under one more lock,
at most every half second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from falaj.kernel.clock import monotonic

_EVERY_SECONDS = 0.5


class FileShare:
    """A ``Share`` among the processes of one machine.

    Args:
        folder: of the group; made if it is not there.
        partitions: how many each topic has.
    """

    def __init__(self, folder: Path, partitions: Mapping[str, int]) -> None:
        self._folder = folder
        self._all = [(topic, n) for topic in sorted(partitions) for n in range(partitions[topic])]
        self._held: dict[tuple[str, int], int] = {}
        self._due = 0.0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._balancing():
            self._seat, self._seat_number = self._seated()

    def held(self) -> Collection[tuple[str, int]]:
        """What this process may work on now."""
        if monotonic() >= self._due:
            with self._balancing():
                self._balance()
            self._due = monotonic() + _EVERY_SECONDS
        return list(self._held)

    def close(self) -> None:
        """Give everything back."""
        for handle in (*self._held.values(), self._seat):
            os.close(handle)
        self._held.clear()

    def _balance(self) -> None:
        fair = -(-len(self._all) // self._members())
        for place in list(self._held)[fair:]:
            os.close(self._held.pop(place))
        for topic, number in self._all:
            if len(self._held) >= fair:
                return
            if (topic, number) not in self._held:
                handle = _locked(self._folder / f"{topic}.{number}.held")
                if handle is not None:
                    self._held[topic, number] = handle

    def _seated(self) -> tuple[int, int]:
        for number in count():
            handle = _locked(self._folder / f"{number}.seat")
            if handle is not None:
                return handle, number
        raise AssertionError

    def _members(self) -> int:
        found = 1
        for seat in self._folder.glob("*.seat"):
            if seat.name == f"{self._seat_number}.seat":
                continue
            handle = _locked(seat)
            if handle is None:
                found += 1
            else:
                os.close(handle)
        return found

    @contextmanager
    def _balancing(self) -> Iterator[None]:
        handle = os.open(self._folder / "balance", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _locked(path: Path) -> int | None:
    """A handle that holds the lock of a file, or None if another one does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
