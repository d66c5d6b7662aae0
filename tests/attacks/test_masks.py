"""Ways around masks and row filters: each shows what is masked, or is refused, on record."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import select

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, FalajError, Forbidden, InvalidInput
from falaj.lake.model import QueryRefused
from falaj.lake.sight import SeenInPart
from falaj.trust.audit_tables import audit_records

ROWS = """id,name,salary,branch,born,seen_at
1,zaynab,98765,deira,1991-03-04,2026-01-01T00:00:00Z
2,yusuf,12345,karama,1984-11-12,2026-01-02T00:00:00Z
3,zaynab,54321,karama,2001-07-30,2026-01-03T00:00:00Z
x,khalid,77777,deira,1970-01-01,2026-01-04T00:00:00Z
"""
SECRETS = ("zaynab", "yusuf", "khalid", "98765", "12345", "54321", "77777", "1991", "1984")
CLASSES = {"name": "personal", "salary": "sensitive", "born": "personal"}
CLIENTS = {
    "kind": "source", "name": "clients", "table": "clients", "path": "clients.csv",
    "columns": {"id": "integer", "name": "text", "salary": "number", "branch": "text",
                "born": "date", "seen_at": "instant"},
    "derived": {"initial": "left(name, 1)"},
    "classifications": CLASSES,
}  # fmt: skip


@pytest.fixture(scope="module")
def clients(site: Any) -> Any:
    """A table that everybody may read, three columns of which are personal or sensitive."""
    (site.folder / "clients.csv").write_text(ROWS, encoding="utf-8")
    engineer = site.caller("ml_engineer", name="ida")
    site.ask(engineer, "definitions.apply", documents=[CLIENTS])
    site.ask(engineer, "sources.load", source="clients")
    site.run_jobs()
    return site


@pytest.fixture
def ruled(clients: Any) -> Iterator[Any]:
    """Puts read rules in force as they must be, and takes them out of force afterwards."""

    def put(*documents: dict[str, Any]) -> None:
        change = propose(clients, *documents)
        approver = clients.caller("approver", name="anna", factor=True)
        clients.ask(approver, "changes.approve", id=change.id, reason="read")

    yield put
    with clients.premises.calls.opened("definitions.apply", "user:cleaner") as call:
        kept = clients.premises.definitions.listed(call.connection, kind="read_rule")
        off = [{**one.document, "enabled": False} for one in kept]
        clients.premises.definitions.apply(call, off)


def propose(site: Any, *documents: dict[str, Any]) -> Any:
    administrator = site.caller("administrator", name="adam", factor=True)
    return site.ask(administrator, "policy.propose", documents=list(documents), reason="privacy")


def rule(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "read_rule", "name": name, "tables": ["clients"], **more}


def record(site: Any, action: str) -> dict[str, Any]:
    """The last audit record of an action."""
    with site.premises.database.reading() as connection:
        query = select(audit_records).where(audit_records.c.action == action)
        row = connection.execute(query.order_by(audit_records.c.seq.desc())).first()
    return {"outcome": row.outcome, **json.loads(row.body)}


def known(site: Any, **more: Any) -> Any:
    """Somebody who works with rows; with a purpose and a factor they see everything."""
    return site.caller("data_scientist", name="dina", **more)


def cleared(site: Any) -> Any:
    return known(site, factor=True, purpose="payroll audit")


def secrets_in(answer: Any) -> list[str]:
    text = answer.model_dump_json() if hasattr(answer, "model_dump_json") else str(answer)
    return [one for one in SECRETS if one in text]


# ---- reading


def test_whoever_may_read_a_table_sees_its_personal_columns_masked(clients: Any) -> None:
    for caller in (clients.caller("viewer"), known(clients), known(clients, factor=True)):
        found = clients.ask(caller, "tables.read", table="clients")
        assert not secrets_in(found)
        assert {row["name"] for row in found.rows} == {"***"}
        assert {row["salary"] for row in found.rows} == {None}
        assert {row["initial"] for row in found.rows} == {"***"}, "derived from the name"
        assert {row["branch"] for row in found.rows} == {"deira", "karama"}


def test_the_record_tells_which_rules_masked_which_columns(clients: Any) -> None:
    clients.ask(clients.caller("viewer"), "tables.read", table="clients")
    seen = record(clients, "tables.read")["details"]["seen_in_part"]["clients"]
    assert seen["masked"]["name"] == {"as": "mask", "by": ["built-in"]}
    assert set(seen["masked"]) == {"name", "salary", "born", "initial"}


def test_a_purpose_and_a_fresh_factor_show_them_and_a_viewer_never(clients: Any) -> None:
    found = clients.ask(cleared(clients), "tables.read", table="clients")
    assert {row["name"] for row in found.rows} == {"zaynab", "yusuf"}
    assert "seen_in_part" not in record(clients, "tables.read")["details"]
    viewer = clients.caller("viewer", factor=True, purpose="payroll audit")
    assert not secrets_in(clients.ask(viewer, "tables.read", table="clients"))


@pytest.mark.parametrize("columns", [["NAME", "Salary"], ["born", "id"]])
def test_a_column_in_other_letters_is_the_same_column(clients: Any, columns: list[str]) -> None:
    found = clients.ask(known(clients), "tables.read", table="clients", columns=columns)
    assert not secrets_in(found)


@pytest.mark.parametrize("column", ["salary", "NAME"])
def test_the_order_of_a_masked_column_is_not_told(clients: Any, column: str) -> None:
    with pytest.raises(SeenInPart, match="masked"):
        clients.ask(known(clients), "tables.read", table="clients", order_by=["id", column])
    assert record(clients, "tables.read")["outcome"] == "failed"
    clients.ask(cleared(clients), "tables.read", table="clients", order_by=[column])


QUERIES = [
    "SELECT name AS harmless, salary AS n FROM clients",
    "SELECT * FROM clients",
    "SELECT upper(name), salary + 0, born + 1, left(initial, 1) FROM clients",
    "SELECT max(salary), min(salary), avg(salary), max(name), max(born) FROM clients",
    "SELECT string_agg(name, ',') FROM clients GROUP BY branch",
    "SELECT id FROM clients WHERE name = 'zaynab'",
    "SELECT id FROM clients WHERE salary > 90000",
    "SELECT id FROM clients QUALIFY row_number() OVER (ORDER BY salary DESC) = 1 AND salary > 0",
    "SELECT branch FROM clients GROUP BY branch HAVING max(salary) > 90000",
    "SELECT clients FROM clients",
    "SELECT c FROM clients AS c",
    "SELECT #2, #3 FROM clients",
    "SELECT b, c FROM clients AS t(a, b, c)",
    "SELECT COLUMNS('na.*|sal.*') FROM clients",
    "SELECT * REPLACE (name || '!' AS branch) FROM clients",
    "SELECT * EXCLUDE (id) FROM clients",
    "WITH w AS (SELECT * FROM clients) SELECT name FROM w",
    "SELECT x.name FROM (SELECT name, salary FROM clients) AS x",
    "SELECT name FROM clients UNION ALL SELECT name FROM clients",
    "SELECT a.name, b.salary FROM clients a JOIN CLIENTS b ON a.salary = b.salary",
    "SELECT v FROM (VALUES ('zaynab'), ('nobody')) AS g(v) JOIN clients ON name = v",
    "SELECT v FROM (VALUES ('yusuf')) AS g(v) WHERE EXISTS (SELECT 1 FROM clients WHERE name = v)",
    "SELECT (SELECT any_value(name) FROM clients) AS one",
    "SELECT id FROM clients a SEMI JOIN (SELECT 98765 AS salary) b USING (salary)",
    "PIVOT clients ON name USING count(*)",
    "SELECT * FROM clients UNPIVOT (value FOR what IN (name, branch))",
    "FROM clients SELECT struct_pack(n := name)",
    "SELECT 1 / (CASE WHEN salary > 90000 THEN 1 ELSE 1 END) FROM clients WHERE name LIKE 'z%'",
    "SELECT CAST(name AS INTEGER) FROM clients",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_no_query_tells_what_is_masked(clients: Any, sql: str) -> None:
    # Of what a query gives itself nothing is learned: a guess comes back only if it is right.
    try:
        found = clients.ask(known(clients), "tables.query", sql=sql)
    except FalajError as error:
        assert not secrets_in(error)
        return
    assert not secrets_in(found)
    if "WHERE" in sql or "HAVING" in sql or "QUALIFY" in sql or "JOIN (SEL" in sql:
        assert found.rows == []
    masked = record(clients, "tables.query")["details"]["seen_in_part"]["clients"]["masked"]
    assert set(masked) == {"name", "salary", "born", "initial"}


def test_most_queries_are_answered_all_the_same(clients: Any) -> None:
    sql = "SELECT branch, count(*) AS n FROM clients GROUP BY branch ORDER BY branch"
    found = clients.ask(clients.caller("data_scientist"), "tables.query", sql=sql)
    assert found.rows == [{"branch": "deira", "n": 1}, {"branch": "karama", "n": 2}]
    clear = clients.ask(cleared(clients), "tables.query", sql="SELECT max(salary) m FROM clients")
    assert clear.rows == [{"m": 98765.0}]


def test_a_part_of_a_query_cannot_take_the_name_of_a_masked_table(clients: Any) -> None:
    sql = "WITH clients AS (SELECT * FROM clients) SELECT * FROM clients"
    with pytest.raises(QueryRefused):
        clients.ask(known(clients), "tables.query", sql=sql)


def test_a_query_needs_the_right_to_read_each_of_its_tables(clients: Any) -> None:
    engineer = clients.caller("ml_engineer", name="ida")
    rows = _stream({"who": ["wafa"]})
    made = clients.ask(engineer, "tables.upload", rows=rows, classification="personal")
    sql = f"SELECT c.id, u.who FROM clients c, {made.table} u"
    with pytest.raises(Forbidden, match=made.table):
        clients.ask(known(clients), "tables.query", sql=sql)


def test_a_snapshot_of_the_past_is_masked_as_things_are_classified_now(clients: Any) -> None:
    engineer = clients.caller("ml_engineer", name="ida")
    told = clients.ask(engineer, "tables.upload", rows=_stream({"name": ["zaynab"], "n": [1]}))
    before = clients.ask(known(clients), "tables.read", table=told.table)
    assert secrets_in(before) == ["zaynab"]
    clients.ask(engineer, "tables.classify", table=told.table, columns={"name": "personal"})
    for snapshot in (told.snapshot, None):
        found = clients.ask(known(clients), "tables.read", table=told.table, snapshot=snapshot)
        assert not secrets_in(found)


def test_what_was_set_aside_is_as_secret_as_its_most_secret_column(clients: Any) -> None:
    found = clients.ask(known(clients), "tables.read", table="clients_quarantine")
    assert len(found.rows) == 1
    assert not secrets_in(found)
    personal_only = clients.ask(cleared(clients), "tables.read", table="clients_quarantine")
    assert "khalid" in secrets_in(personal_only)


# ---- computing


SPINES = {
    "table": {"spine": "clients"},
    "alias": {"spine_query": "SELECT branch AS b, salary AS y, seen_at AS timestamp FROM clients"},
    "harmless columns": {"spine_query": "SELECT branch, 1 AS y, seen_at AS timestamp FROM clients"},
}


@pytest.fixture(scope="module")
def service(clients: Any) -> Any:
    """Features of branches."""
    documents = [
        {"kind": "entity", "name": "branch", "keys": {"branch": "string"}},
        {"kind": "feature_view", "name": "visits", "entity": "branch", "source": "clients",
         "event_time": "seen_at", "aggregates": [
             {"name": "n", "function": "count", "window": "P1D"}]},
        {"kind": "feature_service", "name": "branches", "features": ["visits"]},
    ]  # fmt: skip
    clients.ask(clients.caller("ml_engineer", name="ida"), "definitions.apply", documents=documents)
    return clients


@pytest.mark.parametrize("how", SPINES)
def test_nobody_trains_on_what_they_see_in_part(service: Any, how: str) -> None:
    spec = {"feature_service": "branches", "timestamp": "seen_at" if how == "table" else
            "timestamp", **SPINES[how]}  # fmt: skip
    with pytest.raises(SeenInPart, match="train on table:clients"):
        service.ask(known(service), "training.prepare", spec=spec)
    assert record(service, "training.prepare")["details"]["error"] == "seen-in-part"


def test_a_training_set_is_as_secret_as_what_it_was_made_of(service: Any) -> None:
    spec = {
        "feature_service": "branches",
        "spine_query": "SELECT branch, salary AS y, name AS x, seen_at AS timestamp FROM clients",
    }
    service.ask(cleared(service), "training.prepare", spec=spec)
    service.run_jobs()
    (made,) = service.ask(cleared(service), "training.sets")
    assert made.origins["y"] == ("clients/salary",)
    for table in (made.table, *made.spine_tables):
        found = service.ask(known(service), "tables.read", table=table)
        assert found.rows
        assert not secrets_in(found)
        assert secrets_in(service.ask(cleared(service), "tables.read", table=table))
    for action in ("training.rows", "training.recreate"):
        with pytest.raises(SeenInPart):
            service.ask(known(service), action, training_set=made.id)
    service.ask(cleared(service), "training.rows", training_set=made.id)


def test_a_view_does_not_hand_out_a_personal_column_as_harmless(service: Any) -> None:
    view = {
        "kind": "feature_view", "name": "pay", "entity": "branch", "source": "clients",
        "event_time": "seen_at", "features": [{"name": "salary", "dtype": "float64"}],
    }  # fmt: skip
    engineer = service.caller("ml_engineer", name="ida")
    for level in (None, "internal", "personal"):
        documents = [{**view, "classification": level}]
        with pytest.raises(InvalidInput, match="sensitive column 'salary'"):
            service.ask(engineer, "definitions.apply", documents=documents)


def test_labels_that_are_masked_are_compared_with_nothing(clients: Any) -> None:
    with pytest.raises(SeenInPart, match="salary"):
        clients.ask(
            clients.caller("ml_engineer", name="ida"), "monitors.performance", endpoint="any",
            label_table="clients", label="salary", key="id",
        )  # fmt: skip


# ---- classifications and rules


def test_an_engineer_cannot_lower_a_column_and_then_read_it(clients: Any) -> None:
    engineer = clients.caller("ml_engineer", name="ida")
    for level in ("internal", None):
        with pytest.raises(Forbidden, match="lower"):
            clients.ask(engineer, "tables.classify", table="clients", columns={"NAME": level})
    for classes in ({}, {**CLASSES, "name": "public"}):
        with pytest.raises(Forbidden, match="lower"):
            declared = {**CLIENTS, "classifications": classes}
            clients.ask(engineer, "definitions.apply", documents=[declared])
    second = {**CLIENTS, "name": "clients-again", "classifications": {"name": "public"}}
    clients.ask(engineer, "definitions.apply", documents=[second])
    assert not secrets_in(clients.ask(known(clients), "tables.read", table="clients"))


def test_a_plan_shows_each_column_and_a_steward_may_lower_one(clients: Any) -> None:
    engineer, steward = clients.caller("ml_engineer", name="ida"), clients.caller("steward")
    guests = {**CLIENTS, "name": "guests", "table": "guests"}
    clients.ask(engineer, "definitions.apply", documents=[guests])
    changed = {**guests, "classifications": {"name": "internal", "salary": "sensitive",
                                             "branch": "personal"}}  # fmt: skip
    plan = clients.ask(engineer, "definitions.plan", documents=[changed])
    (item,) = (one for one in plan.items if one.name == "guests")
    told = {one.field: (one.before, one.after) for one in item.changes}
    assert told == {
        "classifications.name": ("personal", "internal"),
        "classifications.born": ("personal", None),
        "classifications.branch": (None, "personal"),
    }
    with pytest.raises(Forbidden, match="lower"):
        clients.ask(engineer, "definitions.apply", documents=[changed])
    clients.ask(steward, "definitions.apply", documents=[changed])
    with clients.premises.database.reading() as connection:
        asset = clients.premises.catalog.get(connection, AssetRef("table", "guests"))
    assert asset.attributes["columns"] == {
        "branch": "personal", "initial": "internal", "name": "internal", "salary": "sensitive",
    }  # fmt: skip


def test_a_read_rule_is_not_applied_but_proposed_and_approved_by_another(clients: Any) -> None:
    document = rule("mine", mask={"how": "generalise", "characters": 8, "width": 1, "to": "month"})
    for role in ("ml_engineer", "steward"):
        with pytest.raises(Forbidden, match="proposed"):
            clients.ask(clients.caller(role), "definitions.apply", documents=[document])
        with pytest.raises(FalajError):
            clients.ask(
                clients.caller(role, factor=True), "policy.propose", documents=[document],
                reason="mine",
            )  # fmt: skip
    change = propose(clients, document)
    adam = clients.caller("approver", name="adam", factor=True)
    with pytest.raises((Forbidden, Conflict)):
        clients.ask(adam, "changes.approve", id=change.id, reason="fine")
    anna = clients.caller("approver", name="anna", factor=True)
    clients.ask(anna, "changes.reject", id=change.id, reason="no")
    assert not secrets_in(clients.ask(known(clients), "tables.read", table="clients"))


@pytest.mark.parametrize(
    "more",
    [
        {"rows": "branch = 'deira') OR (true"},
        {"rows": "name IN (SELECT name FROM clients)"},
        {"rows": "town = 'x'"},
        {"mask": {"how": "null"}, "columns": ["town"]},
        {"mask": {"how": "null"}, "tables": ["clints"]},
    ],
)
def test_a_read_rule_that_does_not_fit_its_tables_is_not_even_planned(
    clients: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        propose(clients, {**rule("wrong"), **more})


def test_a_known_name_cannot_be_tested_by_hashing_it(clients: Any, ruled: Any) -> None:
    ruled(rule("hashed", tables=["*"], mask={"how": "hash"}))
    found = clients.ask(known(clients), "tables.read", table="clients", order_by=["id"])
    first, other, again = (row["name"] for row in found.rows)
    assert first == again != other
    plain = sha256(b"zaynab").hexdigest()
    assert first not in plain
    engineer = clients.caller("ml_engineer", name="ida")
    guess = clients.ask(
        engineer, "tables.upload", rows=_stream({"name": ["zaynab", "yusuf"]}),
        classifications={"name": "personal"},
    )  # fmt: skip
    own = clients.ask(engineer, "tables.read", table=guess.table)
    assert first not in {row["name"] for row in own.rows}
    joined = f"SELECT c.id FROM clients c JOIN {guess.table} g ON c.name = g.name"
    assert clients.ask(engineer, "tables.query", sql=joined).rows == []
    seen = record(clients, "tables.query")["details"]["seen_in_part"]
    assert seen["clients"]["masked"]["name"]["by"] == ["hashed"]


def test_a_rule_masks_also_for_those_who_may_see(clients: Any, ruled: Any) -> None:
    ruled(rule("coarse", mask={"how": "generalise", "to": "year", "width": 50_000},
               except_for={"purposes": ["payroll audit"]}))  # fmt: skip
    other = known(clients, factor=True, purpose="marketing")
    found = clients.ask(other, "tables.read", table="clients", order_by=["id"])
    assert [row["salary"] for row in found.rows] == [50_000.0, 0.0, 50_000.0]
    assert found.rows[0]["born"] == "1991-01-01"
    assert {row["name"] for row in found.rows} == {None}
    assert secrets_in(clients.ask(cleared(clients), "tables.read", table="clients"))


def test_of_two_rules_the_stricter_holds(clients: Any, ruled: Any) -> None:
    ruled(rule("a-hash", mask={"how": "hash"}), rule("b-null", mask={"how": "null"}))
    found = clients.ask(known(clients), "tables.read", table="clients")
    assert {row["name"] for row in found.rows} == {None}
    masked = record(clients, "tables.read")["details"]["seen_in_part"]["clients"]["masked"]
    assert masked["name"] == {"as": "null", "by": ["a-hash", "b-null"]}


# ---- row filters


def test_a_filter_shows_only_the_callers_rows_by_whatever_way(clients: Any, ruled: Any) -> None:
    ruled(rule("own-branch", rows="branch = $principal_name",
               applies_to={"roles": ["data_scientist"]}))  # fmt: skip
    deira = clients.caller("data_scientist", name="deira")
    found = clients.ask(deira, "tables.read", table="clients")
    assert [row["id"] for row in found.rows] == [1]
    assert found.n_total == 1
    for sql in (
        "SELECT count(*) AS n FROM clients",
        "SELECT count(*) AS n FROM clients a LEFT JOIN clients b ON true",
        "SELECT count(*) AS n FROM (SELECT 1 FROM clients UNION ALL SELECT 1 WHERE false)",
    ):
        assert clients.ask(deira, "tables.query", sql=sql).rows == [{"n": 1}]
    assert record(clients, "tables.query")["details"]["seen_in_part"]["clients"]["filtered_by"] == [
        "own-branch"
    ]
    with pytest.raises(SeenInPart, match="clients_quarantine"):
        clients.ask(deira, "tables.read", table="clients_quarantine")
    assert clients.ask(clients.caller("viewer"), "tables.read", table="clients").n_total == 3


def test_how_many_rows_a_filter_hides_is_not_told(clients: Any, ruled: Any) -> None:
    ruled(rule("own-branch", rows="branch = $principal_name",
               applies_to={"roles": ["data_scientist"]}))  # fmt: skip
    deira, viewer = clients.caller("data_scientist", name="deira"), clients.caller("viewer")

    def told(caller: Any, table: str) -> Any:
        listed = {one.name: one.n_rows for one in clients.ask(caller, "tables.list")}
        found = clients.ask(caller, "tables.get", table=table)
        return listed[table], found.n_rows, found.n_files is None, found.n_bytes is None

    assert told(deira, "clients") == (None, 1, True, True)
    assert told(deira, "clients_quarantine") == (None, None, True, True)
    assert told(viewer, "clients") == (3, 3, False, False)


@pytest.mark.parametrize("name", ["' OR true --", "x' UNION SELECT 1 --", "$purpose"])
def test_a_callers_own_name_is_no_part_of_the_condition(
    clients: Any, ruled: Any, name: str
) -> None:
    ruled(rule("own-branch", rows="branch = $principal_name OR branch = $purpose"))
    caller = clients.caller("viewer", name=name, purpose="deira' OR 'a' = 'a")
    assert clients.ask(caller, "tables.read", table="clients").rows == []


def test_a_training_set_does_not_show_rows_that_a_filter_hides(service: Any, ruled: Any) -> None:
    sql = "SELECT branch, 2 AS y, seen_at AS timestamp FROM clients"
    spec = {"feature_service": "branches", "spine_query": sql}
    service.ask(cleared(service), "training.prepare", spec=spec)
    bare = "SELECT upper(branch) AS branch, 3 AS y, seen_at AS timestamp FROM clients"
    service.ask(cleared(service), "training.prepare", spec={**spec, "spine_query": bare})
    service.run_jobs()
    sets = {made.spec.spine_query: made for made in service.ask(cleared(service), "training.sets")}
    ruled(rule("own-branch", rows="branch = $principal_name"))
    deira = service.caller("data_scientist", name="deira", factor=True, purpose="payroll audit")
    found = service.ask(deira, "tables.read", table=sets[sql].table)
    assert [row["branch"] for row in found.rows] == ["deira"]
    for table in (sets[bare].table, *sets[bare].spine_tables):
        with pytest.raises(SeenInPart, match="own-branch"):
            service.ask(deira, "tables.read", table=table)
    with pytest.raises(SeenInPart, match="some of its rows"):
        service.ask(deira, "training.prepare", spec=spec)
    with pytest.raises(SeenInPart, match="some of its rows"):
        service.ask(deira, "features.read", name="branches", rows=[{"branch": "karama"}])


def test_the_catalogue_keeps_what_is_known_of_the_columns(clients: Any) -> None:
    with clients.premises.database.reading() as connection:
        asset = clients.premises.catalog.get(connection, AssetRef("table", "clients"))
    assert asset.attributes["columns"] == {**CLASSES, "initial": "personal"}
    told = clients.ask(clients.caller("viewer"), "tables.get", table="clients")
    assert {one.name: one.classification for one in told.columns}["salary"] == "sensitive"


def _stream(columns: dict[str, list[Any]]) -> bytes:
    rows = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()
