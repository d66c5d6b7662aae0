"""A whole platform in this process, and callers of any role before its door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, select, update

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.database import Database
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings
from falaj.testing.installations import Installation, Person, client
from falaj.testing.world import World, door_of
from falaj.trust.audit_tables import audit_records
from falaj.trust.tables import attempts
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise


class Site:
    """A platform in a folder, asked as anybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        initialise(Settings.read(folder), owner="owner")
        self.premises: Premises = assemble(Settings.read(folder))

    def caller(
        self, *roles: str, name: str = "eve", factor: bool = False, purpose: str | None = None
    ) -> Caller:
        """Somebody with these roles."""
        at = self.premises.clock.now() - timedelta(seconds=1) if factor else None
        principal = Principal(f"user:{name}", PrincipalKind.USER, roles)
        return Caller(principal, mfa_at=at, purpose=purpose, via="http")

    def ask(self, caller: Caller, action: str, /, **arguments: Any) -> Any:
        """Call an action through the door."""
        backend = self.premises.backend
        return LocalDoor(backend, caller).call(backend.services.actions[action], arguments)

    def run_jobs(self) -> None:
        """Run every job that waits."""
        from falaj.kernel.jobs import Worker

        worker = Worker(self.premises.jobs, self.premises.handlers, name="attack")
        while worker.run_one():
            pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.premises.close()


@dataclass
class Running:
    """A platform behind TLS in processes of its own, with one person on it."""

    installation: Installation
    person: Person

    def web(self, token: str | None = None) -> httpx.Client:
        """A client of the control plane."""
        return client(self.installation.control, self.installation.ca, token)

    def records(self, action: str) -> list[tuple[str, str]]:
        """Outcome and first reason of each audit record of an action, oldest first."""
        database = Database(self.installation.settings.database_url)
        try:
            with database.reading() as connection:
                query = select(audit_records).where(audit_records.c.action == action)
                rows = connection.execute(query.order_by(audit_records.c.seq)).all()
        finally:
            database.close()
        return [(row.outcome, json.loads(row.body)["reasons"][0]) for row in rows]

    def locked(self) -> None:
        """Make whoever waits wait for a minute, however slow this machine is."""
        database = Database(self.installation.settings.database_url)
        try:
            with database.transaction() as connection:
                until = datetime.now(UTC) + timedelta(minutes=1)
                connection.execute(
                    update(attempts)
                    .where(attempts.c.locked_until.is_not(None))
                    .values(locked_until=until)
                )
        finally:
            database.close()

    def forgiven(self) -> None:
        """All attacks come from one address, which would have to wait after some of them."""
        database = Database(self.installation.settings.database_url)
        try:
            with database.transaction() as connection:
                connection.execute(delete(attempts))
        finally:
            database.close()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    installation = Installation(tmp_path_factory.mktemp("running"))
    installation.init()
    installation.up()
    try:
        with installation.near(stepped_up=True) as platform:
            link = platform.accounts.invite("salma", roles=("viewer",))
        person = installation.enrolled("salma", link.secret.get_secret_value())
        yield Running(installation, person)
    finally:
        installation.stop()


class Shipped:
    """A platform with a model in production, asked as its owner."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.premises = world.premises

    def ask(self, action: str, **arguments: Any) -> Any:
        """Call an action through the door, with a fresh second factor."""
        found = self.premises.backend.services.actions[action]
        return door_of(self.world, self.world.caller()).call(found, arguments)

    def run_jobs(self) -> None:
        """Run every job that waits, whatever becomes of it."""
        from falaj.kernel.jobs import Worker

        worker = Worker(self.premises.jobs, self.premises.handlers, name="attack")
        while worker.run_one():
            pass

    def refusals(self, action: str) -> list[str]:
        """The codes of the errors with which the action was refused or failed, as audited."""
        with self.premises.database.reading() as connection:
            rows = connection.execute(
                select(audit_records.c.body).where(
                    audit_records.c.action == action, audit_records.c.outcome != "done"
                )
            )
            return [str(json.loads(row.body)["details"].get("error")) for row in rows]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shipped]:
    with World.made(tmp_path_factory.mktemp("shipped")) as world:
        yield Shipped(world)
        world.close()
