from __future__ import annotations

import asyncio
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from tests.serving.fronts import GET, LIMIT, Echo, Served, heard, post, serving, until

from falaj.kernel.clock import SystemClock
from falaj.serving.front import (
    MOST_WAITING,
    Front,
    _Connection,
)
from falaj.trust.certificates import CertificateAuthority, ServerCertificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    authority = CertificateAuthority(tmp_path_factory.mktemp("tls"), clock=SystemClock())
    return authority.server_certificate(["127.0.0.1"])


@pytest.fixture(params=["clear text", "TLS"])
def served(request: pytest.FixtureRequest, certificate: ServerCertificate) -> Iterator[Served]:
    with serving(certificate if request.param == "TLS" else None) as made:
        yield made


class Patient(Echo):
    """Takes long bodies, and waits for them."""

    def reception(self, path: bytes) -> tuple[int, float]:
        return 1_000_000, 60.0


def test_a_body_in_many_small_pieces_takes_no_more_memory_than_its_bytes() -> None:
    n = 100_000
    answered: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: Any) -> None:
            answered.append(bytes(data))

        def is_closing(self) -> bool:
            return False

    async def sent() -> int:
        front = Front(Patient())
        connection = _Connection(front)
        connection.connection_made(Transport())
        connection.data_received(CHUNKED)
        connection.data_received(b"2\r\nxy\r\n" * 100)
        tracemalloc.start()
        try:
            for _ in range(n // 100):
                connection.data_received(b"2\r\nab\r\n" * 100)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        connection.data_received(b"0\r\n\r\n")
        assert isinstance(front.application, Patient)
        (request,) = front.application.asked
        assert type(request.body) is bytes
        assert request.body == b"xy" * 100 + b"ab" * n
        return held

    assert asyncio.run(sent()) < 2 * 2 * n
    assert b"".join(answered).startswith(b"HTTP/1.1 200 OK")


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n"
        b"0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\x01: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: one\r\nauthorization: two\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        CHUNKED + b"ffffffffffffffffff\r\n",
        CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\nabc\n0\n\n",
        CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n",
    ],
    ids=repr,
)
def test_what_two_servers_could_read_in_two_ways_is_refused(
    served: Served, request_: bytes
) -> None:
    told = served.say(request_ + GET)
    assert told.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), told
    assert told.count(b"HTTP/1.1 ") == 1, "what stands behind it must not be served"
    assert not served.echo.asked


def test_a_folded_header_does_not_become_another_header(served: Served) -> None:
    told = served.say(b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n authorization: b\r\n\r\n")
    assert not any(b"authorization" in request.headers for request in served.echo.asked)
    assert told


def test_a_trailer_is_no_header(served: Served) -> None:
    served.say(CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: b\r\ncontent-type: c\r\n\r\n")
    (request,) = served.echo.asked
    assert request.body == b"abc"
    assert not {b"authorization", b"content-type"} & set(request.headers)


def test_a_trailer_without_an_end_is_refused(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    for begun in (b"0\r\nx: ", b"1;x="):  # a trailer, an extension of a chunk
        with served.connected() as connection:
            connection.sendall(head + begun)
            time.sleep(0.05)
            connection.sendall(b"a" * 65_600)
            assert heard(connection).startswith(b"HTTP/1.1 431 ")
    assert served.echo.asked == []


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(post(b"1", path=b"/later") + post(b"2") + post(b"3", path=b"/raise"))
        connection.sendall(post(b"4"))
        until(lambda: len(served.echo.asked) == 4)
        served.do(served.echo.release.set)
        told = heard(connection)
    places = [told.index(b'"body": "%d"' % n) for n in (1, 2, 4)]
    assert places == sorted(places)
    assert places[1] < told.index(b"HTTP/1.1 500") < places[2]


def test_a_request_may_come_byte_by_byte(served: Served) -> None:
    with served.connected() as connection:
        for byte in post(b"abc"):
            connection.sendall(bytes([byte]))
        assert b'"body": "abc"' in heard(connection, 0.2)


def test_a_flood_of_pipelined_requests_is_answered_whole(served: Served) -> None:
    n = 3_000
    with served.connected() as connection:
        sender = threading.Thread(target=connection.sendall, args=(GET * n,))
        sender.start()
        told = heard(connection, 0.8)
        sender.join(5)
    assert told.count(b"HTTP/1.1 200") == n


@pytest.mark.parametrize("asked", [GET, post(b"x" * LIMIT)])
def test_what_waits_behind_a_slow_answer_is_bounded_though_it_is_answered_at_once(
    served: Served, asked: bytes
) -> None:
    with served.connected() as connection:
        connection.sendall(GET.replace(b"GET /", b"GET /later"))
        for _ in range(40):
            connection.sendall(asked * 10)
            time.sleep(0.002)
        until(lambda: len(served.echo.asked) > 1)
        time.sleep(0.1)
        # What was read together is taken together; then no more is read.
        assert len(served.echo.asked) < 2 * MOST_WAITING
        served.do(served.echo.release.set)
        assert heard(connection, 1.0).count(b"HTTP/1.1 200") == 401


def test_large_bodies_do_not_gather_behind_a_slow_answer() -> None:
    async def main() -> None:
        echo = Echo()
        echo.reception = lambda path: (1 << 20, 5.0)  # type: ignore[method-assign]
        bound = socket.create_server(("127.0.0.1", 0))
        front = Front(echo)
        await front.listen([bound])
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(GET.replace(b"GET /", b"GET /later"))
        writer.write(post(b"x" * 500_000) * 10)
        await asyncio.sleep(0.3)
        assert sum(len(one.body) for one in echo.asked) <= 1_000_000
        echo.release.set()
        told = b""
        while told.count(b"HTTP/1.1 200") < 11:
            told += await asyncio.wait_for(reader.read(1 << 20), 5)
        writer.close()
        await front.close(grace_seconds=0.1)

    asyncio.run(main())


def test_a_body_or_a_head_that_is_too_long_is_refused_once(served: Served) -> None:
    assert served.say(post(b"x" * (LIMIT + 1))).startswith(b"HTTP/1.1 413")
    part = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    told = served.say(CHUNKED + part * 3 + b"0\r\n\r\n" + GET)
    assert told.startswith(b"HTTP/1.1 413")
    assert told.count(b"HTTP/1.1 ") == 1
    long_path = served.say(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n")
    assert long_path.startswith(b"HTTP/1.1 414")
    many = b"".join(b"x%d: a\r\n" % n for n in range(150))
    assert served.say(b"GET / HTTP/1.1\r\n" + many + b"\r\n").startswith(b"HTTP/1.1 431")
    endless = served.say(b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000)
    assert endless.startswith(b"HTTP/1.1 431")
    assert not served.echo.asked


def test_slow_heads_and_bodies_are_ended_and_idle_connections_closed(served: Served) -> None:
    for start in (
        b"GET / HTTP/1.1\r\nx: ",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n",
    ):
        with served.connected() as connection:
            connection.sendall(start)
            begun, told = time.monotonic(), b""
            connection.settimeout(0.1)
            while not told and time.monotonic() < begun + 4:
                connection.sendall(b"a") if b"x: " in start else None
                try:
                    told = connection.recv(1_000)
                except TimeoutError:
                    continue
            assert told.startswith(b"HTTP/1.1 408"), told
    with served.connected() as connection:
        connection.sendall(GET)
        assert heard(connection, 4.0).startswith(b"HTTP/1.1 200")  # and then hangs up
    until(lambda: not served.front.connections)


def test_a_client_that_does_not_read_is_let_go(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n" * 20)
        until(lambda: len(served.front.connections) == 1 and bool(served.echo.asked))
        until(lambda: not served.front.connections, 8.0)


def test_a_client_that_says_no_more_still_gets_its_answer() -> None:
    # In clear text: over TLS a client that ends its half leaves nothing to answer with.
    with serving() as served:
        with served.connected() as connection:
            connection.sendall(post(b"1", path=b"/later"))
            connection.shutdown(socket.SHUT_WR)
            until(lambda: len(served.echo.asked) == 1)
            time.sleep(0.05)
            served.do(served.echo.release.set)
            assert b'"body": "1"' in heard(connection)
        until(lambda: not served.front.connections)


def test_a_client_that_has_gone_costs_nothing(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(post(b"1", path=b"/later"))
        until(lambda: len(served.echo.asked) == 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    until(lambda: not served.front.connections)
    served.do(served.echo.release.set)
    assert b"200 OK" in served.say(GET)


def test_an_expectation_is_met_before_the_body(served: Served) -> None:
    with served.connected() as connection:
        head, body = post(b"abc", b"expect: 100-continue").split(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b'"body": "abc"' in heard(connection, 0.3)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ],
    ids=repr,
)
def test_what_ends_a_connection_is_answered_and_then_ended(served: Served, request_: bytes) -> None:
    begun = time.monotonic()
    told = served.say(request_)
    assert told.startswith(b"HTTP/1.1 "), told
    assert b"connection: close" in told
    assert time.monotonic() - begun < 0.5


def test_many_idle_connections_do_not_hinder_others(served: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(400)]
    begun = time.monotonic()
    with served.connected() as connection:
        connection.sendall(GET)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - begun < 1.0
    for one in idle:
        one.close()


def test_requests_in_flight_are_answered_when_it_stops() -> None:
    async def main() -> bytes:
        bound = socket.create_server(("127.0.0.1", 0))
        echo = Echo()
        front = Front(echo)
        await front.listen([bound])
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(post(b"1", path=b"/later"))
        while not echo.asked:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(front.close(grace_seconds=5.0))
        await asyncio.sleep(0.05)
        echo.release.set()
        told = await reader.read()
        await closing
        writer.close()
        return told

    told = uvloop.run(main())
    assert b'"body": "1"' in told
    assert b"connection: close" in told


# -- heads that were read before -------------------------------------------------------


def test_the_same_head_again_brings_its_own_body(served: Served) -> None:
    with served.connected() as connection:
        for body in (b"one", b"two", b"six"):
            connection.sendall(post(body))
            assert body in heard(connection, 0.1)
    assert [request.body for request in served.echo.asked] == [b"one", b"two", b"six"]
    heads = {id(request.head) for request in served.echo.asked}
    assert len(heads) == 1


def test_known_and_unknown_heads_pipelined_in_one_piece_are_answered_in_order(
    served: Served,
) -> None:
    known = post(b"abc", path=b"/known")
    served.say(known)
    piece = known + post(b"xyz", path=b"/new") + known + CHUNKED + b"3\r\nqqq\r\n0\r\n\r\n" + known
    told = served.say(piece)
    paths = [request.path for request in served.echo.asked[1:]]
    assert paths == [b"/known", b"/new", b"/known", b"/", b"/known"]
    assert told.count(b"HTTP/1.1 200") == 5
    bodies = [request.body for request in served.echo.asked[1:]]
    assert bodies == [b"abc", b"xyz", b"abc", b"qqq", b"abc"]


def test_a_known_head_whose_body_comes_in_pieces_is_one_request(served: Served) -> None:
    served.say(post(b"abc"))
    whole = post(b"def")
    for cut in (5, len(whole) - 2, len(whole) - 1):
        with served.connected() as connection:
            connection.sendall(whole[:cut])
            time.sleep(0.02)
            connection.sendall(whole[cut:] + whole)
            assert heard(connection, 0.2).count(b"HTTP/1.1 200") == 2
    assert {request.body for request in served.echo.asked[1:]} == {b"def"}


def test_behind_a_request_that_closes_nothing_is_read_though_its_head_is_known(
    served: Served,
) -> None:
    known = post(b"abc")
    served.say(known)
    told = served.say(post(b"xyz", b"connection: close") + known)
    assert told.count(b"HTTP/1.1 200") == 1
    assert [request.body for request in served.echo.asked] == [b"abc", b"xyz"]
