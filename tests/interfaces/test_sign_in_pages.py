"""The pages of people as honest people use them, without a script but for passkeys."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest
from starlette.testclient import TestClient

from falaj.interfaces.processes import control_app
from falaj.kernel.settings import Settings
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser, forms
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

ORIGIN = "https://localhost:8443"
PASSWORD = "seven camels cross the wadi"


class Home:
    """The pages of a platform, and amina, who has a password and an authenticator."""

    def __init__(self, folder: Path) -> None:
        initialise(Settings.read(folder), owner="owner")
        self.premises: Premises = assemble(Settings.read(folder))
        self.app = control_app(self.premises)
        self.codes: list[str] = []

    def browser(self) -> Browser:
        return Browser(TestClient(self.app, base_url=ORIGIN))

    def invited(self, name: str) -> str:
        with self.premises.database.transaction() as connection:
            link = self.premises.authentication.enrolment.invite(
                connection, name=name, roles=(Role.VIEWER,), created_by="user:owner",
                now=self.premises.clock.now(),
            )  # fmt: skip
        return str(link.secret.get_secret_value())

    def enrol(self) -> None:
        browser = self.browser()
        page = browser.open(f"/enrol?secret={self.invited('amina')}")
        page = browser.send(page, "/enrol", name="amina", password=PASSWORD, again=PASSWORD)
        self.codes = confirmed(browser, page)

    def signed_in(self, then: str = "") -> Browser:
        browser = self.browser()
        done = browser.login("amina", PASSWORD, self.codes.pop(), then)
        assert done.status_code == 303, done.text
        return browser


def confirmed(browser: Browser, page: object) -> list[str]:
    """Enter the first code of an offered authenticator; the recovery codes."""
    (form,) = forms(page)  # type: ignore[arg-type]
    code = pyotp.TOTP(form.fields["totp_secret"]).at(int(time.time()))
    done = browser.post(form.action, {**form.fields, "code": code})
    assert "Your second factor is ready" in done.text
    return [part.split("</code>")[0] for part in done.text.split("<code>")[1:11]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    made.enrol()
    yield made
    made.premises.close()


def test_a_person_signs_in_with_password_and_code_and_gets_where_they_wanted(home: Home) -> None:
    browser = home.browser()
    assert browser.open("/device").headers["location"] == "/login?next=%2Fdevice"
    done = browser.login("amina", PASSWORD, home.codes.pop(), "/device")
    assert (done.status_code, done.headers["location"]) == (303, "/device")
    assert "Code that the program shows" in browser.open("/device").text


def test_a_wrong_password_is_told_on_the_page_and_the_name_stays(home: Home) -> None:
    browser = home.browser()
    done = browser.login("amina", "wrong", "123456", "/device")
    assert done.status_code == 401
    assert "is wrong" in done.text
    (form,) = forms(done)
    assert (form.fields["name"], form.fields["password"], form.fields["next"]) == (
        "amina", "", "/device",
    )  # fmt: skip
    again = browser.send(done, "/login", password=PASSWORD, code=home.codes.pop())
    assert again.headers["location"] == "/device"


def test_the_account_page_shows_factors_and_sessions(home: Home) -> None:
    browser = home.signed_in()
    text = browser.open("/account").text
    assert "Authenticator with one-time codes" in text
    assert f"{len(home.codes)} left" in text
    assert text.count("(this browser)") == 1


def test_an_authenticator_is_replaced_with_a_fresh_factor(home: Home) -> None:
    browser = home.signed_in()
    page = browser.send(browser.open("/account"), "/account/authenticator")
    home.codes = confirmed(browser, page)
    assert len(home.codes) == 10
    assert home.signed_in()


def test_new_recovery_codes_make_the_old_ones_worthless(home: Home) -> None:
    browser = home.signed_in()
    old = home.codes.pop()
    page = browser.send(browser.open("/account"), "/account/recovery-codes")
    home.codes = [part.split("</code>")[0] for part in page.text.split("<code>")[1:11]]
    assert len(home.codes) == 10
    assert home.browser().login("amina", PASSWORD, old).status_code == 401
    assert home.signed_in()


def test_a_security_key_goes_with_a_password(home: Home) -> None:
    browser, key = home.signed_in(), Authenticator(ORIGIN, verifies=False)
    added = browser.passkey(key, "/account/passkey", "/account", label="key ring")
    assert added.json() == {"next": "/account", "codes": []}
    assert "beside a password only" in browser.open("/account").text
    other = home.browser()
    alone = other.passkey(key, "/login/passkey", "/login")
    assert alone.status_code == 401
    both = other.passkey(key, "/login/passkey", "/login", name="amina", password=PASSWORD)
    assert both.json() == {"next": "/account"}


def test_the_last_factor_is_not_removed_by_the_page(home: Home) -> None:
    browser, device = home.browser(), Authenticator(ORIGIN)
    browser.passkey(device, "/enrol/passkey", "", secret=home.invited("noor"), name="noor")
    page = browser.open("/account")
    (factor,) = [f.fields["factor"] for f in forms(page) if "factor" in f.fields]
    refused = browser.send(page, "/account/deeds/remove-factor", factor=factor)
    assert refused.status_code == 409
    assert "last factor" in refused.text
    assert "<h1>noor</h1>" in refused.text


def test_one_session_is_ended_and_this_one_stays(home: Home) -> None:
    old, browser = home.signed_in(), home.signed_in()
    page = browser.open("/account")
    listed = [f.fields["session"] for f in forms(page) if "session" in f.fields]
    here, other = listed[0], listed[1]
    assert here != other
    assert browser.send(page, "/account/deeds/revoke-session", session=other).status_code == 303
    assert old.open("/account").status_code == 303
    assert browser.open("/account").status_code == 200


def test_the_library_of_passkeys_is_loaded_when_the_first_one_comes() -> None:
    program = (
        "import sys, falaj.interfaces.early as early; early.imported('control');"
        "print(sorted({'webauthn', 'cbor2', 'OpenSSL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
