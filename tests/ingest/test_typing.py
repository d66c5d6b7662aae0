from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.ingest.files import Read
from falaj.ingest.model import Source, SourceBroken
from falaj.ingest.typing import ROWS, TYPED, bench, lay_out
from falaj.kernel.errors import InvalidInput, LimitExceeded

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def source(columns, **more):
    return Source(**{"name": "s", "table": "t", "path": "x", "columns": columns, **more})


def laid(columns, values, **more):
    """(typed rows, reasons) of columns of texts."""
    rows = pa.table({name: pa.array(given, pa.string()) for name, given in values.items()})
    numbered = rows.append_column("_row", pa.array(range(1, rows.num_rows + 1), pa.int64()))
    with bench(memory="500MB", threads=1) as engine:
        lay_out(engine, source(columns, **more), Read(numbered), NOW)
        typed = engine.execute(f"SELECT * FROM {TYPED} ORDER BY _row").to_arrow_table()
        usable = engine.execute(f"SELECT * FROM {ROWS} ORDER BY _row").to_arrow_table()
    return typed, usable


def one(kind, text, **more):
    """(value, reason) of one text."""
    typed, _ = laid({"v": kind}, {"v": [text]}, **more)
    return typed["v"][0].as_py(), typed["_reason"][0].as_py()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", " x ", " x "),
        ("integer", "-12", -12),
        ("integer", " +7 ", 7),
        ("integer", "9223372036854775807", 2**63 - 1),
        ("number", "0.73", 0.73),
        ("number", "-1e-3", -0.001),
        ("number", ".5", 0.5),
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("instant", "2013-01-01T10:00:00Z", datetime(2013, 1, 1, 10, tzinfo=UTC)),
        ("instant", "2013-01-01 10:00:00.123456+04", datetime(2013, 1, 1, 6, 0, 0, 123456, UTC)),
        ("decimal(9, 2)", "12.50", Decimal("12.50")),
        ("decimal(9,2)", "-3", Decimal("-3.00")),
    ],
)
def test_texts_of_a_type_are_taken_exactly(kind, text, value):
    assert one(kind, text) == (value, None)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "0.73"),
        ("integer", "1e3"),
        ("integer", "9223372036854775808"),
        ("integer", "1_000"),
        ("integer", "NA"),
        ("integer", "12abc"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1e999"),
        ("number", "1,5"),
        ("number", "0x10"),
        ("boolean", "maybe"),
        ("boolean", "2"),
        ("date", "2023-02-29"),
        ("date", "01/02/2023"),
        ("date", "2023-02-01 10:00"),
        ("instant", "2013-01-01T10:00:00"),
        ("instant", "2013-01-01"),
        ("instant", "yesterday"),
        ("decimal(9, 2)", "1.239"),
        ("decimal(4, 2)", "123.45"),
        ("integer", ""),
    ],
)
def test_other_texts_are_never_silently_null_nor_rounded(kind, text):
    value, reason = one(kind, text, null_strings=())
    assert value is None
    assert reason is not None
    assert repr(text).strip('"') in reason or f"'{text}'" in reason
    assert reason.startswith("v: ")


def test_an_instant_without_a_zone_is_read_in_the_sources_zone():
    dubai = one("instant", "2024-01-01 04:00:00", zone="Asia/Dubai")
    assert dubai == (datetime(2024, 1, 1, tzinfo=UTC), None)
    assert one("instant", "2024-01-01", zone="Asia/Dubai")[0] == datetime(
        2023, 12, 31, 20, tzinfo=UTC
    )
    assert one("instant", "2024-01-01T00:00:00Z", zone="Asia/Dubai")[0] == datetime(
        2024, 1, 1, tzinfo=UTC
    )
    with pytest.raises(InvalidInput, match="Mars"):
        one("instant", "2024-01-01", zone="Mars/Olympus")


@settings(deadline=None, max_examples=30)
@given(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_comes_back_exactly(whole, real):
    typed, _ = laid({"i": "integer", "f": "number"}, {"i": [str(whole)], "f": [repr(real)]})
    row = typed.to_pylist()[0]
    assert (row["i"], row["f"], row["_reason"]) == (whole, real, None)


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=12))
def test_no_text_is_lost_it_is_a_value_or_has_a_reason(text):
    for kind in ("integer", "number", "boolean", "date", "instant"):
        value, reason = one(kind, text)
        assert (value is None) == (reason is not None)


def test_all_wrong_values_of_a_row_are_told_and_the_row_is_not_usable():
    typed, usable = laid(
        {"a": "integer", "b": "date"}, {"a": ["x", "1", None], "b": ["y", "2024-01-01", None]}
    )
    assert typed["_reason"][0].as_py() == "a: 'x' is not an integer; b: 'y' is not a date"
    assert usable["_row"].to_pylist() == [2, 3]


def test_derived_columns_build_on_each_other_and_on_the_load():
    _, usable = laid(
        {"a": "integer"},
        {"a": ["2"]},
        derived={"twice": "a * 2", "label": "'n' || twice -- told"},
        recorded_at="known_at",
    )
    assert usable.to_pylist() == [{"_row": 1, "a": 2, "twice": 4, "label": "n4", "known_at": NOW}]


@pytest.mark.parametrize(
    "expression",
    [
        "nope + 1",
        "a +",
        "CAST('x' AS INTEGER)",
        "(SELECT content FROM read_text('/etc/passwd'))",
        "(SELECT count(*) FROM '/etc/passwd')",
        "error('x' || a)",
        "1) AS d FROM _typed; UPDATE _rows SET a = 0; SELECT (1",
        "1); COPY (SELECT 1) TO '/tmp/falaj-out.csv'; --",
    ],
)
def test_a_wrong_or_hostile_expression_is_told(expression):
    with pytest.raises(SourceBroken, match="derived columns"):
        laid({"a": "integer"}, {"a": ["1"]}, derived={"d": expression})


def test_of_persons_a_derived_column_that_fails_quotes_no_value():
    given = {"v": "text"}, {"v": ["amina@example.org"]}
    derived = {"d": "CAST(v AS INTEGER)"}
    with pytest.raises(SourceBroken, match="ConversionException") as caught:
        laid(*given, derived=derived, classifications={"v": "personal"})
    assert "amina" not in str(caught.value)
    with pytest.raises(SourceBroken, match="amina"):
        laid(*given, derived=derived)


def test_a_load_that_needs_too_much_memory_is_told():
    with pytest.raises(LimitExceeded, match="10MB"), bench(memory="10MB", threads=1) as engine:
        engine.execute("CREATE TEMP TABLE t AS SELECT range, hash(range) FROM range(5_000_000)")


def parquet(kind, array, **more):
    rows = pa.table({"v": array, "_row": pa.array(range(len(array)), pa.int64())})
    with bench(threads=1) as engine:
        lay_out(engine, source({"v": kind}, format="parquet", **more), Read(rows), NOW)
        return engine.execute(f"SELECT v FROM {ROWS}").to_arrow_table()["v"].to_pylist()


@pytest.mark.parametrize(
    ("kind", "array", "value"),
    [
        ("text", pa.array(["x"]).dictionary_encode(), "x"),
        ("integer", pa.array([1], pa.uint8()), 1),
        ("number", pa.array([1]), 1.0),
        ("decimal(9, 2)", pa.array([3]), Decimal("3.00")),
        ("boolean", pa.array([True]), True),
        ("date", pa.array([date(2024, 1, 1)]), date(2024, 1, 1)),
        ("instant", pa.array([NOW], pa.timestamp("us", tz="UTC")), NOW),
    ],
)
def test_parquet_columns_of_the_declared_type_are_taken(kind, array, value):
    assert parquet(kind, array) == [value]


def test_a_parquet_instant_without_a_zone_needs_one_declared():
    local = pa.array([1_704_081_600_000_000], pa.timestamp("us"))
    assert parquet("instant", local, zone="Asia/Dubai") == [datetime(2024, 1, 1, tzinfo=UTC)]
    with pytest.raises(SourceBroken) as caught:
        parquet("instant", local)
    assert "zone" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "array"), [("integer", pa.array([0.73])), ("text", pa.array([1]))]
)
def test_a_parquet_column_of_another_type_is_named(kind, array):
    with pytest.raises(SourceBroken, match=r"'v'.*not"):
        parquet(kind, array)


def test_a_parquet_number_beyond_its_type_is_told_without_it_where_it_is_of_persons():
    array = pa.array([2**63 + 7], pa.uint64())
    with pytest.raises(SourceBroken, match=str(2**63 + 7)):
        parquet("integer", array)
    with pytest.raises(SourceBroken, match="ConversionException"):
        parquet("integer", array, classification="personal")
