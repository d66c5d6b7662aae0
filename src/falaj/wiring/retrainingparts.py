"""The parts that check by a schedule and retrain, joined: they act as whoever declared them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from falaj.wiring.pipelineparts import OnPlatform
from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from falaj.kernel.jobs import Handler
    from falaj.monitoring.schedules import Ask, MonitorSchedules
    from falaj.wiring.assembly import Premises

EVERY_SECONDS = 1.0
"""How often schedules and retrainings are looked at."""


def asking(made: Premises) -> Callable[[str], Ask]:
    """Asks the door as a principal, with the roles that its account has now and no second
    factor; the answer is JSON."""
    platform = OnPlatform(made)

    def of(principal: str) -> Any:
        return platform.asking(principal, None)

    return of


def monitor_schedules(made: Premises) -> MonitorSchedules:
    """What begins the checks of monitors that are due."""
    from falaj.monitoring.schedules import MonitorSchedules

    return MonitorSchedules(made.calls, made.jobs, made.definitions, made.alerts)


def retraining_jobs(made: Premises) -> dict[str, Callable[[], Handler]]:
    """What makes the handlers of jobs of this kind."""
    from falaj.monitoring.schedulewords import CHECK_JOB

    def checks() -> Handler:
        from falaj.monitoring.schedules import CheckJob

        return CheckJob(asking(made))

    return {CHECK_JOB: checks}


def chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What must be done again and again."""
    return {
        "monitor schedules": Seldom(
            lambda: monitor_schedules(made).run_once(), every_seconds=EVERY_SECONDS
        ),
    }
