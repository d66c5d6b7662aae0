"""Text that is taken for code: SQL, shell, templates, log lines, headers, HTML; over HTTPS."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser
from falaj.testing.installations import client

TOUCHED = "/tmp/falaj-was-injected"
INJECTIONS = {
    "SQL, a statement more": "x'; DROP TABLE audit_records; --",
    "SQL, always true": "' OR '1'='1",
    "SQL, a union": "x' UNION SELECT hash FROM audit_records --",
    "SQL, in double quotes": "x\"; ATTACH '/tmp/x' AS y; --",
    "SQL, a wildcard": "%",
    "shell, a command": f"$(touch {TOUCHED})",
    "shell, backticks": f"`touch {TOUCHED}`",
    "shell, a pipe": f"x | touch {TOUCHED}; #",
    "template, Jinja": "{{ 7331 * 7331 }}{% for x in ().__class__.__base__.__subclasses__() %}",
    "template, format": "{0.__class__.__init__.__globals__} %(name)s %s%n",
    "template, others": "${7331*7331} #{7331*7331} <%= 7331*7331 %> ${jndi:ldap://127.0.0.1/x}",
    "a line of a log": 'x\n{"level": "info", "event": "forged-by-eve"}\r\nforged-by-eve',
    "a header": "x\r\nset-cookie: forged=1\r\n\r\n<html>",
    "the terminal": "\x1b]0;owned\x07\x1b[2J",
}
COMPUTED = str(7331 * 7331)


def untouched(running: Any, answers: list[Any]) -> None:
    """Nothing was done by what was sent, and nothing was told that should not be."""
    for answer in answers:
        assert answer.status_code < 500, answer.text
        assert COMPUTED not in answer.text
        assert "forged" not in answer.cookies
        assert not re.search(r"sqlite|syntax error|Traceback|OperationalError", answer.text, re.I)
    assert not Path(TOUCHED).exists()
    for line in running.installation.told().splitlines():
        assert not line.lstrip("{").startswith(
            ("forged-by-eve", '"level": "info", "event": "forged')
        )
        assert "\x1b" not in line


@pytest.mark.parametrize("text", list(INJECTIONS.values()), ids=list(INJECTIONS))
def test_text_is_text_in_every_argument(running: Any, text: str) -> None:
    size = len(running.found("*", limit=1))
    assert size == 1
    with running.as_("sara") as web:
        started = web.post("/api/runs", json={"experiment": text})
        listed = web.get("/api/experiments")
        answers = [
            started, listed,
            web.get("/api/assets", params={"text": text}),
            web.get("/api/assets", params={"owner": text, "tag": text}),
            web.get("/api/runs", params={"experiment": text}),
            web.post("/api/definitions", json={"documents": [{"kind": text, "name": text}]}),
            web.post("/api/plans", json={"documents": [{"kind": "entity", "name": text}]}),
            web.post("/api/training/sets", json={"spec": {"spine_query": text}}),
        ]  # fmt: skip
        if text.isprintable():
            answers.append(web.get("/api/me", headers={"falaj-purpose": text, "user-agent": text}))
        if started.status_code == 200:  # it is a name like another one
            assert text in {one["name"] if isinstance(one, dict) else one for one in listed.json()}
    with running.as_("noor") as auditor:
        for name in ("principal", "action", "resource"):
            answers.append(auditor.get("/api/audit/records", params={name: text}))
            if text != "%":
                continue
            assert answers[-1].json()["records"] == []  # no wildcard but the star
    running.forgiven()
    with running.web() as web:
        body = {"name": text, "password": text, "code": "000000", "client": text}
        answers.append(web.post("/auth/login", json=body))
        answers.append(web.post("/auth/device", json={"client": text}))
    running.forgiven()
    untouched(running, answers)


def test_the_log_is_whole_after_all_that(running: Any) -> None:
    with running.as_("noor") as auditor:
        lines = auditor.get("/api/audit/lines", params={"format": "json", "limit": 1000}).json()
        assert auditor.post("/api/audit/verifications", json={}).json()["sound"]
    for line in lines["lines"]:
        assert len(line.splitlines()) == 1
        assert "forged-by-eve" not in json.loads(line)


HTML = "\"'><script>alert(7)</script><img src=x onerror=alert(8)><a href=javascript:alert(9)>"


class Page(HTMLParser):
    """What of a page is code: elements, and attributes that run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag in ("img", "iframe", "object", "embed", "base", "svg"):
            self.scripts.append(tag)
        if tag == "script" and told.get("src") != "/static/passkey.js":
            self.scripts.append(tag)
        for name, value in told.items():
            led = value.strip().lower()
            if name.startswith("on") or led.startswith(("javascript:", "data:", "vbscript:")):
                self.scripts.append(f"{name}={value}")


def harmless(page: Any, *, shown: str | None = HTML) -> None:
    """The page shows the text as text, and runs nothing of it."""
    assert Page(page.text).scripts == [], page.url
    assert "<script>alert" not in page.text
    if shown is not None:
        assert "&lt;script&gt;alert(7)" in page.text, page.url
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.fixture(scope="module")
def browser(running: Any) -> Browser:
    """The browser of somebody who has put HTML wherever a person can put a name."""
    origin = running.installation.control.replace("127.0.0.1", "localhost")
    found = Browser(client(origin, running.installation.ca))
    found.web.headers["user-agent"] = HTML
    running.forgiven()
    with running.installation.near(stepped_up=True) as platform:
        link = platform.accounts.invite("hessa", roles=("viewer",)).secret.get_secret_value()
    device = Authenticator(origin)
    done = found.passkey(device, "/enrol/passkey", "", secret=link, name="hessa")
    assert done.status_code == 200, done.text
    added = found.passkey(Authenticator(origin), "/account/passkey", "/account", label=HTML)
    assert added.status_code == 200, added.text
    return found


def test_names_of_passkeys_and_browsers_are_shown_as_text(browser: Browser) -> None:
    page = browser.open("/account")
    harmless(page)
    assert page.text.count("&lt;script&gt;alert(7)") >= 2  # the passkey's and the browser's


def test_what_a_program_calls_itself_is_shown_as_text(running: Any, browser: Browser) -> None:
    running.forgiven()
    with running.web() as program:
        offer = program.post("/auth/device", json={"client": HTML}).json()
    page = browser.send(browser.open("/device"), "/device", user_code=offer["user_code"])
    harmless(page)
    harmless(browser.open(f"/device?user_code={HTML}"))
    harmless(browser.send(browser.open("/device"), "/device", user_code=HTML), shown=None)


def test_what_a_stranger_types_is_shown_as_text(running: Any) -> None:
    running.forgiven()
    origin = running.installation.control.replace("127.0.0.1", "localhost")
    stranger = Browser(client(origin, running.installation.ca))
    harmless(stranger.open(f"/enrol?secret={HTML}"))
    harmless(stranger.open(f"/login?next={HTML}"), shown=None)
    harmless(stranger.login(HTML, HTML, HTML))
    harmless(stranger.post("/enrol", {"secret": HTML, "name": HTML, "password": "x", "again": "y"}))
    running.forgiven()
    offered = {"ticket": HTML, "totp_secret": HTML, "uri": HTML, "code": HTML}
    harmless(stranger.post("/enrol/factor", offered))
    harmless(stranger.post("/enrol/factor", {**offered, "uri": "javascript:alert(9)"}))
    running.forgiven()


def test_an_account_cannot_be_named_with_html(running: Any) -> None:
    with running.as_("adam") as web:
        answer = web.post(f"/api/accounts/{HTML[:20].replace('/', '')}/invitations",
                          json={"roles": ["viewer"]})  # fmt: skip
    assert answer.status_code == 422
    with running.installation.near(stepped_up=True) as platform:
        link = platform.accounts.invite("hala", roles=("viewer",)).secret.get_secret_value()
    with running.web() as web:
        wanted = {"secret": link, "name": HTML[:40], "password": "x" * 20}
        assert web.post("/auth/enrol", json=wanted).status_code in (401, 422)


def test_an_answer_of_the_api_is_no_page(running: Any) -> None:
    """Names that hold HTML come back as JSON that no browser shows as a page."""
    with running.as_("sara") as web:
        web.post("/api/runs", json={"experiment": HTML})
        for path in ("/api/experiments", f"/api/runs/{HTML}"):
            answer = web.get(path)
            assert answer.headers["content-type"].split(";")[0] in (
                "application/json", "application/problem+json"
            )  # fmt: skip
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_no_template_takes_text_for_html() -> None:
    import falaj.interfaces.visitors as visitors

    for file in (visitors.HERE / "templates").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), file.name
        assert not re.search(r"=\{\{|='\{\{", text), f"{file.name}: an attribute without quotes"
