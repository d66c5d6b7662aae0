"""Service management for Prometheus: read from the records when it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from falaj.operations import tables
from falaj.operations.alerting_tables import alert_deliveries
from falaj.operations.model import (
    AlertState,
    ChangeState,
    DeliveryState,
    IncidentState,
    ProblemState,
)

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

    from falaj.kernel.clock import Clock
    from falaj.kernel.database import Database
    from falaj.operations.service_levels import ServiceLevels

_FAMILIES = {
    "alerts": ("Alerts that are not resolved.", ["alertname", "severity", "state"]),
    "incidents": ("Incidents that are not resolved.", ["priority", "acknowledged"]),
    "problems": ("Problems that are not resolved.", ["state"]),
    "changes": ("Changes that wait for a decision or a review.", ["type", "state"]),
    "alert_messages": ("Messages to receivers that wait, or were given up.", ["receiver", "state"]),
    "service_level_objective": ("The share of requests that is to be good.", ["level", "endpoint"]),
    "service_level_attained": ("The share of good requests in its window.", ["level", "endpoint"]),
    "error_budget_left": (
        "The share of the window's error budget that is left; below 0 it is overspent.",
        ["level", "endpoint"],
    ),
    "burn_rate": (
        "How many times too fast the error budget is spent.",
        ["level", "endpoint", "hours", "window"],
    ),
}


class OperationsMetrics:
    """Alerts, incidents, problems, changes and error budgets, as a collector.

    Args:
        database: where they are kept.
        levels: the service levels.
        clock: tells the time.
    """

    def __init__(self, database: Database, levels: ServiceLevels, clock: Clock) -> None:
        self._database = database
        self._levels = levels
        self._clock = clock

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without values, so that making them reads nothing."""
        return list(_families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every metric as it stands."""
        families = _families()
        with self._database.reading() as connection:
            self._records(connection, families)
            self._budgets(connection, families)
        yield from families.values()

    @staticmethod
    def _records(connection: Connection, families: dict[str, GaugeMetricFamily]) -> None:
        incidents = tables.incidents.c
        _count(connection, families["alerts"], tables.alerts, ["name", "severity", "state"],
               ("state", [AlertState.OPEN, AlertState.ACKNOWLEDGED]))  # fmt: skip
        listed = select(incidents.priority, incidents.acknowledged_at).where(
            incidents.state == IncidentState.OPEN
        )
        counted = Counter(
            (str(row.priority), "no" if row.acknowledged_at is None else "yes")
            for row in connection.execute(listed)
        )
        for (priority, acknowledged), n in sorted(counted.items()):
            families["incidents"].add_metric([priority, acknowledged], n)
        _count(connection, families["problems"], tables.problems, ["state"],
               ("state", [ProblemState.OPEN, ProblemState.KNOWN_ERROR]))  # fmt: skip
        _count(connection, families["changes"], tables.changes, ["type", "state"],
               ("state", [ChangeState.WAITING, ChangeState.IN_REVIEW]))  # fmt: skip
        _count(connection, families["alert_messages"], alert_deliveries, ["receiver", "state"],
               ("state", [DeliveryState.WAITING, DeliveryState.DEAD]))  # fmt: skip

    def _budgets(self, connection: Connection, families: dict[str, GaugeMetricFamily]) -> None:
        for level in self._levels.statuses(connection, self._clock.now()):
            names = [level.name, level.endpoint]
            families["service_level_objective"].add_metric(names, level.objective)
            families["error_budget_left"].add_metric(names, level.budget_left)
            if level.attained is not None:
                families["service_level_attained"].add_metric(names, level.attained)
            for burn in level.burns:
                hours = f"{burn.hours:g}"
                families["burn_rate"].add_metric([*names, hours, "long"], burn.long_rate)
                families["burn_rate"].add_metric([*names, hours, "short"], burn.short_rate)


def _families() -> dict[str, GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    return {
        name: GaugeMetricFamily(f"falaj_{name}", told, labels=labels)
        for name, (told, labels) in _FAMILIES.items()
    }


def _count(
    connection: Connection,
    family: GaugeMetricFamily,
    table: Table,
    labels: list[str],
    only: tuple[str, list[str]],
) -> None:
    """Add how many rows there are of each combination of labels, among those of ``only``."""
    columns = [table.c[name] for name in labels]
    name, values = only
    query = select(*columns, func.count()).where(table.c[name].in_(values)).group_by(*columns)
    for *found, n in connection.execute(query):
        family.add_metric([str(one) for one in found], n)
