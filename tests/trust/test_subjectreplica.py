"""A second place for subject keys follows the first one, and is never levelled downwards."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from functools import partial

import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt, Unavailable
from falaj.testing.scanning import files_with
from falaj.testing.subjects_suite import made, persons
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.ports import WRAPPING
from falaj.trust.subjectkeys import StoredKeys, data_key_opens
from falaj.trust.subjectreplica import ReplicatedTable

AT = datetime(2026, 1, 1, tzinfo=UTC)
EARLY = persons("early")


@pytest.fixture
def ring(tmp_path):
    seal = MachineSeal.create(tmp_path / "s")
    return FileKeyring.create(tmp_path / "ring", seal, clock=SetClock(AT))


@pytest.fixture
def alone(tmp_path, ring):
    """Keys in one folder, without a replica."""
    return lambda name: StoredKeys(SqliteKeyTable(tmp_path / name), ring, SetClock(AT))


@pytest.fixture
def both(tmp_path, ring):
    """Keys in a folder, and in the replica ``b``."""

    def opened(name):
        tables = SqliteKeyTable(tmp_path / name), SqliteKeyTable(tmp_path / "b")
        return StoredKeys(
            ReplicatedTable(*tables, partial(data_key_opens, ring)), ring, SetClock(AT)
        )

    return opened


def copied(tmp_path):
    """An older copy of the first place, by hand."""
    shutil.copytree(tmp_path / "a", tmp_path / "old")


def held(keys):
    """All that a table has."""
    table = keys.table
    rows = sorted((row for page in table.pages() for row in page), key=lambda row: row.handle)
    return rows, table.removed(), table.data_keys()


def refused(keys, alone, match):
    """Each way to use the keys is refused, and both places stay as they are."""
    replica = alone("b")
    before = held(replica), held(keys)
    (item, *_) = [*(name for name, _ in keys.items()), "000000001"]
    for use in (
        lambda: made(keys, "new"),
        lambda: keys.destroy(persons("early")[0]),
        lambda: keys.of(persons("early"), make=False),
        lambda: keys.table.add_data_key(7, "x.AA=="),
        lambda: keys.table.exchange_data_key(int(item), "x.AA==", "y.AA=="),
        lambda: keys.table.drop_data_key(int(item)),
        lambda: keys.table.rewrapped([]),
        lambda: keys.table.copy(data_keys={}),
    ):
        with pytest.raises(Corrupt, match=match) as told:
            use()
        assert "privacy.subject_keys name the place of the replica" in told.value.hint
    assert (held(replica), held(keys)) == before


def test_a_first_place_that_was_lost_does_not_empty_the_replica(both, alone):
    found = made(both("a"), "early", *range(1500))
    refused(both("lost"), alone, "1501 keys, and the first place is empty")
    assert alone("b").of(persons("early", *range(1500)), make=False) == found


def test_an_older_copy_does_not_bring_destroyed_keys_back(both, alone, tmp_path):
    keys = both("a")
    _, gone = made(keys, "early", "gone")
    copied(tmp_path)
    keys.destroy(gone.subject)
    refused(both("old"), alone, "1 destructions that the first place does not know")
    assert alone("b").by_pseudonym([gone.pseudonym]) == [None]


def test_an_older_copy_that_destroyed_others_since_is_refused(both, alone, tmp_path):
    keys = both("a")
    _, gone, other, _ = made(keys, "early", "gone", "other", "third")
    copied(tmp_path)
    keys.destroy(gone.subject)
    alone("old").destroy(other.subject)  # as many destructions, and as many keys
    refused(both("old"), alone, "1 destructions that the first place does not know")
    alone("old").destroy(persons("third")[0])  # more of them
    refused(both("old"), alone, "1 destructions that the first place does not know")


def test_an_older_copy_without_the_latest_keys_is_refused(both, alone, tmp_path):
    keys = both("a")
    made(keys, "early")
    copied(tmp_path)
    (later,) = made(keys, "later")
    made(alone("old"), "x", "y")
    refused(both("old"), alone, "1 or more keys that the first place never had")
    assert alone("b").of(persons("later"), make=False) == [later]


def test_a_first_place_that_began_anew_is_refused(both, alone):
    made(both("a"), "early")
    made(alone("anew"), "early", "x")
    refused(both("anew"), alone, "1 or more keys that the first place never had")


def test_a_copy_from_before_a_reseal_is_refused(both, alone, tmp_path):
    keys = both("a")
    made(keys, "early")
    copied(tmp_path)
    ((item, _),) = keys.items()
    keys.reseal(item)
    refused(both("old"), alone, "the data key 2, which the first place never had")
    old = alone("old")
    old.table.add_data_key(2, keys.table.data_keys()[2])  # a copy from the middle of it
    refused(both("old"), alone, "no data key 1 any more")


def test_an_older_copy_whose_data_key_opens_no_more_does_not_spoil_the_replica(
    both, alone, ring, tmp_path
):
    keys = both("a")
    found = made(keys, "early")
    copied(tmp_path)
    ((item, key_id),) = keys.items()
    ring.rotate(WRAPPING)
    assert keys.rewrap(item)
    made(alone("old"), "x")  # the key service still opens it
    ring.discard(key_id)
    refused(
        both("old"), alone, "another wrapping of the data key 1, and the first one is of no use"
    )
    assert alone("b").of(persons("early"), make=False) == found


def test_a_replica_that_was_away_is_levelled_by_every_write(both, alone):
    for place, write in enumerate(
        (
            lambda keys, item: keys.rewrap(item),
            lambda keys, item: keys.table.drop_data_key(99),
            lambda keys, _: keys.table.rewrapped([]),
        )
    ):
        made(both("a"), "early")
        early, gone = made(alone("a"), f"x{place}", f"gone{place}")
        alone("a").destroy(gone.subject)
        keys = both("a")
        assert keys.table.behind()
        assert keys.table.ahead() == ""
        write(keys, "000000001")
        assert not keys.table.behind()
        assert alone("b").by_pseudonym([early.pseudonym, gone.pseudonym]) == [early, None]
        assert held(alone("a")) == held(alone("b"))


def test_the_replica_in_the_first_place_takes_an_empty_replica(both, alone, tmp_path):
    found = made(both("a"), "early", "other")
    (tmp_path / "b").rename(tmp_path / "c")  # what the hint says
    assert made(both("c"), "early", "other") == found
    made(both("c"), "later")
    assert held(alone("b")) == held(alone("c"))


def test_a_key_that_is_destroyed_while_it_is_copied_does_not_stay_in_the_replica(
    both, tmp_path, ring
):
    class Slow(SqliteKeyTable):
        def by_handle(self, handles):
            rows = super().by_handle(handles)
            if rows and not done:
                done.append(both("a").destroy(persons("gone")[0]))
            return rows

    done = []
    table = ReplicatedTable(
        Slow(tmp_path / "a"), SqliteKeyTable(tmp_path / "b"), partial(data_key_opens, ring)
    )
    keys = StoredKeys(table, ring, SetClock(AT))
    keys.table.add(keys._rows({keys._handle(subject): subject for subject in persons("gone")}))
    assert done[0].sequence == 1
    assert not table.behind()
    replica = SqliteKeyTable(tmp_path / "b")
    assert replica.count() == 0
    assert files_with(tmp_path / "b", keys._handle(persons("gone")[0])[:8]) == []


def test_a_write_that_failed_in_one_thread_is_levelled_after_that_of_another(tmp_path, ring):
    class Away(SqliteKeyTable):
        def copy(self, **given):
            if away and away.pop():
                raise Unavailable("The disk is away.")
            super().copy(**given)

    away = []
    table = ReplicatedTable(
        SqliteKeyTable(tmp_path / "a"), Away(tmp_path / "b"), partial(data_key_opens, ring)
    )
    keys = StoredKeys(table, ring, SetClock(AT))
    made(keys, "early")
    away.append(True)
    with pytest.raises(Unavailable):
        made(keys, "failed")
    (row,) = [row for page in table.pages() for row in page if row.handle == keys._handle(*EARLY)]
    table._copied(rows=[row])  # another thread, which was past the look at the level
    made(keys, "next")
    assert not table.behind()
