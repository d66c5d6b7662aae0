"""Codes for devices: guessed, used twice, asked for too often, approved by the wrong person."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from starlette.testclient import TestClient

from falaj.interfaces.processes import control_app
from falaj.kernel.clock import SetClock
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser, forms
from falaj.trust import devices
from falaj.trust.audit_tables import audit_records
from falaj.trust.model import Role
from falaj.trust.passkey_tables import device_codes
from falaj.trust.tables import attempts, sessions

ORIGIN = "https://localhost:8443"
TOKEN = "/auth/device/token"


class Front:
    """The control plane of the site: a program before it, and people with browsers."""

    def __init__(self, site: Any) -> None:
        self.premises = site.premises
        self.app = control_app(site.premises)
        self.program = TestClient(self.app, base_url=ORIGIN)
        self.made = 0

    def person(self) -> tuple[Browser, str, Authenticator]:
        """Somebody who is signed in, whose only factor is a passkey."""
        self.made += 1
        name = f"holder{self.made}"
        with self.premises.database.transaction() as connection:
            link = self.premises.authentication.enrolment.invite(
                connection, name=name, roles=(Role.VIEWER,), created_by="user:owner",
                now=self.premises.clock.now(),
            )  # fmt: skip
        browser, device = Browser(TestClient(self.app, base_url=ORIGIN)), Authenticator(ORIGIN)
        secret = link.secret.get_secret_value()
        done = browser.passkey(device, "/enrol/passkey", "", secret=secret, name=name)
        assert done.status_code == 200, done.text
        return browser, name, device

    def offer(self, token: str | None = None) -> dict[str, Any]:
        """Codes for a program; with a token for a fresh factor of its session."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        path = "/auth/device/step-up" if token else "/auth/device"
        answer = self.program.post(path, json={"client": "falaj on laptop"}, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def poll(self, offer: dict[str, Any]) -> Any:
        return self.program.post(TOKEN, json={"device_code": offer["device_code"]})

    def decide(self, browser: Browser, offer: dict[str, Any], decision: str = "approve") -> Any:
        """Type the code, look, decide."""
        page = browser.open("/device")
        shown = browser.send(page, "/device", user_code=offer["user_code"])
        if "/device/decision" not in shown.text:
            return shown
        return browser.send(shown, "/device/decision", decision=decision)

    def me(self, token: str) -> dict[str, Any]:
        answer = self.program.get("/api/me", headers={"Authorization": f"Bearer {token}"})
        return dict(answer.json())

    def reasons(self, action: str) -> list[str]:
        with self.premises.database.reading() as connection:
            query = select(audit_records).where(audit_records.c.action == action)
            rows = connection.execute(query.order_by(audit_records.c.seq)).all()
        return [json.loads(row.body)["reasons"][0] for row in rows]


@pytest.fixture(scope="module")
def front(site: Any) -> Front:
    return Front(site)


@pytest.fixture(autouse=True)
def _forgiven(site: Any) -> None:
    with site.premises.database.transaction() as connection:
        connection.execute(delete(attempts))
        connection.execute(delete(device_codes))


def test_a_program_is_let_in_by_a_person_with_a_browser(front: Front) -> None:
    browser, name, _ = front.person()
    offer = front.offer()
    assert offer["verification_uri"] == f"{ORIGIN}/device"
    assert front.poll(offer).json()["details"]["error"] == "authorization_pending"
    shown = browser.send(browser.open("/device"), "/device", user_code=offer["user_code"].lower())
    assert "falaj on laptop" in shown.text
    assert "let in" in front.decide(browser, offer).text
    tokens = front.poll(offer).json()
    me = front.me(tokens["access_token"])
    assert (me["principal"], me["stepped_up"]) == (f"user:{name}", True)
    assert tokens["refresh_token"]
    assert front.reasons("auth.device_approve")[-1] == "approved"
    assert front.reasons("auth.device_login")[-1] == "device-code"


def test_a_code_is_good_once(front: Front) -> None:
    browser, _, _ = front.person()
    offer = front.offer()
    front.decide(browser, offer)
    assert front.poll(offer).status_code == 200
    again = front.poll(offer)
    assert (again.status_code, again.json()["code"]) == (401, "expired-code")
    assert "No program waits" in front.decide(browser, offer).text


def test_a_refused_program_gets_nothing(front: Front) -> None:
    browser, _, _ = front.person()
    offer = front.offer()
    assert "refused" in front.decide(browser, offer, "deny").text
    answer = front.poll(offer)
    assert (answer.status_code, answer.json()["details"]["error"]) == (403, "access_denied")
    assert "No program waits" in front.decide(browser, offer).text


def test_a_program_that_asks_too_often_is_slowed_down(front: Front) -> None:
    offer = front.offer()
    front.poll(offer)
    for interval in (10, 15):
        answer = front.poll(offer)
        assert (answer.status_code, answer.json()["code"]) == (429, "slow-down")
        assert answer.json()["details"] == {"error": "slow_down", "interval": interval}


def test_an_old_code_is_good_no_more(front: Front) -> None:
    browser, _, _ = front.person()
    offer = front.offer()
    with front.premises.database.transaction() as connection:
        connection.execute(update(device_codes).values(expires_at=front.premises.clock.now()))
    assert "No program waits" in front.decide(browser, offer).text
    assert front.poll(offer).json()["code"] == "expired-code"


def test_user_codes_are_not_guessed(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    now = SetClock(front.premises.clock.now())
    monkeypatch.setattr(front.premises.authentication.exchanges, "clock", now)
    browser, _name, _device = front.person()
    front.offer()
    statuses = []
    for n in range(8):
        page = browser.open("/device")
        statuses.append(browser.send(page, "/device", user_code=f"BBBB-BBB{'BCDFGHJK'[n]}"))
    assert [answer.status_code for answer in statuses[:5]] == [404] * 5
    assert {answer.status_code for answer in statuses[5:]} == {429}
    assert front.reasons("auth.device_approve")[-1] == "too-many-attempts"


@pytest.mark.parametrize("code", ["", "falaj_dc_x", "falaj_dc_" + "A" * 43, "BCDF-GHJK"])
def test_device_codes_are_not_guessed(front: Front, code: str) -> None:
    front.offer()
    answer = front.program.post(TOKEN, json={"device_code": code})
    assert (answer.status_code, answer.json()["code"]) == (401, "expired-code")
    assert front.reasons("auth.device_login")[-1] == "unknown-code"


def test_the_user_code_opens_nothing_by_itself(front: Front) -> None:
    browser, _, _ = front.person()
    offer = front.offer()
    front.decide(browser, offer)
    answer = front.program.post(TOKEN, json={"device_code": offer["user_code"]})
    assert answer.status_code == 401


def test_nobody_approves_without_being_signed_in(front: Front) -> None:
    offer = front.offer()
    stranger = Browser(TestClient(front.app, base_url=ORIGIN))
    assert stranger.open("/device").headers["location"].startswith("/login")
    fields = {"token": stranger.token(), "user_code": offer["user_code"], "decision": "approve"}
    assert stranger.post("/device/decision", fields).headers["location"] == "/login?next=/device"
    assert front.poll(offer).json()["code"] == "authorization-pending"


def test_approving_needs_a_fresh_factor_which_is_asked_for_in_place(front: Front) -> None:
    browser, _, device = front.person()
    with front.premises.database.transaction() as connection:
        connection.execute(update(sessions).values(mfa_at=None))
    offer = front.offer()
    asked = front.decide(browser, offer)
    (form,) = forms(asked)
    assert form.fields["user_code"] == offer["user_code"]
    assert front.poll(offer).json()["code"] == "authorization-pending"
    assert browser.passkey(device, "/step-up/passkey", "/step-up").status_code == 200
    assert "let in" in browser.post(form.action, {**form.fields, "code": ""}).text
    assert front.poll(offer).status_code == 200


def test_a_link_steps_up_the_session_that_asked(front: Front) -> None:
    browser, _name, _ = front.person()
    first = front.offer()
    front.decide(browser, first)
    tokens = front.poll(first).json()
    with front.premises.database.transaction() as connection:
        connection.execute(
            update(sessions).where(sessions.c.id == tokens["session"]).values(mfa_at=None)
        )
    offer = front.offer(tokens["access_token"])
    shown = browser.send(browser.open("/device"), "/device", user_code=offer["user_code"])
    assert "asks for your second factor" in shown.text
    front.decide(browser, offer)
    fresh = front.poll(offer).json()
    assert fresh["session"] == tokens["session"]
    assert fresh["refresh_token"] is None
    assert front.me(fresh["access_token"])["stepped_up"]
    assert front.reasons("auth.device_login")[-1] == "step-up"


def test_another_person_does_not_lend_a_factor(front: Front) -> None:
    browser, _, _ = front.person()
    first = front.offer()
    front.decide(browser, first)
    tokens = front.poll(first).json()
    offer = front.offer(tokens["access_token"])
    other, _, _ = front.person()
    assert "No program waits" in front.decide(other, offer).text
    assert front.reasons("auth.device_approve")[-1] == "wrong-account"
    assert front.poll(offer).json()["code"] == "authorization-pending"


def test_a_step_up_needs_a_token(front: Front) -> None:
    assert front.program.post("/auth/device/step-up", json={}).status_code == 401


def test_a_step_up_of_an_ended_session_gives_nothing(front: Front) -> None:
    browser, _, _ = front.person()
    first = front.offer()
    front.decide(browser, first)
    tokens = front.poll(first).json()
    offer = front.offer(tokens["access_token"])
    front.decide(browser, offer)
    with front.premises.database.transaction() as connection:
        now = front.premises.clock.now()
        front.premises.authentication.sessions.end(
            connection, tokens["session"], now=now, because="a test"
        )
    assert front.poll(offer).json()["code"] == "invalid-token"


def test_strangers_cannot_fill_the_table(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MOST_OF_ADDRESS", 3)
    for _ in range(3):
        front.offer()
    answer = front.program.post("/auth/device", json={})
    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-attempts")


def test_a_code_of_an_account_that_was_shut_gives_nothing(front: Front) -> None:
    browser, name, _ = front.person()
    offer = front.offer()
    front.decide(browser, offer)
    with front.premises.database.transaction() as connection:
        now = front.premises.clock.now()
        front.premises.authentication.accounts.deactivate(connection, name, now=now)
    assert front.poll(offer).status_code == 401


def test_a_second_look_does_not_change_a_decision(front: Front) -> None:
    browser, _, _ = front.person()
    offer = front.offer()
    page = browser.open("/device")
    shown = browser.send(page, "/device", user_code=offer["user_code"])
    assert "let in" in browser.send(shown, "/device/decision", decision="approve").text
    late = browser.send(shown, "/device/decision", decision="deny")
    assert late.status_code == 404
    assert front.poll(offer).status_code == 200
