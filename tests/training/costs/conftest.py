"""A ledger on a database, and what writes into it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.resources import GIB, Resources, Used
from falaj.testing.calls import opened_call
from falaj.training.costs.ledger import Ledger
from falaj.training.costs.model import Prices

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)


class Books:
    """A ledger and a clock."""

    def __init__(self, database):
        self.database = database
        self.clock = SetClock(NOW)
        self.ledger = Ledger()

    def price(self, cpu_hour="0.36", valid_from=None, currency="AED"):
        prices = Prices(currency=currency, cpu_hour=Decimal(cpu_hour))
        with opened_call(self.database, "user:omar", now=self.clock.now()) as call:
            return self.ledger.set_prices(call, prices, valid_from)

    def begin(self, run="run_1", model="late", team="amber", job="job_1", **resources):
        with self.database.transaction() as connection:
            return self.ledger.begin(
                connection,
                run=run, model=model, team=team, job=job,
                resources=Resources(**{"memory_bytes": GIB, **resources}),
                limited=True, now=self.clock.now(),
            )  # fmt: skip

    def close(self, usage, outcome="done", **used):
        with self.database.transaction() as connection:
            self.ledger.close(
                connection, usage, now=self.clock.now(), used=Used(**used), outcome=outcome
            )

    def fit(self, seconds=3600, outcome="done", used=None, **more):
        usage = self.begin(**more)
        self.clock.move(timedelta(seconds=seconds))
        self.close(usage, outcome, **(used or {"wall_seconds": seconds}))
        return usage


@pytest.fixture
def books(database):
    return Books(database)
