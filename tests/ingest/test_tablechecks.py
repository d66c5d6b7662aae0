from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from falaj.ingest.failing import FailingChecks
from falaj.ingest.model import CHECK_JOB, Contract, Source
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.jobs import JobRun, JobState, LeaseLost, Worker
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.testing.calls import make_caller, opened_call

NOW = datetime(2026, 6, 1, 13, tzinfo=UTC)

COLUMNS = {"id": "integer", "at": "instant", "amount": "number"}


def orders(**more):
    given = {"columns": COLUMNS, "mode": "replace"} | more
    return Source(name="orders", table="orders", path="orders*.csv", **given)


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


def shown(workshop):
    """Whether each way to the results of the table shows values."""
    checked = workshop.checked("orders-contract")["results"]
    asked = [one.model_dump() for one in workshop.ask("check", source="orders")]
    kept = [one.model_dump() for one in workshop.ask("results", source="orders")]
    return [
        any(e["values"] is not None for one in found for e in one["examples"])
        for found in (checked, asked, kept)
    ]


BROKEN = {**AMOUNT, "severity": "warn", "least": 9}


def test_of_a_table_that_another_source_says_is_of_persons_no_way_shows_values(workshop):
    workshop.apply(orders(), contract(BROKEN))
    _stood(workshop)
    assert shown(workshop) == [True, True, True]
    other = {"name": "others", "table": "orders", "path": "others.csv", "columns": COLUMNS}
    workshop.apply(Source(**other, classifications={"amount": "personal"}))
    assert shown(workshop) == [False, False, False]


@pytest.mark.parametrize(
    "said", [{"classification": "personal"}, {"columns": {"amount": "personal"}}]
)
def test_of_a_table_that_a_steward_has_raised_no_way_shows_values(workshop, said):
    workshop.apply(orders(), contract(BROKEN))
    _stood(workshop)
    with opened_call(workshop.database, roles=["steward"], now=workshop.clock.now()) as call:
        workshop.catalog.describe(call, AssetRef("table", "orders"), **said)
    assert shown(workshop) == [False, False, False]
    rows(workshop, 4)
    report = workshop.loaded("orders")
    assert all(e["values"] is None for one in report["checks"] for e in one["examples"])


def test_of_a_source_that_names_subjects_kept_examples_lose_their_values(workshop):
    workshop.apply(orders(), contract(BROKEN))
    _stood(workshop)
    workshop.apply(orders(subject="id"))
    assert shown(workshop)[2] is False


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


def test_an_alert_ends_by_itself_when_the_next_load_passes_and_says_by_what(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    for amount in ("1.5", "-1", "2.5"):
        rows(workshop, 5, amount=amount)
        report = workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert alert.state == "resolved"
    assert report["id"] in alert.resolution
    assert "0 of 5 rows" in alert.resolution


class ResolvedMeanwhile(Alerts):
    """Somebody resolves each alert as soon as it has been read."""

    def about(self, connection, subject):
        found = super().about(connection, subject)
        other = Call(make_caller("user:basma"), "alerts.resolve", NOW, connection)
        for one in found:
            self.resolve(other, one.id, "seen to")
        return found


def test_a_load_whose_alert_somebody_resolves_meanwhile_is_done_and_recorded(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    for amount in ("1.5", "-1"):
        rows(workshop, 5, amount=amount)
        workshop.loaded("orders")
    raced = ResolvedMeanwhile(workshop.catalog, Incidents(workshop.catalog))
    workshop.loading._failing = FailingChecks(raced)
    rows(workshop, 6, amount="2.5")
    report = workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert (alert.state, alert.resolution) == ("resolved", "seen to")
    assert workshop.ask("loads", source="orders")[0].id == report["id"]


def test_a_check_that_fails_again_after_its_alert_ended_opens_another_one(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    for amount in ("1.5", "-1", "2.5", "-2"):
        rows(workshop, 5, amount=amount)
        workshop.loaded("orders")
    assert [alert.state for alert in workshop.open_alerts()] == ["open", "resolved"]


def test_a_load_that_appends_ends_no_alert_that_is_of_the_whole_table(workshop):
    appending = orders(mode="append")
    workshop.apply(appending, contract(AMOUNT))
    rows(workshop, 5)
    workshop.loaded("orders")
    rows(workshop, 4, amount="-1")
    workshop.loaded("orders")
    workshop.checked("orders-contract")
    rows(workshop, 3, amount="7")
    workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert (alert.state, alert.n_seen) == ("open", 2)


def test_a_check_of_the_mended_table_ends_its_alert(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    rows(workshop, 5)
    workshop.loaded("orders")
    rows(workshop, 5, amount="-1")
    workshop.loaded("orders")
    workshop.checked("orders-contract")
    mended = workshop.lake.scan("orders").set_column(2, "amount", [[1.0] * 5])
    workshop.lake.append_many({"orders": mended}, key="mended", replace=["orders"])
    found = workshop.checked("orders-contract")
    (alert,) = workshop.open_alerts()
    assert alert.state == "resolved"
    assert alert.resolution.startswith(found["check"])


def test_the_next_load_ends_the_alert_that_a_table_is_too_old(workshop):
    fresh = {"check": "freshness", "max_age_seconds": 3600, "severity": "warn"}
    workshop.apply(orders(mode="append"), contract(fresh))
    rows(workshop, 4)
    workshop.loaded("orders")
    workshop.clock.move(timedelta(hours=5))
    workshop.checked("orders-contract")
    rows(workshop, 3)
    workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert alert.state == "resolved"


def test_an_alert_of_a_check_that_the_contract_has_no_more_ends(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    for amount in ("1.5", "-1"):
        rows(workshop, 5, amount=amount)
        workshop.loaded("orders")
    workshop.apply(contract({**AMOUNT, "least": -5}))
    rows(workshop, 6, amount="-1")
    workshop.loaded("orders")
    (alert,) = workshop.open_alerts()
    assert "no check of this name any more" in alert.resolution


def test_alerts_of_two_long_checks_that_begin_alike_are_told_apart(workshop):
    begin = " OR ".join(f"amount = {1000 + number}" for number in range(20))
    alike = [
        {"check": "expression", "sql": f"{begin} OR amount = {last}", "severity": "warn"}
        for last in ("1.5", "2.5")
    ]
    workshop.apply(orders(), contract(*alike))
    for amount in ("1.5", "2.5", "1.5"):
        rows(workshop, 5, amount=amount)
        workshop.loaded("orders")
    first, second = workshop.open_alerts()
    assert len(first.name) <= 100
    assert first.name != second.name
    assert {first.state, second.state} == {"open", "resolved"}


class PowerCut(BaseException):
    """The worker is gone: nothing is told, nothing is cleaned up."""


class Cut(Worker):
    """A worker that is lost after its handler and before it can end the job."""

    def _end(self, *_args, **_named):
        raise PowerCut


def kept(workshop):
    """The points of checks of the whole table."""
    points = workshop.ask("contracts.history", contract="orders-contract", limit=10)
    return [one for one in points if one.via == "check"]


def test_a_check_whose_worker_died_before_it_could_say_so_is_kept_once(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    rows(workshop, 3)
    workshop.loaded("orders")
    stood = workshop.lake.scan("orders")
    at = stood.schema.get_field_index("amount")
    wrong = pa.array([-1.0] * 3, stood.schema.field(at).type)
    workshop.lake.replace("orders", stood.set_column(at, stood.schema.field(at), wrong))
    job = workshop.ask("contracts.check", contract="orders-contract")
    workshop.clock.move(timedelta(seconds=1))
    with pytest.raises(PowerCut):
        Cut(workshop.jobs, {CHECK_JOB: workshop.checks}, name="cut").run_one()
    (alert,) = workshop.open_alerts()
    workshop.clock.move(timedelta(minutes=1))
    done = workshop.ended(job)
    assert (done.state, done.result["passed"]) == (JobState.DONE, False)
    assert len(kept(workshop)) == 1
    (same,) = workshop.open_alerts()
    assert (same.id, same.n_seen) == (alert.id, 1)


def test_a_worker_that_is_overtaken_keeps_no_results_beside_the_next(workshop):
    workshop.apply(orders(), contract(AMOUNT))
    rows(workshop, 3)
    workshop.loaded("orders")
    job = workshop.ask("contracts.check", contract="orders-contract")
    workshop.clock.move(timedelta(seconds=1))

    class HeldUp(JobRun):
        def report(self, *told, **more):
            """Tell, and stand still until another worker has done the job."""
            super().report(*told, **more)
            workshop.clock.move(timedelta(minutes=1))
            workshop.ended(job)

    def late(run, arguments):
        held = HeldUp(workshop.jobs, run.id, "late", run.submitted_by, run.checkpoint)
        with pytest.raises(LeaseLost):
            workshop.checks(held, arguments)
        raise PowerCut

    with pytest.raises(PowerCut):
        Worker(workshop.jobs, {CHECK_JOB: late}, name="late").run_one()
    assert workshop.job(job.id).state is JobState.DONE
    assert len(kept(workshop)) == 1
