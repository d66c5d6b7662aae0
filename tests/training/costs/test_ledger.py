"""The ledger: every attempt is charged once, and sums add up exactly however they are grouped."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from falaj.kernel.errors import InvalidInput
from falaj.kernel.resources import GIB, MIB
from falaj.kernel.settings_queue import QueueSettings, TeamRule
from falaj.training.costs.advice import advised
from falaj.training.costs.budgets import Budgets, BudgetSpent
from falaj.training.costs.model import Amount, Grouping
from falaj.training.costs.reports import OTHERS, added, cost_report, model_cost
from falaj.training.costs.tables import charge_rows, price_rows, usage_rows

HOUR = timedelta(hours=1)


def report(books, by, *more, **given):
    with books.database.reading() as connection:
        return cost_report(connection, by, *more, **given)


def test_a_fit_is_charged_for_what_it_held_while_it_ran(books):
    books.price("0.36")
    books.fit(seconds=10, cpus=2.0)
    (line,) = report(books, Grouping.RUN).lines
    assert line.amounts == (Amount(currency="AED", amount=Decimal("0.002000")),)
    assert line.core_hours == pytest.approx(20 / 3600)
    with books.database.reading() as connection:
        (usage,) = books.ledger.usages(connection, run="run_1")
    assert (usage.team, usage.outcome, usage.charges[0].version) == ("amber", "done", 1)


def test_what_began_without_prices_is_counted_and_not_charged(books):
    books.fit()
    found = report(books, Grouping.MODEL)
    assert (found.totals, found.n_unpriced, len(found.lines)) == ((), 1, 1)


def test_an_account_is_closed_once(books):
    books.price()
    usage = books.fit(seconds=3600)
    books.clock.move(HOUR)
    books.close(usage, "memory-limit")
    assert report(books, Grouping.RUN).totals == (Amount(currency="AED", amount=Decimal("0.36")),)


def test_a_lost_attempt_is_charged_until_its_last_sign_of_life(books):
    books.price("1")
    usage = books.begin()
    books.clock.move(HOUR)
    with books.database.transaction() as connection:
        books.ledger.alive(connection, usage, books.clock.now())
    books.clock.move(5 * HOUR)
    books.fit(seconds=1800)  # the same job, taken up again
    with books.database.reading() as connection:
        second, first = books.ledger.usages(connection)
        assert not books.ledger.unsettled(connection)
    assert (first.outcome, second.outcome) == ("lost", "done")
    assert first.charges[0].amount == 1
    assert report(books, Grouping.RUN).totals == (Amount(currency="AED", amount=Decimal("1.5")),)


def test_accounts_of_jobs_that_do_not_run_any_more_are_settled(books):
    books.price()
    books.begin(job="job_gone")
    with books.database.transaction() as connection:
        assert books.ledger.unsettled(connection)
        assert books.ledger.settle(connection) == 1
        assert books.ledger.settle(connection) == 0


def test_prices_are_never_changed_for_what_has_passed(books):
    books.price("1")
    with pytest.raises(InvalidInput, match="has passed"):
        books.price("2", valid_from=books.clock.now() - HOUR)
    books.price("2", valid_from=books.clock.now() + HOUR)
    with pytest.raises(InvalidInput, match="hold from"):
        books.price("3", valid_from=books.clock.now() + HOUR)
    books.fit(seconds=2 * 3600)
    assert report(books, Grouping.RUN).totals == (Amount(currency="AED", amount=Decimal(3)),)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    fits=st.lists(
        st.tuples(
            st.sampled_from(("run_1", "run_2", "run_3")),
            st.sampled_from(("late", "early")),
            st.sampled_from(("amber", "basalt")),
            st.integers(1, 40 * 86_400),
            st.integers(1, 9_999).map(lambda n: n / 1000),
        ),
        max_size=8,
    ),
    rate=st.decimals(0, 100, places=6),
)
def test_sums_add_up_exactly_however_they_are_grouped(books, fits, rate):
    with books.database.transaction() as connection:
        for table in (charge_rows, usage_rows, price_rows):
            connection.execute(delete(table))
    books.price(str(rate))
    books.price("0.123457", currency="USD", valid_from=books.clock.now() + 30 * 24 * HOUR)
    for run, model, team, seconds, cpus in fits:
        books.fit(seconds, run=run, model=model, team=team, cpus=cpus, job=run)
    with books.database.reading() as connection:
        usages = books.ledger.usages(connection)
    each = added(
        Amount(currency=charge.currency, amount=charge.amount)
        for usage in usages
        for charge in usage.charges
    )
    for by in Grouping:
        found = report(books, by)
        assert found.totals == added(one for line in found.lines for one in line.amounts) == each


def test_what_may_not_be_seen_is_one_line_of_others(books):
    books.price("1")
    for model in ("late", "hidden", "secret"):
        books.fit(model=model, run=model)
    found = report(books, Grouping.MODEL, lambda _kind, name: name == "late")
    assert [(line.name, line.amounts[0].amount) for line in found.lines] == [
        (OTHERS, 2), ("late", 1)
    ]  # fmt: skip
    assert found.totals[0].amount == 3


def test_a_models_cost_is_told_for_each_thousand_predictions(books):
    books.price("1")
    books.fit(seconds=3600)
    with books.database.reading() as connection:
        found = model_cost(connection, "late", 7)
        none = model_cost(connection, "late", 0)
    assert found.cost[0].amount == 1
    assert found.per_1000_predictions[0].amount == Decimal("142.857143")
    assert none.per_1000_predictions == ()


def settings_of(**rule):
    return QueueSettings(teams=(TeamRule(name="amber", **rule),))


def test_a_spent_budget_refuses_and_counts_what_runs_now(books):
    books.price("2")
    budgets = Budgets(settings_of(money_per_month=Decimal(3)), books.ledger, books.clock)
    with books.database.reading() as connection:
        budgets.check(connection, "amber")
    books.begin()
    books.clock.move(1.5 * HOUR)
    with books.database.reading() as connection:
        with pytest.raises(BudgetSpent, match=r"spent 3\.0+ of its 3 AED of 2026-11"):
            budgets.check(connection, "amber")
        budgets.check(connection, "basalt")


def test_a_budget_of_hours_begins_anew_each_month(books):
    budgets = Budgets(settings_of(core_hours_per_month=2), books.ledger, books.clock)
    books.fit(seconds=3600, cpus=2.0)
    with books.database.reading() as connection:
        with pytest.raises(BudgetSpent, match=r"2\.00 of its 2 core-hours"):
            budgets.check(connection, "amber")
        books.clock.move(timedelta(days=25))
        assert budgets.of(connection, "amber").used_core_hours == 0
        budgets.check(connection, "amber")


def usages_of(books, **more):
    with books.database.reading() as connection:
        return books.ledger.usages(connection, **more)


def test_advice_is_the_most_that_was_used_with_some_room(books):
    for peak, cpu in ((300 * MIB, 90.0), (500 * MIB, 60.0)):
        books.fit(
            60,
            cpus=4.0,
            memory_bytes=8 * GIB,
            used={"wall_seconds": 60, "cpu_seconds": cpu, "peak_memory_bytes": peak},
        )
    found = advised("late", usages_of(books))
    assert (found.n_runs, found.asked.cpus, found.advised.cpus) == (2, 4, 2)
    assert found.advised.memory_bytes == 640 * MIB  # 625 MiB, in steps of 64
    assert found.advised.seconds == 120
    assert "500 MiB" in found.reasons[0]


def test_after_running_out_of_memory_twice_as_much_is_advised(books):
    books.fit(5, outcome="memory-limit", memory_bytes=GIB)
    assert advised("late", usages_of(books)).advised.memory_bytes == 2 * GIB


def test_without_a_measured_run_nothing_is_advised():
    assert advised("late", []).advised is None
