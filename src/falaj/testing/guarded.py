"""Throw-away server processes that end with the last test process that uses them.

A small shell *guard* starts the server and then reads a named pipe that every user holds
open for writing. When the last user lets go (or is killed), the read ends, and the guard
ends the server and removes its folder. So no server outlives its tests, even after
``kill -9``, and pytest-xdist workers share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GUARD = """
server_end="$1"; pipe="$2"; folder="$3"; shift 3
"$@" >"$folder/server.log" 2>&1 & server=$!
cat "$pipe" >/dev/null
kill -"$server_end" "$server" 2>/dev/null
wait "$server"
rm -rf "$folder"
"""
_PATIENCE_SECONDS = 60.0


class ServerUnavailable(Exception):
    """A throw-away server cannot be had here; the message says why."""


@dataclass(frozen=True)
class Account:
    """The operating system's user as whom a server runs."""

    name: str
    uid: int
    gid: int

    def as_popen(self) -> dict[str, Any]:
        """Arguments for ``subprocess``; none when it is ourselves."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def unprivileged() -> Account:
    """Ourselves, or when we are root an account without rights: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return Account("", os.geteuid(), os.getegid())
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(name, found.pw_uid, found.pw_gid)
    raise ServerUnavailable("we are root, and there is neither a user postgres nor nobody")


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody uses now, all different."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


@dataclass(frozen=True)
class Started:
    """A started server: its folder, its facts (port, secrets) and how to end it."""

    command: Sequence[str]
    facts: Mapping[str, Any]
    account: Account
    end_signal: str = "TERM"


class GuardedServer:
    """One server, shared by all processes that name the same folder and name.

    Args:
        shared: a folder that all users know; it keeps the lock and the facts.
        name: which server.
        start: makes the server's folder ready (given as argument) and returns the
            command that runs it; called under the lock by the first user.
        ready: True when the server with these facts answers.
    """

    def __init__(
        self,
        shared: Path,
        name: str,
        start: Callable[[Path], Started],
        ready: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        self._lock = shared / f"{name}.lock"
        self._state = shared / f"{name}.json"
        self._name = name
        self._start = start
        self._ready = ready
        self._held: int | None = None

    def acquire(self) -> Mapping[str, Any]:
        """The facts of the running server, started if nobody has yet.

        Raises:
            ServerUnavailable: it cannot be started; the reason is kept for other users.
        """
        with self._locked():
            state = self._read()
            if state.get("unavailable"):
                raise ServerUnavailable(state["unavailable"])
            if state and self._joined(state):
                self._write({**state, "users": state["users"] + 1})
                return dict(state["facts"])
            try:
                state = self._launch()
            except (ServerUnavailable, OSError, subprocess.SubprocessError) as error:
                self._write({"unavailable": f"{self._name}: {error}"})
                raise ServerUnavailable(f"{self._name}: {error}") from error
            self._write(state)
            return dict(state["facts"])

    def release(self) -> None:
        """Let go; the last user's release ends the server and waits for it."""
        if self._held is None:
            return
        with self._locked():
            os.close(self._held)
            self._held = None
            state = self._read()
            users = state.get("users", 1) - 1
            if users > 0:
                self._write({**state, "users": users})
                return
            self._state.unlink(missing_ok=True)
            _await_end(int(state["guard"]), Path(state["folder"]))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any]:
        if not self._state.exists():
            return {}
        found: dict[str, Any] = json.loads(self._state.read_text())
        return found

    def _write(self, state: Mapping[str, Any]) -> None:
        self._state.write_text(json.dumps(state))
        self._state.chmod(0o600)

    def _joined(self, state: Mapping[str, Any]) -> bool:
        try:
            held = os.open(Path(state["folder"]) / "users", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no guard reads the pipe: all users were killed
            return False
        if not self._ready(state["facts"]):
            os.close(held)
            return False
        self._held = held
        return True

    def _launch(self) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(prefix=f"falaj-test-{self._name}-"))
        try:
            started = self._start(folder)
            pipe = folder / "users"
            os.mkfifo(pipe, 0o600)
            os.chown(pipe, started.account.uid, started.account.gid)
            own = ["/bin/sh", "-c", _GUARD, "guard", started.end_signal, str(pipe), str(folder)]
            guard = subprocess.Popen(
                [*own, *started.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                start_new_session=True,
                **started.account.as_popen(),
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._held = _opened(pipe)
        state = {"guard": guard.pid, "folder": str(folder), "users": 1, "facts": started.facts}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._ready(started.facts):
            if time.monotonic() > deadline:
                told = _last_lines(folder / "server.log")
                os.close(self._held)
                self._held = None
                _await_end(guard.pid, folder)
                raise ServerUnavailable(f"it did not answer in {_PATIENCE_SECONDS:.0f} s: {told}")
            time.sleep(0.02)
        return state


def _opened(pipe: Path) -> int:
    """Our end of the pipe, once the guard reads it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _await_end(guard: int, folder: Path) -> None:
    """Wait until the guard has ended its server; after ten seconds end its process group."""
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if folder.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guard, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(guard, 0)


def _last_lines(log: Path) -> str:
    if not log.exists():
        return "it wrote no log"
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:])
