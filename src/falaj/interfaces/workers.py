"""The inference workers of one machine: more or fewer of them, and all of them anew.

They accept on one listening socket that the supervisor holds, so a connection that waits
is taken by whichever worker is there. A worker that is taken away or replaced is *drained*
(SIGHUP): it accepts nothing more, answers what it is asked with ``connection: close``, and
ends when nobody is left. In a rolling restart a new worker is ready before the old one is
drained, one after the other; if a new one does not get ready the rest stay as they are.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from falaj.kernel.telemetry import logger

if TYPE_CHECKING:
    from falaj.interfaces.supervisor import Child
    from falaj.serving.scaling import Observation
    from falaj.serving.workload import Observer

ROLE = "inference"
READY_SECONDS = 60.0


class Family(Protocol):
    """The supervisor, as far as its workers need it."""

    children: list[Child]

    def start(self, child: Child) -> None:
        """Start a child's process."""
        ...

    def is_ready(self, child: Child) -> bool:
        """True if the child's process has said that it is ready."""
        ...

    def let_go(self, child: Child) -> None:
        """Drain a child; it is not started again."""
        ...


@dataclass(frozen=True)
class Restart:
    """How far a rolling restart has come; a file tells it to ``falaj restart``."""

    number: int
    state: str
    """``running``, ``done`` or ``failed``."""
    why: str = ""

    @classmethod
    def read(cls, path: Path) -> Restart:
        """What the file says; number 0 if there was none yet."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(0, "done")

    def write(self, path: Path) -> None:
        """Say it."""
        begun = path.with_suffix(".new")
        begun.write_text(json.dumps(vars(self)), encoding="utf-8")
        begun.replace(path)


class InferenceWorkers:
    """The inference workers of a supervisor; fulfils ``serving.pools.WorkerPool``.

    Args:
        family: starts and drains processes.
        bound: the listening socket that all workers share.
        made: makes a child of that name on those sockets; does not start it.
        workload: the folder where workers tell how much there is to do.
        progress: the file that tells of rolling restarts.
    """

    name = "local"

    def __init__(
        self,
        family: Family,
        bound: socket.socket,
        made: Callable[[str, str, Sequence[socket.socket]], Child],
        *,
        workload: Path,
        progress: Path,
    ) -> None:
        self._family = family
        self._bound = bound
        self._made = made
        self._workload = workload
        self._progress = progress
        self._observer: Observer | None = None
        self._to_replace: deque[Child] = deque()
        self._successor: Child | None = None
        self._replaced: Child | None = None
        self._patience = 0.0
        self._restart = Restart.read(progress)
        if self._restart.state == "running":
            self._told("failed", "its supervisor ended")

    # -- how many -------------------------------------------------------------------

    @property
    def serving(self) -> list[Child]:
        """The workers that are to stay, the oldest first."""
        return [
            child
            for child in self._family.children
            if child.role == ROLE and child.leaving_since is None and child is not self._successor
        ]

    def add(self) -> Child:
        """One more worker, planned but not started."""
        taken = {child.name for child in self._family.children}
        number = next(n for n in range(1, len(taken) + 2) if f"{ROLE}-{n}" not in taken)
        child = self._made(f"{ROLE}-{number}", ROLE, [self._bound])
        self._family.children.append(child)
        return child

    def resize(self, workers: int) -> None:
        """Have so many workers; see ``WorkerPool.resize``."""
        serving = self.serving
        for _ in range(workers - len(serving)):
            self._family.start(self.add())
        for child in serving[workers:]:
            self._family.let_go(child)

    def observe(self, at: float) -> Observation | None:
        """What the workers did since the last call; see ``WorkerPool.observe``."""
        from falaj.serving.workload import Observer, Reading

        if self.restarting:
            return None
        if self._observer is None:
            self._observer = Observer()
        serving = self.serving
        readings = {}
        for child in serving:
            if not self._family.is_ready(child):
                if child.restarts == 0 and time.monotonic() - child.started_at < READY_SECONDS:
                    return None  # it is about to help
                continue  # it has crashed, or hangs: its share falls to the others
            reading = Reading.of(self._workload / child.name)
            if reading is None:
                return None
            readings[child.name] = reading
        return self._observer.observe(at, readings, workers=len(serving))

    # -- all anew -------------------------------------------------------------------

    @property
    def restarting(self) -> bool:
        """True while a rolling restart goes on."""
        return bool(self._to_replace or self._successor or self._replaced)

    def restart(self) -> None:
        """Begin to replace every worker by a new one; one that goes on begins anew."""
        self._to_replace = deque(self.serving)
        if self._successor is not None:
            self._to_replace.append(self._successor)  # it began before this was asked
        self._restart = Restart(self._restart.number + 1, "running")
        self._restart.write(self._progress)
        logger(__name__).info("rolling restart begins", workers=len(self._to_replace))
        if not self._to_replace:
            self._told("done")  # nobody serves: those that start are new anyway

    def drain(self) -> None:
        """Let all workers end when they have answered; nobody accepts a connection any more."""
        self._bound.close()
        self._to_replace.clear()
        self._successor = self._replaced = None
        for child in self.serving:
            self._family.let_go(child)

    def tick(self) -> None:
        """Take the next step of a rolling restart, if its time has come."""
        if not self.restarting:
            return
        now = time.monotonic()
        if self._replaced is not None:
            if self._replaced in self._family.children:
                return  # it still answers
            self._replaced = None
            if not self._to_replace:
                self._told("done")
        elif self._successor is None:
            self._successor = self.add()
            self._patience = now + READY_SECONDS
            self._family.start(self._successor)
        elif self._successor.restarts or now > self._patience:
            self._give_up()
        elif self._family.is_ready(self._successor):
            self._successor = None
            self._replaced = self._to_replace.popleft()
            self._family.let_go(self._replaced)

    def _give_up(self) -> None:
        failed, self._successor = self._successor, None
        self._to_replace.clear()
        if failed is not None:
            self._family.let_go(failed)
            self._told("failed", f"the new worker {failed.name} did not get ready; see its log")

    def _told(self, state: str, why: str = "") -> None:
        self._restart = Restart(self._restart.number, state, why)
        self._restart.write(self._progress)
        say = logger(__name__).error if why else logger(__name__).info
        say(f"rolling restart {state}", why=why)
