"""What was taken away a second ago opens nothing, however warm the caches: both ports, HTTPS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from falaj.kernel.database import Database
from falaj.testing.installations import eventually
from falaj.trust.policy_store import put

ASKED = {"control": "/api/endpoints", "inference": "/metrics"}
SECONDS = 1.0


class Warm:
    """A program that asks both ports all the time, on kept connections."""

    def __init__(self, running: Any, name: str) -> None:
        self.running, self.name = running, name
        self.installation = running.installation
        with self.installation.asked_as("administrator") as ask:
            secret = ask("accounts.create_service", name=name, roles=["viewer"]).secret
        login = {"name": name, "secret": secret.get_secret_value()}
        with running.web() as web:
            self.pair = web.post("/auth/service-login", json=login).raise_for_status().json()
        self.seen: dict[str, list[tuple[float, int]]] = {port: [] for port in ASKED}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port,), daemon=True) for port in ASKED
        ]

    def _ask(self, port: str) -> None:
        context = self.running.web(self.pair["access_token"])
        with context as web:
            url = getattr(self.installation, port) + ASKED[port]
            while not self._stopped.is_set():
                begun = time.monotonic()
                self.seen[port].append((begun, web.get(url).status_code))
                time.sleep(0.02)

    def __enter__(self) -> Warm:
        for thread in self._threads:
            thread.start()
        eventually(lambda: min(map(len, self.seen.values())) >= 5, what="answers on both ports")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)

    def answers(self, since: float, until: float = float("inf")) -> dict[str, set[int]]:
        """The statuses of what was asked in a span of time, by port."""
        return {
            port: {status for at, status in found if since <= at < until}
            for port, found in self.seen.items()
        }


@pytest.fixture
def without_policies(running: Any) -> Iterator[Callable[[str, str | None], None]]:
    """Puts a policy in force, as an approval does at its end; takes it away again."""

    def written(name: str, text: str | None) -> None:
        from datetime import UTC, datetime

        database = Database(running.installation.settings.database_url)
        try:
            with database.transaction() as connection:
                put(connection, name, text, now=datetime.now(UTC))
        finally:
            database.close()

    yield written
    written("attack", None)


@pytest.mark.parametrize("what", ["role", "token", "user", "policy"])
def test_what_was_taken_away_is_refused_on_both_ports_after_a_second(
    running: Any, what: str, without_policies: Callable[[str, str | None], None]
) -> None:
    running.forgiven()
    name = f"warm-{what}"
    forbid = (
        f'@id("attack") forbid (principal == Service::"service:{name}", '
        'action == Action::"endpoints.list", resource);'
    )
    with Warm(running, name) as warm:
        with running.installation.asked_as("administrator") as ask:
            deeds: dict[str, Callable[[], object]] = {
                "role": lambda: ask("accounts.set_roles", name=name, roles=["service"]),
                "token": lambda: ask(
                    "accounts.revoke_sessions", name=name, session=warm.pair["session"]
                ),
                "user": lambda: ask("accounts.deactivate", name=name),
                "policy": lambda: without_policies("attack", forbid),
            }
            before = warm.answers(0.0)
            deeds[what]()
            done = time.monotonic()
        time.sleep(max(0.0, done + SECONDS - time.monotonic()) + 0.3)
    assert before == {"control": {200}, "inference": {200}}
    late = warm.answers(done + SECONDS)
    refused = {403, 404} if what == "policy" else {401}
    for port, statuses in late.items():
        assert statuses, f"{port} was not asked"
        assert statuses <= refused, (port, statuses)


def test_the_refusals_stand_in_the_audit_log(running: Any) -> None:
    with running.installation.near() as owner:
        refused = owner.audit.search(action="endpoints.list", limit=50).records
        tokens = owner.audit.search(action="auth.token", limit=50).records
    by_policy = [one for one in refused if one.principal == "service:warm-policy"]
    assert {str(one.outcome) for one in by_policy} & {"refused"}
    assert {one.via for one in tokens} >= {"http", "inference"}
