"""Guessing and repeating credentials at a running platform, over HTTPS."""

from __future__ import annotations

import time
from typing import Any

import pyotp
import pytest

from falaj.testing.installations import PASSWORD


@pytest.fixture(autouse=True)
def _forgiven(running: Any) -> Any:
    running.forgiven()
    yield
    running.forgiven()


def login(running: Any, name: str, password: str, code: str) -> Any:
    with running.web() as web:
        return web.post("/auth/login", json={"name": name, "password": password, "code": code})


def test_passwords_are_not_guessed_for_long(running: Any) -> None:
    answers = []
    while not answers or (answers[-1].status_code == 401 and len(answers) < 20):
        answers.append(login(running, "salma", f"guess {len(answers)}", "000000"))
    waiting = answers[-1]
    assert waiting.status_code == 429
    assert len(answers) >= 6
    running.locked()
    assert waiting.json()["code"] == "too-many-attempts"
    assert "retry-after" in waiting.headers
    right = login(running, "salma", PASSWORD, running.person.code())
    assert right.status_code == 429  # the right password has to wait as well
    records = running.records("auth.login")
    assert ("refused", "wrong-name-or-password") in records
    assert ("refused", "too-many-attempts") in records


def test_an_unknown_name_is_answered_as_a_wrong_password_is(running: Any) -> None:
    known = login(running, "salma", "wrong", "000000")
    unknown = login(running, "nobody-at-all", "wrong", "000000")
    assert known.status_code == unknown.status_code == 401
    assert known.json() == unknown.json()


def test_a_one_time_code_is_good_once(running: Any) -> None:
    totp = pyotp.TOTP(running.person.totp_secret)
    ahead = totp.at(int(time.time()) + 30)  # the step after the one that enrolment used
    assert login(running, "salma", PASSWORD, ahead).status_code == 200
    replayed = login(running, "salma", PASSWORD, ahead)
    assert replayed.status_code == 401
    assert running.records("auth.login")[-1] == ("refused", "wrong-code")


def test_a_recovery_code_is_good_once(running: Any) -> None:
    code = running.person.code()
    assert login(running, "salma", PASSWORD, code).status_code == 200
    assert login(running, "salma", PASSWORD, code).status_code == 401
    assert running.records("auth.login")[-1] == ("refused", "wrong-code")


def test_a_link_is_good_once(running: Any) -> None:
    with running.installation.near(stepped_up=True) as platform:
        link = platform.accounts.invite("once", roles=("viewer",)).secret.get_secret_value()
    wanted = {"secret": link, "name": "once", "password": PASSWORD}
    with running.web() as web:
        assert web.post("/auth/enrol", json=wanted).status_code == 200
        assert web.post("/auth/enrol", json=wanted).status_code == 401
    assert running.records("auth.enrol")[-1] == ("refused", "wrong-credentials")
