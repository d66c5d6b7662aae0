"""Training sets about people: sealed as what they were made of, and honest after an erasure."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from falaj import declare as of
from falaj.features.plan import ServicePlan
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import InvalidInput
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import (
    ErasedWhileCopied,
    PersonalGroup,
    PersonalRule,
    SubjectsErased,
    record_rule,
    rule_of,
)
from falaj.lake.sealedcolumns import SubjectLake
from falaj.training.model import TrainingSetSpec
from falaj.training.personal import rule_of_set
from falaj.training.ports import Pinned
from falaj.training.spines import Spine, written_query
from falaj.training.training_sets import TrainingSets
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys
from falaj.trust.subjects import Subject

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
PEOPLE = PersonalRule(
    table="people", groups=(PersonalGroup(subject="who", columns=("name", "income")),)
)


class Doubled:
    """Features are twice the income."""

    def training_frame(self, spine, service, **asked):
        return spine.append_column("x", pa.array([2.0] * len(spine)))


class Pins:
    """There is one service, of no definitions."""

    def pins(self, connection, service):
        return Pinned(definitions={}, service=service)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    ring = FileKeyring.create(folder / "r", MachineSeal.create(folder / "s"), clock=SystemClock())
    opened = StoredKeys(SqliteKeyTable(folder / "subjects"), ring, SystemClock())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory, keys):
    lake = SubjectLake(DuckLake.in_folder(tmp_path_factory.mktemp("lake"), threads=1), keys)
    record_rule(lake, PEOPLE)
    n = 6
    rows = {
        "who": pa.array([1, 1, 2, 2, 3, 3], pa.int64()),
        "name": pa.array([f"name {place}" for place in range(n)]),
        "income": pa.array([100.0 * place for place in range(n)]),
        "town": pa.array(["AUH"] * n),
        "timestamp": pa.array(
            [BEGIN + timedelta(days=place) for place in range(n)], pa.timestamp("us", tz="UTC")
        ),
    }
    lake.append("people", pa.table(rows))
    yield lake
    lake.close()


@pytest.fixture
def sets(lake):
    return TrainingSets(lake, Doubled(), Pins(), None)


NUMBERS = itertools.count()


def built(sets, **asked):
    spec = TrainingSetSpec.model_validate(
        {"feature_service": "s", **(asked or {"spine": "people"})}
    )
    pinned = Pinned(definitions={}, service="s")
    return sets.build(spec, set_id=f"ts_{next(NUMBERS)}", pinned=pinned, created_by="amina")


def test_a_set_inherits_the_rule_of_its_spine_and_is_refused_after_an_erasure(sets, lake, keys):
    made = built(sets)
    stored = lake._inner.scan(made.table)
    assert stored["name"].to_pylist() == [None] * 6
    assert stored["town"].to_pylist() == ["AUH"] * 6
    assert sets.load(made)["name"].to_pylist() == [f"name {place}" for place in range(6)]
    then = Pinned(definitions={}, service="s")
    assert sets.recreate(made, then, then).identical
    keys.destroy(Subject("person", "2"))
    with pytest.raises(SubjectsErased, match="about 1 subject"):
        sets.load(made)
    with pytest.raises(SubjectsErased):
        sets.recreate(made, then, then)
    assert sets.rows(made, 0, 10)["name"].to_pylist()[2:4] == [None, None]


def test_the_rows_of_a_query_are_sealed_too(sets, lake):
    query = "SELECT who, lower(name) AS small, timestamp FROM people ORDER BY timestamp"
    made = built(sets, spine_query=query)
    (table,) = made.spine_tables
    assert rule_of(lake, table).groups == (PersonalGroup(subject="who", columns=("small",)),)
    for one in (table, made.table):
        assert lake._inner.scan(one)["small"].to_pylist() == [None] * 6
    with pytest.raises(InvalidInput, match="leaves out whom"):
        built(sets, spine_query="SELECT name, timestamp FROM people")


def test_a_split_set_of_a_query_seals_a_column_whatever_it_is_called(sets, lake):
    query = "SELECT who, name AS x__y, town, timestamp FROM people"
    split = {
        "train_until": BEGIN + timedelta(days=2),
        "validation_until": BEGIN + timedelta(days=4),
    }
    made = built(sets, spine_query=query, split=split)
    stored = lake._inner.scan(made.table)
    assert stored["x__y"].null_count == stored["who"].null_count == 6
    assert stored["split"].null_count == stored["town"].null_count == 0
    with pytest.raises(InvalidInput, match="leaves out whom"):
        built(
            sets,
            spine_query="SELECT town, to_json(p) AS all_of_it, timestamp FROM people p",
            split=split,
        )


def test_the_rows_of_a_query_that_were_read_before_an_erasure_are_not_kept(lake, keys, monkeypatch):
    person = Subject("person", "3")
    asked = lake.query

    def query(*args, **how):
        rows = asked(*args, **how)
        keys.destroy(person)
        return rows

    monkeypatch.setattr(lake, "query", query)
    before = lake.tables()
    spec = TrainingSetSpec(feature_service="s", spine_query="SELECT who, timestamp FROM people")
    with pytest.raises(ErasedWhileCopied):
        written_query(lake, spec, Spine((), spec.spine_query, lake.latest()))
    assert lake.tables() == before
    assert keys.of([person], make=False) == [None]


def test_a_set_during_whose_making_somebody_is_erased_is_not_written(sets, lake, keys):
    keys.of([Subject("person", "99")], make=True)

    class Erasing(Doubled):
        n = 0

        def training_frame(self, spine, service, **asked):
            self.n += 1
            if self.n == 2:  # the first one only warms
                keys.destroy(Subject("person", "99"))
            return super().training_frame(spine, service, **asked)

    before = lake.tables()
    with pytest.raises(ErasedWhileCopied):
        built(TrainingSets(lake, Erasing(), Pins(), None))
    assert lake.tables() == before


class Found:
    """Definitions by kind and name."""

    def __init__(self, *definitions):
        self.by = {(one.kind, one.name): one for one in definitions}

    def get(self, kind, name):
        return self.by[kind, name]

    def all(self, kind):
        return [one for (found, _), one in self.by.items() if found == kind]


def test_features_of_a_view_about_people_are_theirs_and_so_is_what_is_computed_of_them(lake):
    definitions = Found(
        of.Entity(name="guest", keys={"guest": "int64"}),
        of.FeatureView(
            name="stays", entity="guest", source="stays", event_time="at", subject="guest",
            aggregates=(of.Aggregate("mean", "mean", "price", window=timedelta(days=2)),),
        ),
        of.FeatureService(name="s", features=("stays",)),
    )  # fmt: skip
    plan = ServicePlan.of(definitions.get("feature_service", "s"), definitions)
    spine = Spine((("people", lake.latest()),), None, lake.latest())
    columns = ["who", "name", "guest", "timestamp", "stays__mean", "row_number"]
    found = rule_of_set(lake, "set", spine, plan, columns)
    assert found.groups == (
        PersonalGroup(subject="who", columns=("name",)),
        PersonalGroup(subject="guest", columns=("stays__mean",)),
    )
    assert rule_of_set(lake, "set", Spine((), None, 1), plan, ["town"]) is None
