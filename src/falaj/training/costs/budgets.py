"""Budgets of teams: hours of cores and money, for each calendar month (UTC)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from falaj.kernel.errors import LimitExceeded
from falaj.training.costs.model import Budget
from falaj.training.costs.reports import listed

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.clock import Clock
    from falaj.kernel.settings_queue import QueueSettings
    from falaj.training.costs.ledger import Ledger


class BudgetSpent(LimitExceeded):
    """A team's budget of this month is spent."""

    code = "budget-spent"


class Budgets:
    """What is left to each team this month."""

    def __init__(self, settings: QueueSettings, ledger: Ledger, clock: Clock) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock

    def of(self, connection: Connection, team: str) -> Budget:
        """A team's budget, what is gone of it, and why nothing more may begin if that is so."""
        now = self._clock.now()
        rule = self._settings.team(team)
        hours, money = self._ledger.spent(connection, team, _month(now), now)
        over = ""
        if rule.core_hours_per_month is not None and hours >= rule.core_hours_per_month:
            over = (
                f"The team {team!r} has used {hours:.2f} of its {rule.core_hours_per_month:g}"
                f" core-hours of {now:%Y-%m}."
            )
        # A budget is money of whichever currency the prices are in; two do not add up.
        for currency, spent in sorted(money.items()):
            if rule.money_per_month is not None and spent >= rule.money_per_month:
                over = (
                    f"The team {team!r} has spent {spent} of its {rule.money_per_month} {currency}"
                    f" of {now:%Y-%m}."
                )
        if rule.money_per_month == 0:
            over = over or f"The team {team!r} has no money of {now:%Y-%m}."
        return Budget(
            team=team,
            month=f"{now:%Y-%m}",
            core_hours=rule.core_hours_per_month,
            used_core_hours=hours,
            money=rule.money_per_month,
            spent=listed(money),
            over=over,
        )

    def hold(self, connection: Connection, team: str) -> str | None:
        """Why nothing of a team may begin, or None."""
        return self.of(connection, team).over or None if self.limited(team) else None

    def limited(self, team: str) -> bool:
        """True if a team has a budget."""
        rule = self._settings.team(team)
        return rule.core_hours_per_month is not None or rule.money_per_month is not None

    def check(self, connection: Connection, team: str) -> None:
        """Raise BudgetSpent if nothing is left."""
        over = self.hold(connection, team)
        if over is not None:
            raise BudgetSpent(
                over,
                hint="Wait for the next month, or have the operator raise the team's budget"
                " (settings, queue.teams).",
                team=team,
            )


def _month(now: datetime) -> datetime:
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
