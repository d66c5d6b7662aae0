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
from falaj.kernel.ports import Decision
from falaj.serving.admission import Admission
from falaj.serving.credentials import Credentials
from falaj.testing.serving import make_caller
from falaj.trust.bindings import NOTHING, Presented


class Body:
    """What a request holds."""


class NobodyKnown:
    """Refuses every token."""

    asked = 0

    def verify(self, token: str, _presented: Presented = NOTHING) -> Caller:
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
        await admission.admitted(Credentials(b"Bearer wrong"), "fraud", {})

    def asked_again(body: Body) -> None:
        held.append(weakref.ref(body))
        admission.remembered(Credentials(b"Bearer wrong"), "fraud", time.perf_counter())

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
            asyncio.run(admission.admitted(Credentials(header), "fraud", {}))
        assert admission.remembered(Credentials(header), "fraud", time.perf_counter()) is None


class BoundTokens:
    """Lets in who shows the certificate that the token names."""

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller:
        if presented.certificate != token:
            raise Unauthenticated("It is another's token.")
        return make_caller("service:ci")


class Everything:
    """Permits whatever is asked."""

    def decide(self, *_asked: Any, **_more: Any) -> Decision:
        return Decision(True, ())


def test_what_was_admitted_on_one_connection_is_not_admitted_on_that_of_another() -> None:
    policy: Any = Everything()
    with ThreadPoolExecutor(1) as aside:
        admission = Admission(BoundTokens(), policy, aside)
        mine, without, thief = (Credentials(b"Bearer mine", one) for one in ("mine", None, "other"))
        assert asyncio.run(admission.admitted(mine, "fraud", {})) == "service:ci"
        assert admission.remembered(mine, "fraud", time.perf_counter()) == "service:ci"
        for stolen in (without, thief):
            assert admission.remembered(stolen, "fraud", time.perf_counter()) is None
            with pytest.raises(Unauthenticated):
                asyncio.run(admission.admitted(stolen, "fraud", {}))
        assert admission.remembered(mine, "fraud", time.perf_counter()) == "service:ci"


def test_a_signed_request_is_told_that_workers_take_none(admission: Admission) -> None:
    with pytest.raises(Unauthenticated, match="signed"):
        asyncio.run(admission.admitted(Credentials(b"DPoP a.b.c"), "fraud", {}))


class Slow:
    """Verifies every token, as slowly as it is told to, and counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = 0

    def verify(self, token: str, _presented: Presented = NOTHING) -> Caller:
        self.asked += 1
        time.sleep(self.seconds)
        if token == "wrong":
            raise Unauthenticated("It is no token.")
        return make_caller(f"service:{token}")


async def all_of(admission: Admission, *tokens: str, endpoint: str = "fraud") -> list[Any]:
    asked = [
        admission.admitted(Credentials(f"Bearer {token}".encode()), endpoint, {})
        for token in tokens
    ]
    return await asyncio.gather(*asked, return_exceptions=True)


def slow(seconds: float, threads: int = 4) -> tuple[Admission, Slow, ThreadPoolExecutor]:
    policy: Any = Everything()
    verifier, aside = Slow(seconds), ThreadPoolExecutor(threads)
    return Admission(verifier, policy, aside), verifier, aside


def test_requests_that_ask_the_same_at_once_wait_for_one_decision() -> None:
    admission, verifier, aside = slow(0.02)
    with aside:
        answers = asyncio.run(all_of(admission, *["ci"] * 50, *["other"] * 50))
    assert answers == ["service:ci"] * 50 + ["service:other"] * 50
    assert verifier.asked == 2


def test_each_of_those_who_are_refused_together_is_told_so() -> None:
    admission, verifier, aside = slow(0.02)
    with aside:
        answers = asyncio.run(all_of(admission, *["wrong"] * 10))
    assert [type(one) for one in answers] == [Unauthenticated] * 10
    assert len({id(one) for one in answers}) == 10
    assert verifier.asked == 1


def test_who_goes_away_takes_nobodys_decision_along() -> None:
    admission, verifier, aside = slow(0.05)

    async def main() -> str:
        credentials = Credentials(b"Bearer ci")
        first = asyncio.ensure_future(admission.admitted(credentials, "fraud", {}))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(admission.admitted(credentials, "fraud", {}))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    with aside:
        assert asyncio.run(main()) == "service:ci"
    assert verifier.asked == 1


def test_a_decision_that_was_begun_too_long_ago_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("falaj.serving.admission.KEPT_SECONDS", 0.05)
    admission, verifier, aside = slow(0.2)

    async def main() -> None:
        first = asyncio.ensure_future(all_of(admission, "ci"))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, all_of(admission, "ci"))

    with aside:
        asyncio.run(main())
    assert verifier.asked == 2


def test_what_is_not_to_be_kept_is_decided_for_each() -> None:
    admission, verifier, aside = slow(0.01)

    async def main() -> None:
        credentials = Credentials(b"Bearer ci")
        await asyncio.gather(
            *(admission.asked(credentials, "x", lambda _: None, keep=False) for _ in range(3))
        )

    with aside:
        asyncio.run(main())
    assert verifier.asked == 3
