"""Rollouts for Prometheus: read from the records when it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.rollouts.tables import runs

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

    from falaj.kernel.database import Database


class RolloutMetrics:
    """The runs of rollouts that are open, and how they share traffic, as a collector."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without values, so that making them reads nothing."""
        return list(_families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A run that is open is 1 under its state; each of its variants has its share."""
        states, shares = _families()
        table = runs.c
        query = select(table.name, table.endpoint, table.state, table.shares)
        with self._database.reading() as connection:
            for row in connection.execute(query.where(table.open_key.is_not(None))):
                states.add_metric([row.name, row.endpoint, row.state], 1)
                for variant, share in row.shares.items():
                    shares.add_metric([row.name, row.endpoint, variant], float(share))
        yield states
        yield shares


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    return (
        GaugeMetricFamily(
            "falaj_rollouts",
            "Rollouts that are not over.",
            labels=["rollout", "endpoint", "state"],
        ),
        GaugeMetricFamily(
            "falaj_rollout_share",
            "The present share of a variant.",
            labels=["rollout", "endpoint", "variant"],
        ),
    )
