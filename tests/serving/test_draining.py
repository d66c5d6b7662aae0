"""A worker that is being ended: it says so at once, and answers what it was asked."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from falaj.kernel.errors import Corrupt
from falaj.serving.front import Front
from falaj.serving.model import Durability
from falaj.testing.serving import Running, make_release

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}


def request(path: str, body: Any = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer user:amina\r\n"
        f"content-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


def all_of(client: socket.socket) -> str:
    data = b""
    while part := client.recv(65_536):
        data += part
    return data.decode()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Front]:
    """The front of the worker that runs."""
    made: list[Front] = []
    real = Front.__init__

    def noted(self: Front, *values: Any, **named: Any) -> None:
        real(self, *values, **named)
        made.append(self)

    monkeypatch.setattr(Front, "__init__", noted)
    return lambda: made[-1]


def test_readiness_names_each_reason_and_no_endpoint(running: Running) -> None:
    assert running.client.get("/readyz").json() == {"status": "ready"}
    running.bundles.models["sha256:bad"] = Corrupt("The bundle was changed.", hint="Restore it.")
    running.activate(make_release("release_1", durability=Durability.REQUEST))
    running.spools.broken = True
    assert running.predict({"inputs": [ROW]}).status_code == 503
    running.activate(make_release("release_bad", bundle="sha256:bad"))
    assert running.predict({"inputs": [ROW]}).status_code == 500
    answer = running.client.get("/readyz")
    told = answer.json()
    assert (answer.status_code, told["code"]) == (503, "not-ready")
    assert told["details"]["reasons"] == ["log-failing", "release-not-loaded"]
    assert "delays" not in answer.text
    assert "bundle" not in answer.text


def test_a_draining_worker_is_unready_at_once_and_answers_what_it_is_asked(
    front: Callable[[], Front], running: Running
) -> None:
    running.activate(make_release(durability=Durability.REQUEST))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    running.spools.gate.clear()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request("/v1/endpoints/delays/predict", {"inputs": [ROW]}))
        until = time.monotonic() + 5
        while front().application._lanes["delays"].inside == 0:  # type: ignore[attr-defined]
            assert time.monotonic() < until
            time.sleep(0.01)
        front().loop.call_soon_threadsafe(front().drain)
        while not front().closing:
            time.sleep(0.01)
        for path, status, says in (("readyz", 503, '"reasons":["draining"]'),
                                   ("healthz", 200, "ok")):  # fmt: skip
            answer = running.client.get(f"/{path}")
            assert answer.status_code == status
            assert says in answer.text
            assert answer.headers["connection"] == "close"
        running.spools.gate.set()
        told = all_of(client)
    assert told.startswith("HTTP/1.1 200")
    assert '"predictions":[{' in told
    assert "connection: close" in told


class Noting:
    """An application that is asked nothing."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    async def start(self) -> None:
        self.told.append("start")

    async def stop(self) -> None:
        self.told.append("stop")


def test_a_worker_that_is_ended_drains_first() -> None:
    noting = Noting()

    async def begun_and_ended() -> None:
        front = Front(noting)  # type: ignore[arg-type]
        await front.listen([socket.create_server(("127.0.0.1", 0))])
        await front.close(grace_seconds=0)

    asyncio.run(begun_and_ended())
    assert noting.told == ["start", "drain", "stop"]
