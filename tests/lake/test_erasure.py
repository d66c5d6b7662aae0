"""Erasing a person: what is destroyed, what is certified, and what the certificate cannot tell."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.erasure import Erasures, LookedThrough, hashed
from falaj.lake.tables import certificate_rows, newest_sequence
from falaj.testing.calls import opened_call
from falaj.testing.subjects_suite import made, persons
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys
from falaj.trust.subjects import Subject

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """A store with a number of rows of each pseudonym."""

    name = "rows"

    def __init__(self, **rows):
        self.rows = rows
        self.broken = False

    def count(self, key):
        n = self.rows.get(key.subject.name, 0)
        return {"bookings": n} if n else {}

    def forget(self, key):
        if self.broken:
            raise RuntimeError("away")
        return self.rows.pop(key.subject.name, 0)


@pytest.fixture
def subjects(tmp_path, keys):
    opened = StoredKeys(SqliteKeyTable(tmp_path / "subjects"), keys, SetClock(AT))
    yield opened
    opened.close()


@pytest.fixture
def rows():
    return Rows(ada=3, bo=1)


@pytest.fixture
def erasures(subjects, rows, keys):
    made(subjects, "ada", "bo")
    return Erasures(subjects, lambda: [rows], keys)


ADA = Subject("person", "ada")


def test_an_erasure_destroys_removes_and_certifies(erasures, subjects, rows, sqlite_database):
    (key,) = made(subjects, "ada")
    assert [(one.where, one.n_rows) for one in erasures.find(ADA)] == [("bookings", 3)]
    with opened_call(sqlite_database) as call:
        certificate, receipt = erasures.erase(call, ADA, "request 17")
    assert subjects.of([ADA], make=False) == [None]
    assert rows.rows == {"bo": 1}
    assert erasures.find(ADA) == []
    assert certificate.pseudonym == key.text
    assert certificate.looked_through == (LookedThrough(store="rows", n_rows=3, n_removed=3),)
    assert certificate.subject_hash == hashed(ADA, receipt)
    assert certificate.subject_hash != hashed(Subject("person", "bo"), receipt)
    assert "ada" not in certificate.model_dump_json()
    with sqlite_database.reading() as connection:
        assert erasures.certificates(connection) == [certificate]
        assert erasures.certificate(connection, certificate.id) == certificate
        assert newest_sequence(connection) == 1
        with pytest.raises(NotFound):
            erasures.certificate(connection, "cert_x")


def test_a_certificate_that_was_changed_is_told(erasures, sqlite_database):
    with opened_call(sqlite_database) as call:
        erasures.erase(call, ADA, "request 17")
        call.connection.execute(certificate_rows.update().values(reason="request 18"))
    with sqlite_database.reading() as connection:
        (found,) = erasures.certificates(connection)
    assert found.signed is False


def test_who_has_no_key_cannot_be_erased_and_is_not_named(erasures, sqlite_database):
    with opened_call(sqlite_database) as call:
        with pytest.raises(NotFound) as told:
            erasures.erase(call, Subject("person", "somebody"), "request 1")
        assert "somebody" not in f"{told.value} {told.value.hint}"
        with pytest.raises(InvalidInput, match="names the subject"):
            erasures.erase(call, ADA, "Ada asked for it")
        with pytest.raises(InvalidInput, match="needs a reason"):
            erasures.erase(call, ADA, " ")


def test_a_call_that_is_done_again_goes_on_where_it_was(erasures, rows, sqlite_database):
    rows.broken = True
    with opened_call(sqlite_database) as call, pytest.raises(RuntimeError):
        erasures.erase(call, ADA, "request 17")
    rows.broken = False
    with opened_call(sqlite_database) as again:
        again.id = call.id
        certificate, _ = erasures.erase(again, ADA, "request 17")
    assert certificate.looked_through[0].n_removed == 3


def test_a_destruction_without_a_certificate_is_told(erasures, subjects, sqlite_database):
    with opened_call(sqlite_database) as call:
        certificate, _ = erasures.erase(call, ADA, "request 17")
    done = subjects.destroy(persons("bo")[0])
    with sqlite_database.reading() as connection:
        bare, whole = erasures.all_certificates(connection)
    assert whole == certificate
    assert (bare.id, bare.sequence, bare.pseudonym) == ("", 2, f"{done.pseudonym:016x}")
    assert bare.erased_by == "(not recorded)"
