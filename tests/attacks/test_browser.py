"""Attacks through a browser: foreign pages, forged forms, stolen looks, links that lead away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, update
from starlette.testclient import TestClient

from falaj.interfaces.cookies import FORM, SESSION, own_page
from falaj.interfaces.processes import control_app
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser, forms
from falaj.trust.model import Role
from falaj.trust.passkey_tables import passkeys
from falaj.trust.tables import attempts, sessions

ORIGIN = "https://localhost:8443"
HTML = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Front:
    """The pages of the site."""

    def __init__(self, site: Any) -> None:
        self.premises = site.premises
        self.app = control_app(site.premises)
        self.made = 0

    def browser(self) -> Browser:
        return Browser(TestClient(self.app, base_url=ORIGIN))

    def person(self) -> tuple[Browser, Authenticator, str]:
        """Somebody signed in, whose only factor is a passkey."""
        self.made += 1
        name = f"walker{self.made}"
        with self.premises.database.transaction() as connection:
            link = self.premises.authentication.enrolment.invite(
                connection, name=name, roles=(Role.VIEWER,), created_by="user:owner",
                now=self.premises.clock.now(),
            )  # fmt: skip
        browser, device = self.browser(), Authenticator(ORIGIN)
        secret = link.secret.get_secret_value()
        done = browser.passkey(device, "/enrol/passkey", "", secret=secret, name=name)
        assert done.status_code == 200, done.text
        return browser, device, name

    def tired(self) -> None:
        """Make all sessions' factors older than the step-up window."""
        with self.premises.database.transaction() as connection:
            connection.execute(update(sessions).values(mfa_at=None))


@pytest.fixture(scope="module")
def front(site: Any) -> Front:
    return Front(site)


@pytest.fixture(autouse=True)
def _forgiven(site: Any) -> Iterator[None]:
    with site.premises.database.transaction() as connection:
        connection.execute(delete(attempts))
    yield


def test_an_honest_person_signs_in_and_sees_the_own_account(front: Front) -> None:
    browser, device, name = front.person()
    assert f"<h1>{name}</h1>" in browser.open("/account").text
    again = front.browser()
    done = again.passkey(device, "/login/passkey", "/login", next="/account")
    assert (done.status_code, done.json()) == (200, {"next": "/account"})
    assert "(this browser)" in again.open("/account").text


def test_cookies_are_for_this_host_for_https_and_for_no_script(front: Front) -> None:
    browser = front.browser()
    given = browser.open("/login").headers["set-cookie"]
    _, device, _ = front.person()
    done = browser.passkey(device, "/login/passkey", "/login")
    for name, cookie in ((FORM, given), (SESSION, done.headers.get_list("set-cookie")[0])):
        assert cookie.startswith(f"{name}=")
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= parts
        assert not any(part.startswith("domain") for part in parts)


def test_a_sign_in_makes_a_new_secret(front: Front) -> None:
    """A cookie that somebody planted before the sign-in is worth nothing afterwards."""
    _, device, _ = front.person()
    secrets = set()
    for _ in range(2):
        browser = front.browser()
        page = browser.open("/login")
        planted = browser.web.cookies[FORM]
        assert page.status_code == 200
        browser.passkey(device, "/login/passkey", "/login")
        secrets |= {planted, browser.web.cookies[SESSION]}
        assert FORM not in browser.web.cookies
    assert len(secrets) == 4


def test_the_cookie_opens_no_action(front: Front) -> None:
    browser, _, _ = front.person()
    assert browser.web.get("/api/me").status_code == 401
    secret = browser.web.cookies[SESSION]
    bearer = {"Authorization": f"Bearer {secret}"}
    assert browser.web.get("/api/me", headers=bearer).status_code == 401
    assert browser.web.post("/api/keys/audit/rotations", json={}).status_code == 401


def test_an_access_token_opens_no_page(front: Front) -> None:
    _, device, _ = front.person()
    stranger = front.browser()
    options = stranger.web.post("/auth/passkeys/sign-in-options", json={}).json()
    body = {"credential": device.get(options)}
    token = stranger.web.post("/auth/passkeys/sign-in", json=body).json()["access_token"]
    answer = stranger.web.get(
        "/account", headers={"Authorization": f"Bearer {token}"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Faccount")


FORMS = ["/account/authenticator", "/account/recovery-codes",
         "/account/sign-out", "/account/deeds/revoke-sessions", "/device", "/device/decision",
         "/step-up"]  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("token", ["", "0" * 64, "other", "cookie"])
def test_a_forged_form_does_nothing(front: Front, path: str, token: str) -> None:
    browser, _, _ = front.person()
    if token == "other":
        token = front.person()[0].token("/account")
    elif token == "cookie":
        token = browser.web.cookies[SESSION]
    answer = browser.post(path, {"token": token, "user_code": "BBBB-BBBB", "code": "123456"})
    assert answer.status_code == 403, path
    assert "not one that this browser was given" in answer.text
    assert browser.open("/account").status_code == 200


@pytest.mark.parametrize("path", ["/step-up/passkey", "/account/passkey", "/login/passkey"])
@pytest.mark.parametrize("step", ["", "/options"])
def test_a_forged_question_of_a_script_does_nothing(front: Front, path: str, step: str) -> None:
    browser, _, _ = front.person()
    answer = browser.web.post(path + step, json={"token": "x", "credential": {}})
    assert (answer.status_code, answer.json()["code"]) == (403, "forged-form")


def test_a_script_question_cannot_be_asked_by_a_form(front: Front) -> None:
    """A form of another site can send text/plain that reads as JSON; it is not read."""
    browser, _, _ = front.person()
    told = f'{{"token": "{browser.token("/account")}"}}'
    answer = browser.web.post(
        "/account/passkey/options", content=told, headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}, {"origin": "http://localhost:8443"}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/login", "/account/sign-out", "/api/jobs", "/auth/login"])
def test_a_foreign_page_sends_nothing(front: Front, path: str, headers: dict[str, str]) -> None:
    browser, _, _ = front.person()
    fields = {"token": browser.token("/account")}
    answer = browser.post(path, fields, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin")


@pytest.mark.parametrize("path", ["/", "/login", "/account", "/api/me", "/enrol"])
def test_a_foreign_name_is_answered_nothing(front: Front, path: str) -> None:
    browser, _, _ = front.person()
    answer = browser.web.get(path, headers={"host": "rebound.evil.example"})
    assert answer.status_code == 421
    assert "evil" not in answer.text


def test_no_page_repeats_the_host_that_was_asked_for(front: Front) -> None:
    page = front.browser().web.get("/", headers={"host": "127.0.0.1:1"})
    assert page.status_code == 200
    assert "127.0.0.1:1 " not in page.text
    assert ORIGIN in page.text


AWAY = [
    "https://evil.example/", "//evil.example/account", "/\\evil.example", "\\\\evil.example",
    "/account@evil.example", "https:evil.example", "javascript:alert(1)", "/account\r\nx: y",
    "/%2F/evil.example", "/api/me", "/static/passkey.js", "account", " /account", "/account/../x",
    "http:///account", "///account", "/account\x00", "/accoünt",
]  # fmt: skip


@pytest.mark.parametrize("asked", AWAY)
def test_a_sign_in_leads_to_no_other_place(front: Front, asked: str) -> None:
    assert own_page(asked) == "/account"
    if "\x00" in asked:
        return  # no JSON that is taken holds it
    _, device, _ = front.person()
    done = front.browser().passkey(device, "/login/passkey", "/login", next=asked)
    assert done.json() == {"next": "/account"}


def test_a_sign_in_leads_back_to_an_own_page() -> None:
    assert own_page("/device?user_code=BCDF-GHJK") == "/device?user_code=BCDF-GHJK"
    assert own_page("") == "/account"


def test_html_in_names_is_shown_as_text(front: Front) -> None:
    browser, _, _ = front.person()
    browser.passkey(Authenticator(ORIGIN), "/account/passkey", "/account", label=HTML)
    with front.premises.database.transaction() as connection:
        connection.execute(update(sessions).values(client=HTML[:100], address=HTML[:100]))
        assert connection.execute(passkeys.select().where(passkeys.c.name == HTML)).first()
    shown = [browser.open("/account").text]
    shown.append(browser.open(f"/device?user_code={HTML}").text)
    shown.append(browser.open(f"/login?next={HTML}").text)
    shown.append(browser.login(HTML, HTML, "1").text)
    shown.append(browser.open(f"/enrol?secret={HTML}").text)
    front.tired()
    token = browser.token("/account")
    shown.append(
        browser.post("/account/deeds/remove-factor", {"token": token, "factor": HTML}).text
    )
    for page in shown:
        assert "<script>alert" not in page
        assert "<img" not in page
    assert "&lt;script&gt;alert" in shown[0]


def test_pages_run_no_script_but_our_own_file(front: Front) -> None:
    browser, _, _ = front.person()
    for path in ("/", "/login", "/account", "/device", "/step-up", "/enrol"):
        page = browser.open(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert re.findall(r"<script(?![^>]*src=\"/static/passkey.js\")", page.text) == []
        assert re.findall(r"\son[a-z]+=|style=|javascript:", page.text) == []
        assert len(page.content) < 20_000
    assert "script-src" not in browser.open("/").headers["content-security-policy"]


def test_pages_let_browsers_say_where_a_form_comes_from(front: Front) -> None:
    """Under the policy no-referrer Chromium sends an own page's form with ``Origin: null``."""
    browser, _, _ = front.person()
    assert browser.open("/account").headers["referrer-policy"] == "same-origin"
    assert browser.web.get("/healthz").headers["referrer-policy"] == "no-referrer"


def test_an_action_that_needs_a_factor_asks_in_place_and_goes_on(front: Front) -> None:
    browser, device, _ = front.person()
    browser.passkey(Authenticator(ORIGIN), "/account/passkey", "/account", label="spare")
    front.tired()
    page = browser.open("/account")
    assert "Present your second factor" in page.text
    spare = forms(page)[1].fields["factor"]
    asked = browser.send(page, "/account/deeds/remove-factor", factor=spare)
    (form,) = forms(asked)
    assert (asked.status_code, form.action) == (200, "/account/deeds/remove-factor")
    assert form.fields["factor"] == spare
    refused = browser.post(form.action, {**form.fields, "code": "000000"})
    assert refused.status_code == 403
    assert "no second factor that gives codes" in refused.text
    assert browser.passkey(device, "/step-up/passkey", "/step-up").status_code == 200
    assert browser.post(form.action, {**form.fields, "code": ""}).status_code == 303
    assert "spare" not in browser.open("/account").text


def test_a_session_that_was_ended_opens_nothing(front: Front) -> None:
    browser, _, _ = front.person()
    page = browser.open("/account")
    assert browser.send(page, "/account/deeds/revoke-sessions").status_code == 303
    assert browser.open("/account").status_code == 303


def test_signing_out_ends_the_session_on_the_server(front: Front) -> None:
    browser, _, _ = front.person()
    kept = browser.web.cookies[SESSION]
    browser.send(browser.open("/account"), "/account/sign-out")
    thief = front.browser()
    thief.web.cookies.set(SESSION, kept, domain="localhost.local")
    assert thief.open("/account").status_code == 303


@pytest.mark.parametrize("secret", ["", "x", "falaj_ws_" + "A" * 43, "a" * 10_000])
def test_a_made_up_cookie_opens_nothing(front: Front, secret: str) -> None:
    answer = front.browser().web.get(
        "/account", headers={"cookie": f"{SESSION}={secret}"}, follow_redirects=False
    )
    assert answer.status_code == 303
