"""Hostile bytes on the wire: heads and bodies without an end, headers that are no text."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request

from falaj.interfaces import bounded
from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.http import json_object, read_body, short_header
from falaj.kernel.errors import FalajError, InvalidInput, LimitExceeded
from falaj.kernel.problems import rebuilt
from falaj.wiring.services import service_classes

PATIENCE = 5.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of the bounded protocol that waits half a second for a head."""
    monkeypatch.setattr(bounded, "HEAD_SECONDS", 0.5)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=bounded.BoundedHttp, loop="uvloop", lifespan="off", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def said(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection; fails if it does not."""
    connection.settimeout(PATIENCE)
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            told += part
    return told


@pytest.mark.parametrize("line", [b"x-long: ", b""], ids=["one long header", "many headers"])
def test_a_head_without_an_end_is_cut_off(port: int, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n" + line)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 20_000_000:
                sent += connection.send((b"a" * 65_536) if line else b"a: b\r\n" * 10_000)
        said(connection)
    assert sent < 20_000_000


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n"], ids=["silent", "begun"])
def test_a_head_that_does_not_come_is_not_waited_for(port: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(begun)
        started = time.monotonic()
        assert said(connection) == b""
        assert time.monotonic() - started < PATIENCE


def test_honest_requests_on_one_connection_are_answered(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for n in range(3):
            time.sleep(0.3)
            answer = client.post("/", content=b"x" * 300_000, headers={"x-long": "a" * 20_000})
            assert answer.status_code == 204, n


def test_a_body_that_drips_is_not_waited_for() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"a", "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(LimitExceeded, match="did not arrive"):
        asyncio.run(read_body(request, 1_000, max_seconds=0.2))


@pytest.mark.parametrize("value", [b"x" * 201, b"a\x1b[2J", b"a\x00b", "é\x9b".encode("latin-1")])
def test_a_header_that_would_be_kept_is_short_and_printable(value: bytes) -> None:
    request = Request({"type": "http", "headers": [(b"falaj-purpose", value)]})
    with pytest.raises(InvalidInput, match="falaj-purpose"):
        short_header(request, "falaj-purpose")


def test_a_blank_purpose_is_none() -> None:
    request = Request({"type": "http", "headers": [(b"falaj-purpose", b"  ")]})
    assert short_header(request, "falaj-purpose") is None


@pytest.mark.parametrize("body", [rb'{"a": ["\ud800"]}', rb'{"a\u0000": 1}'])
def test_a_body_with_text_that_no_database_holds_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        json_object(body)


def test_escapes_of_honest_text_are_taken() -> None:
    assert json_object(rb'{"a": "\u0641\ud83d\ude00"}') == {"a": "ف😀"}


def test_a_name_cannot_turn_a_far_call_into_another(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        called.append(request.url.path)
        return httpx.Response(500)

    client = httpx.Client(base_url="https://x", transport=httpx.MockTransport(answer))
    door = RemoteDoor(client, lambda: "t")
    for service, verb, arguments in (
        ("assets", "describe", {"kind": "x", "key": "../../accounts/eve/roles"}),
        ("accounts", "deactivate", {"name": ".."}),
    ):
        (action,) = (a for a in service_classes()[service].actions() if a.verb == verb)
        with pytest.raises(InvalidInput, match="names nothing"):
            door.call(action, arguments)
    assert called == []


def test_a_hostile_servers_error_is_still_an_error() -> None:
    details = {"hint": "x", "message": "y", "self": "z", "problems": [1]}
    error = rebuilt({"code": "not-found", "detail": "gone", "hint": "h", "details": details})
    assert isinstance(error, FalajError)
    assert (error.message, error.hint, error.details) == ("gone", "h", {"problems": [1]})


DEEP = b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("path", ["/auth/login", "/auth/enrol", "/auth/passkeys/sign-in"])
def test_deep_and_huge_bodies_are_refused_to_strangers(running: Any, path: str) -> None:
    with running.web() as web:
        deep = web.post(path, content=DEEP[:8_000], headers={"content-type": "application/json"})
        assert (deep.status_code, deep.json()["code"]) == (422, "invalid-input")
        huge = web.post(path, content=b" " * 100_000)
        assert (huge.status_code, huge.json()["code"]) == (429, "limit-exceeded")
        assert web.get("/healthz").status_code == 200


def test_a_deep_body_of_somebody_known_is_refused(running: Any) -> None:
    with running.as_(running.person.name) as web:
        answer = web.post("/api/accounts/salma/sessions/revocation", content=DEEP)
    assert answer.status_code == 422
    assert "nested deeper than 64" in answer.json()["detail"]


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/xml", "text/html", "application/json; charset=utf-16"],
)  # fmt: skip
def test_a_body_is_read_as_json_or_not_at_all(running: Any, kind: str) -> None:
    body = b"name=salma&password=x&code=1"
    with running.web() as web:
        answer = web.post("/auth/login", content=body, headers={"content-type": kind})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        page = web.post("/login", content=b'{"name": "salma"}', headers={"content-type": kind})
        assert page.status_code in (403, 422)
        assert "set-cookie" not in page.headers


@pytest.mark.parametrize(
    "name",
    ["x-forwarded-user", "x-remote-user", "remote-user", "x-user", "x-auth-request-user",
     "x-forwarded-email", "x-falaj-principal", "falaj-principal", "x-ssl-client-dn",
     "x-forwarded-client-cert", "x-amzn-oidc-identity", "cf-access-authenticated-user-email"],
)  # fmt: skip
def test_a_header_that_names_somebody_is_nobodys_proof(running: Any, name: str) -> None:
    with running.web() as web:
        assert web.get("/api/me", headers={name: "owner"}).status_code == 401
    with running.as_(running.person.name) as web:
        me = web.get("/api/me", headers={name: "owner", "x-forwarded-for": "10.0.0.1"}).json()
    assert me["principal"] == "user:salma"


def test_a_forwarded_address_is_not_believed(running: Any) -> None:
    with running.web() as web:
        for n in range(30):  # where the machine is slow, waits end between two of them
            body = {"name": "forwarded", "password": "x", "code": "1"}
            answer = web.post("/auth/login", json=body, headers={"x-forwarded-for": f"10.0.0.{n}"})
            if answer.status_code == 429:
                break
    assert answer.status_code == 429
    running.forgiven()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "169.254.169.254"])
@pytest.mark.parametrize("path", ["/", "/login", "/api/me", "/api/openapi.json"])
def test_another_host_name_is_answered_nothing(running: Any, host: str, path: str) -> None:
    with running.as_(running.person.name) as web:
        answer = web.get(path, headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong-host")
    assert host not in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://localhost"])
def test_another_sites_page_sends_nothing(running: Any, origin: str) -> None:
    with running.as_(running.person.name) as web:
        answer = web.post("/api/accounts/salma/sessions/revocation", json={},
                          headers={"origin": origin})  # fmt: skip
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin")
        assert web.get("/api/me").status_code == 200


def test_names_of_the_inside_stand_in_no_error(running: Any) -> None:
    inside = [str(running.installation.home), str(running.installation.folder), "sqlite:"]
    with running.as_(running.person.name) as web:
        answers = [
            web.get("/api/tables/%2Fetc%2Fpasswd"),
            web.get("/api/nothing/../../etc/passwd"),
            web.get("/api/jobs/'; DROP TABLE jobs; --"),
            web.get("/api/tables/none/rows?limit=-1"),
            web.post("/api/sources/none/loads", json={}),
            web.get("/static/../../falaj.toml"),
            web.get("/static/%2e%2e/%2e%2e/pyproject.toml"),
        ]
    for answer in answers:
        assert answer.status_code in (401, 403, 404, 405, 422), answer.text
        assert "Traceback" not in answer.text
        assert [word for word in inside if word in answer.text] == []
