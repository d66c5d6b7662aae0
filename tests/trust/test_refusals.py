"""Refused requests: the first at once, then sums, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Forbidden, InvalidInput, Unauthenticated, Unavailable
from falaj.kernel.ports import AuditEntry, Outcome
from falaj.testing.installations import eventually
from falaj.trust.model import InvalidToken
from falaj.trust.refusals import FRONT, OTHERS, Refusals

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Kept:
    """Keeps entries in memory, unless its disk is full."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.full = False

    def __call__(self, entries: Sequence[AuditEntry]) -> None:
        if self.full:
            raise Unavailable("The disk is full.")
        self.entries += entries

    def told(self) -> list[tuple[str | None, tuple[str, ...], int]]:
        return [(one.address, one.reasons, one.details["n"]) for one in self.entries]


def made(kept: Kept, **settings: int) -> tuple[Refusals, SetClock]:
    """Refusals without a thread: the tests say when it looks."""
    clock = SetClock(NOW)
    refusals = Refusals(kept, clock=clock, via="http", **settings)
    refusals._begin = lambda: None  # type: ignore[method-assign]
    return refusals, clock


def test_the_first_of_an_address_and_a_reason_is_recorded_at_once() -> None:
    kept = Kept()
    refusals = Refusals(kept, clock=SetClock(NOW), via="http")
    refusals.told(Unauthenticated("No token."), "10.0.0.9", "GET /api/models")
    refusals.close()
    (entry,) = kept.entries
    assert (entry.action, entry.outcome, entry.principal) == (
        "auth.token",
        Outcome.REFUSED,
        "unknown",
    )
    assert (entry.address, entry.reasons) == ("10.0.0.9", ("unauthenticated",))
    assert entry.details == {"message": "No token.", "n": 1, "asked": "GET /api/models"}


def test_later_ones_are_recorded_as_a_sum() -> None:
    kept = Kept()
    refusals, clock = made(kept)
    error = InvalidToken("It has expired.")
    refusals.told(error, "10.0.0.9", "GET /a")
    refusals.flush(sums=False)
    for _ in range(5):
        clock.move(timedelta(seconds=1))
        refusals.told(error, "10.0.0.9", "GET /b")
        refusals.flush(sums=False)
    assert kept.told() == [("10.0.0.9", ("invalid-token",), 1)]
    refusals.flush(sums=True)
    assert kept.told()[1:] == [("10.0.0.9", ("invalid-token",), 5)]
    assert kept.entries[1].at == NOW + timedelta(seconds=5)
    assert kept.entries[1].details["since"] == (NOW + timedelta(seconds=1)).isoformat()
    refusals.flush(sums=True)
    assert len(kept.entries) == 2


def test_each_reason_and_each_address_is_a_first_one() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    for address in ("10.0.0.1", "10.0.0.2"):
        refusals.told(Unauthenticated("No token."), address, "GET /")
        refusals.told(InvalidToken("It was revoked."), address, "GET /")
    refusals.flush(sums=False)
    assert len(kept.entries) == 4


def test_memory_is_bounded_whatever_strangers_send() -> None:
    kept = Kept()
    refusals, _ = made(kept, most=10)
    for number in range(500):
        refusals.told(Unauthenticated("No token."), f"10.0.{number // 250}.{number % 250}", "GET /")
    assert len(refusals._counts) == 11
    refusals.flush(sums=True)
    assert sum(n for _, _, n in kept.told()) == 500
    assert kept.told()[-1] == (OTHERS, ("unauthenticated",), 490)


def test_the_addresses_of_one_ipv6_customer_count_as_one() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    for number in range(1, 50):
        refusals.told(Unauthenticated("No token."), f"2001:db8:1:2::{number:x}", "GET /")
    refusals.flush(sums=True)
    assert kept.told() == [("2001:db8:1:2::/64", ("unauthenticated",), 49)]


def test_what_cannot_be_recorded_stays_counted() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    kept.full = True
    refusals.told(Unauthenticated("No token."), "10.0.0.9", "GET /")
    refusals.flush(sums=False)
    refusals.told(Unauthenticated("No token."), "10.0.0.9", "GET /")
    kept.full = False
    refusals.flush(sums=True)
    assert kept.told() == [("10.0.0.9", ("unauthenticated",), 2)]


def test_who_was_quiet_for_a_round_is_forgotten() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    refusals.told(Unauthenticated("No token."), "10.0.0.9", "GET /")
    refusals.flush(sums=True)
    refusals.flush(sums=True)
    assert refusals._counts == {}


def test_other_errors_are_not_counted() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    refusals.told(Forbidden("No."), "10.0.0.9", "GET /")
    refusals.flush(sums=True)
    assert kept.entries == []


def test_what_the_front_turned_away_is_recorded_with_who_asked() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    deep = InvalidInput("Too deep.", refused="body-too-deep")
    refusals.turned_away(deep, "10.0.0.9", "POST /auth/login")
    refusals.turned_away(deep, "10.0.0.9", "POST /api/jobs", principal="user:eve")
    refusals.turned_away(Forbidden("No."), "10.0.0.9", "POST /login")
    refusals.flush(sums=False)
    told = [(one.action, one.principal, one.reasons) for one in kept.entries]
    assert told == [
        (FRONT, "unknown", ("body-too-deep",)),
        (FRONT, "user:eve", ("body-too-deep",)),
        (FRONT, "unknown", ("forbidden",)),
    ]
    assert kept.entries[1].details["asked"] == "POST /api/jobs"


def test_texts_that_a_stranger_makes_differ_are_one_kind() -> None:
    kept = Kept()
    refusals, _ = made(kept)
    for number in range(50):
        error = InvalidInput(f"Not JSON at {number}.", refused="body-unreadable")
        refusals.told(error, "10.0.0.9", f"POST /{number}")
    refusals.flush(sums=True)
    (entry,) = kept.entries
    assert (entry.details["n"], entry.details["message"]) == (50, "Not JSON at 0.")


def test_sums_come_although_new_ones_keep_coming() -> None:
    """A stranger with many addresses does not put the sums off for ever."""
    kept = Kept()
    refusals = Refusals(kept, clock=SetClock(NOW), via="http", sum_seconds=0.05)
    number = 0

    def summed() -> bool:
        nonlocal number
        number += 1
        for address in ("10.0.0.9", f"10.1.{number // 250}.{number % 250}"):
            refusals.told(Unauthenticated("No token."), address, "GET /")
        return any("since" in one.details for one in kept.entries)

    eventually(summed, seconds=10, every=0.005)
    refusals.close()


def test_sums_come_later_while_a_crowd_asks() -> None:
    kept = Kept()
    refusals, _ = made(kept, most=3, sum_seconds=60)
    pauses = []
    for number in range(20):
        refusals.told(Unauthenticated("No token."), f"10.0.0.{number}", "GET /")
    for _ in range(8):
        pauses.append(refusals.pause)
        refusals.flush(sums=True)
        refusals.told(Unauthenticated("No token."), "10.0.0.1", "GET /")
        for number in range(20):
            refusals.told(Unauthenticated("No token."), f"10.0.0.{number}", "GET /")
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    refusals.flush(sums=True)
    refusals.flush(sums=True)
    refusals.flush(sums=True)
    assert refusals.pause == 60
