"""A batch is scored as the same rows would be live: same checks, variants, numbers and refusals."""

import math
import time
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.batchscoring import BLOCK_ROWS, BatchPlan
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import ModelFailed
from falaj.serving.model import FieldType, MissingPolicy, RequestField, Variant
from falaj.testing.serving import MemoryBundles, make_release, servable

AT = 1_767_225_600_000_000
BEGIN = datetime(1990, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # hypothesis adds the zone
END = datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)
FIELDS = (
    RequestField(name="a", type=FieldType.FLOAT),
    RequestField(name="b", type=FieldType.INT, nullable=True),
    RequestField(name="c", type=FieldType.BOOLEAN, required=False),
    RequestField(name="who", type=FieldType.STRING),
    RequestField(name="seen", type=FieldType.TIMESTAMP, required=False),
)
NAMES = ("b", "a", "c", "word")
WORDS = RequestField(name="word", type=FieldType.STRING, nullable=True)


def compiled(release, features=None, **models):
    given = {"sha256:a": servable(0, NAMES, categories={"word": ("x", "y", "z")})}
    return PlanCompiler(MemoryBundles(given | models), [OnnxRuntime()], features).compile(release)


@pytest.fixture(scope="module")
def plan():
    halves = (
        Variant(name="old", model="delay", version=1, bundle="sha256:a", share=0.5),
        Variant(name="new", model="delay", version=2, bundle="sha256:b", share=0.5),
    )
    release = make_release(fields=(*FIELDS, WORDS), variants=halves, unit="who")
    return compiled(release, **{"sha256:b": servable(1, ("a", "b"))})


def live(plan, row):
    """(outputs, variant) of one row asked alone, or None if it is refused."""
    body = msgspec.json.encode({"inputs": [row]})
    try:
        request = plan.parse(body, caller="user:a", started=0.0)
        (answer,), _ = plan.score([request])
    except FalajError:
        return None
    if isinstance(answer, FalajError):
        return None
    (told,) = msgspec.json.decode(answer)["predictions"]
    return told["score"], told.get("variant", "champion")


def same_as_live(plan, rows, columns, *, as_text=False):
    block = BatchPlan(plan, as_text=as_text).scored(columns, len(rows), AT, {})
    for place, row in enumerate(rows):
        expected = live(plan, row)
        if expected is None:
            assert place in block.errors, row
            assert np.isnan(block.outputs[place]).all()
            continue
        assert place not in block.errors, (row, block.errors.get(place))
        score, variant = expected
        assert block.outputs[place, 0] == score
        assert plan.variants[block.variants[place]].variant.name == variant


numbers = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1)
)
instants = st.datetimes(
    BEGIN,
    END,
    timezones=st.just(UTC),
)
rows_of_right_types = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            "b": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            "c": st.one_of(st.none(), st.booleans()),
            "who": st.one_of(st.none(), st.text(max_size=5)),
            "seen": st.one_of(st.none(), instants),
            "word": st.one_of(st.none(), st.sampled_from(["x", "y", "z", "?"])),
        }
    ),
    min_size=1,
    max_size=20,
)
TYPES = {
    "a": pa.float64(),
    "b": pa.int64(),
    "c": pa.bool_(),
    "who": pa.string(),
    "seen": pa.timestamp("us", "UTC"),
    "word": pa.string(),
}


@given(rows_of_right_types)
@settings(max_examples=60, deadline=None)
def test_rows_of_the_right_types_are_scored_as_live(plan, rows):
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()}
    same_as_live(plan, rows, columns)


@example([(3.4028234663852886e38, "1")])  # the largest float32, of which JSON tells no more
@given(st.lists(st.tuples(numbers, st.one_of(st.none(), st.text(max_size=3))), min_size=1))
@settings(max_examples=60, deadline=None)
def test_columns_of_other_types_are_judged_value_by_value_as_live(plan, pairs):
    fixed = {"c": True, "who": "u", "word": "x"}
    for kind in (pa.float64(), pa.float32(), pa.int64(), pa.string()):
        try:
            a = pa.array([first for first, _ in pairs], kind)
            b = pa.array([second for _, second in pairs], pa.string())
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            continue
        found = zip(a.to_pylist(), b.to_pylist(), strict=True)
        rows = [{**fixed, "a": first, "b": second} for first, second in found]
        rows = [row for row in rows if row["a"] is None or row["a"] == row["a"]]
        if len(rows) < len(pairs) or any(
            isinstance(row["a"], float) and not math.isfinite(row["a"]) for row in rows
        ):
            continue
        n = len(rows)
        columns = {
            "a": a,
            "b": b,
            **{name: pa.array([value] * n) for name, value in fixed.items()},
        }
        same_as_live(plan, rows, columns)


def test_nan_and_infinity_are_refused_as_an_arrow_request_is(plan):
    columns = {
        "a": pa.array([1.0, float("nan"), float("inf"), 3.5e38]),
        "b": pa.array([1, 2, 3, 4]),
        "who": pa.array(["u"] * 4),
        "word": pa.array(["x"] * 4),
    }
    block = BatchPlan(plan).scored(columns, 4, AT, {})
    assert sorted(block.errors) == [1, 2, 3]
    for place in range(4):
        one = {name: column.slice(place, 1).to_pylist() for name, column in columns.items()}
        try:
            plan.parse_columns(one, caller="user:a", started=0.0)
        except FalajError:
            assert place in block.errors
        else:
            assert place not in block.errors
    assert block.errors[1].startswith("a: Expected `float`")


def test_the_text_of_a_csv_file_is_read_as_the_types_that_the_fields_have(plan):
    columns = {
        "a": pa.array(["1.5", "2", "x", None, "1e3", "nan"]),
        "b": pa.array(["1", None, "3", "4", "5.5", "6"]),
        "c": pa.array(["true", "FALSE", None, "1", "0", "maybe"]),
        "who": pa.array(["u", "v", "w", "x", "y", "z"]),
        "seen": pa.array(["2026-01-01T00:00:00Z", None, None, None, None, None]),
        "word": pa.array(["x", None, "y", "z", "x", "y"]),
    }
    rows = [
        {"a": 1.5, "b": 1, "c": True, "who": "u", "seen": "2026-01-01T00:00:00Z", "word": "x"},
        {"a": 2.0, "b": None, "c": False, "who": "v", "word": None},
        {"a": "x", "b": 3, "who": "w", "word": "y"},
        {"a": None, "b": 4, "who": "x", "word": "z"},
        {"a": 1e3, "b": 5.5, "who": "y", "word": "x"},
        {"a": "nan", "b": 6, "who": "z", "word": "y"},
    ]
    same_as_live(plan, rows, columns, as_text=True)


def test_an_instant_of_another_zone_is_one_unit_whatever_its_zone():
    fields = (RequestField(name="a", type=FieldType.FLOAT),
              RequestField(name="at", type=FieldType.TIMESTAMP))  # fmt: skip
    plan = compiled(make_release(fields=fields), **{"sha256:a": servable(0, ("a",))})
    zone = timezone(timedelta(hours=4))
    when = datetime(2026, 1, 1, tzinfo=zone)
    columns = {"a": pa.array([0.5]), "at": pa.array([when], pa.timestamp("s", "Asia/Dubai"))}
    block = BatchPlan(plan).scored(columns, 1, AT, {})
    assert not block.errors


def test_more_rows_than_a_block_are_each_in_their_place():
    plan = compiled(make_release(), **{"sha256:a": servable(0)})
    n = 2 * BLOCK_ROWS + 17
    random = np.random.default_rng(3)
    table = {name: random.normal(size=n) for name in "abc"}
    columns = {name: pa.array(values) for name, values in table.items()}
    block = BatchPlan(plan).scored(columns, n, AT, {5: "not this one"})
    matrix = np.stack([table[name] for name in "abc"], axis=1).astype(np.float32)
    expected = plan.variants[0].scored(matrix)
    expected[5] = np.nan
    np.testing.assert_array_equal(block.outputs, expected)
    assert block.errors == {5: "not this one"}


class Table:
    """Feature readers on a dict: by key its value, or None for one that is missing."""

    def __init__(self, values):
        self.values = values
        self.names = ("f",)
        self.asks_nothing = False
        self.asked = []

    def compile(self, document, categories):
        return self

    def read(self, rows, at_us):
        self.asked.append((len(rows), at_us))
        if any(row.key == "broken" for row in rows):
            raise InvalidInput("The key is broken.")
        found = [self.values.get(row.key) for row in rows]
        matrix = np.array([[np.nan if v is None else v] for v in found], np.float32)
        statuses = np.array([[0 if v is not None else 3] for v in found], np.uint8)
        return matrix, statuses, np.zeros(matrix.shape, np.int64)


def with_features(missing=MissingPolicy.MODEL):
    reader = Table({"one": 1.0, "two": 2.0})
    fields = (RequestField(name="key", type=FieldType.STRING),
              RequestField(name="a", type=FieldType.FLOAT))  # fmt: skip
    release = make_release(
        fields=fields, features={"definitions": []}, feature_service="s", missing=missing
    )
    return compiled(release, reader, **{"sha256:a": servable(0, ("f", "a"))}), reader


@pytest.mark.parametrize("missing", list(MissingPolicy))
def test_rows_without_features_meet_the_same_policy_as_live(missing):
    plan, _ = with_features(missing)
    rows = [{"key": key, "a": 0.5} for key in ("one", "none", "two", "broken", "one")]
    columns = {name: pa.array([row[name] for row in rows]) for name in ("key", "a")}
    same_as_live(plan, rows, columns)


def test_a_row_that_breaks_a_read_takes_no_other_row_with_it():
    plan, _ = with_features()
    keys = ["one"] * 40
    keys[17] = keys[31] = "broken"
    columns = {"key": pa.array(keys), "a": pa.array([0.5] * 40)}
    block = BatchPlan(plan).scored(columns, 40, AT, {})
    assert block.errors == {17: "The key is broken.", 31: "The key is broken."}
    assert np.isfinite(np.delete(block.outputs[:, 0], [17, 31])).all()


class Picky:
    """A runtime whose model raises where the first input is below zero."""

    formats = ("onnx",)

    def __init__(self, seconds=0.0):
        self.n_inputs = 3
        self.runs = []
        self.seconds = seconds

    def load(self, model):
        return self

    def run(self, rows):
        self.runs.append(len(rows))
        if (rows[:, 0] < 0).any():
            time.sleep(self.seconds)
            raise ValueError("it is below zero")
        return rows.sum(axis=1, dtype=np.float64)[:, None]


def picky(n, bad, runtime=None):
    """A plan whose model raises on some rows, its runs, and columns of n rows with those."""
    runtime = runtime or Picky()
    plan = PlanCompiler(MemoryBundles({"sha256:a": servable(0)}), [runtime], None)
    table = {name: np.random.default_rng(7).uniform(1, 2, n) for name in "abc"}
    table["a"][list(bad)] = -1.0
    made = plan.compile(make_release())
    runtime.runs.clear()  # a plan runs its model once while it is compiled, to be warm
    return made, runtime, {name: pa.array(values) for name, values in table.items()}


@pytest.mark.parametrize("refused", [{}, {5: "not this one"}])
def test_a_row_on_which_a_model_raises_takes_no_other_row_with_it(refused):
    n, bad = 2 * BLOCK_ROWS + 17, [0, 4_000, 4_001, BLOCK_ROWS + 9, 2 * BLOCK_ROWS + 16]
    plan, _, columns = picky(n, bad)
    block = BatchPlan(plan).scored(columns, n, AT, refused)
    matrix = np.stack([columns[name].to_numpy() for name in "abc"], axis=1).astype(np.float32)
    expected = matrix.sum(axis=1, dtype=np.float64)[:, None]
    expected[[*bad, *refused]] = np.nan
    np.testing.assert_array_equal(block.outputs, expected)
    assert sorted(block.errors) == sorted([*bad, *refused])
    assert "below zero" in block.errors[4_000]


def test_one_row_among_many_is_found_by_halving():
    plan, runtime, columns = picky(BLOCK_ROWS, [1_234])
    block = BatchPlan(plan).scored(columns, BLOCK_ROWS, AT, {})
    assert list(block.errors) == [1_234]
    assert len(runtime.runs) == 1 + 2 * int(math.log2(BLOCK_ROWS))


def test_who_asks_for_the_first_row_alone_does_not_wait_for_the_others():
    plan, runtime, columns = picky(BLOCK_ROWS, range(1_234, BLOCK_ROWS))
    block = BatchPlan(plan).scored(columns, BLOCK_ROWS, AT, {}, first_only=True)
    assert list(block.errors) == [1_234]
    assert len(runtime.runs) <= 1 + 2 * int(math.log2(BLOCK_ROWS))


def test_a_model_that_hangs_on_every_row_fails_the_batch_within_bounds(monkeypatch):
    monkeypatch.setattr("falaj.serving.batchscoring._ISOLATING_SECONDS", 0.2)
    plan, runtime, columns = picky(BLOCK_ROWS, range(BLOCK_ROWS), Picky(seconds=0.02))
    with pytest.raises(ModelFailed, match="below zero"):
        BatchPlan(plan).scored(columns, BLOCK_ROWS, AT, {})
    assert len(runtime.runs) < 30


def test_each_row_is_read_at_its_own_instant():
    plan, reader = with_features()
    reader.asked.clear()  # a plan reads once while it is compiled, to be warm
    columns = {"key": pa.array(["one", "two", None]), "a": pa.array([0.5] * 3)}
    at = np.array([AT, AT + 1, AT + 2])
    block = BatchPlan(plan).scored(columns, 3, at, {})
    assert list(block.errors) == [2]
    (asked,) = reader.asked
    assert asked[1].tolist() == [AT, AT + 1]


def test_an_instant_that_has_no_date_in_utc_is_a_refused_row_and_no_failed_job():
    fields = (RequestField(name="a", type=FieldType.FLOAT),
              RequestField(name="at", type=FieldType.TIMESTAMP))  # fmt: skip
    plan = compiled(make_release(fields=fields), **{"sha256:a": servable(0, ("a",))})
    columns = {
        "a": pa.array(["0.5", "0.5"]),
        "at": pa.array(["0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00Z"]),
    }
    block = BatchPlan(plan, as_text=True).scored(columns, 2, AT, {})
    assert list(block.errors) == [0]
    assert np.isfinite(block.outputs[1]).all()
