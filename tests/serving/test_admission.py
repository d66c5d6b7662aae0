from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from falaj.kernel.call import Caller
from falaj.kernel.errors import Unauthenticated
from falaj.serving.admission import Admission


class Body:
    """What a request holds."""


class NobodyKnown:
    """Refuses every token."""

    asked = 0

    def verify(self, token: str) -> Caller:
        self.asked += 1
        raise Unauthenticated(f"{len(token)} characters are no token.")


@pytest.fixture
def admission() -> Iterator[Admission]:
    with ThreadPoolExecutor(1) as aside:
        never: Any = None
        yield Admission(NobodyKnown(), never, aside)


def test_a_refusal_that_is_remembered_does_not_hold_the_request(admission: Admission) -> None:
    held: list[weakref.ref[Body]] = []

    async def asked(body: Body) -> None:
        held.append(weakref.ref(body))
        await admission.admitted(b"Bearer wrong", "fraud", {})

    def asked_again(body: Body) -> None:
        held.append(weakref.ref(body))
        admission.remembered(b"Bearer wrong", "fraud", time.perf_counter())

    with pytest.raises(Unauthenticated):
        asyncio.run(asked(Body()))
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="5 characters"):
            asked_again(Body())
    gc.collect()
    assert len(held) == 4
    assert [one() for one in held] == [None] * 4


def test_what_cannot_be_a_token_is_neither_asked_nor_remembered(admission: Admission) -> None:
    for header in (b"", b"Bearer " + b"x" * 60_000, b"Basic eHg6"):
        with pytest.raises(Unauthenticated):
            asyncio.run(admission.admitted(header, "fraud", {}))
        assert admission.remembered(header, "fraud", time.perf_counter()) is None
