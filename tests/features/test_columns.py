"""Values of other types are refused, never converted into something else."""

import math

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.columns import arrow_type, table_of, typed
from falaj.features.types import DType, type_of
from falaj.kernel.errors import InvalidInput

EMBEDDING = type_of("embedding[2]")

STRICT = [
    ("int64", 1.0), ("int64", True), ("float64", True), ("float64", "1"), ("string", b"a"),
    ("string", 1), ("bool", 1), ("bytes", "no base64!"), ("bytes", 3), ("list[int64]", [1.5]),
    ("list[int64]", 1), ("list[string]", "abc"), ("embedding[2]", [1.0, True]),
    ("timestamp", 5), ("list[timestamp]", ["2026-01-01"]),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "value"), STRICT)
def test_a_value_of_json_is_never_made_into_one_of_another_type(dtype, value):
    with pytest.raises(InvalidInput, match="'x'") as error:
        table_of([{"x": None}, {"x": value}], {"x": arrow_type(type_of(dtype))})
    assert error.value.hint


def test_values_of_json_that_have_their_type_are_taken():
    taken = {
        "float64": [1, 2.5, np.float32(0.5), None], "int64": [1, np.int64(2), None],
        "bytes": ["AP8=", b"\0\xff", None], "list[int64]": [[1], (2,), [], None],
        "embedding[2]": [[1, 0.5], None], "list[timestamp]": [["2026-01-01T00:00:00Z"], None],
    }  # fmt: skip
    for dtype, values in taken.items():
        kind = arrow_type(type_of(dtype))
        column = table_of([{"x": value} for value in values], {"x": kind})["x"]
        assert column.type == kind
        assert column.null_count == 1
    assert table_of([{"x": "AP8="}], {"x": pa.binary()})["x"].to_pylist() == [b"\0\xff"]
    with pytest.raises(InvalidInput, match="Row 1"):
        table_of([{"x": 1}, "y"], {})


def test_an_instant_outside_the_calendar_is_refused():
    for ok in (-62_135_596_800_000_000, 253_402_300_799_999_999):
        array = pa.array([ok, None], pa.int64()).cast(pa.timestamp("us", "UTC"))
        assert typed(array, DType.TIMESTAMP, "x").equals(array)
        for bad in (ok * 2, -(2**63), 2**63 - 1):
            array = pa.array([ok, bad], pa.int64()).cast(pa.timestamp("us", "UTC"))
            with pytest.raises(InvalidInput, match="years 1 to 9999"):
                typed(array, DType.TIMESTAMP, "x")


def test_a_number_that_an_embedding_cannot_hold_is_refused():
    kept = typed(pa.array([[math.inf, 0.1], None]), EMBEDDING, "x")
    assert kept.to_pylist() == [[math.inf, float(np.float32(0.1))], None]
    with pytest.raises(InvalidInput, match="too large"):
        typed(pa.array([[1e300, 0.0]]), EMBEDDING, "x")
