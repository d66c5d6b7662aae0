"""Subject keys in a file: the promises of every store, and that nothing of a key stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from functools import partial

import pytest

from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.errors import Corrupt
from falaj.testing.scanning import files_with
from falaj.testing.subjects_suite import SubjectKeysSuite, made, persons
from falaj.trust.adapters import subjects_sqlite
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.ports import WRAPPING
from falaj.trust.subjectkeys import StoredKeys, data_key_opens
from falaj.trust.subjectreplica import ReplicatedTable

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ring(tmp_path):
    seal = MachineSeal.create(tmp_path / "s")
    return FileKeyring.create(tmp_path / "ring", seal, clock=SetClock(AT))


def store(folder, ring, **given):
    return StoredKeys(SqliteKeyTable(folder), ring, SetClock(AT), **given)


@pytest.fixture
def keys(tmp_path, ring):
    opened = store(tmp_path / "subjects", ring)
    yield opened
    opened.close()


class TestSqliteSubjectKeys(SubjectKeysSuite):
    @pytest.fixture
    def keys(self, tmp_path, ring):
        opened = store(tmp_path / "subjects", ring)
        yield opened
        opened.close()

    @pytest.fixture
    def again(self, keys, tmp_path, ring):
        opened = store(tmp_path / "subjects", ring)
        yield opened
        opened.close()


class TestReplicatedSubjectKeys(SubjectKeysSuite):
    @pytest.fixture
    def keys(self, tmp_path, ring):
        return self.opened(tmp_path, ring)

    @pytest.fixture
    def again(self, keys, tmp_path, ring):
        return self.opened(tmp_path, ring)

    def opened(self, folder, ring):
        both = SqliteKeyTable(folder / "subjects"), SqliteKeyTable(folder / "replica")
        return StoredKeys(
            ReplicatedTable(*both, partial(data_key_opens, ring)), ring, SystemClock()
        )


def left(folder, row):
    """The files that hold anything of a row but its pseudonym, which stays in the list of
    destructions: the beginning of its handle, its secret, its name.
    """
    needles = (row.handle[:8], row.wrapped, row.name)
    return [path for needle in needles for path in files_with(folder, needle)]


def test_nothing_of_a_destroyed_key_is_left_in_its_folder(keys, tmp_path):
    subjects = persons(*range(2000))
    found = made(keys, *range(2000))
    rows = {row.pseudonym: row for row in keys.table.by_pseudonym([k.pseudonym for k in found])}
    folder = tmp_path / "subjects"
    assert left(folder, rows[found[7].pseudonym]), "the search finds what is there"
    for place in range(0, 2000, 100):
        keys.destroy(subjects[place])
        made(keys, f"later {place}")  # pages fill, split and move in between
    for place in range(0, 2000, 100):
        assert left(folder, rows[found[place].pseudonym]) == []
    assert keys.by_pseudonym([found[1].pseudonym]) == [found[1]]


def test_a_large_transaction_leaves_a_small_journal_of_zeros(keys, tmp_path):
    made(keys, *range(5000))
    journal = (tmp_path / "subjects" / "keys.sqlite-journal").read_bytes()
    assert len(journal) <= 64 * 1024
    assert not journal.strip(b"\0")
    made(keys, "one more")
    assert keys.table.count() == 5001


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from falaj.kernel.clock import SystemClock
    from falaj.testing.subjects_suite import persons
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
    from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
    from falaj.trust.subjectkeys import StoredKeys

    class Killed(SqliteKeyTable):
        def _wipe(self):
            if where == "committed" and "DESTROY" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._wipe()

    folder, where = Path(sys.argv[1]), sys.argv[2]
    ring = FileKeyring(folder / "ring", MachineSeal(folder / "s"), clock=SystemClock())
    table = Killed(folder / "subjects")
    keys = StoredKeys(table, ring, SystemClock())
    keys.of(persons("7"), make=False)
    os.environ["DESTROY"] = "1"
    if where == "deleted":
        connection, _ = table._connection()
        connection.set_trace_callback(
            lambda sql: sql.startswith("INSERT INTO destr") and os.kill(os.getpid(), signal.SIGKILL)
        )
        connection.execute("PRAGMA cache_size = 1")  # changed pages go to the file at once
    keys.destroy(persons("7")[0])
"""


@pytest.mark.parametrize("where", ["deleted", "committed"])
def test_a_process_that_is_killed_while_it_destroys_leaves_the_key_or_nothing(
    keys, ring, tmp_path, where
):
    found = made(keys, *range(50))
    (row,) = keys.table.by_pseudonym([found[7].pseudonym])
    keys.close()
    body = textwrap.dedent(KILLED)
    done = subprocess.run([sys.executable, "-c", body, str(tmp_path), where], check=False)
    assert done.returncode == -signal.SIGKILL
    opened = store(tmp_path / "subjects", ring)
    if where == "deleted":
        assert opened.by_pseudonym([row.pseudonym]) == [found[7]]
        assert opened.destroyed() == []
    else:
        assert opened.by_pseudonym([row.pseudonym]) == [None]
        assert [one.pseudonym for one in opened.destroyed()] == [row.pseudonym]
        assert left(tmp_path / "subjects", row) == []
    opened.close()


def test_two_processes_that_make_keys_at_once_make_the_same_ones(keys, ring, tmp_path):
    body = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from falaj.kernel.clock import SystemClock
        from falaj.testing.subjects_suite import made
        from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
        from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
        from falaj.trust.subjectkeys import StoredKeys
        folder = Path(sys.argv[1])
        ring = FileKeyring(folder / "ring", MachineSeal(folder / "s"), clock=SystemClock())
        keys = StoredKeys(SqliteKeyTable(folder / "subjects"), ring, SystemClock())
        for start in range(0, 200, 20):
            for key in made(keys, *range(start, start + 20)):
                print(key.text)
        """
    )
    started = [
        subprocess.Popen([sys.executable, "-c", body, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[0] for process in started]
    assert told[0] == told[1]
    assert len(set(told[0].split())) == 200


def test_the_file_names_nobody_and_holds_no_secret(keys, tmp_path):
    (key,) = made(keys, "Fatima Al Mansoori")
    assert files_with(tmp_path / "subjects", b"Fatima Al Mansoori") == []
    assert files_with(tmp_path / "subjects", key.secret) == []
    mode = {p.stat().st_mode & 0o077 for p in (tmp_path / "subjects").rglob("*")}
    assert mode == {0}


def test_a_row_that_was_changed_is_not_believed(keys, ring, tmp_path):
    first, second = made(keys, "a", "b")
    one, other = (keys.table.by_pseudonym([key.pseudonym])[0] for key in (first, second))
    swapped = type(one)(one.handle, one.pseudonym, one.data_key, other.wrapped, one.name)
    keys.table.copy(rows=[swapped])
    with pytest.raises(Corrupt, match=first.text):
        store(tmp_path / "subjects", ring).by_pseudonym([first.pseudonym])


def test_rotation_puts_the_data_key_under_the_new_version_and_a_reseal_all_keys_anew(
    keys, ring, tmp_path
):
    found = made(keys, *range(1200))
    ring.rotate(WRAPPING)
    ((item, before),) = keys.items()
    assert keys.rewrap(item)
    ((_, after),) = keys.items()
    assert after != before
    assert keys.reseal(item)
    assert [name for name, _ in keys.items()] == ["000000002"]
    assert not keys.rewrap(item)
    opened = store(tmp_path / "subjects", ring)
    assert made(opened, *range(1200)) == found
    assert {row.data_key for rows in opened.table.pages() for row in rows} == {2}


def test_a_replica_has_what_was_made_and_not_what_was_destroyed(tmp_path, ring):
    first, replica = SqliteKeyTable(tmp_path / "a"), SqliteKeyTable(tmp_path / "b")
    before = StoredKeys(first, ring, SetClock(AT))
    early = made(before, "early", "gone")
    before.destroy(early[1].subject)
    both = StoredKeys(
        ReplicatedTable(first, replica, partial(data_key_opens, ring)), ring, SetClock(AT)
    )
    later, lost = made(both, "later", "lost")
    both.destroy(lost.subject)
    (row,) = first.by_pseudonym([later.pseudonym])
    alone = StoredKeys(replica, ring, SetClock(AT))
    wanted = [early[0], None, later, None]
    assert alone.of(persons("early", "gone", "later", "lost"), make=False) == wanted
    assert [one.sequence for one in alone.destroyed()] == [1, 2]
    assert left(tmp_path / "b", row)
    assert not ReplicatedTable(first, replica, partial(data_key_opens, ring)).behind()


def test_a_store_in_another_place_forgets_what_the_first_one_said(tmp_path, ring):
    ticks = iter(range(100))
    keys = store(tmp_path / "a", ring, ticks=lambda: next(ticks))
    (key,) = made(keys, "x")
    keys.destroy(persons("y")[0])
    made(keys, "y")
    keys.destroy(persons("y")[0])
    made(keys, "z")
    keys.table = SqliteKeyTable(tmp_path / "empty")
    assert keys.by_pseudonym([key.pseudonym]) == [None]


@pytest.mark.parametrize("at_once", [400, 7])
def test_every_key_is_found_when_buckets_overflow(keys, ring, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(subjects_sqlite, "_ENTRIES", 4)
    names = list(range(400))
    found = []
    for start in range(0, 400, at_once):
        found += made(keys, *names[start : start + at_once])
    opened = store(tmp_path / "subjects", ring)
    assert opened.of(persons(*names), make=False) == found
    assert opened.by_pseudonym([key.pseudonym for key in found]) == found
    for key in found[::2]:
        assert opened.destroy(key.subject) is not None
    table = SqliteKeyTable(tmp_path / "subjects")
    rows = table.by_pseudonym([key.pseudonym for key in found])
    assert {row.pseudonym for row in rows} == {key.pseudonym for key in found[1::2]}
    assert len(table.by_handle([row.handle for row in rows])) == table.count() == 200
    assert table.flaw() == ""


def test_a_record_that_is_not_found_through_both_tables_is_told(keys):
    made(keys, *range(100))
    assert keys.table.flaw() == ""
    connection, _ = keys.table._connection()
    ((body, other),) = connection.execute(
        "SELECT one.body, two.body FROM handles one, handles two WHERE one.id = 1 AND two.id = 2"
    )
    connection.execute("UPDATE handles SET body = ? WHERE id = 2", [body])
    connection.execute("UPDATE handles SET body = ? WHERE id = 1", [other])
    told = keys.table.flaw()
    assert told.startswith("of 100 keys 100 are counted, ")
    assert told.endswith(" are found by name and 100 by pseudonym")
    connection.execute("UPDATE handles SET body = ? WHERE id = 1", [body])
    connection.execute("UPDATE handles SET body = ? WHERE id = 2", [other])
    connection.execute("DELETE FROM data_keys")
    assert keys.table.flaw() == "100 keys are under a data key that is gone"


def test_a_reseal_leaves_the_key_of_a_subject_who_was_erased_and_named_again(keys, ring, tmp_path):
    (old,) = made(keys, "back")
    (row,) = keys.table.by_pseudonym([old.pseudonym])
    keys.destroy(old.subject)
    (new,) = made(keys, "back")
    keys.table.rewrapped([row])
    assert store(tmp_path / "subjects", ring).of(persons("back"), make=False) == [new]
