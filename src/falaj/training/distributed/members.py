"""One worker of a crew: what it says to the others, all of it through whoever began the crew."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import Plain, ask, tell
from falaj.training.plainly import plainly, rebuilt_from

JOIN, GATHER, KEEP, REPORT = "join", "gather", "keep", "report"


@dataclass(frozen=True)
class Joined:
    """What a worker is told when its crew is complete."""

    rank: int
    n_workers: int
    part: Any
    """Its part of the rows."""
    shared: dict[str, Any]
    """What all workers were given."""
    last: Any
    """The state that was kept last, or None at the beginning."""


def join() -> Joined:
    """Say that this worker is there, and wait for the others."""
    told = ask([JOIN])
    return Joined(
        rank=told["rank"],
        n_workers=told["n_workers"],
        part=rebuilt_from(told["part"]),
        shared=rebuilt_from(told["shared"]),
        last=rebuilt_from(told["last"]),
    )


def gather(value: Plain) -> list[Plain]:
    """Give a value to all workers, and wait for theirs; by rank, one's own among them."""
    gathered: list[Plain] = ask([GATHER, value])
    return gathered


def report(share: float, message: str) -> None:
    """Tell how far the fit is."""
    tell([REPORT, float(share), message])


class Keeping:
    """Keeps the state of the fit now and then; used by the worker of rank 0 alone.

    Args:
        every_seconds: so much work may be lost with a worker.
    """

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._kept_at = monotonic()

    @property
    def due(self) -> bool:
        """True if a state should be kept now."""
        return monotonic() - self._kept_at >= self._every_seconds

    def keep(self, n_done: int, state: Any) -> None:
        """Keep the state after so many rounds."""
        tell([KEEP, n_done, plainly(state)])
        self._kept_at = monotonic()


def address(host: str | None = None) -> tuple[str, int]:
    """Where others reach this worker: its address on the network, and a port that is free now."""
    host = host or _own_address()
    with socket.socket() as free:
        free.bind((host, 0))
        return host, free.getsockname()[1]


def _own_address() -> str:
    """This machine's address on the way to others; the loopback if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))  # sends nothing: only finds the way (RFC 5737)
        except OSError:
            return "127.0.0.1"
        return str(way.getsockname()[0])
