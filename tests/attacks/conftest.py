"""A whole platform in this process, and callers of any role before its door."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import delete, select, update

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.database import Database
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings
from falaj.testing.installations import Installation, Person, client, eventually
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


PEOPLE = {
    "idris": ["ml_engineer"],
    "noor": ["auditor"],
    "adam": ["administrator"],
    "sara": ["data_scientist"],
    "sami": ["steward"],
}
"""Who is invited to the running platform beside salma, a viewer; each enrols when first asked."""
_FRESH_SECONDS = 200.0


@dataclass
class Running:
    """A platform behind TLS in processes of its own, with people on it."""

    installation: Installation
    person: Person
    links: dict[str, str] = field(default_factory=dict)
    people: dict[str, tuple[Person, float]] = field(default_factory=dict)

    def web(self, token: str | None = None) -> httpx.Client:
        """A client of the control plane."""
        return client(self.installation.control, self.installation.ca, token)

    def data_plane(self, token: str | None = None) -> httpx.Client:
        """A client of the inference worker."""
        return client(self.installation.inference, self.installation.ca, token)

    def somebody(self, name: str) -> Person:
        """A person with a fresh session and factor; enrols at first, signs in again in time."""
        self.forgiven()
        if name not in self.people:
            enrolled = (
                self.person
                if name == self.person.name
                else self.installation.enrolled(name, self.links[name])
            )
            self.people[name] = (enrolled, time.monotonic())
        person, since = self.people[name]
        if time.monotonic() - since > _FRESH_SECONDS:
            person.login()
            self.people[name] = (person, time.monotonic())
        return person

    def as_(self, name: str) -> httpx.Client:
        """A client of the control plane with that person's token."""
        return self.web(self.somebody(name).token)

    def found(self, action: str, **filters: Any) -> list[dict[str, Any]]:
        """What `falaj audit search` shows an auditor, newest first."""
        with self.as_("noor") as web:
            asked = {"action": action, "limit": 1000, **filters}
            answer = web.get("/api/audit/records", params=asked)
        assert answer.status_code == 200, answer.text
        records: list[dict[str, Any]] = answer.json()["records"]
        return records

    def on_record(self, action: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The newest refusal of an action that fits, waited for a little."""
        outcomes = ("refused", "failed")

        def look() -> list[dict[str, Any]]:
            return [r for r in self.found(action) if r["outcome"] in outcomes and fits(r)]

        found: list[dict[str, Any]] = eventually(look, seconds=20, what=f"a record of {action}")
        return found[0]

    def raw(self, sent: bytes, *, at: str = "control", seconds: float = 10.0) -> bytes:
        """What a server answers to bytes that no HTTP client would send."""
        address = urlsplit(getattr(self.installation, at))
        context = ssl.create_default_context(cafile=str(self.installation.ca))
        with (
            socket.create_connection((address.hostname, address.port), seconds) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname) as connection,
        ):
            connection.settimeout(seconds)
            told = b""
            with contextlib.suppress(OSError):
                connection.sendall(sent)
                while part := connection.recv(65_536):
                    told += part
        return told

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
            links = {
                name: platform.accounts.invite(name, roles=roles).secret.get_secret_value()
                for name, roles in {"salma": ["viewer"], **PEOPLE}.items()
            }
        yield Running(installation, installation.enrolled("salma", links["salma"]), links)
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
