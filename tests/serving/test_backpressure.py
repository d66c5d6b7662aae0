"""Refused clients rest, so that refusing them costs a small share of a worker."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

import pytest

from falaj.serving.backpressure import BackPressure
from falaj.serving.front import Front, Request, Response, Told


class HandLoop:
    """An event loop whose clock is moved by hand; between two moves it reads once."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.reading: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., Any], *values: Any) -> None:
        self.soon.append((call, values))

    def call_at(self, when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        heapq.heappush(self.timers, (when, len(self.timers), call))
        return object()  # type: ignore[return-value]

    def move(self, seconds: float) -> None:
        """One round: timers that are due, what was to be called soon, then what can be read."""
        self.now += seconds
        while self.timers and self.timers[0][0] <= self.now:
            heapq.heappop(self.timers)[2]()
        for _ in range(2):
            soon, self.soon = self.soon, []
            for call, values in soon:
                call(*values)
            if not _:
                self.reading()


class Client:
    """A connection that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def rest(self) -> None:
        self.told.append("rest")

    def wake(self) -> None:
        self.told.append("wake")

    def rested(self) -> None:
        self.told.append("rested")


@pytest.fixture
def loop() -> HandLoop:
    return HandLoop()


def pressure(loop: HandLoop) -> BackPressure:
    return BackPressure(loop)  # type: ignore[arg-type]


def test_who_is_refused_now_and_then_is_read_at_once(loop: HandLoop) -> None:
    made, client = pressure(loop), Client()
    for _ in range(100):
        made.refused(client, 1_000)
        loop.move(0.01)
    assert client.told == []


def test_the_first_refusal_of_a_client_is_only_counted(loop: HandLoop) -> None:
    made, spared, client = pressure(loop), Client(), Client()
    for _ in range(1_000):
        made.refused(spared, 0, again=False)
    assert spared.told == []
    made.refused(client, 0)
    assert client.told == ["rest"]  # those before it have used up the share


def test_all_refusals_together_take_a_twentieth_of_the_time(loop: HandLoop) -> None:
    made = pressure(loop)
    clients = [Client() for _ in range(1_500)]
    for client in clients:
        made.refused(client, 0)
    for _ in range(20):
        loop.move(0.02)  # the loop is busy: its timers are late
    woken = sum("wake" in one.told for one in clients)
    assert made.n_resting == sum(one.told == ["rest"] for one in clients)
    assert woken == pytest.approx(0.4 * 0.05 / 25e-6, rel=0.05)  # of 0.4 s, a twentieth


def test_a_large_request_counts_for_more_than_a_small_one(loop: HandLoop) -> None:
    small, large = pressure(loop), pressure(loop)
    for _ in range(200):
        small.refused(Client(), 0)
        large.refused(Client(), 100_000)
    assert large.n_resting > small.n_resting


def test_they_wake_in_the_order_in_which_they_were_refused(loop: HandLoop) -> None:
    made, woken = pressure(loop), []

    class Noted(Client):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def wake(self) -> None:
            woken.append(self.number)

    for number in range(500):
        made.refused(Noted(number), 0)
    while made.n_resting:
        loop.move(0.02)
    assert woken == sorted(woken)
    assert woken


def test_nobody_rests_longer_than_retry_after_says(loop: HandLoop) -> None:
    made = pressure(loop)
    for _ in range(100_000):
        made.refused(Client(), 0)
    for _ in range(51):
        loop.move(0.02)
    assert made.n_resting == 0


def test_when_the_loop_has_nothing_to_do_they_wake_before_their_turn(loop: HandLoop) -> None:
    late = HandLoop()
    idle, busy = pressure(loop), pressure(late)
    for made in (idle, busy):
        for _ in range(3_000):
            made.refused(Client(), 0)
    for _ in range(40):
        loop.move(0.005)
        late.move(0.007)
    assert idle.n_resting < busy.n_resting - 400


def test_a_busy_loop_that_is_on_time_now_and_then_wakes_nobody_before_their_turn(
    loop: HandLoop,
) -> None:
    made = pressure(loop)
    clients = [Client() for _ in range(1_500)]
    for client in clients:
        made.refused(client, 0)
    begun = loop.now
    for late in (0.0, 0.003, 0.0, 0.0, 0.002, 0.0, 0.0, 0.0, 0.004) * 6:
        loop.move(0.005 + late)
    woken = sum("wake" in one.told for one in clients)
    assert woken == pytest.approx((loop.now - begun) * 0.05 / 25e-6, rel=0.05)


def test_what_waited_in_the_kernel_is_read_before_it_is_told_that_all_is_read(
    loop: HandLoop,
) -> None:
    made, client = pressure(loop), Client()
    loop.reading = lambda: client.told.append("read")
    for _ in range(100):
        made.refused(Client(), 0)
    made.refused(client, 0)
    while "rested" not in client.told:
        loop.move(0.02)
    assert client.told[-3:] == ["wake", "read", "rested"]


class Full:
    """An application that has no room for anybody, and notes who had waited to be read."""

    def __init__(self) -> None:
        self.rested: list[float] = []

    def __call__(self, request: Request) -> Told:
        self.rested.append(request.rested)
        return Response(b"later", 503, more={b"retry-after": b"1"})

    def reception(self, path: bytes) -> tuple[int, float]:
        return 1_000_000, 5.0

    def refusal(self, path: bytes, status: int, message: str) -> Response:
        return Response(b"", status)

    def failure(self, path: bytes, error: BaseException, client: str) -> Response:
        return Response(b"", 500)

    def begin(self, request: Request) -> None: ...

    def answered(self, request: Request, answer: Response, client: str) -> bytes:
        return b""

    def drain(self) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


ASKED = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"


async def crowded(n_clients: int, n_requests: int) -> tuple[list[bytes], list[float], int]:
    """What clients are told who ask again at once; who had waited; the most who rested."""
    import socket

    application = Full()
    front = Front(application)
    listening = socket.create_server(("127.0.0.1", 0))
    await front.listen([listening])
    most = 0

    async def client() -> list[bytes]:
        nonlocal most
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        found = []
        for _ in range(n_requests):
            writer.write(ASKED)
            head = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"later"
            found.append(head.partition(b"\r\n")[0])
            most = max(most, front.pressure.n_resting)
        writer.close()
        return found

    found = await asyncio.gather(*(client() for _ in range(n_clients)))
    await front.close()
    return [one for each in found for one in each], application.rested, most


def test_a_crowd_that_asks_again_at_once_rests_and_everybody_is_answered() -> None:
    answers, rested, most = asyncio.run(crowded(100, 10))
    assert answers == [b"HTTP/1.1 503 Service Unavailable"] * 1_000
    assert most > 0
    assert any(rested)  # some asked while they rested: the application knows since when


class Every(Full):
    """Refuses as ``answers`` says, then goes on refusing."""

    def __init__(self, answers: str) -> None:
        super().__init__()
        self._answers = iter(answers)

    def __call__(self, request: Request) -> Told:
        return b"taken" if next(self._answers, "-") == "+" else super().__call__(request)


async def rests_after(answers: str) -> list[bool]:
    """After each answer, whether the connection rests; the share of refusals is used up."""
    import socket

    front = Front(Every(answers))
    listening = socket.create_server(("127.0.0.1", 0))
    await front.listen([listening])
    for _ in range(10_000):
        front.pressure.refused(Client(), 0, again=False)
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    found = []
    for _ in answers:
        writer.write(ASKED)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(5)
        found.append(front.pressure.n_resting == 1)
    writer.close()
    await front.close()
    return found


def test_a_client_that_is_answered_in_between_is_not_kept_waiting() -> None:
    assert asyncio.run(rests_after("-+-+-+-+")) == [False] * 8


def test_a_client_rests_for_every_second_refusal_in_a_row() -> None:
    assert asyncio.run(rests_after("----")) == [False, True, False, True]


def test_a_front_that_closes_does_not_wait_for_those_who_rest() -> None:
    async def main() -> None:
        front = Front(Full())
        client = Client()
        for _ in range(100):
            front.pressure.refused(client, 0)
        assert front.pressure.n_resting > 0
        await front.close()
        assert front.pressure.n_resting == 0

    asyncio.run(main())
