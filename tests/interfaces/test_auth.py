"""The credential exchanges, over HTTP and on the enrolment pages."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import pyotp
import pytest
from starlette.testclient import TestClient

from falaj.interfaces.auth import add_auth_routes
from falaj.interfaces.credentials import CredentialFile, RenewedTokens, ServiceTokens
from falaj.interfaces.http import create_app
from falaj.interfaces.pages import add_pages
from falaj.interfaces.visitors import Pages
from falaj.kernel.call import Caller
from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.door import Backend, Services
from falaj.kernel.errors import InvalidInput, Unauthenticated
from falaj.kernel.jobs import Jobs
from falaj.kernel.jobs_service import JobsService
from falaj.kernel.outbox import Outbox
from falaj.kernel.telemetry import Telemetry
from falaj.testing.fakes import AllowAll, MemoryAudit, MemoryResources
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.authentication import Authentication
from falaj.trust.bindings import NOTHING, Presented
from falaj.trust.epochs import Epochs
from falaj.trust.factors import Factors
from falaj.trust.model import Role
from falaj.trust.tokens import Tokens

PASSWORD = "correct horse battery staple"


class World:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = SetClock(SystemClock().now())
        keys = FileKeyring.create(
            folder / "keyring", MachineSeal.create(folder / "machine"), clock=self.clock
        )
        self.tokens = Tokens(keys, Epochs(database), issuer="falaj")
        self.audit = MemoryAudit()
        self.authentication = Authentication(
            database, self.audit, clock=self.clock, tokens=self.tokens, factors=Factors(keys)
        )
        backend = Backend(
            services=Services([JobsService(Jobs(database, self.clock), lambda _call, _job: True)]),
            database=database,
            policy=AllowAll(),
            audit=self.audit,
            resources=MemoryResources(),
            events=Outbox(),
            clock=self.clock,
            telemetry=Telemetry(),
        )
        app = create_app(backend, self, version="1", max_body_bytes=10_000)
        add_auth_routes(app, self.authentication)
        add_pages(app, Pages(version="1"), self.authentication, address="https://falaj.test")
        self.client = TestClient(app, base_url="https://falaj.test")
        self.totp: pyotp.TOTP | None = None

    def at_hand(self, token: str) -> None:
        return None

    def still_good(self, token: str) -> None:
        self.verify(token)

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller:
        return self.tokens.verify(token, self.clock.now(), presented)

    def link(self) -> str:
        with self.database.transaction() as connection:
            invitation = self.authentication.first_administrator(connection, self.clock.now())
        assert invitation is not None
        return invitation.secret.get_secret_value()

    def code(self) -> str:
        """A code of a time step that was not used yet."""
        self.clock.move(timedelta(seconds=30))
        assert self.totp is not None
        return self.totp.at(self.clock.now())

    def enrol(self) -> None:
        wanted = {"secret": self.link(), "name": "amina", "password": PASSWORD}
        offer = self.client.post("/auth/enrol", json=wanted).json()
        self.totp = pyotp.TOTP(offer["totp_secret"])
        confirmed = self.client.post(
            "/auth/confirm", json={"ticket": offer["ticket"], "code": self.code()}
        )
        assert len(confirmed.json()["recovery"]["codes"]) == 10

    def login(self) -> dict[str, str]:
        wanted = {"name": "amina", "password": PASSWORD, "code": self.code()}
        answer = self.client.post("/auth/login", json=wanted)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def jobs(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return int(self.client.get("/api/jobs", headers=headers).status_code)


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, tmp_path)


def test_a_person_enrols_logs_in_and_is_let_in(world: World) -> None:
    world.enrol()
    tokens = world.login()
    assert world.jobs(tokens["access_token"]) == 200
    assert world.jobs(tokens["access_token"][:-4] + "AAAA") == 401


def test_a_wrong_password_says_only_that_something_is_wrong(world: World) -> None:
    world.enrol()
    wanted = {"name": "amina", "password": "wrong", "code": world.code()}
    answer = world.client.post("/auth/login", json=wanted)
    assert answer.status_code == 401
    assert answer.json()["code"] == "wrong-credentials"


def test_an_incomplete_request_names_the_field_and_not_its_value(world: World) -> None:
    answer = world.client.post("/auth/login", json={"name": "amina", "password": "hunter2hunter2"})
    assert answer.status_code == 422
    assert "code: Field required" in answer.json()["detail"]
    assert "hunter2" not in answer.text


def test_a_client_renews_its_tokens_and_keeps_them(world: World, tmp_path: Path) -> None:
    world.enrol()
    file = CredentialFile(tmp_path / "credentials.json")
    first = world.login()
    first["expires_at"] = SystemClock().now().isoformat()
    source = RenewedTokens(world.client, first, lambda tokens: file.put("https://x", tokens))
    world.clock.move(timedelta(seconds=1))
    token = source()
    assert token != first["access_token"]
    assert world.jobs(token) == 200
    kept = file.get("https://x")
    assert kept is not None
    assert kept["access_token"] == token
    assert file.path.stat().st_mode & 0o077 == 0
    file.put("https://x", None)
    assert file.get("https://x") is None


def test_a_step_up_opens_what_needs_a_second_factor(world: World) -> None:
    world.enrol()
    tokens = world.login()
    world.clock.move(timedelta(minutes=6))
    renewed = RenewedTokens(world.client, {**tokens, "expires_at": "2000-01-01T00:00:00+00:00"})
    assert not world.verify(renewed()).stepped_up(world.clock.now())
    renewed.step_up(world.code())
    assert world.verify(renewed()).stepped_up(world.clock.now())


def test_a_logout_ends_the_session(world: World) -> None:
    world.enrol()
    tokens = world.login()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert world.client.post("/auth/logout", headers=headers).status_code == 200
    world.clock.move(timedelta(seconds=2))
    assert world.jobs(tokens["access_token"]) == 401
    refreshed = world.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refreshed.status_code == 401


def test_a_program_gets_tokens_for_its_secret(world: World) -> None:
    with world.database.transaction() as connection:
        _account, secret = world.authentication.accounts.create_service(
            connection, name="ci", roles=[Role.SERVICE], created_by="user:x", now=world.clock.now()
        )
    source = ServiceTokens(world.client, "ci", secret)
    assert world.jobs(source()) == 200
    with pytest.raises(Unauthenticated):
        ServiceTokens(world.client, "ci", "wrong")()


def test_an_access_token_without_refresh_cannot_be_renewed(world: World) -> None:
    expired = {"access_token": "x", "expires_at": "2000-01-01T00:00:00+00:00"}
    with pytest.raises(Unauthenticated, match="expired"):
        RenewedTokens(world.client, expired)()


def test_a_broken_credentials_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"c\.json"):
        CredentialFile(tmp_path / "c.json").get("https://x")


def _field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, f"the page has no field {name}"
    return unescape(found.group(1))


def test_the_pages_lead_through_the_enrolment(world: World) -> None:
    secret = world.link()
    form = world.client.get("/enrol", params={"secret": secret})
    assert _field(form.text, "secret") == secret
    assert "form-action 'self'" in form.headers["content-security-policy"]
    wanted = {"secret": secret, "name": "amina", "password": PASSWORD, "again": PASSWORD}
    factor = world.client.post("/enrol", data=wanted)
    assert factor.status_code == 200, factor.text
    world.totp = pyotp.TOTP(_field(factor.text, "totp_secret"))
    ticket = _field(factor.text, "ticket")
    shown = {"ticket": ticket, "totp_secret": "S", "uri": "otpauth://x"}
    wrong = world.client.post("/enrol/factor", data={**shown, "code": "000000"})
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    done = world.client.post("/enrol/factor", data={**shown, "code": world.code()})
    assert "Your second factor is ready, amina" in done.text
    assert done.text.count("<li>") == 10


def test_two_different_passwords_are_told(world: World) -> None:
    wanted = {"secret": world.link(), "name": "amina", "password": PASSWORD, "again": "other"}
    answer = world.client.post("/enrol", data=wanted)
    assert answer.status_code == 422
    assert "The two passwords differ." in answer.text


def test_what_a_person_types_is_never_markup(world: World) -> None:
    nasty = '"><script>alert(1)</script>'
    for answer in (
        world.client.get("/enrol", params={"secret": nasty}),
        world.client.post("/enrol", data={"secret": nasty, "name": nasty}),
        world.client.post("/enrol/factor", data={"ticket": nasty, "uri": nasty}),
    ):
        assert "<script>" not in answer.text


def test_a_huge_form_is_refused(world: World) -> None:
    answer = world.client.post("/enrol", data={"name": "a" * 20_000})
    assert answer.status_code == 429


def test_the_first_page_and_its_style_are_served(world: World) -> None:
    page = world.client.get("/")
    assert "falaj --url https://falaj.test login --device" in page.text
    assert world.client.get("/static/falaj.css").status_code == 200
    assert world.client.get("/static/../auth.py").status_code == 404
