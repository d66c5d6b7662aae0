"""A server's processes: started on one core, counted, paused and ended all together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """The core of the server and the core of the client."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


Cores = int | frozenset[int] | None
"""One core, some of them, or wherever the kernel likes."""


_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)


def child_of_ours(core: Cores) -> None:
    """Run in a new child: it keeps to a core, and ends when its parent is killed."""
    _libc.prctl(_DEATH_SIGNAL, signal.SIGTERM)
    pinned(core)


def pinned(core: Cores) -> None:
    """Keep the calling process, and what it starts, on a core."""
    if core is not None:
        os.sched_setaffinity(0, {core} if isinstance(core, int) else core)


class ServerProcess:
    """A server with all processes that it starts; use it as a context manager.

    Args:
        name: as the tables call it.
        command: what to run.
        port: where it will listen on 127.0.0.1.
        core: it and its children stay on this core; None lets them be.
        log: where its output goes.
        surroundings: further environment variables.
        pass_fds: descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        core: Cores,
        log: Path,
        surroundings: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name, self.port, self._log = name, port, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_surroundings(), **(surroundings or {})},
                pass_fds=list(pass_fds),
                start_new_session=True,
                preexec_fn=lambda: child_of_ours(core),  # noqa: PLW1509 - nothing but system calls
            )
        self.pid = self._process.pid

    def members(self) -> list[int]:
        """Its living processes: those of its session, and their children's children."""
        found = {self.pid}
        stats = dict(_stats())
        grown = True
        while grown:
            grown = False
            for pid, (parent, session, _, state) in stats.items():
                if pid not in found and state != "Z" and (session == self.pid or parent in found):
                    found.add(pid)
                    grown = True
        return sorted(pid for pid in found if pid in stats)

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time of each of its processes, by process id."""
        members = set(self.members())
        return {pid: seconds for pid, (_, _, seconds, _) in _stats() if pid in members}

    def settle(self, *, patience_seconds: float = 12.0) -> None:
        """Return when it has nothing more to do in the background, or after the patience."""
        until = time.monotonic() + patience_seconds
        quiet = 0
        while quiet < 2 and time.monotonic() < until:
            before = sum(self.cpu_seconds().values())
            time.sleep(0.3)
            used = sum(self.cpu_seconds().values()) - before
            quiet = quiet + 1 if used <= 0.08 else 0

    def pause(self) -> None:
        """Stop all of its processes where they are: an idle server may poll, and disturb."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-2_000:]

    def check(self) -> None:
        """Raise RuntimeError if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended ({self._process.returncode}):\n{self.said()}")

    def end(self) -> None:
        """End every process: politely first, then whatever is left."""
        members = self.members()
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        patience = time.monotonic() + 15
        while self._process.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        # Some launchers leave workers behind that go on answering.
        left = {*members, *self.members()}
        while left := {pid for pid, (*_, state) in _stats() if pid in left and state != "Z"}:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._process.wait()

    def _signal(self, number: int) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _surroundings() -> dict[str, str]:
    """Of every server: no second thread for numbers, and modules compiled once, not each time."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1"}


def cpu_seconds(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def command_of(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _stats() -> Iterator[tuple[int, tuple[int, int, float, str]]]:
    """Of each process of this machine: parent, session, CPU seconds and state."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended in this moment
        seconds = (int(fields[11]) + int(fields[12])) / _TICK
        yield int(folder.name), (int(fields[1]), int(fields[3]), seconds, fields[0])
