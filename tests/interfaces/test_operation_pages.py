"""The pages of service management: what is listed, what is told of one, and what can be done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest
from starlette.testclient import TestClient

from falaj.interfaces.operationpages import ROOMS
from falaj.interfaces.processes import control_app
from falaj.kernel.call import AssetRef
from falaj.kernel.settings import Settings
from falaj.operations.model import Severity
from falaj.testing.browsers import Browser, forms
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

ORIGIN = "https://localhost:8443"
PASSWORD = "water finds its way downhill"
MARKUP = "<script>alert(1)</script> & more"


class Desk:
    """A platform with a critical alert, and omar, who operates it."""

    def __init__(self, folder: Path) -> None:
        initialise(Settings.read(folder), owner="owner")
        self.premises: Premises = assemble(Settings.read(folder))
        with self.premises.calls.opened("test", "user:owner") as call:
            subject = AssetRef("table", "flights")
            self.premises.catalog.record(call, subject)
            self.alert = self.premises.alerts.raise_alert(
                call, name="empty", subject=subject, severity=Severity.CRITICAL,
                message=MARKUP, evidence={"rows": 0},
            ).id  # fmt: skip
            self.incident = self.premises.incidents.listed(call.connection)[0].id
        self.browser = Browser(TestClient(control_app(self.premises), base_url=ORIGIN))
        self._sign_in()

    def _sign_in(self) -> None:
        with self.premises.database.transaction() as connection:
            link = self.premises.authentication.enrolment.invite(
                connection, name="omar", roles=(Role.OPERATOR,), created_by="user:owner",
                now=self.premises.clock.now(),
            )  # fmt: skip
        page = self.browser.open(f"/enrol?secret={link.secret.get_secret_value()}")
        page = self.browser.send(page, "/enrol", name="omar", password=PASSWORD, again=PASSWORD)
        (form,) = forms(page)
        code = pyotp.TOTP(form.fields["totp_secret"]).at(int(time.time()))
        done = self.browser.post(form.action, {**form.fields, "code": code})
        recovery = done.text.split("<code>")[1].split("</code>")[0]
        assert self.browser.login("omar", PASSWORD, recovery, "/alerts").status_code == 303


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.premises.close()


@pytest.mark.parametrize("name", list(ROOMS))
def test_every_list_is_a_small_page_that_leads_to_the_others(desk: Desk, name: str) -> None:
    answer = desk.browser.open(f"/{name}")
    assert answer.status_code == 200, answer.text
    assert f"<h1>{ROOMS[name].title}</h1>" in answer.text
    assert all(f'href="/{other}"' in answer.text for other in ROOMS)
    assert len(answer.content) < 150_000


def test_an_incident_is_told_with_its_alert_and_timeline_and_no_markup_of_data(
    desk: Desk,
) -> None:
    text = desk.browser.open(f"/incidents/{desk.incident}").text
    assert f'href="/alerts/{desk.alert}"' in text
    assert "<h2>Timeline</h2>" in text
    assert "opened" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize("kind", ["alerts", "incidents"])
def test_what_is_open_is_acknowledged_by_its_form(desk: Desk, kind: str) -> None:
    one = desk.alert if kind == "alerts" else desk.incident
    page = desk.browser.open(f"/{kind}/{one}")
    done = desk.browser.send(page, f"/{kind}/{one}/deed")
    assert (done.status_code, done.headers["location"]) == (303, f"/{kind}/{one}")
    text = desk.browser.open(f"/{kind}/{one}").text
    assert "user:omar" in text
    assert f"/{kind}/{one}/deed" not in text


def test_a_form_of_another_browser_does_nothing(desk: Desk) -> None:
    done = desk.browser.post(f"/incidents/{desk.incident}/deed", {"token": "forged"})
    assert done.status_code == 403


def test_a_thing_that_is_not_there_is_a_page_that_says_so(desk: Desk) -> None:
    assert desk.browser.open("/problems/prob_none").status_code == 404


def test_a_stranger_is_led_to_the_sign_in(desk: Desk) -> None:
    stranger = Browser(TestClient(control_app(desk.premises), base_url=ORIGIN))
    assert stranger.open("/incidents").headers["location"] == "/login?next=%2Fincidents"
