"""What Prometheus reads of rollouts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import DateTime, Integer, insert

from falaj.kernel.database import Database, Instant
from falaj.rollouts.exposed import RolloutMetrics
from falaj.rollouts.tables import runs


def _row(name: str, **given: Any) -> dict[str, Any]:
    """A run in which only what is given says something."""
    row: dict[str, Any] = {}
    for column in runs.columns:
        if column.nullable:
            continue
        if isinstance(column.type, Instant | DateTime):
            row[column.name] = datetime(2026, 11, 30, tzinfo=UTC)
        else:
            row[column.name] = 0 if isinstance(column.type, Integer) else "0"
    return row | {"id": name, "name": name, "endpoint": "late", **given}


def test_open_rollouts_are_told_with_their_state_and_shares(database: Database) -> None:
    shares = {"champion": 0.9, "challenger": 0.1}
    with database.transaction() as connection:
        for one in (
            _row("canary", state="running", shares=shares, open_key="late"),
            _row("old", state="rolled_back", shares=shares, open_key=None),
        ):
            connection.execute(insert(runs).values(one))
    registry = CollectorRegistry()
    registry.register(RolloutMetrics(database))
    told = generate_latest(registry).decode()
    assert 'falaj_rollouts{endpoint="late",rollout="canary",state="running"} 1.0' in told
    share = 'falaj_rollout_share{endpoint="late",rollout="canary",variant="challenger"} 0.1'
    assert share in told
    assert "old" not in told
