"""Loading rows about people: sealed under their keys, the quarantine's too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from falaj.ingest.model import Contract, Source
from falaj.ingest.personal import personal_columns, rule_of_source, subjects_of
from falaj.kernel.clock import SetClock
from falaj.kernel.jobs import JobState
from falaj.lake.personal import rule_of
from falaj.lake.sealedcolumns import SubjectLake
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys
from falaj.trust.subjects import Subject

AT = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = {"passenger": "integer", "name": "text", "city": "text", "at": "instant"}


def bookings(**more):
    return Source(
        **{
            "name": "bookings",
            "table": "bookings",
            "path": "bookings*.csv",
            "columns": COLUMNS,
            "event_time": "at",
            "classifications": {"name": "personal"},
            "subject": "passenger",
            **more,
        }
    )


@pytest.fixture
def keys(tmp_path):
    seal = MachineSeal.create(tmp_path / "s")
    ring = FileKeyring.create(tmp_path / "ring", seal, clock=SetClock(AT))
    opened = StoredKeys(SqliteKeyTable(tmp_path / "subjects"), ring, SetClock(AT))
    yield opened
    opened.close()


@pytest.fixture
def sealed(workshop, keys):
    workshop.lake = workshop.loading._lake = SubjectLake(workshop.lake, keys)
    return workshop


def row(passenger, name, city="AUH", at="2026-01-01T00:00:00Z"):
    return [str(passenger), name, city, at]


def test_rows_and_what_was_set_aside_are_sealed_under_whom_they_are_about(sealed, keys):
    sealed.apply(
        bookings(),
        Contract(
            name="towns",
            table="bookings",
            checks=(
                {"check": "in_set", "column": "city", "values": ["AUH"], "severity": "quarantine"},
            ),
        ),
    )
    sealed.write(
        "bookings.csv",
        [row(1, "Ada"), row(2, "Bo"), row("02", "Bo", "DXB"), row("x y", "Odd"), row("", "None")],
        list(COLUMNS),
    )
    assert sealed.loaded("bookings")["n_quarantined"] == 2
    plain = sealed.lake._inner
    assert plain.scan("bookings")["name"].to_pylist() == [None] * 3
    assert plain.scan("bookings_quarantine")["row_values"].to_pylist() == [None] * 2
    assert plain.scan("bookings_quarantine")["reason"].to_pylist() == [None] * 2
    aside = sealed.lake.scan("bookings_quarantine", order_by=["row"]).to_pylist()
    assert [(one["subject"], one["reason"]) for one in aside] == [
        ("2", "in_set(city)"),
        ("x y", "passenger: 'x y' is not an integer"),
    ]
    keys.destroy(Subject("person", "2"))
    assert sealed.lake.scan("bookings", order_by=["name"])["name"].to_pylist() == [
        "Ada",
        "None",
        None,
    ]
    aside = sealed.lake.scan("bookings_quarantine", order_by=["row"]).to_pylist()
    assert [(one["subject"], one["row_values"] is None) for one in aside] == [
        (None, True),
        ("x y", False),
    ]


def test_a_refused_load_quotes_no_values_of_people(sealed):
    sealed.apply(bookings())
    sealed.write("bookings.csv", [row("Ada Lovelace", "Ada")], list(COLUMNS))
    job = sealed.load("bookings")
    assert job.state is JobState.FAILED
    assert "Ada" not in str(job.error)
    assert "1 were set aside" in str(job.error)


def test_another_source_of_the_same_table_fills_the_same_quarantine(sealed):
    sealed.apply(bookings(), bookings(name="more", path="more*.csv", subject=None))
    sealed.write("bookings.csv", [row(1, "Ada"), row("x", "Odd")], list(COLUMNS))
    sealed.write("more.csv", [row(3, "Cy"), row("y", "Even")], list(COLUMNS))
    sealed.loaded("bookings")
    sealed.loaded("more")
    assert sealed.lake.count("bookings_quarantine") == 2
    assert sealed.lake._inner.scan("bookings")["name"].to_pylist() == [None, None]


def test_a_source_without_a_subject_writes_as_before(sealed):
    sealed.apply(bookings(subject=None))
    sealed.write("bookings.csv", [row(1, "Ada"), row("x", "Odd")], list(COLUMNS))
    sealed.loaded("bookings")
    assert rule_of(sealed.lake, "bookings") is None
    assert sealed.lake._inner.scan("bookings")["name"].to_pylist() == ["Ada"]
    assert "subject" not in sealed.lake.schema("bookings_quarantine").names


def test_columns_are_as_secret_as_their_source_but_for_its_instants():
    source = bookings(classification="personal", classifications={"city": "internal"})
    assert personal_columns(source) == ("name",)
    assert rule_of_source(bookings(subject=None)) is None
    secret = bookings(classification="sensitive", classifications={"at": "personal"})
    assert personal_columns(secret) == ("name", "city", "at")


def test_whom_a_raw_row_is_about_is_told_as_the_table_would_say_it():
    lines = ['{"passenger": "007"}', '{"passenger": " 8"}', '{"passenger": ""}', "7,Ada", "{}"]
    assert subjects_of(bookings(), lines).to_pylist() == ["7", "8", None, None, None]
    text = bookings(columns={**COLUMNS, "passenger": "text"})
    assert subjects_of(text, lines[:1]).to_pylist() == ["007"]
