from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from falaj.catalog.model import Direction
from falaj.ingest.model import Contract, Source
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.jobs import JobState

COLUMNS = {"id": "integer", "at": "instant", "amount": "number"}
HEADER = list(COLUMNS)


def orders(**more):
    return Source(
        **{
            "name": "orders",
            "table": "orders",
            "path": "orders*.csv",
            "columns": COLUMNS,
            "key": ("id",),
            "event_time": "at",
            **more,
        }
    )


def row(number, amount="1.5", at="2026-01-01T00:00:00Z"):
    return [str(number), at, amount]


def contract(*checks):
    return Contract(name="orders-contract", table="orders", checks=checks)


OWN_STATEMENT = (
    "true), true)) AS _beside2 FROM _rows r) r; UPDATE _rows SET amount = 0;"
    " SELECT count(*), 0, 0, 0 FROM (SELECT r.*, (NOT coalesce((true"
)


def ids(workshop, **options):
    return sorted(workshop.lake.scan("orders", **options)["id"].to_pylist())


def test_rows_that_fit_are_written_and_the_others_set_aside_with_the_reason(workshop):
    workshop.apply(
        orders(),
        contract(
            {"check": "between", "column": "amount", "least": 0, "severity": "quarantine"},
            {"check": "unique", "columns": ["id"], "severity": "quarantine"},
        ),
    )
    path = workshop.write(
        "orders.csv",
        [row(1), row(2, "x"), row(3, "-5"), row("", "1"), row(1, "2"), row(4, at="noon"), row(5)],
        HEADER,
    )
    path.write_text(path.read_text() + "6,too short\n")
    report = workshop.loaded("orders")
    assert (report["n_read"], report["n_written"], report["n_quarantined"]) == (8, 2, 6)
    assert ids(workshop) == [1, 5]
    aside = workshop.lake.scan("orders_quarantine", order_by=["row"]).to_pylist()
    assert [(found["row"], found["reason"]) for found in aside] == [
        (2, "amount: 'x' is not a number"),
        (3, "between(amount, 0, None)"),
        (4, "not_null(id)"),
        (5, "unique(id)"),
        (6, "at: 'noon' is not an instant with a zone"),
        (8, "it has 2 values, not 3"),
    ]
    assert json.loads(aside[0]["row_values"]) == dict(zip(HEADER, row(2, "x"), strict=True))
    assert {found["load"] for found in aside} == {report["id"]}
    assert report["snapshot"] == workshop.lake.latest()


def test_the_same_files_load_once_and_new_ones_are_added(workshop):
    workshop.apply(orders())
    workshop.write("orders-1.csv", [row(1)], HEADER)
    first = workshop.loaded("orders")
    again = workshop.loaded("orders")
    assert (again["state"], again["id"]) == ("unchanged", first["id"])
    assert workshop.lake.latest() == first["snapshot"]
    workshop.write("orders-1.csv", [row(2), row(3)], HEADER)
    assert workshop.loaded("orders")["state"] == "done"
    assert ids(workshop) == [1, 2, 3]
    told = workshop.ask("loads", source="orders")
    assert [report.n_written for report in told] == [2, 1]
    assert workshop.ask("loads", source="orders", limit=1)[0].files == ["orders-1.csv"]


def test_the_same_rows_are_not_appended_again_when_only_the_definition_changes(workshop):
    workshop.apply(orders())
    workshop.write("orders.csv", [row(1)], HEADER)
    workshop.loaded("orders")
    workshop.apply(orders(description="said better"))
    assert workshop.loaded("orders")["state"] == "unchanged"
    workshop.apply(orders(derived={"twice": "amount * 2"}))
    job = workshop.load("orders")
    assert job.error["code"] == "conflict"
    assert ids(workshop) == [1]
    workshop.loaded("orders", again=True)
    assert workshop.lake.scan("orders", order_by=["twice"])["twice"].to_pylist() == [3.0, None]


def test_a_replaced_table_follows_its_files_back_and_forth(workshop):
    workshop.apply(orders(mode="replace"))
    for numbers in ([1, 2], [3], [1, 2], [1, 2]):
        workshop.write("orders.csv", [row(number) for number in numbers], HEADER)
        report = workshop.loaded("orders")
        assert ids(workshop) == numbers
    assert report["state"] == "unchanged"
    assert len(workshop.ask("loads", source="orders")) == 3


def test_a_broken_contract_stops_the_load_and_leaves_only_its_record(workshop):
    workshop.apply(orders(), contract({"check": "between", "column": "amount", "least": 0}))
    workshop.write("orders.csv", [row(1), row(2, "-1"), row(3, "x")], HEADER)
    before = workshop.lake.latest()
    job = workshop.load("orders")
    assert job.state is JobState.FAILED
    assert job.error["code"] == "contract-broken"
    assert "between(amount, 0, None): 1 rows" in job.error["message"]
    assert workshop.lake.latest() == before
    (report,) = workshop.ask("loads", source="orders")
    assert (report.state, report.n_written, report.n_quarantined) == ("refused", 0, 0)
    result = workshop.ask("results", source="orders")[-1]
    assert not result.passed or result.check == "not_null(id)"
    broken = [one for one in workshop.ask("results", source="orders") if not one.passed]
    assert [(one.check, one.n_violations) for one in broken] == [("between(amount, 0, None)", 1)]
    assert broken[0].examples[0].values["amount"] == "-1"
    workshop.write("orders.csv", [row(1)], HEADER)
    assert workshop.loaded("orders")["n_written"] == 1


def test_a_source_without_a_usable_row_is_refused(workshop):
    workshop.apply(orders(mode="replace"))
    workshop.write("orders.csv", [row(1)], HEADER)
    workshop.loaded("orders")
    workshop.write("orders.csv", [row("x"), row("y")], HEADER)
    job = workshop.load("orders")
    assert "row 1: id: 'x' is not an integer" in job.error["message"]
    assert ids(workshop) == [1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "orders*.csv"),
        ("id,at\n1,x\n", "lacks 'amount'"),
        ("id,at,amount,extra\n", "unexpected 'extra'"),
        ("id,at,amount\n", "no rows"),
    ],
)
def test_a_source_that_cannot_be_read_changes_nothing(workshop, content, told):
    workshop.apply(orders())
    if content is not None:
        (workshop.folder / "orders.csv").write_text(content)
    before = workshop.lake.latest()
    job = workshop.load("orders")
    assert job.state is JobState.FAILED
    assert job.error["code"] == "source-broken"
    assert told in job.error["message"]
    assert workshop.lake.latest() == before
    assert workshop.ask("loads", source="orders") == []


def test_a_load_leaves_lineage_events_and_an_audit_record(workshop):
    workshop.apply(
        orders(owner="user:omar", classification="personal"),
        contract({"check": "expression", "sql": "amount < 0", "severity": "warn"}),
    )
    workshop.write("orders.csv", [row(1), row(2, "x")], HEADER)
    report = workshop.loaded("orders")
    with workshop.database.reading() as connection:
        table = workshop.catalog.get(connection, AssetRef("table", "orders"))
        aside = workshop.catalog.get(connection, AssetRef("table", "orders_quarantine"))
        tree = workshop.catalog.walk(connection, table.ref, Direction.UPSTREAM)
    assert (table.attributes["snapshot"], table.attributes["n_rows"]) == (report["snapshot"], 1)
    assert (table.owner, table.classification) == ("user:omar", "personal")
    assert aside.classification == "personal"
    assert {str(ref) for ref in tree.refs()} >= {"source:orders", "contract:orders-contract"}
    entry = workshop.audit.entries[-1]
    assert (entry.action, entry.principal, entry.resource) == (
        "sources.load",
        "user:amina",
        "source:orders",
    )
    assert entry.details["snapshot"] == report["snapshot"]
    warned = [one for one in report["checks"] if not one["passed"]]
    assert warned[0]["examples"] == [{"row": 1, "values": None}]  # personal: no values kept


def test_a_recorded_column_holds_the_instant_of_the_load(workshop):
    workshop.apply(orders(recorded_at="recorded_at"))
    workshop.write("orders.csv", [row(1)], HEADER)
    report = workshop.loaded("orders")
    known = workshop.lake.scan("orders")["recorded_at"][0].as_py()
    assert known.isoformat().replace("+00:00", "Z") == report["at"]


def test_the_rows_that_stand_are_checked_on_demand(workshop):
    workshop.apply(orders())
    workshop.write("orders.csv", [row(1), row(2, "7")], HEADER)
    workshop.loaded("orders")
    assert workshop.ask("check", source="orders") == []
    workshop.apply(
        orders(),
        contract(
            {"check": "between", "column": "amount", "greatest": 5},
            {"check": "unique", "columns": ["id"]},
        ),
    )
    found = workshop.ask("check", source="orders")
    assert [(one.check, one.n_violations) for one in found] == [
        ("between(amount, None, 5)", 1),
        ("unique(id)", 0),
    ]
    assert workshop.ask("results", source="orders", limit=2)[1].check == "between(amount, None, 5)"


def test_what_is_not_there_is_named(workshop):
    with pytest.raises(NotFound, match="nope"):
        workshop.ask("load", source="nope")
    workshop.apply(orders(), contract({"check": "row_count"}))
    with pytest.raises(NotFound, match="orders"):
        workshop.ask("check", source="orders")
    with pytest.raises(InvalidInput, match="between 1 and 1000"):
        workshop.ask("loads", source="orders", limit=0)


WORKER = """
    import sys, pathlib, time
    sys.path.insert(0, sys.argv[1])
    from conftest import Workshop
    from falaj.kernel.clock import SystemClock
    from falaj.kernel.database import Database
    from falaj.lake.adapters.lake_ducklake import DuckLake
    folder = pathlib.Path(sys.argv[2])
    lake = DuckLake.in_folder(pathlib.Path(sys.argv[4]))
    shop = Workshop(folder, Database(sys.argv[3]), lake)
    def stop(*given, **more):
        print("here", flush=True)
        time.sleep(60)
    moment = sys.argv[5]
    if moment == "before the write":
        DuckLake.append_many = stop
    elif moment == "inside the write":
        DuckLake._sync = stop
    else:
        type(shop.loading)._record = stop
    shop.worker.run_one()
"""


@pytest.mark.parametrize(
    "moment",
    [
        "inside the write",
        pytest.param("before the write", marks=pytest.mark.nightly),
        pytest.param("after the write", marks=pytest.mark.nightly),
    ],
)
def test_a_load_whose_worker_is_killed_is_finished_by_another_exactly_once(
    workshop, lake_folder, moment
):
    workshop.apply(
        orders(), contract({"check": "unique", "columns": ["id"], "severity": "quarantine"})
    )
    workshop.write("orders.csv", [row(1), row(2), row(2), row(3)], HEADER)
    job = workshop.ask("load", source="orders")
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(WORKER),
            str(Path(__file__).parent),
            str(workshop.folder),
            str(workshop.database.url),
            str(lake_folder),
            moment,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert workshop.job(job.id).state is JobState.RUNNING
    workshop.clock.move(timedelta(minutes=5))  # the lease runs out
    assert workshop.worker.run_one()
    done = workshop.job(job.id)
    assert done.state is JobState.DONE, done.error
    assert (done.result["n_written"], done.result["n_quarantined"]) == (3, 1)
    assert ids(workshop) == [1, 2, 3]
    assert workshop.lake.count("orders_quarantine") == 1
    assert len(workshop.ask("loads", source="orders")) == 1
    assert done.result["snapshot"] == workshop.lake.snapshots("orders")[-1].id


def test_a_condition_that_brings_statements_of_its_own_is_refused_and_changes_no_row(workshop):
    """It was applied before plans judged conditions."""
    workshop.apply(orders(), contract({"check": "expression", "sql": OWN_STATEMENT}))
    workshop.write("orders.csv", [row(1), row(2)], HEADER)
    job = workshop.load("orders")
    assert job.state is JobState.FAILED
    assert "cannot be checked" in job.error["message"]
    assert "orders" not in workshop.lake.tables()


def test_a_derived_column_that_brings_statements_of_its_own_is_refused(workshop):
    said = "1) AS d FROM _typed; UPDATE _rows SET amount = 0; SELECT (1"
    workshop.apply(orders(derived={"d": said}))
    workshop.write("orders.csv", [row(1), row(2)], HEADER)
    job = workshop.load("orders")
    assert job.state is JobState.FAILED
    assert "'d'" in job.error["message"]
    assert "orders" not in workshop.lake.tables()
