"""Training sets: split by time, pinned, made again, and refused when they cannot be made."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.testing.calls import opened_call
from falaj.training.model import TimeSplit, TrainingSetSpec
from falaj.training.training_sets import part_of


def build(sets, spec, pinned, set_id=None):
    return sets.build(spec, set_id=set_id or new_id("ts"), pinned=pinned, created_by="user:amina")


def test_rows_are_split_at_the_boundaries_and_what_is_left_out_is_counted(sets, spec, pinned):
    made = build(sets, spec, pinned)
    assert made.n_rows == {
        "train": 27, "validation": 10, "test": 14, "without_label": 3, "outside": 6
    }  # fmt: skip
    rows = sets.load(made)
    assert rows.column("row_number").to_pylist() == list(range(51))
    test = part_of(rows, "test")
    assert min(test["at"].to_pylist()) >= spec.split.validation_until
    assert max(test["at"].to_pylist()) < spec.split.test_until
    assert made.features == ("carrier", "x")
    assert made.positive_rate["train"] == pytest.approx(
        np.mean(part_of(rows, "train")["late"].to_pylist())
    )


def test_a_table_and_a_query_of_the_same_rows_give_the_same_set(sets, spec, pinned):
    query = TrainingSetSpec(
        **{
            **spec.model_dump(),
            "spine": None,
            "spine_query": 'SELECT flight, carrier, "at", late FROM spine ORDER BY random()',
        }
    )
    first, second = build(sets, spec, pinned), build(sets, query, pinned)
    assert first.content_hash == second.content_hash
    assert first.spine_hash == second.spine_hash
    assert first.table != second.table


def test_a_set_is_recorded_once_with_its_lineage(sets, spec, pinned, database, catalog):
    made = build(sets, spec, pinned)
    with opened_call(database) as call:
        assert sets.record(call, made) == made
    with opened_call(database) as call:
        assert sets.record(call, made) == made
        assert sets.listed(call.connection) == [made]
        edges = catalog.upstream(call.connection, AssetRef("training_set", made.id))
    assert {(str(edge.source), edge.relation) for edge in edges} == {
        ("table:spine", Relation.FEEDS),
        ("feature_service:delays", Relation.DEFINES),
    }


def test_the_tables_of_a_query_are_upstream_of_its_set(
    sets, spec, pinned, sqlite_database, catalog
):
    query = TrainingSetSpec(
        **{**spec.model_dump(), "spine": None, "spine_query": "SELECT * FROM spine s"}
    )
    with opened_call(sqlite_database) as call:
        made = sets.record(call, build(sets, query, pinned))
        edges = catalog.upstream(call.connection, AssetRef("training_set", made.id))
    assert AssetRef("table", "spine") in [edge.source for edge in edges]


def test_changed_rows_are_refused_when_the_set_is_read(sets, spec, pinned, lake):
    made = build(sets, spec, pinned)
    rows = lake.scan(made.table)
    lake.replace(made.table, rows.set_column(1, "carrier", pa.array(["??"] * len(rows))))
    assert len(sets.load(made)) == 51  # the pinned snapshot still holds the old rows
    latest = made.model_copy(update={"snapshot": lake.latest()})
    with pytest.raises(Corrupt, match="not those that were pinned"):
        sets.load(latest)


def test_a_set_is_the_same_when_the_lake_has_moved_on_and_differs_when_history_did(
    sets, spec, pinned, lake
):
    made = build(sets, spec, pinned)
    lake.replace("features", pa.table({"flight": [1], "x": [9.0]}))
    assert sets.recreate(made, pinned, pinned).identical
    later = lake.latest()
    moved = made.model_copy(update={"spine_snapshot": later, "spine_tables": {"spine": later}})
    found = sets.recreate(moved, pinned, pinned)
    assert not found.identical
    assert found.recreated_hash != made.content_hash
    assert found.changed_definitions == ()


def test_a_build_that_is_repeated_after_a_kill_replaces_its_rows(sets, spec, pinned, lake):
    set_id = new_id("ts")
    first = build(sets, spec, pinned, set_id)
    second = build(sets, spec, pinned, set_id)
    assert first.table == second.table
    assert len(lake.scan(first.table)) == 51
    assert len(sets.load(second)) == 51


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "lateness"}, "no column 'lateness'"),
        ({"timestamp": "when"}, "no column 'when'"),
        ({"label": "carrier"}, "type string"),
        ({"label": "flight"}, "other than 0 and 1"),
        ({"timestamp": "flight"}, "timestamp is needed"),
        ({"spine": None, "spine_query": "SELECT * FROM spine WHERE false"}, "empty"),
        ({"spine": None, "spine_query": "SELECT *, 1 AS split FROM spine"}, "'split'"),
    ],
)
def test_a_spine_that_cannot_be_used_is_refused_with_the_reason(
    sets, spec, pinned, lake, change, told
):
    before = lake.tables()
    with pytest.raises(InvalidInput, match=told):
        build(sets, TrainingSetSpec(**{**spec.model_dump(), **change}), pinned)
    assert lake.tables() == before


def test_a_part_without_rows_is_refused(sets, spec, pinned):
    early = spec.split.train_until - timedelta(days=4000)
    split = TimeSplit(train_until=early, validation_until=spec.split.validation_until)
    with pytest.raises(InvalidInput, match="train part"):
        build(sets, spec.model_copy(update={"split": split}), pinned)


def test_a_feature_may_not_be_called_as_the_label(sets, spec, pinned, monkeypatch):
    frames = sets._frames

    class Clashing:
        def training_frame(self, spine, service, **how):
            return frames.training_frame(spine, service, **how).rename_columns(
                [*spine.column_names, "late"]
            )

    monkeypatch.setattr(sets, "_frames", Clashing())
    with pytest.raises(InvalidInput, match="'late'"):
        build(sets, spec, pinned)


def test_a_frame_of_other_length_or_without_features_is_refused(sets, spec, pinned, monkeypatch):
    class Short:
        def training_frame(self, spine, service, **how):
            return spine.slice(1)

    class Bare:
        def training_frame(self, spine, service, **how):
            return spine

    monkeypatch.setattr(sets, "_frames", Short())
    with pytest.raises(Corrupt, match="0 rows to a spine of 1"):
        build(sets, spec, pinned)
    monkeypatch.setattr(sets, "_frames", Bare())
    with pytest.raises(InvalidInput, match="no features"):
        build(sets, spec, type(pinned)(pinned.definitions, pinned.service))


def test_an_unknown_table_service_or_set_is_not_found(sets, spec, pinned, sqlite_database):
    with pytest.raises(NotFound):
        build(sets, spec.model_copy(update={"spine": "elsewhere"}), pinned)
    with opened_call(sqlite_database) as call:
        with pytest.raises(NotFound):
            sets.pinned(call.connection, spec.model_copy(update={"feature_service": "other"}))
        with pytest.raises(NotFound, match="ts_nothing"):
            sets.get(call.connection, "ts_nothing")


def test_a_spec_with_crossed_boundaries_or_two_spines_is_refused(spec):
    values = spec.model_dump()
    with pytest.raises(ValidationError, match="must grow"):
        TimeSplit(train_until=spec.split.validation_until, validation_until=spec.split.train_until)
    with pytest.raises(ValidationError, match="not both"):
        TrainingSetSpec(**{**values, "spine_query": "SELECT 1"})
    with pytest.raises(ValidationError, match="same column"):
        TrainingSetSpec(**{**values, "label": "at"})
