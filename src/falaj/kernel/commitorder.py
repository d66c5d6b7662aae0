"""The order of commits: transactions that number rows without gaps or losses take turns.

A sequence of PostgreSQL gives numbers when rows are inserted, not when they are committed: a
reader that keeps its place by number would pass over a row whose transaction is still under way.
Whoever numbers rows that are read in order therefore waits for its turn first, and keeps it
until its transaction ends. There is one turn for the whole database, so that two transactions
never wait for each other in a circle because of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.statements import Statement

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

TURN = "SELECT pg_advisory_xact_lock(5279742041164669281)"
"""Takes the turn on PostgreSQL; to take it again in the same transaction changes nothing."""
_TURN = Statement(TURN)


def take_turn(connection: Connection) -> None:
    """Wait until no other transaction has the turn, and keep it until this one ends.

    Take it when all other rows of the transaction are written: what is locked after it may be
    locked by one that waits for the turn. On SQLite a transaction has its turn from the start.
    """
    if connection.dialect.name == "postgresql":
        _TURN.first(connection)
