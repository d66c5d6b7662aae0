"""Named values become the same numbers in training and in serving."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import (
    FEWEST_ROWS,
    MOST_CATEGORIES,
    EncodedFeature,
    Encoding,
    FeatureType,
    as_labels,
    instants,
    learned,
)

ENCODING = Encoding(
    features=(
        EncodedFeature(name="delay"),
        EncodedFeature(name="carrier", type=FeatureType.CATEGORY, categories=("AS", "UA")),
    )
)
values = st.fixed_dictionaries(
    {
        "delay": st.none() | st.floats(-1e6, 1e6, width=32),
        "carrier": st.none() | st.sampled_from(["AS", "UA", "??"]),
    }
)


@given(st.lists(values, min_size=1, max_size=20))
def test_a_row_and_a_table_encode_to_the_same_numbers(rows):
    table = pa.Table.from_pylist(
        rows, schema=pa.schema([("delay", pa.float64()), ("carrier", pa.string())])
    )
    one_by_one = np.array([ENCODING.row(row) for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(ENCODING.matrix(table), one_by_one)


def test_an_unknown_word_and_a_missing_value_are_not_a_number():
    delay, carrier = ENCODING.row({"carrier": "ZZ"})
    assert math.isnan(delay)
    assert math.isnan(carrier)


def test_booleans_integers_and_decimals_are_read_as_numbers():
    encoding = Encoding(features=(EncodedFeature(name="a"), EncodedFeature(name="b")))
    table = pa.table({"a": pa.array([True, None]), "b": pa.array([Decimal("1"), Decimal("2")])})
    matrix = encoding.matrix(table)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.array([[1, 1], [np.nan, 2]], np.float32))


def test_a_missing_column_is_named():
    with pytest.raises(InvalidInput, match="carrier"):
        ENCODING.matrix(pa.table({"delay": [1.0]}))


def test_text_where_a_number_is_needed_is_refused_in_rows_and_in_tables():
    with pytest.raises(InvalidInput, match="delay"):
        ENCODING.row({"delay": "late"})
    with pytest.raises(InvalidInput, match="delay"):
        ENCODING.matrix(pa.table({"delay": ["late"], "carrier": ["UA"]}))


def test_words_are_ordered_by_their_rate_of_ones_and_rare_words_are_unknown():
    n = 4 * FEWEST_ROWS
    words = ["late"] * n + ["early"] * n + ["middle"] * n + ["rare"] * (FEWEST_ROWS - 1)
    labels = np.array([1.0] * n + [0.0] * n + [1.0, 0.0] * (n // 2) + [1.0] * (FEWEST_ROWS - 1))
    encoding = learned(pa.table({"w": pa.array(words).dictionary_encode()}), ["w"], labels)
    assert encoding.features[0].categories == ("early", "middle", "late")


def test_at_most_sixty_four_words_are_kept_and_they_are_the_most_frequent():
    words = [f"w{i:03d}" for i in range(MOST_CATEGORIES + 5) for _ in range(FEWEST_ROWS + i)]
    encoding = learned(pa.table({"w": words}), ["w"], np.zeros(len(words)))
    assert len(encoding.features[0].categories) == MOST_CATEGORIES
    assert "w000" not in encoding.features[0].categories


def test_a_time_cannot_be_a_feature():
    table = pa.table({"t": pa.array([0], pa.timestamp("us", "UTC"))})
    with pytest.raises(InvalidInput, match="timestamp"):
        learned(table, ["t"], np.zeros(1))


def test_an_encoding_survives_its_json():
    assert Encoding.model_validate_json(ENCODING.model_dump_json()) == ENCODING


def test_labels_are_booleans_or_zero_and_one_and_may_be_unknown():
    found = as_labels(pa.chunked_array([[True, None, False]]), "late")
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.0])
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        as_labels(pa.chunked_array([[0, 3]]), "late")
    with pytest.raises(InvalidInput, match="type string"):
        as_labels(pa.chunked_array([["yes"]]), "late")


def test_instants_are_microseconds_and_none_may_be_missing():
    column = pa.chunked_array([pa.array([1_000_000_000], pa.timestamp("ns", "UTC"))])
    assert instants(column, "t").tolist() == [1_000_000]
    with pytest.raises(InvalidInput, match="lacks 1 timestamps"):
        instants(pa.chunked_array([pa.array([None], pa.timestamp("us"))]), "t")
    with pytest.raises(InvalidInput, match="timestamp is needed"):
        instants(pa.chunked_array([[1]]), "t")
