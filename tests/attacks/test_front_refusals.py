"""What the front refuses before the door is on record, over HTTPS, and fills no log."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from falaj.interfaces.cookies import FORM
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser
from falaj.testing.installations import SURROUNDINGS, client, falaj_command

DEEP = b'{"roles": ' + b"[" * 100 + b"]" * 100 + b"}"


def record_of(running: Any, reason: str, **fields: Any) -> dict[str, Any]:
    """The newest record of a request that the front turned away for a reason."""
    found: dict[str, Any] = running.on_record(
        "front.request",
        lambda r: r["reasons"] == [reason] and all(r[name] == fields[name] for name in fields),
    )
    return found


def test_another_host_is_on_record(running: Any) -> None:
    with running.web() as web:
        assert web.get("/api/me", headers={"host": "evil.example"}).status_code == 421
    record = record_of(running, "wrong-host", principal="unknown")
    assert (record["address"], record["via"]) == ("127.0.0.1", "http")
    assert "evil.example" not in str(record)


@pytest.mark.parametrize("header", ["origin", "sec-fetch-site"])
def test_another_sites_page_is_on_record(running: Any, header: str) -> None:
    value = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}[header]
    with running.as_("salma") as web:
        answer = web.post("/api/jobs", json={}, headers={header: value})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin")
    record_of(running, "foreign-origin")


def test_a_forged_form_is_on_record_with_whose_browser_sent_it(running: Any) -> None:
    origin = running.installation.control.replace("127.0.0.1", "localhost")
    browser = Browser(client(origin, running.installation.ca))
    browser.open("/login")
    assert FORM in browser.web.cookies
    running.forgiven()
    form = {"token": "0" * 64, "name": "salma", "password": "x", "code": "1"}
    assert browser.post("/login", form).status_code == 403
    record_of(running, "forged-form", principal="unknown")
    with running.installation.near(stepped_up=True) as platform:
        link = platform.accounts.invite("farah", roles=("viewer",)).secret.get_secret_value()
    device = Authenticator(origin)
    done = browser.passkey(device, "/enrol/passkey", "", secret=link, name="farah")
    assert done.status_code == 200, done.text
    assert browser.post("/account/deeds/revoke-sessions", {"token": "x"}).status_code == 403
    record = record_of(running, "forged-form", principal="user:farah")
    assert record["details"]["asked"] == "POST /account/deeds/revoke-sessions"
    assert browser.open("/account").status_code == 200


@pytest.mark.parametrize("path", ["/auth/login", "/login/passkey/options"])
def test_a_deep_body_of_a_stranger_is_on_record(running: Any, path: str) -> None:
    with running.web() as web:
        answer = web.post(path, content=DEEP, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert record_of(running, "body-too-deep", principal="unknown")["address"] == "127.0.0.1"


def test_a_deep_body_of_somebody_known_is_on_record_with_the_name(running: Any) -> None:
    with running.as_("salma") as web:
        assert web.post("/api/accounts/salma/roles", content=DEEP).status_code == 422
    record_of(running, "body-too-deep", principal="user:salma")


def test_a_huge_body_is_on_record(running: Any) -> None:
    with running.web() as web:
        answer = web.post("/auth/login", content=b" " * 100_000)
    assert (answer.status_code, answer.json()["code"]) == (429, "limit-exceeded")
    record_of(running, "body-too-large", principal="unknown")


def test_a_body_that_is_no_json_is_on_record_without_its_text(running: Any) -> None:
    with running.web() as web:
        assert web.post("/auth/login", content=b"planted-by-eve {").status_code == 422
    assert "planted" not in str(record_of(running, "body-unreadable"))


def test_a_head_without_an_end_is_on_record(running: Any) -> None:
    told = running.raw(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000)
    assert told.startswith(b"HTTP/1.1 400") or told == b""
    record_of(running, "head-too-long")


def test_a_huge_body_at_the_data_plane_is_on_record(running: Any) -> None:
    head = b"POST /v1/endpoints/none/predict HTTP/1.1\r\nhost: localhost\r\n"
    told = running.raw(head + b"content-length: 1099511627776\r\n\r\nx", at="inference")
    assert told.startswith(b"HTTP/1.1 413")
    assert record_of(running, "body-too-large", via="inference")["address"] == "127.0.0.1"


def test_a_flood_of_refused_requests_fills_no_log(running: Any) -> None:
    before = len(running.found("front.request"))
    with running.web() as web:
        for number in range(60):
            assert web.get("/", headers={"host": f"evil{number}.example"}).status_code == 421
            web.post("/auth/login", content=f'{{"x{number}": '.encode())
    assert len(running.found("front.request")) <= before + 4


def test_the_command_shows_what_the_front_refused(running: Any) -> None:
    """As whoever operates the platform looks for it."""
    with running.web() as web:
        web.get("/", headers={"host": "evil.example"})
    record_of(running, "wrong-host")
    search = ["--json", "audit", "search", "--action", "front.request", "--outcome", "refused"]
    done = subprocess.run(
        falaj_command(running.installation.folder, *search),
        env=SURROUNDINGS, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "wrong-host" in done.stdout


def test_strangers_are_told_neither_routes_nor_version(running: Any) -> None:
    from importlib.metadata import version

    with running.web() as web:
        assert web.get("/api/openapi.json").status_code == 401
        for path in ("/healthz", "/", "/login", "/enrol", "/device", "/account"):
            answer = web.get(path)
            assert version("falaj") not in answer.text, path
            assert "server" not in answer.headers
    with running.as_("salma") as web:
        assert web.get("/api/openapi.json").json()["info"]["version"] == version("falaj")
