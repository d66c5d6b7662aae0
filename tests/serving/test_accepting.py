"""Connections that wait to be accepted are taken many at a time, each as the loop would."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import uvloop

from falaj.serving.accepting import Accepting


class Noted(asyncio.Protocol):
    """Answers what it is sent, and notes who has come and gone."""

    def __init__(self, here: set[Noted]) -> None:
        self._here = here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._here.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._here.discard(self)


Serving = Callable[[Accepting, socket.socket, set[Noted]], Awaitable[None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def served(request: pytest.FixtureRequest) -> Callable[[Serving], None]:
    """Runs something beside a listening socket on which ``Accepting`` serves."""

    def run(what: Serving) -> None:
        async def main() -> None:
            here: set[Noted] = set()
            loop = asyncio.get_running_loop()
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            accepting = Accepting(listener, lambda: Noted(here), loop)
            await accepting.start(backlog=512)
            await what(accepting, listener, here)
            accepting.close()

        made = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
        with asyncio.Runner(loop_factory=lambda: made) as runner:
            runner.run(main())

    return run


def test_a_crowd_is_accepted_in_a_few_turns(served: Callable[[Serving], None]) -> None:
    async def crowd(_: Accepting, listener: socket.socket, here: set[Noted]) -> None:
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(200)]  # no turn in between
        turns = 0
        while len(here) < 200:
            turns += 1
            assert turns < 30
            await asyncio.sleep(0)
        for one in clients:
            one.close()

    served(crowd)


def test_everybody_of_a_crowd_is_served(served: Callable[[Serving], None]) -> None:
    async def crowd(_: Accepting, listener: socket.socket, here: set[Noted]) -> None:
        async def asked(number: int) -> bytes:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"%d\n" % number)
            found = await reader.readline()
            writer.close()
            return found

        found = await asyncio.gather(*(asked(number) for number in range(150)))
        assert found == [b"%d\n" % number for number in range(150)]

    served(crowd)


@pytest.mark.parametrize("served", ["uvloop"], indirect=True)  # asyncio asks the listener's own
def test_small_answers_are_not_held_back(served: Callable[[Serving], None]) -> None:
    async def two(_: Accepting, listener: socket.socket, here: set[Noted]) -> None:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        while len(here) < 2:
            await asyncio.sleep(0)
        for one in here:
            raw = one.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for client in clients:
            client.close()

    served(two)


def test_who_has_gone_before_it_was_accepted_harms_nobody(
    served: Callable[[Serving], None],
) -> None:
    async def gone(_: Accepting, listener: socket.socket, here: set[Noted]) -> None:
        address = listener.getsockname()
        for number in range(100):
            one = socket.create_connection(address)
            if number % 2:  # with a reset rather than an end
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            one.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"here\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"here\n"
        writer.close()

    served(gone)


def test_when_it_is_closed_nobody_is_accepted(served: Callable[[Serving], None]) -> None:
    async def closed(accepting: Accepting, listener: socket.socket, here: set[Noted]) -> None:
        address = listener.getsockname()
        accepting.close()
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    served(closed)
