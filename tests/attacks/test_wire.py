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
