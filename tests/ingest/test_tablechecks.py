from __future__ import annotations

from datetime import timedelta

import pytest

from falaj.ingest.model import Contract, Source
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.jobs import JobState

COLUMNS = {"id": "integer", "at": "instant", "amount": "number"}


def orders(**more):
    return Source(
        name="orders", table="orders", path="orders*.csv", columns=COLUMNS, mode="replace", **more
    )


def contract(*checks):
    return Contract(name="orders-contract", table="orders", checks=checks)


def rows(workshop, n, amount="1.5"):
    at = workshop.clock.now().isoformat()
    lines = [[str(number), at, amount] for number in range(n)]
    workshop.write("orders.csv", lines, list(COLUMNS))


AMOUNT = {"check": "between", "column": "amount", "least": 0, "severity": "warn"}


def test_a_check_that_used_to_pass_and_fails_raises_one_alert_however_often(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    rows(workshop, 5)
    workshop.loaded("orders")
    assert workshop.open_alerts() == []
    rows(workshop, 5, amount="-1")
    workshop.loaded("orders")
    rows(workshop, 6, amount="-1")
    workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert str(alert.subject) == "contract:orders-contract"
    assert alert.n_seen == 2
    assert "6 of 6 rows" in alert.message
    assert "examples" not in alert.evidence


def test_a_check_that_never_passed_alerts_nobody(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    rows(workshop, 5, amount="-1")
    workshop.loaded("orders")
    assert workshop.open_alerts() == []


def test_a_refused_load_alerts_too(workshop):
    workshop.apply(orders(), contract({**AMOUNT, "severity": "fail"}))
    rows(workshop, 5)
    workshop.loaded("orders")
    rows(workshop, 5, amount="-1")
    assert workshop.load("orders").state is JobState.FAILED
    (alert,) = workshop.open_alerts()
    assert alert.severity == "warning"


def test_a_load_of_unusual_size_is_told_by_its_own_history(workshop):
    usual = {"check": "usual", "of": "rows", "least_history": 3}
    workshop.apply(orders(), contract(usual))
    for n in (100, 101, 99, 100):
        rows(workshop, n)
        workshop.loaded("orders")
        workshop.clock.move(timedelta(days=1))
    rows(workshop, 20)
    report = workshop.loaded("orders")
    assert report["n_written"] == 20  # a warning refuses nothing
    (alert,) = workshop.open_alerts()
    assert "20 rows; usual is 100" in alert.message
    points = workshop.ask("contracts.history", contract="orders-contract", check="usual")
    assert [point.value for point in points] == [20, 100, 99, 101, 100]
    assert [point.passed for point in points] == [False, True, True, True, True]
    assert {point.via for point in points} == {"load"}
    assert points[0].low == pytest.approx(95)


def test_a_whole_table_is_checked_as_it_stands_and_remembered(workshop):
    fresh = {"check": "freshness", "max_age_seconds": 3600, "severity": "warn"}
    workshop.apply(orders(), contract(AMOUNT, fresh))
    rows(workshop, 4)
    workshop.loaded("orders")
    assert workshop.checked("orders-contract")["passed"]
    workshop.clock.move(timedelta(hours=5))
    found = workshop.checked("orders-contract")
    assert not found["passed"]
    assert [one["passed"] for one in found["results"]] == [True, False]
    (alert,) = workshop.open_alerts()
    assert "freshness(last load" in alert.name
    points = workshop.ask("contracts.history", contract="orders-contract", limit=2)
    assert [(point.check[:9], point.via) for point in points] == [
        ("freshness", "check"),
        ("between(a", "check"),
    ]


def test_loads_and_checks_of_the_whole_table_have_histories_of_their_own(workshop):
    usual = {"check": "usual", "of": "rows", "least_history": 3}
    workshop.apply(orders(), contract(usual))
    for n in (10, 10, 11):
        rows(workshop, n)
        workshop.loaded("orders")
    (result,) = workshop.checked("orders-contract")["results"]
    assert "0 earlier ones are too few" in result["measured"]


def test_examples_show_values_only_of_tables_that_a_source_declares_to_be_of_nobody(workshop):
    workshop.apply(orders(), contract({**AMOUNT, "severity": "quarantine", "least": 9}))
    (result,) = _stood(workshop)
    assert result["examples"][0]["values"]["amount"] == "1.5"
    workshop.apply(orders(classifications={"amount": "personal"}))
    (result,) = workshop.checked("orders-contract")["results"]
    assert result["examples"][0]["values"] is None
    assert result["n_violations"] == 3


def _stood(workshop):
    """Rows that break the contract, written past it."""
    rows(workshop, 3)
    workshop.apply(contract({**AMOUNT, "severity": "warn", "least": 9}))
    workshop.loaded("orders")
    return workshop.checked("orders-contract")["results"]


def test_a_table_or_contract_that_there_is_not_is_named(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    job = workshop.ended(workshop.ask("contracts.check", contract="orders-contract"))
    assert job.state is JobState.FAILED
    assert "orders" in job.error["message"]
    with pytest.raises(NotFound):
        workshop.ask("contracts.check", contract="nope")
    with pytest.raises(InvalidInput, match="limit"):
        workshop.ask("contracts.history", contract="orders-contract", limit=0)
