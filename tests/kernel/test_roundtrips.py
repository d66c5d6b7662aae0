"""Statements that go out together, and connections that were idle."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from falaj.kernel import database as databases
from falaj.kernel.database import Database
from falaj.kernel.errors import Unavailable
from falaj.kernel.statements import Statement, all_together

ONE = Statement("SELECT 1 + ?")
TWO = Statement("SELECT ?, 'two'")
WRONG = Statement("SELECT nothing FROM nowhere_at_all WHERE x = ?")


def test_statements_together_give_each_its_own_rows(database: Database) -> None:
    with database.reading() as connection:
        assert all_together(connection, [(ONE, (2,)), (TWO, (7,)), (ONE, (5,))]) == [
            [(3,)],
            [(7, "two")],
            [(6,)],
        ]


def test_one_that_is_wrong_is_told_as_any_statement(database: Database) -> None:
    with pytest.raises((DBAPIError, Unavailable)), database.reading() as connection:
        all_together(connection, [(ONE, (2,)), (WRONG, (7,)), (ONE, (5,))])
    with database.reading() as connection:
        assert ONE.all(connection, (1,)) == [(2,)]


def cut(postgres_database: Database) -> None:
    """End the server's side of every other connection, as a restart does."""
    with postgres_database.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )


def test_a_connection_that_died_while_it_was_idle_is_replaced(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_ASKED_AFTER_SECONDS", 0.0)
    other = Database(postgres_database.url.render_as_string(hide_password=False))
    try:
        with other.transaction() as connection:
            ONE.all(connection, (1,))
        cut(postgres_database)
        with other.transaction() as connection:
            assert ONE.all(connection, (1,)) == [(2,)]
    finally:
        other.close()


def test_one_that_died_a_moment_ago_fails_one_call_that_may_be_repeated(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_ASKED_AFTER_SECONDS", 3600.0)
    other = Database(postgres_database.url.render_as_string(hide_password=False))
    try:
        with other.transaction() as connection:
            connection.execute(text("SELECT 1"))
        cut(postgres_database)
        with pytest.raises(Unavailable) as caught, other.transaction() as connection:
            connection.execute(text("SELECT 1"))
        assert caught.value.retryable
        with other.transaction() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    finally:
        other.close()
