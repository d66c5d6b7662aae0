"""How long what was taken away still works: control plane and two workers, with warm caches.

``falaj up`` with two inference workers. For each round a program gets a fresh token and asks
all three processes over kept connections until each has answered it for a while; then
something is taken away from it, by another process. The time runs from the moment before the
deed is begun (its own transaction included) to the first refusal of each process, which is
asked every few milliseconds; the slowest of the three counts.
"""

from __future__ import annotations

import http.client
import random
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.testing.installations import Installation
from falaj.trust.certificates import client_context
from falaj.trust.policy_store import put
from falaj.wiring.assembly import Premises, assemble

GOAL_SECONDS = 1.0
EVERY_SECONDS = 0.005
PATIENCE_SECONDS = 10.0
ROLES = ("administrator", "operator")


class Way:
    """A kept connection to one process, on which one question is asked again and again."""

    def __init__(self, address: str, path: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(address)
        self._path = path
        self._connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, context=context, timeout=10
        )
        self._connection.connect()

    @property
    def port(self) -> int:
        """Our end of it."""
        return int(self._connection.sock.getsockname()[1])

    def status(self, token: str) -> int:
        """Of one answer."""
        self._connection.request("GET", self._path, headers={"Authorization": f"Bearer {token}"})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def close(self) -> None:
        """End it."""
        self._connection.close()


def served_by(port: int, pids: dict[str, int]) -> str | None:
    """The process that holds the other end of a connection whose client has this port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].split(":")[1], 16) == port:
            for name, pid in pids.items():
                links = Path(f"/proc/{pid}/fd").iterdir()
                if any(_target(link) == f"socket:[{fields[9]}]" for link in links):
                    return name
    return None


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


@dataclass
class Stage:
    """A running platform, a connection to each of its processes, and its owner."""

    premises: Premises
    ways: dict[str, Way]
    n: int = 0

    def ask(self, action: str, /, **given: Any) -> Any:
        """Call an action in this process, as an administrator with a fresh factor."""
        backend = self.premises.backend
        now = self.premises.clock.now()
        who = Caller(Principal("user:owner", PrincipalKind.USER, ROLES), mfa_at=now, via="http")
        return LocalDoor(backend, who).call(backend.services.actions[action], given)

    def program(self) -> tuple[str, Any]:
        """The name of a new service account that may read, and its tokens."""
        from falaj.trust.model import ServiceLoginRequest

        self.n += 1
        name = f"program{self.n}"
        secret = self.ask("accounts.create_service", name=name, roles=["viewer"]).secret
        login = ServiceLoginRequest(name=name, secret=secret)
        return name, self.premises.authentication.service_login(login)

    def forbid(self, name: str) -> None:
        """Put a policy in force, by the write with which an approval ends."""
        text = (
            f'@id("bench") forbid (principal == Service::"service:{name}", '
            'action == Action::"endpoints.list", resource);'
        )
        with self.premises.database.transaction() as connection:
            put(connection, "bench", text, now=self.premises.clock.now())

    def round(self, take: Callable[[str, Any], object]) -> float:
        """Seconds until the slowest process refuses what was taken away."""
        name, pair = self.program()
        token = pair.access_token.get_secret_value()
        until = time.perf_counter() + 0.4 + random.random() * 0.6
        while time.perf_counter() < until:
            for what, way in self.ways.items():
                status = way.status(token)
                if status != 200:
                    raise RuntimeError(f"{what} answers {status} before anything was taken away")
            time.sleep(EVERY_SECONDS)
        refused: dict[str, float] = {}
        begun = time.perf_counter()
        threads = [
            threading.Thread(target=_watch, args=(way, token, what, begun, refused))
            for what, way in self.ways.items()
        ]
        for thread in threads:
            thread.start()
        take(name, pair)
        for thread in threads:
            thread.join()
        if set(refused) != set(self.ways):
            raise RuntimeError(f"not refused within {PATIENCE_SECONDS:g} s: {refused}")
        return max(refused.values())


def _watch(way: Way, token: str, what: str, begun: float, refused: dict[str, float]) -> None:
    while time.perf_counter() - begun < PATIENCE_SECONDS:
        if way.status(token) != 200:
            refused[what] = time.perf_counter() - begun
            return
        time.sleep(EVERY_SECONDS)


def opened(installation: Installation) -> dict[str, Way]:
    """A connection to the control plane and one to each worker."""
    context = client_context(installation.ca)
    ways = {"control": Way(installation.control, "/api/endpoints", context)}
    workers = {
        name: pid for name, pid in installation.children().items() if name.startswith("inference")
    }
    for _ in range(200):
        way = Way(installation.inference, "/metrics", context)
        name = served_by(way.port, workers)
        if name is None or name in ways:
            way.close()
        else:
            ways[name] = way
        if len(ways) == 1 + len(workers):
            return ways
    raise RuntimeError(f"no connection to each of {sorted(workers)}: {sorted(ways)}")


def measured(stage: Stage, rounds: int) -> Iterator[Row]:
    """Each thing that can be taken away."""
    deeds: dict[str, Callable[[str, Any], object]] = {
        "a role": lambda name, _pair: stage.ask("accounts.set_roles", name=name, roles=["service"]),
        "a token (its session)": lambda name, pair: stage.ask(
            "accounts.revoke_sessions", name=name, session=pair.session
        ),
        "a user": lambda name, _pair: stage.ask("accounts.deactivate", name=name),
        "by a changed policy": lambda name, _pair: stage.forbid(name),
    }
    for what, take in deeds.items():
        taken = [stage.round(take) for _ in range(rounds)]
        size = f"control plane and {len(stage.ways) - 1} workers, {rounds} rounds"
        worst = max(taken)
        yield Row(f"taken away: {what}, median", size, "s", median(taken))
        yield Row(f"taken away: {what}, slowest", size, "s", worst,
                  goal=f"≤ {GOAL_SECONDS:g} s", met=worst <= GOAL_SECONDS)  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(
            Path(folder) / "platform", variables={"FALAJ_INFERENCE__WORKERS": "2"}
        )
        installation.init()
        installation.up()
        try:
            ways = opened(installation)
            premises = assemble(installation.settings, process="benchmark")
            try:
                stage = Stage(premises, ways)
                rows = list(measured(stage, 20 if given.size == "small" else 100))
            finally:
                premises.close()
        finally:
            installation.stop()
    report("trust", "Until what was taken away is refused", rows, given)


if __name__ == "__main__":
    main()
