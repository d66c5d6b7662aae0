"""A training request's place in the queue: its team, what it claims, and whether it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.kernel.fairqueue import Claim
from falaj.kernel.resources import Resources

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.kernel.settings_queue import QueueSettings
    from falaj.training.costs.budgets import Budgets
    from falaj.training.costs.teams import Teams
    from falaj.training.resources import RunRequest


def resources_of(request: RunRequest, settings: QueueSettings) -> Resources:
    """What a request may use: what it says, or what the settings say for those who don't."""
    if request.resources is not None:
        return request.resources
    return Resources(
        cpus=settings.cpus, memory_bytes=settings.memory_bytes, seconds=settings.most_seconds
    )


class RunQueue:
    """Lets training requests into the queue."""

    def __init__(self, settings: QueueSettings, teams: Teams, budgets: Budgets) -> None:
        self._settings = settings
        self._teams = teams
        self._budgets = budgets

    def claim(self, call: Call, request: RunRequest, *, at_once: int = 1) -> Claim:
        """What a request claims.

        Args:
            at_once: how many such fits run side by side.

        Raises:
            Forbidden: its submitter is not of the team it names.
            InvalidInput: it asks for more time than any run may take.
            BudgetSpent: nothing is left of the team's budget.
        """
        team = self._teams.chosen(call.connection, call.principal.id, request.team)
        self._budgets.check(call.connection, team)
        resources, most = resources_of(request, self._settings), self._settings.most_seconds
        if most is not None and (resources.seconds is None or resources.seconds > most):
            raise InvalidInput(
                f"No run may take longer than {most:g} s here.",
                hint="Say so in resources.seconds, or ask for less time.",
            )
        all_of_them = resources.model_copy(update={"workers": resources.workers * at_once})
        return Claim(team=team, priority=request.priority, resources=all_of_them)
