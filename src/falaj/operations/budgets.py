"""Service levels: how much may go wrong, and whether it goes wrong too fast.

The arithmetic of error budgets and burn rates is that of Google's Site Reliability Workbook
(2018), chapter 5, "Alerting on SLOs": with an objective of 99.9 %, the *error budget* of a
window is 0.1 % of its requests; the *burn rate* is the share of bad requests over that 0.1 %,
so that a rate of 1 spends the budget in exactly one window. An alert looks at two windows at
once (its section "Multiwindow, Multi-Burn-Rate Alerts"): the long one says that it matters,
the short one (a twelfth of it) that it still goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import NAME, Definition
from falaj.kernel.call import AssetRef
from falaj.operations.model import Severity

SHORT = 12
"""The short window is so many times shorter than the long one (the workbook's 1/12)."""
MOST_BAD = 0.9
"""No alert waits for a larger share of bad requests. The workbook's burn rates are for
objectives near 1: with 0.8 an outage of everything burns at 5, far below 14.4."""


class BurnAlert(BaseModel):
    """An alert once a share of the budget is spent within a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_share: float = Field(gt=0, le=1)
    """Of the whole window's budget."""
    hours: float = Field(ge=0.25, le=24 * 7)
    """The long window."""
    severity: Severity

    def rate(self, window: timedelta) -> float:
        """The burn rate that spends this share in this time."""
        return self.budget_share * (window / timedelta(hours=self.hours))


BY_THE_BOOK = (
    BurnAlert(budget_share=0.02, hours=1, severity=Severity.CRITICAL),
    BurnAlert(budget_share=0.05, hours=6, severity=Severity.CRITICAL),
    BurnAlert(budget_share=0.10, hours=72, severity=Severity.WARNING),
)
"""Table 5-8 of the workbook: at 30 days, burn rates of 14.4, 6 and 1."""


class ServiceLevel(Definition):
    """What an endpoint promises: which share of its requests is good, over a window.

    ``availability``: good is what is not answered by a 5xx status; requests that are refused
    as wrong or too many (4xx) do not count. ``latency``: good is what is answered within
    ``threshold_ms``; only answered requests count.
    """

    kind: ClassVar[str] = "service_level"

    endpoint: str = Field(pattern=NAME)
    indicator: Literal["availability", "latency"] = "availability"
    objective: float = Field(gt=0, lt=1)
    """The share of good requests, such as 0.999."""
    threshold_ms: float | None = Field(None, gt=0, le=1_000_000)
    window_days: float = Field(28, ge=1, le=90)
    """It rolls: the last so many days."""
    alerts: tuple[BurnAlert, ...] = BY_THE_BOOK
    least_requests: int = Field(20, ge=1)
    """Fewer requests than this in the long window raise no alert: one bad request of three
    says little."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.indicator == "latency") is (self.threshold_ms is None):
            raise ValueError("threshold_ms belongs to the indicator latency, and to no other")
        long = [alert.hours for alert in self.alerts]
        if len(set(long)) != len(long):
            raise ValueError("two alerts look at the same long window")
        if any(alert.hours > self.window_days * 24 for alert in self.alerts):
            raise ValueError("an alert looks back further than the window")
        return self

    def limit(self, alert: BurnAlert) -> float:
        """The burn rate above which an alert is raised.

        The one that spends its share of the budget in its time, or that at which ``MOST_BAD``
        of all requests are bad, if that is lower.
        """
        return min(alert.rate(self.window), MOST_BAD / (1 - self.objective))

    def references(self) -> list[AssetRef]:
        """The endpoint."""
        return [AssetRef("endpoint", self.endpoint)]

    @property
    def window(self) -> timedelta:
        """``window_days``."""
        return timedelta(days=self.window_days)


@dataclass(frozen=True)
class Served:
    """Requests of a stretch of time, as an indicator counts them."""

    total: int = 0
    good: int = 0

    @property
    def bad_share(self) -> float:
        """0 without requests: where nothing is asked, nothing goes wrong."""
        return (self.total - self.good) / self.total if self.total else 0.0


def burn_rate(served: Served, objective: float) -> float:
    """How many times faster than allowed the budget is spent: 1 spends it in one window."""
    return served.bad_share / (1 - objective)


def budget_left(served: Served, objective: float) -> float:
    """The share of the window's error budget that is left: 1 untouched, below 0 overspent.

    The budget is what the requests so far allow: (1 - objective) x total.
    """
    return 1.0 - burn_rate(served, objective)


class Burn(BaseModel):
    """One alert of a service level, as it stands."""

    model_config = ConfigDict(frozen=True)

    hours: float
    severity: Severity
    limit: float
    """The burn rate from which on both windows raise the alert."""
    long_rate: float
    short_rate: float
    n_requests: int
    """In the long window."""
    burning: bool


class LevelStatus(BaseModel):
    """A service level, as it stands."""

    model_config = ConfigDict(frozen=True)

    name: str
    endpoint: str
    indicator: str
    objective: float
    at: datetime
    n_requests: int
    """In the window."""
    n_good: int
    attained: float | None
    """The share of good requests in the window; None without requests."""
    budget_left: float
    burns: list[Burn]


Counting = Callable[[datetime, datetime], Served]
"""What was served from an instant to before another one."""


def status(level: ServiceLevel, counting: Counting, now: datetime) -> LevelStatus:
    """A service level now.

    Args:
        level: as declared.
        counting: tells what was served between two instants.
        now: the end of all windows.
    """
    whole = counting(now - level.window, now)
    return LevelStatus(
        name=level.name,
        endpoint=level.endpoint,
        indicator=level.indicator,
        objective=level.objective,
        at=now,
        n_requests=whole.total,
        n_good=whole.good,
        attained=whole.good / whole.total if whole.total else None,
        budget_left=budget_left(whole, level.objective),
        burns=[_burn(level, alert, counting, now) for alert in level.alerts],
    )


def _burn(level: ServiceLevel, alert: BurnAlert, counting: Counting, now: datetime) -> Burn:
    hours = timedelta(hours=alert.hours)
    long, short = counting(now - hours, now), counting(now - hours / SHORT, now)
    limit = level.limit(alert)
    long_rate, short_rate = burn_rate(long, level.objective), burn_rate(short, level.objective)
    return Burn(
        hours=alert.hours,
        severity=alert.severity,
        limit=limit,
        long_rate=long_rate,
        short_rate=short_rate,
        n_requests=long.total,
        burning=long.total >= level.least_requests and long_rate > limit and short_rate > limit,
    )
