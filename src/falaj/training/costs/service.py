"""The actions on costs: prices, reports, budgets, advice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import NotFound
from falaj.kernel.ports import Resources
from falaj.training.costs.advice import advised
from falaj.training.costs.model import (
    Advice,
    Budget,
    CostReport,
    Grouping,
    ModelCost,
    Prices,
    PriceTable,
    RunUsage,
    UsageKind,
)
from falaj.training.costs.reports import ASSETS, cost_report, model_cost

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.training.costs.budgets import Budgets
    from falaj.training.costs.ledger import Ledger
    from falaj.training.costs.teams import Teams

Predictions = Callable[["Connection", str], int]
"""How many predictions a model's versions have made."""
Sees = Callable[[Call, str, str], bool]
"""True if the caller may know of the asset of that kind and key."""
Usages = list[RunUsage]
Tables = list[PriceTable]
BudgetList = list[Budget]
Limit = Annotated[int, Field(ge=1, le=1000)]


class CostService(Service):
    """Costs: what runs used and what that cost, by run, model, team and month."""

    name = "costs"

    def __init__(
        self,
        ledger: Ledger,
        budgets: Budgets,
        teams: Teams,
        predictions: Predictions,
        sees: Sees,
        resources: Resources,
    ) -> None:
        self._ledger = ledger
        self._budgets = budgets
        self._teams = teams
        self._predictions = predictions
        self._sees = sees
        self._resources = resources

    @action(get="/costs")
    def report(
        self,
        *,
        by: Grouping = Grouping.MODEL,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
    ) -> CostReport:
        """What began in a time (fits, trials of studies, steps of pipelines) used and cost.

        The lines add up to the totals exactly. Runs and models that the caller may not know of
        are one line, ``(others)``; steps of pipelines are of no model, ``(pipelines)``.
        """
        if model is not None:
            # Lines of months, teams and kinds would tell the cost of a model that is hidden.
            if not self._sees(self.call, "model", model):
                raise _unknown(model)
            self._check_known(model)

        def seen(kind: str, name: str) -> bool:
            return self._sees(self.call, kind, name)

        return cost_report(self.call.connection, by, seen, since=since, until=until, model=model)

    @action(get="/costs/usage")
    def usage(
        self, *, run: str | None = None, model: str | None = None, limit: Limit = 100
    ) -> Usages:
        """Each attempt at a fit, trial or step: what it held, used and cost; the newest first."""
        found = self._ledger.usages(self.call.connection, run=run, model=model, limit=limit)
        return [one for one in found if self._sees(self.call, ASSETS.get(one.kind, "run"), one.run)]

    @action(get="/costs/models/{model}", on="model")
    def model(self, model: str) -> ModelCost:
        """What training and tuning a model has cost, in all and for each 1,000 predictions."""
        self._check_known(model)
        n_predictions = self._predictions(self.call.connection, model)
        return model_cost(self.call.connection, model, n_predictions)

    @action(get="/costs/models/{model}/advice", on="model")
    def advice(self, model: str) -> Advice:
        """What a model's runs should ask for, from what its past runs used."""
        self._check_known(model)
        connection, fit = self.call.connection, UsageKind.FIT
        return advised(model, self._ledger.usages(connection, model=model, kind=fit))

    @action(get="/costs/budgets")
    def budgets(self) -> BudgetList:
        """The teams' budgets of this month, and what is gone of them."""
        connection = self.call.connection
        return [self._budgets.of(connection, team) for team in self._teams.names()]

    @action(get="/costs/prices")
    def prices(self) -> Tables:
        """All price tables, in the order in which they became valid."""
        return self._ledger.tables(self.call.connection)

    @action(post="/costs/prices")
    def set_prices(self, prices: Prices, *, valid_from: datetime | None = None) -> PriceTable:
        """Set what resources cost from now, or from a later instant, on."""
        made = self._ledger.set_prices(self.call, prices, valid_from)
        self.call.emit("prices.set", version=made.version)
        return made

    def _check_known(self, model: str) -> None:
        """Raise NotFound for a model that is not registered and was never fitted."""
        connection = self.call.connection
        registered = self._resources.load(connection, AssetRef("model", model)).exists
        if not registered and not self._ledger.usages(connection, model=model, limit=1):
            raise _unknown(model)


def _unknown(model: str) -> NotFound:
    return NotFound(f"There is no model {model!r}.", hint="`falaj models list` shows all.")
