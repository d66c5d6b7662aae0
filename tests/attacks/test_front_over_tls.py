"""A person without a password on a running platform: browser, program and thief, over HTTPS."""

from __future__ import annotations

from typing import Any

import pytest

from falaj.interfaces.cookies import SESSION
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser
from falaj.testing.installations import client


class Somebody:
    """A person with a passkey, in a browser that reaches the platform by its name."""

    def __init__(self, running: Any, name: str) -> None:
        self.running = running
        self.origin = running.installation.control.replace("127.0.0.1", "localhost")
        self.device = Authenticator(self.origin)
        self.browser = self.new_browser()
        with running.installation.near(stepped_up=True) as platform:
            link = platform.accounts.invite(name, roles=("viewer",)).secret.get_secret_value()
        done = self.browser.passkey(self.device, "/enrol/passkey", "", secret=link, name=name)
        assert done.status_code == 200, done.text

    def new_browser(self) -> Browser:
        return Browser(client(self.origin, self.running.installation.ca))


@pytest.fixture(scope="module")
def somebody(running: Any) -> Somebody:
    running.forgiven()
    return Somebody(running, "hind")


def test_a_passkey_opens_the_pages_and_lets_a_program_in(running: Any, somebody: Somebody) -> None:
    browser = somebody.new_browser()
    done = browser.passkey(somebody.device, "/login/passkey", "/login", next="/device")
    assert done.json() == {"next": "/device"}
    with running.web() as program:
        offer = program.post("/auth/device", json={"client": "laptop"}).json()
        assert offer["verification_uri"] == f"{somebody.origin}/device"
        shown = browser.send(browser.open("/device"), "/device", user_code=offer["user_code"])
        assert "laptop" in shown.text
        browser.send(shown, "/device/decision", decision="approve")
        answer = program.post("/auth/device/token", json={"device_code": offer["device_code"]})
    with running.web(answer.json()["access_token"]) as web:
        assert web.get("/api/me").json()["principal"] == "user:hind"
    assert running.records("auth.device_login")[-1] == ("done", "device-code")


def test_a_passkey_that_was_asked_by_another_port_is_refused(
    running: Any, somebody: Somebody
) -> None:
    lured = Authenticator("https://localhost:1", credentials=somebody.device.credentials)
    lured.counter = somebody.device.counter + 100
    answer = somebody.new_browser().passkey(lured, "/login/passkey", "/login")
    assert answer.status_code == 401
    assert running.records("auth.passkey_login")[-1] == ("refused", "wrong-origin")


def test_an_answer_that_was_overheard_is_worth_nothing(running: Any, somebody: Somebody) -> None:
    with running.web() as web:
        options = web.post("/auth/passkeys/sign-in-options", json={}).json()
        body = {"credential": somebody.device.get(options)}
        assert web.post("/auth/passkeys/sign-in", json=body).status_code == 200
        assert web.post("/auth/passkeys/sign-in", json=body).status_code == 401
    assert running.records("auth.passkey_login")[-1] == ("refused", "wrong-challenge")


def test_a_stolen_cookie_opens_no_action_and_ends_with_its_session(
    running: Any, somebody: Somebody
) -> None:
    browser = somebody.new_browser()
    browser.passkey(somebody.device, "/login/passkey", "/login")
    stolen = {"cookie": f"{SESSION}={browser.web.cookies[SESSION]}"}
    thief = somebody.new_browser()
    assert thief.web.get("/account", headers=stolen).status_code == 200
    assert thief.web.get("/api/me", headers=stolen).status_code == 401
    forged = thief.web.post("/account/deeds/revoke-sessions", headers=stolen, data={"token": "x"})
    assert forged.status_code == 403
    browser.send(browser.open("/account"), "/account/sign-out")
    late = thief.web.get("/account", headers=stolen, follow_redirects=False)
    assert (late.status_code, late.headers["location"]) == (303, "/login?next=%2Faccount")
    assert running.records("auth.logout")[-1] == ("done", "browser")


def test_a_removed_passkey_opens_nothing(running: Any) -> None:
    person = Somebody(running, "latifa")
    spare = Authenticator(person.origin)
    person.browser.passkey(spare, "/account/passkey", "/account", label="spare")
    with person.running.web(_token(person)) as web:
        factors = web.get("/api/accounts/latifa/factors").json()
        (lost,) = [one["id"] for one in factors["passkeys"] if one["name"] == "spare"]
        path = "/api/accounts/latifa/factors/removal"
        assert web.post(path, json={"factor": lost}).status_code == 200
        others = web.post("/api/accounts/hind/factors/removal", json={"factor": lost})
        assert others.status_code in (403, 404)
    assert person.new_browser().passkey(spare, "/login/passkey", "/login").status_code == 401


def _token(person: Somebody) -> str:
    with person.running.web() as web:
        options = web.post("/auth/passkeys/sign-in-options", json={}).json()
        body = {"credential": person.device.get(options)}
        return str(web.post("/auth/passkeys/sign-in", json=body).json()["access_token"])
