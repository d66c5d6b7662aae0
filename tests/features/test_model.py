"""What a definition refuses, and what it keeps."""

from datetime import timedelta

import pyarrow as pa
import pytest
from pydantic import ValidationError

from falaj.features.columns import table_of
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    OnDemandFeatures,
)
from falaj.features.views import ViewPlan
from falaj.kernel.errors import InvalidInput

HOUR = timedelta(hours=1)
VIEW = {"name": "v", "entity": "e", "source": "s", "event_time": "at"}
TEMP = Feature("temp", "float64")
COUNT = Aggregate("n", "count", window=HOUR)
PLAIN = "def o(x): return x"
BAD = [
    (lambda: Entity(name="e", keys={}), "keys"),
    (lambda: Entity(name="e", keys={"k": "float64"}), "int64 or string"),
    (lambda: Entity(name="Robert'); drop", keys={"k": "string"}), "not a name"),
    (lambda: FeatureView(**VIEW), "either"),
    (lambda: FeatureView(**VIEW, features=[TEMP], aggregates=[COUNT]), "either"),
    (lambda: FeatureView(**VIEW, features=[TEMP, TEMP]), "same name"),
    (lambda: FeatureView(**VIEW, features=[TEMP], ttl=timedelta(0)), "longer than nothing"),
    (lambda: FeatureView(**VIEW, aggregates=[COUNT], ttl=HOUR), "leave out `ttl`"),
    (lambda: FeatureView(**VIEW, features=[TEMP], head=-HOUR), "negative"),
    (lambda: Feature("x", "decimal"), "dtype"),
    (lambda: Aggregate("q", "median", "x", window=HOUR), "function"),
    (lambda: Aggregate("q", "sum", window=HOUR), "needs a column"),
    (lambda: Aggregate("q", "sum", "x", dtype="string", window=HOUR), "does not take"),
    (lambda: Aggregate("q", "min", "x", dtype="bool", window=HOUR), "does not take"),
    (lambda: Aggregate("q", "count", window=timedelta(0)), "longer than nothing"),
    (lambda: Aggregate("q", "count", window=HOUR, hop=2 * HOUR), "no longer than its window"),
    (lambda: Filter("x", "=="), "takes a value"),
    (lambda: Filter("x", "is_null", 1), "takes no value"),
    (lambda: Filter("x", "in", 1), "list"),
    (lambda: Filter("x", "==", [1]), "list"),
    (lambda: FeatureService(name="s"), "at least one"),
    (lambda: FeatureService(name="s", features=["a; drop table b"]), "not a name"),
    (lambda: FeatureService(name="s", features=["a:b"], on_demand=["c"]), "no feature is taken"),
    (lambda: OnDemandFeatures(name="o", inputs={"x": "request:x"}, outputs=[], source=PLAIN),
     "outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "told"), BAD)
def test_a_definition_that_makes_no_sense_is_refused(make, told):
    with pytest.raises(ValidationError, match=told):
        make()


def test_a_definition_survives_its_document():
    view = FeatureView(
        **VIEW, aggregates=[Aggregate("n", "count", "x", window=HOUR, hop=HOUR)],
        where=[Filter("x", "in", [1, 2]), Filter("y", "not_null")], recorded_at="rec",
        entity_columns={"k": "K 1"}, classification="personal",
    )  # fmt: skip
    again = FeatureView.model_validate(view.model_dump(mode="json"))
    assert again == view
    assert again.fingerprint == view.fingerprint
    assert [str(ref) for ref in view.references()] == ["table:s", "entity:e"]


def test_a_hop_is_a_sixtieth_of_the_window_and_at_least_a_second():
    assert Aggregate("n", "count", window=HOUR).hop_us == 60_000_000
    assert Aggregate("n", "count", window=timedelta(seconds=3)).hop_us == 1_000_000


def test_a_view_maps_only_keys_that_its_entity_has():
    view = FeatureView(**VIEW, features=[TEMP], entity_columns={"other": "x"})
    with pytest.raises(InvalidInput, match="other"):
        ViewPlan.of(view, Entity(name="e", keys={"k": "string"}))


FILTERS = [
    ("==", 2, [2]), ("!=", 2, [1, 3]), ("<", 2, [1]), ("<=", 2, [1, 2]), (">", 2, [3]),
    (">=", 2, [2, 3]), ("is_null", None, [None]), ("not_null", None, [1, 2, 3]),
    ("in", [1, 3], [1, 3]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "value", "kept"), FILTERS)
def test_a_row_filter_keeps_what_it_says(op, value, kept):
    entity = Entity(name="e", keys={"k": "string"})
    view = FeatureView(**VIEW, features=[Feature("x", "int64")], where=[Filter("x", op, value)])
    instant = pa.array([0] * 4, pa.int64()).cast(pa.timestamp("us", "UTC"))
    rows = pa.table({"k": ["a"] * 4, "at": instant, "x": [1, None, 2, 3]})
    events = ViewPlan.of(view, entity).events(rows)
    assert events.columns["x:int64"].to_pylist() == kept


def test_a_row_filter_takes_both_zeros_for_equal_and_drops_what_is_all_null():
    entity = Entity(name="e", keys={"k": "string"})
    instant = pa.array([0] * 3, pa.int64()).cast(pa.timestamp("us", "UTC"))
    for value, op in (([0.0], "in"), ([-0.0, 7.0], "in"), (0.0, "==")):
        view = FeatureView(**VIEW, features=[TEMP], where=[Filter("x", op, value)])
        rows = {"k": ["a"] * 3, "at": instant, "temp": [1.0, 2.0, 3.0]}
        events = ViewPlan.of(view, entity).events(pa.table({**rows, "x": [0.0, -0.0, 1.0]}))
        assert events.columns["temp:float64"].to_pylist() == [1.0, 2.0]
        assert not len(ViewPlan.of(view, entity).events(pa.table({**rows, "x": pa.nulls(3)})))


def test_a_row_filter_of_another_type_is_refused():
    entity = Entity(name="e", keys={"k": "string"})
    view = FeatureView(**VIEW, features=[TEMP], where=[Filter("k", ">", 2)])
    instant = pa.array([0], pa.int64()).cast(pa.timestamp("us", "UTC"))
    rows = pa.table({"k": ["a"], "at": instant, "temp": [1.0]})
    with pytest.raises(InvalidInput, match="filter"):
        ViewPlan.of(view, entity).events(rows)


def test_rows_of_json_become_typed_columns():
    types = {"k": pa.string(), "at": pa.timestamp("us", "UTC"), "x": pa.float64()}
    table = table_of([{"k": "a", "at": "2026-01-01T00:00:00+04:00", "more": 1}, {"x": 1.5}], types)
    assert table.schema.types[:3] == list(types.values())
    assert table["at"][0].as_py().hour == 20
    for bad, told in (
        ({"at": "2026-01-01"}, "zone"), ({"at": "yesterday"}, "at"), ({"at": 7}, "at"),
        ({"x": "1.5"}, "'x'"), ({"k": 3}, "'k'"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=told):
            table_of([bad], types)
