"""Subject keys in a PostgreSQL of their own: the promises of every store."""

from __future__ import annotations

from functools import partial

import pytest

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Corrupt, Unavailable
from falaj.testing.subjects_suite import SubjectKeysSuite, made
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_postgres import PostgresKeyTable
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys, data_key_opens
from falaj.trust.subjectreplica import ReplicatedTable

pytestmark = pytest.mark.services


@pytest.fixture
def ring(tmp_path):
    seal = MachineSeal.create(tmp_path / "s")
    return FileKeyring.create(tmp_path / "ring", seal, clock=SystemClock())


@pytest.fixture(scope="module")
def place(postgres_server):
    name = postgres_server.create_database()
    yield postgres_server.url(name).replace("postgresql+psycopg", "postgresql")
    postgres_server.drop_database(name)


@pytest.fixture
def url(place):
    table = PostgresKeyTable(place)
    with table._writing() as cursor:
        cursor.execute("TRUNCATE subject_keys, destructions, data_keys")
    table.close()
    return place


class TestPostgresSubjectKeys(SubjectKeysSuite):
    @pytest.fixture
    def keys(self, url, ring):
        opened = StoredKeys(PostgresKeyTable(url), ring, SystemClock())
        yield opened
        opened.close()

    @pytest.fixture
    def again(self, url, ring):
        opened = StoredKeys(PostgresKeyTable(url), ring, SystemClock())
        yield opened
        opened.close()


def test_a_file_may_be_the_replica_of_a_database(url, ring, tmp_path):
    replica = SqliteKeyTable(tmp_path / "replica")
    both = StoredKeys(
        ReplicatedTable(PostgresKeyTable(url), replica, partial(data_key_opens, ring)),
        ring,
        SystemClock(),
    )
    kept, gone = made(both, "kept", "gone")
    both.destroy(gone.subject)
    ((item, _),) = both.items()
    assert both.reseal(item)
    assert not both.table.behind()
    alone = StoredKeys(replica, ring, SystemClock())
    assert alone.of([kept.subject, gone.subject], make=False) == [kept, None]
    both.close()


def test_a_database_that_was_lost_does_not_empty_its_replica(url, ring, tmp_path):
    replica = SqliteKeyTable(tmp_path / "replica")
    both = StoredKeys(
        ReplicatedTable(PostgresKeyTable(url), replica, partial(data_key_opens, ring)),
        ring,
        SystemClock(),
    )
    found = made(both, "kept", "other")
    assert both.table.flaw() == ""
    both.close()
    with both.table._first._writing() as cursor:
        cursor.execute("TRUNCATE subject_keys, destructions, data_keys")
    again = ReplicatedTable(
        PostgresKeyTable(url), SqliteKeyTable(tmp_path / "replica"), partial(data_key_opens, ring)
    )
    with pytest.raises(Corrupt, match="2 keys, and the first place is empty"):
        made(StoredKeys(again, ring, SystemClock()), "new")
    assert made(StoredKeys(replica, ring, SystemClock()), "kept", "other") == found
    both.close()
    again.close()


def test_a_key_in_a_database_whose_data_key_is_gone_is_told(url, ring):
    keys = StoredKeys(PostgresKeyTable(url), ring, SystemClock())
    made(keys, "a")
    keys.table.copy(data_keys={})
    assert keys.table.flaw() == "1 keys are under a data key that is gone"
    keys.close()


def test_a_server_that_is_away_is_told_without_its_password(ring):
    table = PostgresKeyTable("postgresql://u@127.0.0.1:9/x", password="hunter2", wait_seconds=2)
    with pytest.raises(Unavailable, match="does not answer") as told:
        table.count()
    assert "hunter2" not in str(told.value)
