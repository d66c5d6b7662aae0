"""Watches service levels: raises an alert while a budget burns too fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.operations.budgets import Burn, LevelStatus, Served, ServiceLevel, status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts
    from falaj.operations.ports import ServedSeries

WATCHER = "system:service-levels"
_PREFIX = "service-level."


class ServiceLevels:
    """The service levels of a platform.

    Args:
        definitions: where they are declared.
        series: what was served.
    """

    def __init__(self, definitions: Definitions, series: ServedSeries) -> None:
        self._definitions = definitions
        self._series = series

    def declared(self, connection: Connection) -> list[ServiceLevel]:
        """Those that are declared, by name."""
        listed = self._definitions.listed(connection, kind=ServiceLevel.kind)
        parsed = [self._definitions.parsed(one) for one in listed]
        return [one for one in parsed if isinstance(one, ServiceLevel)]

    def statuses(self, connection: Connection, now: datetime) -> list[LevelStatus]:
        """Each of them now."""
        return [self._status(connection, one, now) for one in self.declared(connection)]

    def status(self, connection: Connection, name: str, now: datetime) -> LevelStatus:
        """One of them now; raises NotFound."""
        level = self._definitions.definition(connection, ServiceLevel.kind, name)
        assert isinstance(level, ServiceLevel)  # noqa: S101 - its kind says so
        return self._status(connection, level, now)

    def _status(self, connection: Connection, level: ServiceLevel, now: datetime) -> LevelStatus:
        def counting(start: datetime, end: datetime) -> Served:
            return self._series.served(connection, level, start, end)

        return status(level, counting, now)


class BurnWatch:
    """Raises and resolves the alerts of service levels.

    Args:
        levels: as they stand.
        alerts: told of budgets that burn; an alert is about the endpoint.
        calls: opens the transactions, and tells the time.
    """

    def __init__(self, levels: ServiceLevels, alerts: Alerts, calls: Calls) -> None:
        self._levels = levels
        self._alerts = alerts
        self._calls = calls

    def run_once(self) -> int:
        """Raise and resolve what is due; returns how many alerts were touched."""
        touched = 0
        with self._calls.database.reading() as connection:
            found = self._levels.statuses(connection, self._calls.now())
        for level in found:
            for burn in level.burns:
                touched += self._told(level, burn)
        return touched + self._cleared(found)

    def _cleared(self, found: Sequence[LevelStatus]) -> int:
        """Resolve the alerts that no level declares any more: nothing else would end them."""
        declared = {
            (alert_name(level.name, burn.hours), AssetRef("endpoint", level.endpoint))
            for level in found
            for burn in level.burns
        }
        with self._calls.database.reading() as connection:
            unresolved = self._alerts.unresolved(connection)
        stale = [
            one
            for one in unresolved
            if one.name.startswith(_PREFIX) and (one.name, one.subject) not in declared
        ]
        for one in stale:
            with self._calls.opened(
                "service_levels.watch", WATCHER, resource=str(one.subject)
            ) as call:
                self._alerts.clear(
                    call,
                    name=one.name,
                    subject=one.subject,
                    resolution="No service level declares this alert any more.",
                )
        return len(stale)

    def _told(self, level: LevelStatus, burn: Burn) -> bool:
        name, subject = alert_name(level.name, burn.hours), AssetRef("endpoint", level.endpoint)
        with self._calls.database.reading() as connection:
            standing = self._alerts.standing(connection, name, subject) is not None
        if burn.burning == standing:
            return False
        with self._calls.opened("service_levels.watch", WATCHER, resource=str(subject)) as call:
            if not burn.burning:
                words = f"The budget of {level.name} burns at {burn.short_rate:.1f} again."
                self._alerts.clear(call, name=name, subject=subject, resolution=words)
                return True
            self._alerts.raise_alert(
                call,
                name=name,
                subject=subject,
                severity=burn.severity,
                message=_message(level, burn),
                evidence={"service_level": level.model_dump(mode="json"), "hours": burn.hours},
            )
        return True


def alert_name(level: str, hours: float) -> str:
    """The name of the alert of a level's long window."""
    return f"{_PREFIX}{level}.{hours:g}h"


def _message(level: LevelStatus, burn: Burn) -> str:
    return (
        f"The error budget of {level.name} ({level.indicator} {level.objective:.4%}) burns"
        f" {burn.long_rate:.1f} times too fast over {burn.hours:g} h and {burn.short_rate:.1f}"
        f" times over the last twelfth of it; {level.budget_left:.0%} of it are left."
    )
