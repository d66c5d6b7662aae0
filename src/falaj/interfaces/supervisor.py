"""``falaj up``: the processes of one machine, started, watched and ended together.

The supervisor binds the listening sockets itself and hands them to its children, so a
port that is taken is one clear error before anything starts, and a child that is restarted
loses no connection that waits. A child that ends is started again, after a wait that grows
while it keeps ending. A child whose supervisor is gone ends itself.

SIGUSR2 (``falaj restart inference``), and SIGHUP where no terminal can hang up, replace the
inference workers one by one; SIGUSR1 (``falaj drain``) lets them end; see
``falaj.interfaces.workers``. Between ``least:most`` of ``inference.workers`` the supervisor
adds and takes away workers as the policy says.
"""

from __future__ import annotations

import errno
import fcntl
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
from typing import IO, TYPE_CHECKING

from falaj.interfaces.workers import READY_SECONDS, ROLE, InferenceWorkers, Restart
from falaj.kernel.errors import Conflict, FalajError, InvalidInput, Unavailable
from falaj.kernel.settings import Settings, private_folder
from falaj.kernel.telemetry import logger
from falaj.serving.rings import MEMORY

if TYPE_CHECKING:
    from falaj.serving.pools import Autoscaler

GRACE_SECONDS = 10.0
_SCALING_SECONDS = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class PortTaken(FalajError):
    """Another program listens on the port that a setting names."""

    code = "port-taken"


def listening(host: str, port: int, setting: str, *, key: str = "port") -> socket.socket:
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
                hint=f"Stop that program, or choose another port with the setting {setting}.{key}.",
            ) from None
        raise InvalidInput(
            f"Falaj cannot listen on {host}:{port}: {error.strerror}.",
            hint=f"Mend the settings {setting}.host and {setting}.{key}.",
        ) from None
    bound.listen(2048)
    bound.set_inheritable(True)
    return bound


def reserved(host: str, port: int, setting: str, *, key: str) -> socket.socket:
    """A bound socket that does not listen: this user's workers may share its port.

    gRPC binds by itself, in every worker; held by the supervisor, the port stays ours while
    they are restarted.

    Raises:
        PortTaken: somebody listens there, even somebody who would share the port.
        InvalidInput: the host is not an address of this machine, or the port is not ours.
    """
    listening(host, port, setting, key=key).close()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
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
    leaving_since: float | None = None
    """When it was told to drain; it is not started again."""


@dataclass
class Supervisor:
    """Runs the control plane, the inference workers and the worker for jobs."""

    folder: Path
    settings: Settings
    roles: Sequence[str] = ("control", "inference", "worker")
    on_ready: Callable[[Supervisor], None] = lambda _supervisor: None
    prepare: Callable[[], object] = lambda: None
    """Done while the children's interpreters start; they touch nothing before it is done, and
    what it raises ends everything."""
    children: list[Child] = field(default_factory=list)
    program: Sequence[str] = (sys.executable, "-m", "falaj.interfaces.processes")
    """What runs a child; it takes the arguments of ``falaj.interfaces.processes``."""
    control_address: str = ""
    inference_address: str = ""
    grpc_address: str = ""
    _reserved: list[socket.socket] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _restarting: threading.Event = field(default_factory=threading.Event)
    _draining: threading.Event = field(default_factory=threading.Event)
    _claims: list[IO[str]] = field(default_factory=list)
    _workers: InferenceWorkers | None = None
    _autoscaler: Autoscaler | None = None
    _scaling_at: float = 0.0

    @property
    def run_folder(self) -> Path:
        """Where children say that they are ready."""
        return self.settings.home / "run"

    def run(self) -> None:
        """Start everything, watch it, and end it on SIGTERM or SIGINT.

        Raises:
            PortTaken: before anything is started.
            Conflict: another supervisor runs one of the roles in this home.
            Unavailable: a process does not become ready; all are ended.
        """
        private_folder(self.run_folder)
        self._plan()
        self._catch_signals()  # before anybody can learn whom to signal
        self._claim()
        try:
            self._start_all()
            self._await_ready()
            if not self._stopping.is_set():
                self._tell_addresses()
                self.on_ready(self)
            while not self._stopping.wait(0.1):
                for child in list(self.children):
                    self._watch(child)
                if self._workers is not None:
                    self._steer(self._workers)
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
        if "inference" in self.roles and inference.ray:
            self.children.append(Child("inference-pool", "pool", []))
        elif "inference" in self.roles:
            bound = listening(inference.host, inference.port, "inference")
            self.inference_address = f"https://{inference.host}:{bound.getsockname()[1]}"
            if inference.grpc_port:
                port = inference.grpc_port
                self._reserved.append(reserved(inference.host, port, "inference", key="grpc_port"))
                self.grpc_address = f"{inference.host}:{port}"
            self._workers = InferenceWorkers(
                self,
                bound,
                Child,
                workload=self.settings.home / "workload",
                progress=restart_file(self.settings),
            )
            for _ in range(inference.least_workers):
                self._workers.add()
            if inference.least_workers < inference.most_workers:
                self._autoscaler = self._scaled(self._workers)
            if MEMORY.is_dir():
                self.children.append(Child("log", "log", []))
        if "worker" in self.roles:
            self.children.append(Child("worker", "worker", []))

    def _scaled(self, workers: InferenceWorkers) -> Autoscaler:
        from falaj.serving.pools import Autoscaler
        from falaj.serving.scaling import ScalingSettings
        from falaj.serving.scalingrecords import ScalingRecords

        records = ScalingRecords(self.settings.home / "scaling")
        return Autoscaler(workers, ScalingSettings.of(self.settings.inference), records.keep)

    def _steer(self, workers: InferenceWorkers) -> None:
        if self._restarting.is_set():
            self._restarting.clear()
            workers.restart()
        if self._draining.is_set():
            workers.drain()
            return
        workers.tick()
        now = time.monotonic()
        if self._autoscaler is not None and now >= self._scaling_at:
            self._scaling_at = now + _SCALING_SECONDS
            self._autoscaler.tick(now)

    def _claim(self) -> None:
        """Hold a locked file for each role, so that no two supervisors share a role's names."""
        for role in self.roles:
            claim = claim_file(self.settings, role).open("a+", encoding="utf-8")
            self._claims.append(claim)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                for held in self._claims:
                    held.close()
                raise Conflict(
                    f"Another `falaj up` runs {role} in {self.settings.home}.",
                    hint="Stop it first; `falaj restart inference` renews its workers.",
                ) from None
            claim.truncate(0)
            claim.write(str(os.getpid()))
            claim.flush()

    @property
    def addresses_file(self) -> Path:
        """Where the addresses stand while the platform is up, for programs of this machine."""
        return self.run_folder / "addresses.json"

    def _tell_addresses(self) -> None:
        told = {
            "control": self.control_address,
            "inference": self.inference_address,
            "grpc": self.grpc_address,
        }
        text = json.dumps({name: address for name, address in told.items() if address})
        begun = self.addresses_file.with_suffix(".new")
        begun.write_text(text, encoding="utf-8")
        begun.replace(self.addresses_file)

    def _catch_signals(self) -> None:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._stopping.set()

        def renew(_number: int, _frame: FrameType | None) -> None:
            self._restarting.set()

        signal.signal(signal.SIGTERM, asked)
        signal.signal(signal.SIGINT, asked)
        signal.signal(signal.SIGUSR2, renew)
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self._draining.set())
        # A closed terminal ends what runs in it; a service without one is asked to renew.
        signal.signal(signal.SIGHUP, asked if os.isatty(0) else renew)

    def is_ready(self, child: Child) -> bool:
        """True if the child's process runs and has said that it is ready."""
        process = child.process
        return process is not None and process.poll() is None and self._ready_file(child).exists()

    def let_go(self, child: Child) -> None:
        """Drain a child: it answers what it is asked, then ends, and is not started again."""
        child.leaving_since = time.monotonic()
        if child.process is None:
            self._gone(child)
        elif child.process.poll() is None:
            child.process.send_signal(signal.SIGHUP)

    def _gone(self, child: Child) -> None:
        self.children.remove(child)
        self._ready_file(child).unlink(missing_ok=True)
        (self.settings.home / "workload" / child.name).unlink(missing_ok=True)

    def _ready_file(self, child: Child) -> Path:
        return self.run_folder / f"{child.name}.ready"

    def _start_all(self) -> None:
        """Start the children side by side with our own preparation, which they wait for."""
        waits, tells = os.pipe()
        try:
            for child in self.children:
                self.start(child, go=waits)
            self.prepare()
            os.write(tells, b"." * len(self.children))
        finally:
            os.close(waits)
            os.close(tells)

    def start(self, child: Child, *, go: int | None = None) -> None:
        """Start a child's process; with ``go`` it waits for a byte there."""
        self._ready_file(child).unlink(missing_ok=True)
        descriptors = [bound.fileno() for bound in child.sockets]
        command = [
            *self.program,
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
        if go is not None:
            command += ["--go", str(go)]
            descriptors.append(go)
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
                self.start(child)
            return
        code = process.poll()
        if code is None:
            if child.leaving_since is not None and now > child.leaving_since + self._leave_seconds:
                process.kill()
            return
        if child.leaving_since is not None:
            self._gone(child)
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

    @property
    def _leave_seconds(self) -> float:
        """A drained child that is still there after so long is killed."""
        return self.settings.inference.drain_seconds + GRACE_SECONDS

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
        for held in self._reserved:
            held.close()
        for claim in self._claims:
            claim.close()


def claim_file(settings: Settings, role: str) -> Path:
    """The file that the supervisor of a role holds locked; it says the supervisor's process."""
    return settings.home / "run" / f"{role}.supervisor"


def restart_file(settings: Settings) -> Path:
    """The file that tells how far a rolling restart has come."""
    return settings.home / "run" / f"{ROLE}.restart"


def restart_workers(settings: Settings, *, wait_seconds: float) -> Restart:
    """Have the running supervisor replace its inference workers one by one, and wait for it.

    Raises:
        Unavailable: no supervisor runs inference workers here, a new worker did not get
            ready (the old ones stay), or it took longer than ``wait_seconds``.
    """
    pid = _supervisor(settings)
    path = restart_file(settings)
    before = Restart.read(path).number
    os.kill(pid, signal.SIGUSR2)
    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        told = Restart.read(path)
        if told.number > before and told.state == "done":
            return told
        if told.number > before and told.state == "failed":
            raise Unavailable(
                f"The workers were not all replaced: {told.why}.",
                hint="Those that serve now go on; mend the cause and ask again.",
            )
        time.sleep(0.05)
    raise Unavailable(
        f"The workers were not all replaced within {wait_seconds:g} s.",
        hint="It goes on; see the log of `falaj up`.",
    )


def drain_workers(settings: Settings, *, wait_seconds: float) -> None:
    """Have the running supervisor drain all its inference workers, and wait until they are gone.

    Raises:
        Unavailable: no supervisor runs inference workers here, or it took longer than
            ``wait_seconds``.
    """
    os.kill(_supervisor(settings), signal.SIGUSR1)
    until = time.monotonic() + wait_seconds
    while any((settings.home / "run").glob(f"{ROLE}-*.ready")):
        if time.monotonic() > until:
            raise Unavailable(
                f"The workers have not all ended within {wait_seconds:g} s.",
                hint="They go on answering; see the log of `falaj up`.",
            )
        time.sleep(0.05)


def _supervisor(settings: Settings) -> int:
    """The process of the supervisor that runs inference workers; raises Unavailable."""
    pid = None
    path = claim_file(settings, ROLE)
    if path.exists():
        with path.open(encoding="utf-8") as claim:
            pid = _holder(claim)
    if pid is None:
        raise Unavailable(
            f"No `falaj up` runs inference workers in {settings.home}.",
            hint="Start them with `falaj up inference`.",
        )
    return pid


def _holder(claim: IO[str]) -> int | None:
    """The process that holds a claim; None if nobody does."""
    try:
        fcntl.flock(claim, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return int(claim.read())
    return None


def end_with_parent(parent: int, stop: Callable[[], None], *, every_seconds: float = 0.5) -> None:
    """Watch, in a thread, that our parent still is ``parent``; call ``stop`` when it is not.

    The parent says who it is: it may be gone before we look for the first time.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_seconds)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
