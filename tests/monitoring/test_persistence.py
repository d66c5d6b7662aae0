from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from falaj.kernel.database import Database
from falaj.monitoring import persistence
from falaj.monitoring.driftwords import Finding
from falaj.monitoring.tables import checks, findings

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def of(column: str) -> Finding:
    return Finding(name="drift", column=column, numbers={"psi": 0.3}, sentence=f"{column} moved.")


class Kept:
    def __init__(self, database: Database) -> None:
        self.database = database

    def window(
        self, number: float, *columns: str, length: timedelta = HOUR, bundle: str = "b1"
    ) -> None:
        until = START + number * HOUR
        with self.database.transaction() as connection:
            persistence.keep(
                connection, "watch", until - length, until, [of(one) for one in columns],
                at=until, bundle=bundle, of_last=3,
            )  # fmt: skip

    def lasting(self, number: float, needed: int, of_last: int, bundle: str = "b1") -> set[str]:
        with self.database.reading() as connection:
            return persistence.lasting(
                connection, "watch", START + number * HOUR,
                needed=needed, of_last=of_last, bundle=bundle,
            )  # fmt: skip

    def in_a_row(self) -> dict[str, tuple[int, datetime]]:
        with self.database.reading() as connection:
            found = persistence.in_a_row(connection, "watch")
        return {one.column: (one.windows, one.since) for one in found}


@pytest.fixture
def kept(sqlite_database: Database) -> Kept:
    return Kept(sqlite_database)


def test_what_is_found_in_two_of_three_windows_lasts_and_what_is_gone_does_not(kept: Kept) -> None:
    kept.window(1, "a", "b")
    assert kept.lasting(1, 2, 3) == set()
    assert kept.lasting(1, 1, 1) == {"drift-a", "drift-b"}
    kept.window(2)
    kept.window(3, "a")
    assert kept.lasting(3, 2, 3) == {"drift-a"}
    assert kept.lasting(3, 2, 2) == set()
    kept.window(4)
    assert kept.lasting(4, 2, 4) == set()


def test_a_window_that_is_checked_again_counts_once(kept: Kept) -> None:
    for _ in range(3):
        kept.window(1, "a")
    assert kept.lasting(1, 2, 3) == set()
    kept.window(2, "a", "a")
    assert kept.lasting(2, 2, 3) == {"drift-a"}
    kept.window(2)
    assert kept.lasting(2, 1, 3) == set()


def test_an_older_window_is_judged_by_those_before_it(kept: Kept) -> None:
    kept.window(1, "a")
    kept.window(3, "a")
    kept.window(2, "a")
    assert kept.lasting(2, 2, 2) == {"drift-a"}


def test_windows_that_overlap_count_once(kept: Kept) -> None:
    day = 24 * HOUR
    for number in range(24, 48):
        kept.window(number, "a", length=day)
        assert kept.lasting(number, 2, 3) == set()
    kept.window(48, "a", length=day)
    assert kept.lasting(48, 2, 3) == {"drift-a"}


def test_what_the_version_before_showed_does_not_count(kept: Kept) -> None:
    kept.window(1, "a", bundle="b1")
    kept.window(2, "a", bundle="b1")
    kept.window(3, "a", bundle="b2")
    assert kept.lasting(3, 2, 3, bundle="b2") == set()
    kept.window(4, "a", bundle="b2")
    assert kept.lasting(4, 2, 3, bundle="b2") == {"drift-a"}


def test_checks_that_are_close_to_each_other_keep_few_rows_and_lose_no_window(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence, "WINDOWS_KEPT", 3)
    monkeypatch.setattr(persistence, "_DENSE", 4)
    day = 24 * HOUR
    for number in range(24, 144):
        kept.window(number, "a", length=day)
    with kept.database.reading() as connection:
        rows = connection.execute(select(func.count()).select_from(checks)).scalar()
    assert rows is not None and rows < 40
    assert kept.lasting(143, 3, 3) == {"drift-a"}


def test_old_windows_are_forgotten(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "WINDOWS_KEPT", 3)
    for number in range(9):
        kept.window(number, "a")
    with kept.database.reading() as connection:
        for table in (checks, findings):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 4


def test_windows_in_a_row_are_counted_back_to_the_first_without_the_finding(kept: Kept) -> None:
    assert kept.in_a_row() == {}
    for number, found in enumerate([("a", "b"), ("a",), ("a", "b"), ("a", "b", "c")], 1):
        kept.window(number, *found)
    assert kept.in_a_row() == {
        "a": (4, START),
        "b": (2, START + 2 * HOUR),
        "c": (1, START + 3 * HOUR),
    }
    kept.window(5)
    assert kept.in_a_row() == {}


def test_windows_that_overlap_or_are_of_another_version_are_not_in_a_row(kept: Kept) -> None:
    kept.window(1, "a", bundle="b0")
    kept.window(2, "a")
    kept.window(2.5, "a")
    kept.window(3.5, "a")
    assert kept.in_a_row() == {"a": (2, START + 1.5 * HOUR)}
