"""Keeping and finding audit records, on SQLite and PostgreSQL."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from falaj.kernel.errors import Corrupt, NotFound, Unavailable
from falaj.kernel.ports import Outcome
from falaj.testing.audit import START, Tamperer, fill, make_entry
from falaj.trust.audit import SqlAuditLog, cleaned
from falaj.trust.audit_tables import append_only_ddl, audit_records

LOG = SqlAuditLog()


def rows(database):
    with database.reading() as connection:
        return connection.execute(select(audit_records).order_by(audit_records.c.seq)).all()


def search(database, **filters):
    with database.reading() as connection:
        return LOG.search(connection, **filters)


def test_the_chain_is_what_the_documentation_says(database):
    fill(database, 3)
    previous = bytes(32)
    for number, row in enumerate(rows(database), 1):
        at = (
            int((row.at - START.replace(year=1970, month=1, day=1, hour=0)).total_seconds()) * 10**6
        )
        values = [number, at, row.call_id, row.parent, row.principal, row.via, row.address]
        values += [row.action, row.resource, row.outcome, row.body]
        written = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
        previous = sha256(previous + written).digest()
        assert row.hash == previous


def test_a_record_comes_back_as_it_was_kept(database):
    given_entry = make_entry(
        7,
        parent="call_parent",
        address=None,
        outcome=Outcome.REFUSED,
        arguments={"deep": {"list": [1, 2.5, None, True]}},
        details={"error": "forbidden"},
    )
    with database.transaction() as connection:
        LOG.append(connection, given_entry)
    with database.reading() as connection:
        record = LOG.get(connection, 1)
        assert LOG.size(connection) == 1
        with pytest.raises(NotFound):
            LOG.get(connection, 2)
    for name in ("call_id", "parent", "at", "principal", "via", "address", "action", "resource"):
        assert getattr(record, name) == getattr(given_entry, name)
    assert record.outcome is Outcome.REFUSED
    assert (record.arguments, record.details) == (given_entry.arguments, given_entry.details)
    assert record.reasons == ["role-engineer"]


def test_a_record_is_gone_with_its_transaction(database):
    fill(database, 1)
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        LOG.append(connection, make_entry(2))
        raise ZeroDivisionError
    fill(database, 1, first=3)
    assert [row.seq for row in rows(database)] == [1, 2]


def test_many_writers_leave_no_gap_and_one_chain(database):
    def write(number):
        with database.transaction() as connection:
            LOG.append(connection, make_entry(number))
            LOG.append(connection, make_entry(number + 1000))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    kept = rows(database)
    assert [row.seq for row in kept] == list(range(1, 81))
    assert len({row.hash for row in kept}) == 80


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit_records SET principal = 'user:nobody' WHERE seq = 2",
        "UPDATE audit_records SET seq = 9 WHERE seq = 3",
        "DELETE FROM audit_records WHERE seq = 2",
        "DELETE FROM audit_records",
    ],
)
def test_the_database_refuses_to_change_or_remove_a_record(database, sql):
    fill(database, 3)
    before = rows(database)
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.execute(text(sql))
    assert rows(database) == before


def test_sqlite_refuses_to_replace_a_record_by_inserting_it_again(sqlite_database):
    fill(sqlite_database, 3)
    before = rows(sqlite_database)
    for verb in ("INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"):
        sql = f"{verb} INTO audit_records SELECT * FROM audit_records WHERE seq = 2"
        with pytest.raises(DBAPIError), sqlite_database.engine.begin() as connection:
            connection.execute(text(sql))
    assert rows(sqlite_database) == before


@pytest.mark.services
def test_postgresql_refuses_upserts_and_truncation(postgres_database):
    fill(postgres_database, 3)
    before = rows(postgres_database)
    for sql in (
        "TRUNCATE audit_records",
        "INSERT INTO audit_records SELECT * FROM audit_records "
        "ON CONFLICT (seq) DO UPDATE SET principal = 'x'",
    ):
        with (
            pytest.raises(DBAPIError, match="append-only"),
            postgres_database.engine.begin() as connection,
        ):
            connection.execute(text(sql))
    assert rows(postgres_database) == before


def test_triggers_are_known_for_two_engines_only():
    with pytest.raises(ValueError):
        append_only_ddl("oracle", "audit_records")


def test_filters_find_what_they_say_and_nothing_else(database):
    fill(database, 30)
    with database.transaction() as connection:
        LOG.append(connection, make_entry(31, outcome=Outcome.REFUSED, action="models_promote"))
    everything = search(database).records
    assert [record.seq for record in everything] == list(range(31, 0, -1))
    cases = {
        "principal": ("user:u1", lambda r: r.principal == "user:u1"),
        "action": ("models.promote", lambda r: r.action == "models.promote"),
        "resource": ("model_version:flight/2", lambda r: r.resource == "model_version:flight/2"),
        "outcome": (Outcome.REFUSED, lambda r: r.outcome == Outcome.REFUSED),
        "since": (START + timedelta(seconds=20), lambda r: r.at >= START + timedelta(seconds=20)),
        "until": (START + timedelta(seconds=20), lambda r: r.at < START + timedelta(seconds=20)),
        "before": (5, lambda r: r.seq < 5),
    }
    for name, (value, fits) in cases.items():
        found = search(database, **{name: value}).records
        assert found == [record for record in everything if fits(record)]
        assert found
    assert search(database, principal="user:u1", action="models.get", before=8).records == [
        record
        for record in everything
        if record.principal == "user:u1" and record.action == "models.get" and record.seq < 8
    ]


def test_a_star_finds_beginnings_and_wildcards_of_sql_mean_nothing(database):
    fill(database, 4)
    with database.transaction() as connection:
        LOG.append(connection, make_entry(5, action="models_x", resource="a%b"))
    assert len(search(database, action="models.*").records) == 4
    assert len(search(database, action="models_*").records) == 1
    assert len(search(database, resource="a%*").records) == 1
    assert search(database, resource="%").records == []
    assert search(database, principal="' OR 1=1 --").records == []
    assert search(database, principal="\0").records == []


def test_pages_go_through_everything_once(database):
    fill(database, 23)
    seen, before = [], None
    while True:
        page = search(database, limit=5, before=before)
        seen += [record.seq for record in page.records]
        before = page.next
        if before is None:
            break
    assert seen == list(range(23, 0, -1))
    assert search(database, limit=0).next == 23
    assert search(database, limit=10**9).next is None


def test_a_record_whose_body_was_changed_is_named_when_it_is_read(database):
    fill(database, 1)
    Tamperer(database).run("UPDATE audit_records SET body = 'rubbish'")
    with database.reading() as connection, pytest.raises(Corrupt, match="record 1"):
        LOG.get(connection, 1)


def test_a_log_that_cannot_be_written_says_so_and_undoes_the_work(database):
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE audit_records"))
    with (
        pytest.raises(Unavailable, match="nothing was done"),
        database.transaction() as connection,
    ):
        connection.execute(text("CREATE TABLE work (x INTEGER)"))
        LOG.append(connection, make_entry())
    with pytest.raises(DBAPIError), database.engine.begin() as connection:
        connection.execute(text("SELECT * FROM work"))


HOSTILE = st.text(st.characters(codec=None), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(HOSTILE, min_size=4, max_size=4),
    arguments=st.dictionaries(
        HOSTILE,
        st.recursive(
            HOSTILE | st.integers() | st.floats() | st.none() | st.booleans(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
            max_leaves=8,
        ),
        max_size=3,
    ),
)
def test_any_text_and_any_arguments_are_kept_and_read(database, values, arguments):
    principal, action, resource, address = values
    hostile = make_entry(
        1,
        principal=principal,
        action=action,
        resource=resource,
        address=address,
        arguments=arguments,
    )
    with database.transaction() as connection:
        LOG.append(connection, hostile)
        record = LOG.get(connection, LOG.size(connection))
    assert record.principal == cleaned(principal)
    assert record.model_dump_json()


def test_odd_arguments_are_kept_as_text_and_never_refuse_the_record(sqlite_database):
    loop = []
    loop.append(loop)
    odd = {"object": object, "key": {(1, 2): 3}, "huge": 2**80, "set": {1}, "loop": loop}
    with sqlite_database.transaction() as connection:
        LOG.append(connection, make_entry(1, arguments=odd))
        LOG.append(connection, make_entry(2, arguments={"lone": "\ud800", "int": 5}))
        assert LOG.get(connection, 1).arguments["huge"] == str(2**80)
        assert LOG.get(connection, 2).arguments == {"lone": "\ufffd", "int": 5}


def test_appending_nothing_keeps_nothing(database):
    with database.transaction() as connection:
        LOG.append_many(connection, [])
        assert LOG.size(connection) == 0
