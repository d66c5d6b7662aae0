"""Whole installations for tests: `falaj up` as processes of its own, people with accounts.

An ``Installation`` is a folder with a platform in it. It can be run, killed at any moment,
run again, and asked as its owner (near) or as anybody else (over TLS). ``story.py`` in
``tests/end_to_end`` tells the main flow on one.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import httpx
import pyotp

from falaj.kernel.settings import Settings

if TYPE_CHECKING:
    from falaj.interfaces.platform import Platform

_PROGRAM = "from falaj.interfaces.cli import main; main()"
_PATIENCE_SECONDS = 120.0
SURROUNDINGS = {"COLUMNS": "300", "PYTHONPATH": str(Path(__file__).parents[2])}
"""Variables of every process: wide lines, and this very package whatever the folder."""
PASSWORD = "correct horse battery staple 7"  # noqa: S105 - of accounts that live for one test


def falaj_command(folder: Path, *arguments: str) -> list[str]:
    """The command line of ``falaj`` on a folder, run by this interpreter."""
    return [sys.executable, "-c", _PROGRAM, "--folder", str(folder), *arguments]


def eventually(
    met: Callable[[], Any], *, seconds: float = 60.0, what: str = "", every: float = 0.05
) -> Any:
    """The first true answer of ``met``; raises TimeoutError when there is none in time."""
    patience = time.monotonic() + seconds
    while True:
        found = met()
        if found:
            return found
        if time.monotonic() > patience:
            raise TimeoutError(f"not within {seconds:g} s: {what or met}")
        time.sleep(every)


@dataclass
class Person:
    """Somebody with an account on a running platform."""

    control: str
    ca: Path
    name: str
    tokens: Mapping[str, Any]
    totp_secret: str
    recovery: Sequence[str]
    used: int = 0

    @property
    def token(self) -> str:
        """The access token."""
        return str(self.tokens["access_token"])

    def client(self, base: str | None = None) -> httpx.Client:
        """An HTTP client of the control plane (or of another address) with this token."""
        return client(base or self.control, self.ca, self.token)

    def platform(self, *, purpose: str | None = None) -> Platform:
        """The platform as this person reaches it: through HTTPS."""
        from falaj.interfaces.platform import connect

        return connect(self.control, token=self.token, ca=self.ca, purpose=purpose)

    def code(self) -> str:
        """A code that is good once: the next of the recovery codes."""
        self.used += 1
        return self.recovery[self.used - 1]

    def login(self) -> None:
        """Begin a new session, with a fresh second factor."""
        wanted = {"name": self.name, "password": PASSWORD, "code": self.code(), "client": "test"}
        with client(self.control, self.ca) as web:
            self.tokens = web.post("/auth/login", json=wanted).raise_for_status().json()


def client(base: str, ca: Path, token: str | None = None) -> httpx.Client:
    """An HTTP client that trusts one certificate authority alone."""
    from falaj.interfaces.platform import trusted

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=base, verify=trusted(base, ca), headers=headers, timeout=60)


@dataclass
class Installation:
    """A platform in a folder.

    Args:
        folder: the project's folder.
        variables: further environment variables of its processes.
    """

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    recovery: list[str] = field(default_factory=list)
    """The owner's recovery codes that were not used yet."""
    process: subprocess.Popen[bytes] | None = None
    control: str = ""
    inference: str = ""

    @property
    def home(self) -> Path:
        """Where it keeps everything."""
        return self.folder / ".falaj"

    @property
    def ca(self) -> Path:
        """Its certificate authority."""
        return self.home / "tls" / "ca.pem"

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.folder / "up.log"

    @property
    def settings(self) -> Settings:
        """Its settings, as its processes read them."""
        with self._its_variables():
            return Settings.read(self.folder)

    def init(self, *, http_port: int = 0, inference_port: int = 0, more: str = "") -> None:
        """Make the platform, owned by ``owner``, listening on free ports."""
        from falaj.wiring.setup import initialise

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "falaj.toml").write_text(
            f"{more}\n[http]\nport = {http_port}\n[inference]\nport = {inference_port}\n",
            encoding="utf-8",
        )
        self.recovery = list(initialise(self.settings, owner="owner").recovery_codes)

    def begin(self) -> None:
        """Start ``falaj up``; does not wait until it is up."""
        self._begin("up")

    def _begin(self, *command: str) -> None:
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                falaj_command(self.folder, *command),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                start_new_session=True,
            )

    def up(self) -> None:
        """Start ``falaj up`` and wait until it says where it listens."""
        self.begin()
        eventually(self._announced, seconds=_PATIENCE_SECONDS, what=f"up: {self.told()}")

    def _announced(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"`falaj up` has ended: {self.told()}")
        found = re.findall(r"https://[\w.:\[\]]+", self.told())
        if len(found) < 2:
            return False
        self.control, self.inference = found[:2]
        return True

    def told(self) -> str:
        """What its processes have said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def pid(self, child: str) -> int:
        """The process id of a child that is ready; raises FileNotFoundError if it is not."""
        return int((self.home / "run" / f"{child}.ready").read_text(encoding="utf-8"))

    def children(self) -> dict[str, int]:
        """The children that are ready, by name."""
        found = {}
        for file in sorted((self.home / "run").glob("*.ready")):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[file.stem] = int(file.read_text(encoding="utf-8"))
        return found

    def kill(self, child: str) -> int:
        """SIGKILL to a child; returns the id of the process that was killed."""
        pid = self.pid(child)
        os.kill(pid, signal.SIGKILL)
        return pid

    def revived(self, child: str, killed: int, *, seconds: float = 60.0) -> None:
        """Wait until the supervisor has started a killed child again and it is ready."""
        eventually(
            lambda: self.children().get(child, killed) != killed,
            seconds=seconds,
            what=f"{child} again; {self.told()[-2000:]}",
        )

    def stop(self) -> None:
        """End ``falaj up`` politely; with SIGKILL if it does not end within 30 s."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    @contextlib.contextmanager
    def near(self, *, stepped_up: bool = False) -> Iterator[Platform]:
        """The platform in this process, as its owner."""
        from falaj.interfaces.platform import open_platform

        with self._its_variables():
            opened = open_platform(self.folder)
        with opened as platform:
            if stepped_up:
                platform.step_up(self.recovery.pop())
            yield platform

    @contextlib.contextmanager
    def asked_as(self, *roles: str) -> Iterator[Callable[..., Any]]:
        """A function that calls actions in this process: ``ask("accounts.get", name="x")``.

        Who asks has these roles and a fresh second factor, and needs no code for that.
        """
        from falaj.kernel.call import Caller, Principal, PrincipalKind
        from falaj.kernel.door import LocalDoor
        from falaj.wiring.assembly import assemble

        premises = assemble(self.settings, process="test")

        def ask(action: str, /, **arguments: Any) -> Any:
            principal = Principal("user:somebody", PrincipalKind.USER, roles)
            caller = Caller(principal, mfa_at=premises.clock.now(), via="test")
            found = premises.backend.services.actions[action]
            return LocalDoor(premises.backend, caller).call(found, arguments)

        try:
            yield ask
        finally:
            premises.close()

    def enrolled(self, name: str, secret: str) -> Person:
        """Use a one-time link as its holder would: password, second factor, first code."""
        with client(self.control, self.ca) as web:
            wanted = {"secret": secret, "name": name, "password": PASSWORD}
            offer = web.post("/auth/enrol", json=wanted).raise_for_status().json()
            totp = pyotp.TOTP(offer["totp_secret"])
            answer = web.post("/auth/confirm", json={"ticket": offer["ticket"], "code": totp.now()})
            done = answer.raise_for_status().json()
        return Person(
            control=self.control,
            ca=self.ca,
            name=name,
            tokens=done["tokens"],
            totp_secret=offer["totp_secret"],
            recovery=done["recovery"]["codes"],
        )

    def _its_variables(self) -> AbstractContextManager[Any]:
        return mock.patch.dict(os.environ, self.variables)

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FALAJ_")}
        return {**kept, **SURROUNDINGS, **self.variables}


class ControlPlane(Installation):
    """An installation that runs its control plane alone (``falaj up control``)."""

    def begin(self) -> None:
        """Start it; does not wait until it is up."""
        self._begin("up", "control")

    def _announced(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"`falaj up control` has ended: {self.told()}")
        found = re.search(r"https://[\w.:\[\]]+", self.told())
        if found is None:
            return False
        self.control = found[0]
        return True


def alive(pid: int) -> bool:
    """True if a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
