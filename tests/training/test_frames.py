"""Training frames: read in batches, checked against their hash, turned into numbers."""

from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.lake.content import content_hash
from falaj.training import frames
from falaj.training.frames import NotInstalled, TrainingFrame, numbers
from falaj.training.service import stream_of

ROWS = pa.table(
    {"card": [f"c{i}" for i in range(25)], "x": [float(i) for i in range(25)],
     "row_number": pa.array(range(25), pa.int64())}
)  # fmt: skip


def frame_of(rows=ROWS, pinned=ROWS, most=7):
    asked = []

    def fetch(first, limit):
        asked.append((first, limit))
        return stream_of(rows.slice(first, min(limit, most)))

    made = SimpleNamespace(
        id="ts_1", columns=("card", "x"), features=("x",), n_rows={"all": len(pinned)},
        content_hash=content_hash(pinned),
        spec=SimpleNamespace(label=None, feature_service="s"),
    )  # fmt: skip
    return TrainingFrame(made, fetch), asked


@pytest.mark.parametrize("size", [1, 4, 7, 10, 25, 100])
def test_batches_have_the_asked_size_whatever_a_fetch_brings(size):
    frame, _ = frame_of()
    batches = list(frame.batches(size))
    assert [batch.num_rows for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert pa.Table.from_batches(batches).equals(ROWS.select(["card", "x"]))


def test_rows_are_fetched_as_they_are_asked_for_and_not_before():
    frame, asked = frame_of()
    batches = frame.batches(5)
    assert asked == []
    next(batches)
    assert len(asked) == 1


def test_rows_that_are_not_those_that_were_pinned_are_told_of():
    changed = ROWS.set_column(1, "x", pa.array([0.0] * 25))
    with pytest.raises(Corrupt, match="not those that were pinned"):
        frame_of(rows=changed)[0].to_arrow()
    with pytest.raises(Corrupt, match="lacks row 20"):
        frame_of(rows=ROWS.slice(0, 20))[0].to_arrow()


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(frames.importlib.util, "find_spec", lambda _name: None)
    frame, _ = frame_of()
    for verb, package in (("to_polars", "polars"), ("to_pandas", "pandas")):
        with pytest.raises(NotInstalled, match=rf"falaj\[{package}\]"):
            getattr(frame, verb)()
    with pytest.raises(NotInstalled, match=r"falaj\[torch\]"):
        frame.to_torch(8)


def test_columns_become_float32_with_nan_for_null():
    made = numbers(pa.array([1, None, 3], pa.int64()), "n")
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, [1, np.nan, 3])
    np.testing.assert_array_equal(numbers(pa.array([True, None, False]), "b"), [1, np.nan, 0])
    vectors = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    np.testing.assert_array_equal(numbers(vectors, "v"), [[1, 2], [np.nan, np.nan], [3, 4]])
    words = numbers(pa.array(["b", "a", None, "z"]), "w", ["a", "b"])
    np.testing.assert_array_equal(words, [1, 0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array(["a"]), "is string"),
        (pa.array([datetime(2026, 1, 1, tzinfo=UTC)]), "timestamp"),
        (pa.array([b"x"]), "binary"),
        (pa.array([[1.0], [1.0, 2.0]]), "2 different lengths"),
        (pa.array([[["a"]]]), "different lengths"),
    ],
)
def test_what_is_no_number_is_refused_by_name(values, told):
    with pytest.raises(InvalidInput, match=told) as refused:
        numbers(values, "column")
    assert "'column'" in str(refused.value)
