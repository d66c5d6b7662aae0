"""``falaj up``: the processes of one machine, started, watched and ended together.

The supervisor binds the listening sockets itself and hands them to its children, so a
port that is taken is one clear error before anything starts, and a child that is restarted
loses no connection that waits. A child that ends is started again, after a wait that grows
while it keeps ending. A child whose supervisor is gone ends itself.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from falaj.kernel.errors import FalajError, InvalidInput, Unavailable
from falaj.kernel.settings import Settings, private_folder
from falaj.kernel.telemetry import logger
from falaj.serving.rings import MEMORY

GRACE_SECONDS = 10.0
READY_SECONDS = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class PortTaken(FalajError):
    """Another program listens on the port that a setting names."""

    code = "port-taken"


def listening(host: str, port: int, setting: str) -> socket.socket:
    """A bound TCP socket (port 0: a free one).

    Raises:
        PortTaken: somebody else listens there.
        InvalidInput: the host is not an address of this machine, or the port is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"The port {port} of {host} is taken by another program.",
                hint=f"Stop that program, or choose another port with the setting {setting}.port.",
            ) from None
        raise InvalidInput(
            f"Falaj cannot listen on {host}:{port}: {error.strerror}.",
            hint=f"Mend the settings {setting}.host and {setting}.port.",
        ) from None
    bound.listen(2048)
    bound.set_inheritable(True)
    return bound


@dataclass
class Child:
    """One supervised process."""

    name: str
    role: str
    sockets: Sequence[socket.socket]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    wait: float = _FIRST_WAIT
    restart_at: float = 0.0
    restarts: int = 0


@dataclass
class Supervisor:
    """Runs the control plane, the inference workers and the worker for jobs."""

    folder: Path
    settings: Settings
    roles: Sequence[str] = ("control", "inference", "worker")
    on_ready: Callable[[Supervisor], None] = lambda _supervisor: None
    children: list[Child] = field(default_factory=list)
    control_address: str = ""
    inference_address: str = ""
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def run_folder(self) -> Path:
        """Where children say that they are ready."""
        return self.settings.home / "run"

    def run(self) -> None:
        """Start everything, watch it, and end it on SIGTERM or SIGINT.

        Raises:
            PortTaken: before anything is started.
            Unavailable: a process does not become ready; all are ended.
        """
        private_folder(self.run_folder)
        self._plan()
        self._catch_signals()
        try:
            for child in self.children:
                self._start(child)
            self._await_ready()
            if not self._stopping.is_set():
                self._tell_addresses()
                self.on_ready(self)
            while not self._stopping.wait(0.1):
                for child in self.children:
                    self._watch(child)
        finally:
            self._end_all()

    def stop(self) -> None:
        """Ask for the end; ``run`` then ends the children and returns."""
        self._stopping.set()

    def _plan(self) -> None:
        http, inference = self.settings.http, self.settings.inference
        if "control" in self.roles:
            bound = listening(http.host, http.port, "http")
            self.control_address = f"https://{http.host}:{bound.getsockname()[1]}"
            self.children.append(Child("control", "control", [bound]))
        if "inference" in self.roles:
            bound = listening(inference.host, inference.port, "inference")
            self.inference_address = f"https://{inference.host}:{bound.getsockname()[1]}"
            self.children.extend(
                Child(f"inference-{number}", "inference", [bound])
                for number in range(1, inference.workers + 1)
            )
            if MEMORY.is_dir():
                self.children.append(Child("log", "log", []))
        if "worker" in self.roles:
            self.children.append(Child("worker", "worker", []))

    @property
    def addresses_file(self) -> Path:
        """Where the addresses stand while the platform is up, for programs of this machine."""
        return self.run_folder / "addresses.json"

    def _tell_addresses(self) -> None:
        told = {"control": self.control_address, "inference": self.inference_address}
        text = json.dumps({name: address for name, address in told.items() if address})
        begun = self.addresses_file.with_suffix(".new")
        begun.write_text(text, encoding="utf-8")
        begun.replace(self.addresses_file)

    def _catch_signals(self) -> None:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._stopping.set()

        signal.signal(signal.SIGTERM, asked)
        signal.signal(signal.SIGINT, asked)

    def _ready_file(self, child: Child) -> Path:
        return self.run_folder / f"{child.name}.ready"

    def _start(self, child: Child) -> None:
        self._ready_file(child).unlink(missing_ok=True)
        descriptors = [bound.fileno() for bound in child.sockets]
        command = [
            sys.executable,
            "-m",
            "falaj.interfaces.processes",
            child.role,
            "--folder",
            str(self.folder),
            "--name",
            child.name,
            "--ready",
            str(self._ready_file(child)),
            "--parent",
            str(os.getpid()),
        ]
        for descriptor in descriptors:
            command += ["--socket", str(descriptor)]
        child.process = subprocess.Popen(
            command, pass_fds=descriptors, stdin=subprocess.DEVNULL, start_new_session=True
        )
        child.started_at = time.monotonic()

    def _await_ready(self) -> None:
        patience = time.monotonic() + READY_SECONDS
        waiting = list(self.children)
        while waiting and not self._stopping.is_set():
            for child in list(waiting):
                process = child.process
                if process is not None and process.poll() is not None:
                    raise Unavailable(
                        f"The process {child.name} ended while it started "
                        f"(exit code {process.returncode}).",
                        hint="Its reason stands above; `falaj doctor` checks every component.",
                    )
                if self._ready_file(child).exists():
                    waiting.remove(child)
            if time.monotonic() > patience:
                raise Unavailable(
                    f"The process {waiting[0].name} was not ready after {READY_SECONDS:.0f} s.",
                    hint="See its log above.",
                )
            time.sleep(0.02)

    def _watch(self, child: Child) -> None:
        process = child.process
        now = time.monotonic()
        if process is None:
            if now >= child.restart_at:
                self._start(child)
            return
        code = process.poll()
        if code is None:
            return
        if now - child.started_at > 10 * _LONGEST_WAIT:
            child.wait = _FIRST_WAIT
        logger(__name__).error(
            "process ended; it is started again", process=child.name, code=code, wait=child.wait
        )
        child.process = None
        child.restarts += 1
        child.restart_at = now + child.wait
        child.wait = min(child.wait * 2, _LONGEST_WAIT)

    def _end_all(self) -> None:
        self.addresses_file.unlink(missing_ok=True)
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        patience = time.monotonic() + GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self.children:
            self._ready_file(child).unlink(missing_ok=True)
            for bound in child.sockets:
                bound.close()


def end_with_parent(parent: int, stop: Callable[[], None], *, every_seconds: float = 0.5) -> None:
    """Watch, in a thread, that our parent still is ``parent``; call ``stop`` when it is not.

    The parent says who it is: it may be gone before we look for the first time.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_seconds)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
