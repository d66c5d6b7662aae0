"""The access log: a line for each request, whatever becomes of it, and of the log."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.serving.accesslog import AccessLog
from falaj.serving.front import Request
from falaj.serving.heads import Head
from falaj.serving.meters import Meters
from falaj.serving.trails import Ended, Trail, Trails
from falaj.testing.serving import make_release

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Tracked = Callable[..., Any]


def told_to(path: Path) -> Callable[[Meters], Trails]:
    return lambda meters: Trails(access=AccessLog(str(path), dropped=meters.lines_dropped))


def lines(path: Path, n: int = 0) -> list[dict[str, Any]]:
    until = time.monotonic() + 5
    while True:
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= n or time.monotonic() > until:
            return [json.loads(line) for line in found]
        time.sleep(0.02)


def asked(path: bytes = b"/x") -> Ended:
    request = Request(Head(b"GET", path), b"", time.perf_counter())
    return Ended(request, Trail("", "", sampled=False), 200, 1, "127.0.0.1", time.perf_counter())


def test_each_request_is_one_line_with_who_asked_what_and_what_became_of_it(
    tracked: Tracked, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    with tracked(told_to(log)) as running:
        running.activate(make_release())
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        body = {"inputs": [ROW], "request_id": 'say "hi"\n'}
        answer = running.predict(body, headers=headers, params={"explain": "features"})
        running.predict(b"{secret")
        running.predict({"inputs": [ROW]}, headers={"authorization": "Bearer hush"})
        running.client.get("/healthz")
        running.client.get("/nothing")
    first, *others = lines(log)
    assert first.pop("time").endswith("Z")
    assert 0 < first.pop("duration_ms") < 10_000
    assert first == {
        "method": "POST",
        "path": "/v1/endpoints/delays/predict",
        "status": 200,
        "bytes": len(answer.content),
        "client": "127.0.0.1",
        "endpoint": "delays",
        "release": "release_1",
        "variant": "champion",
        "caller": "user:amina",
        "request_id": 'say "hi"\n',
        "trace_id": TRACE,
    }
    shown = [(line["path"], line["status"], line.get("error", "")) for line in others]
    assert shown == [
        ("/v1/endpoints/delays/predict", 400, "bad-request"),
        ("/v1/endpoints/delays/predict", 401, "unauthenticated"),
        ("/healthz", 200, ""),
        ("/nothing", 404, "not-found"),
    ]
    assert others[0]["caller"] == "user:amina"
    text = log.read_text()
    assert not any(word in text for word in ("secret", "hush", "Bearer", "explain", '"inputs"'))
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_never_became_a_request_is_told_too(tracked: Tracked, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with tracked(told_to(log)) as running:
        host, port = running.url.removeprefix("http://").split(":")
        for sent in (b"nonsense\r\n\r\n", b"GET /" + b"x" * 9000):
            with socket.create_connection((host, int(port)), timeout=5) as client:
                client.sendall(sent)
                client.recv(65_536)
    assert [(line["method"], line["status"]) for line in lines(log)] == [
        ("_OTHER", 400),
        ("_OTHER", 414),
    ]
    assert len(lines(log)[1]["path"]) <= 512


def test_a_rotated_file_is_opened_anew_and_no_line_is_lost(tmp_path: Path) -> None:
    path, dropped = tmp_path / "access.log", []
    log = AccessLog(str(path), dropped=dropped.append)
    log.take(asked(b"/before"))
    assert [line["path"] for line in lines(path, 1)] == ["/before"]
    path.rename(tmp_path / "access.log.1")
    log.take(asked(b"/after"))
    log.close()
    assert [line["path"] for line in lines(path)] == ["/after"]
    assert [line["path"] for line in lines(tmp_path / "access.log.1")] == ["/before"]
    assert dropped == []


def test_two_workers_write_whole_lines_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    logs = [AccessLog(str(path), dropped=lambda _n: None) for _ in range(2)]
    for number in range(500):
        logs[number % 2].take(asked(b"/%d" % number))
    for log in logs:
        log.close()
    assert {line["path"] for line in lines(path)} == {f"/{number}" for number in range(500)}


def test_lines_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = AccessLog(str(tmp_path / "access.log"), dropped=dropped.append, capacity=10)
    for _ in range(200):
        log.take(asked())
    log.close()
    assert sum(dropped) + len(lines(tmp_path / "access.log")) == 200
    assert sum(dropped) > 0


def test_a_disk_that_fails_costs_lines_that_are_counted_and_nothing_else(
    tracked: Tracked, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "access.log"
    log.parent.mkdir()
    with tracked(told_to(log)) as running:
        running.activate(make_release())
        assert running.predict({"inputs": [ROW]}).status_code == 200
        assert len(lines(log, 1)) == 1
        log.unlink()
        log.parent.rmdir()
        assert running.predict({"inputs": [ROW]}).status_code == 200
        until = time.monotonic() + 5
        while b"access_log_dropped_total 1\n" not in running.meters.exposition():
            assert time.monotonic() < until
            time.sleep(0.05)
        log.parent.mkdir()
        assert running.predict({"inputs": [ROW]}).status_code == 200
        assert len(lines(log, 1)) == 1


def test_a_log_that_cannot_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"inference\.access_log|cannot be written"):
        AccessLog(str(tmp_path / "nowhere" / "access.log"), dropped=lambda _n: None)
