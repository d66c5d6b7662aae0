"""Answers in parts: chunks of the front, and events of predictions."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.serving.fronts import heard, until

from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.front import Bounds, Front, Request, Response, Told
from falaj.serving.model import Limits, ServableModel
from falaj.serving.routing import RoutingTable
from falaj.testing.serving import (
    CountingModel,
    CountingRuntime,
    MemoryBundles,
    Running,
    make_release,
    servable,
    worker,
)


class Telling:
    """``/n`` tells n parts, ``/hang`` and ``/fail`` stop behind the first, ``/flood`` never."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []
        self.failures: list[BaseException] = []

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        path = request.path.decode()
        if path == "/whole":
            return b'"whole"'
        return Response(b"", media=b"text/plain", chunks=self.parts(path[1:]))

    async def parts(self, told: str) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(int(told) if told.isdigit() else 1):
                self.made += 1
                yield b"part %d;" % number
                yield b""  # nothing is no end
            if told == "hang":
                await asyncio.sleep(30)
            if told == "fail":
                raise ValueError("no")
            while told == "flood":
                self.made += 1
                yield b"x" * 50_000
        finally:
            self.ended.append(told)

    def reception(self, path: bytes) -> tuple[int, float]:
        return 2_000, 0.3

    def refusal(self, path: bytes, status: int, message: str, client: str) -> Response:
        return Response(message.encode(), status)

    def failure(self, path: bytes, error: BaseException, client: str) -> Response:
        self.failures.append(error)
        return Response(b"failed", 500)

    def begin(self, request: Request) -> None: ...

    def drain(self) -> None: ...

    def answered(self, request: Request, answer: Response, client: str) -> bytes:
        return b""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Served:
    """A front on a thread, and raw connections to it."""

    def __init__(self, front: Front, telling: Telling, port: int) -> None:
        self.front, self.telling, self.port = front, telling, port

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            yield connection

    def say(self, data: bytes) -> bytes:
        with self.connected() as connection:
            connection.sendall(data)
            return heard(connection)


@pytest.fixture
def served() -> Iterator[Served]:
    ready, found, stop = threading.Event(), list[Served](), list[Any]()

    async def main() -> None:
        bound = socket.create_server(("127.0.0.1", 0))
        telling = Telling()
        front = Front(telling, bounds=Bounds(head=0.3, idle=0.6, part=0.5, stream=1.5))
        await front.listen([bound])
        stop.extend([asyncio.get_running_loop(), asyncio.Event()])
        found.append(Served(front, telling, bound.getsockname()[1]))
        ready.set()
        await stop[1].wait()
        await front.close(grace_seconds=2.0)

    thread = threading.Thread(target=lambda: uvloop.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield found[0]
    stop[0].call_soon_threadsafe(stop[1].set)
    thread.join(10)
    assert not thread.is_alive()


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = "".join(f"{one}\r\n" for one in headers)
    return f"{method} {path} HTTP/{version}\r\nhost: a\r\n{lines}\r\n".encode()


THREE = b"7\r\npart 0;\r\n7\r\npart 1;\r\n7\r\npart 2;\r\n0\r\n\r\n"


def test_parts_are_chunks_and_the_connection_goes_on(served: Served) -> None:
    told = served.say(get("/3") + get("/whole"))
    head, _, rest = told.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    assert rest.startswith(THREE)
    assert rest[len(THREE) :].startswith(b"HTTP/1.1 200")
    assert rest.endswith(b'"whole"')
    assert served.telling.ended == ["3"]


def test_pipelined_answers_keep_their_order_around_streams(served: Served) -> None:
    told = served.say(get("/whole") + get("/3") + get("/2") + get("/whole") + get("/1"))
    assert told.count(b"HTTP/1.1 200") == 5
    order = [told.index(b'"whole"'), told.index(THREE), told.rindex(b"0\r\n\r\nHTTP/1.1 200")]
    assert order == sorted(order)
    assert served.telling.ended == ["3", "2", "1"]


def test_an_expectation_never_stands_inside_a_stream(served: Served) -> None:
    asked = get("/whole", "expect: 100-continue", "content-length: 3", method="POST")
    told = served.say(get("/3") + asked + b"abc")
    assert told.partition(b"\r\n\r\n")[2].startswith(THREE)
    assert told.endswith(b'"whole"')


def test_http_1_0_is_told_by_the_end_of_the_connection(served: Served) -> None:
    for more in ((), ("connection: keep-alive",)):
        head, _, rest = served.say(get("/2", *more, version="1.0")).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert rest == b"part 0;part 1;"


def test_head_gets_the_head_alone_and_closes_what_would_have_been_told(served: Served) -> None:
    told = served.say(get("/3", method="HEAD") + get("/whole"))
    head, _, rest = told.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert rest.startswith(b"HTTP/1.1 200")
    assert served.telling.made == 0


def test_connection_close_is_kept_behind_a_stream(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/3", "connection: close"))
        connection.settimeout(5)
        data = b""
        while part := connection.recv(1 << 16):
            data += part
    assert data.endswith(THREE)


def test_an_error_behind_the_first_part_cuts_the_answer_and_is_told_to_the_application(
    served: Served,
) -> None:
    told = served.say(get("/fail") + get("/whole"))
    assert b"part 0;" in told
    assert b"0\r\n\r\n" not in told
    assert b"whole" not in told
    (error,) = served.telling.failures
    assert isinstance(error, ValueError)


def test_a_part_that_takes_too_long_ends_the_connection_and_the_making(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/hang"))
        told = heard(connection, 3)
    assert b"part 0;" in told
    assert b"0\r\n\r\n" not in told
    assert served.telling.ended == ["hang"]
    assert isinstance(served.telling.failures[0], TimeoutError)


def test_a_client_that_does_not_read_holds_up_the_making_and_is_ended(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/flood"))
        until(lambda: served.telling.ended == ["flood"])
        assert served.telling.made < 400  # 20 MB would not have been kept in memory
        connection.close()
    until(lambda: not served.front.connections)


def test_a_client_that_reads_is_ended_when_the_whole_takes_too_long(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/flood"))
        begun = time.monotonic()
        connection.settimeout(5)
        try:
            while connection.recv(1 << 20):
                assert time.monotonic() - begun < 10
        except ConnectionResetError:
            pass
    assert served.telling.ended == ["flood"]


def test_a_client_that_hangs_up_ends_the_making(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/flood"))
        connection.recv(1000)
    until(lambda: served.telling.ended == ["flood"])
    assert served.say(get("/1")).endswith(b"0\r\n\r\n")


def test_who_says_that_it_asks_no_more_still_hears_the_whole(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(get("/3"))
        connection.shutdown(socket.SHUT_WR)
        assert heard(connection, 2).endswith(THREE)


def test_nonsense_behind_a_stream_is_refused_in_its_turn(served: Served) -> None:
    told = served.say(get("/3") + b"\x00nonsense\r\n\r\n")
    assert THREE in told
    assert b"HTTP/1.1 400" in told[told.index(THREE) :]


# ── events ───────────────────────────────────────────────────────────────────────────


COUNTING = ServableModel("counting", b"", ("a", "b", "c"))


@pytest.fixture
def generating(tmp_path: Path) -> Iterator[tuple[Running, CountingModel]]:
    table, runtime = RoutingTable(tmp_path / "routing"), CountingRuntime()
    bundles = MemoryBundles({"sha256:count": COUNTING, "sha256:a": servable(0)})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu"), runtime], None)
    with worker(table, bundles, compiler, tmp_path) as running:
        running.activate(make_release(bundle="sha256:count"))
        yield running, runtime.model
    table.close()


def row(a: float) -> dict[str, float]:
    return {"a": a, "b": 0.5, "c": 0.25}


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def asked(running: Running, *rows: Any, **options: Any) -> Any:
    headers = {"accept": "text/event-stream", **options.pop("headers", {})}
    return running.predict({"inputs": list(rows), "request_id": "r"}, headers=headers, **options)


def test_a_generating_model_tells_its_parts_then_the_prediction_then_the_end(
    generating: tuple[Running, CountingModel],
) -> None:
    running, _ = generating
    answer = asked(running, row(3), row(1))
    assert answer.headers["content-type"] == "text/event-stream"
    told = events_of(answer.text)
    names = ["part"] * 3 + ["prediction", "part", "prediction", "end"]
    assert [name for name, _ in told] == names
    assert [data["part"] for name, data in told if name == "part"] == ["1", "2", "3", "1"]
    first, second = (data for name, data in told if name == "prediction")
    assert (first["row"], first["score"], first["model"]) == (0, 3.75, "delay/1")
    assert told[0][1]["id"] == first["id"] != second["id"]
    assert told[-1][1] == {
        "request_id": "r", "release": "release_1", "predictions": [first["id"], second["id"]],
    }  # fmt: skip
    until(lambda: len(running.spools.rows("predictions_delays")) == 2)
    logged = {one["prediction_id"] for one in running.spools.rows("predictions_delays")}
    assert logged == {first["id"], second["id"]}


def test_parts_arrive_while_the_rest_is_made(generating: tuple[Running, CountingModel]) -> None:
    running, model = generating
    with running.client.stream(
        "POST", "/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina", "accept": "text/event-stream"},
        json={"inputs": [row(50)]},
    ) as answer:  # fmt: skip
        lines = answer.iter_lines()
        assert next(lines) == "event: part"
        model.gate.clear()
        assert '"part":"1"' in next(lines)
        # Another client is answered while this one waits.
        plain = running.predict({"inputs": [row(2)]})
        assert plain.json()["predictions"][0]["score"] == 2.75
        model.gate.set()
        assert sum(line == "event: part" for line in lines) == 49


def test_a_client_that_hangs_up_ends_the_generating(
    generating: tuple[Running, CountingModel],
) -> None:
    running, model = generating
    with running.client.stream(
        "POST", "/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina", "accept": "text/event-stream"},
        json={"inputs": [row(1_000_000)]},
    ) as answer:  # fmt: skip
        next(answer.iter_lines())
    until(lambda: model.closed == 1)
    made = model.made
    time.sleep(0.1)
    assert model.made == made < 1_000_000


def test_a_model_that_fails_ends_the_stream_with_an_error_event(
    generating: tuple[Running, CountingModel],
) -> None:
    running, _ = generating
    told = events_of(asked(running, row(1), row(-1), row(1)).text)
    assert [name for name, _ in told] == ["part", "prediction", "error"]
    assert told[-1][1]["code"] == "model-failed"
    assert "cannot count down" in told[-1][1]["detail"]
    assert running.meters.traffic("delays").failed == 1


def test_more_streams_than_the_endpoint_allows_are_told_to_come_back(
    generating: tuple[Running, CountingModel],
) -> None:
    running, model = generating
    limits = Limits(concurrency=1)
    running.activate(make_release("release_2", bundle="sha256:count", limits=limits))
    model.gate.clear()
    with running.client.stream(
        "POST", "/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina", "accept": "text/event-stream"},
        json={"inputs": [row(3)]},
    ) as answer:  # fmt: skip
        until(lambda: asked(running, row(0)).status_code == 503)
        refused = asked(running, row(0))
        assert (refused.headers["retry-after"], refused.json()["code"]) == ("1", "overloaded")
        model.gate.set()
        assert "event: end" in answer.read().decode()
    until(lambda: asked(running, row(1)).status_code == 200)


def test_a_model_that_does_not_generate_tells_an_event_for_each_row(
    generating: tuple[Running, CountingModel],
) -> None:
    running, _ = generating
    running.activate(make_release("release_2"))
    told = events_of(asked(running, row(1), row(2)).text)
    assert [name for name, _ in told] == ["prediction", "prediction", "end"]
    plain = running.predict({"inputs": [row(1), row(2)]}).json()["predictions"]
    assert [data["score"] for _, data in told[:2]] == [one["score"] for one in plain]


def test_what_is_wrong_before_the_first_event_is_a_plain_problem(
    generating: tuple[Running, CountingModel],
) -> None:
    running, _ = generating
    for answer, status in (
        (asked(running, {"a": 1}), 400),
        (asked(running, row(1), headers={"authorization": "Bearer nobody"}), 401),
        (asked(running, row(1), params={"explain": "features"}), 400),
        (asked(running, row(1), endpoint="nothing"), 404),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
