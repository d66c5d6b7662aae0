"""What stands in place of values that a caller may not see."""

from datetime import UTC, date, datetime
from hashlib import sha256
from itertools import combinations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from falaj.lake.masks import Mask, column_key, masked

KEY = column_key(b"secret", "people", "name")
AT = datetime(2026, 5, 17, 8, 30, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
COLUMNS = {
    "text": pa.chunked_array([["amina", None], ["omar"]], pa.string()),
    "none": pa.chunked_array([], pa.string()),
    "bytes": pa.chunked_array([[b"a", None]], pa.binary()),
    "whole": pa.chunked_array([[-7, 0, None, 2**62]], pa.int64()),
    "small": pa.chunked_array([[-128, 127, None]], pa.int8()),
    "unsigned": pa.chunked_array([[0, 2**64 - 1, None]], pa.uint64()),
    "real": pa.chunked_array([[-0.5, 12.25, float("nan"), float("inf"), None]], pa.float64()),
    "flag": pa.chunked_array([[True, None]], pa.bool_()),
    "day": pa.chunked_array([[date(2026, 5, 17), None]], pa.date32()),
    "at": pa.chunked_array([[AT, None]], INSTANT),
    "list": pa.chunked_array([[[1, 2], None]], pa.list_(pa.int64())),
}
MASKS = [
    Mask(how="null"),
    Mask(how="mask"),
    Mask(how="hash"),
    Mask(how="generalise", characters=2, width=10, to="month"),
    Mask(how="generalise", to="year"),
]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_masked_column_keeps_its_type_and_its_length(name, mask):
    values = COLUMNS[name]
    found = masked(values, mask, KEY)
    assert found.type.equals(values.type)
    assert len(found) == len(values)


def test_a_masked_text_does_not_even_tell_whether_there_was_one():
    assert masked(COLUMNS["text"], Mask(how="mask"), KEY).to_pylist() == ["***"] * 3
    assert masked(COLUMNS["whole"], Mask(how="mask"), KEY).null_count == 4


@pytest.mark.parametrize("name", COLUMNS)
def test_null_leaves_nothing(name):
    assert masked(COLUMNS[name], Mask(how="null"), KEY).null_count == len(COLUMNS[name])


def test_equal_values_have_one_hash_that_nobody_can_make_without_the_key():
    values = pa.chunked_array([["amina", "omar"], ["amina", None]])
    first, other, again, none = masked(values, Mask(how="hash"), KEY).to_pylist()
    assert first == again != other
    assert none is None
    assert first not in (sha256(b"amina").hexdigest(), sha256(b"amina").hexdigest()[:32])
    elsewhere = masked(values, Mask(how="hash"), column_key(b"secret", "mine", "name"))
    assert first not in elsewhere.to_pylist()


def test_what_cannot_hold_a_hash_is_null():
    for name in ("flag", "day", "real", "small", "list"):
        assert masked(COLUMNS[name], Mask(how="hash"), KEY).null_count == len(COLUMNS[name])


def test_a_value_is_generalised_as_its_type_is():
    mask = Mask(how="generalise", characters=2, width=10, to="month")
    told = {name: masked(values, mask, KEY).to_pylist() for name, values in COLUMNS.items()}
    assert told["text"] == ["am", None, "om"]
    assert told["whole"] == [-10, 0, None, 4611686018427387904]
    assert told["small"] == [None, 120, None]  # -130 is no number of this type
    assert told["real"][:2] == [-10.0, 10.0]
    assert told["day"] == [date(2026, 5, 1), None]
    assert told["at"] == [datetime(2026, 5, 1, tzinfo=UTC), None]
    assert told["flag"] == [None, None]


def test_the_stricter_of_two_masks_holds_in_either_order():
    for strict, loose in combinations(MASKS[:4], 2):
        assert strict.together(loose) == loose.together(strict) == strict


def test_two_that_generalise_are_as_coarse_as_both():
    fine = Mask(how="generalise", characters=5, width=10, to="month")
    coarse = Mask(how="generalise", characters=2, width=100, to="year")
    assert fine.together(coarse) == coarse
    texts, numbers = Mask(how="generalise", characters=2), Mask(how="generalise", width=10)
    assert texts.together(numbers) == Mask(how="null")


@pytest.mark.parametrize(
    "given",
    [{"how": "generalise"}, {"how": "hash", "width": 2}, {"how": "generalise", "characters": 9}],
)
def test_a_mask_that_says_nothing_or_too_much_is_refused(given):
    with pytest.raises(ValidationError):
        Mask.model_validate(given)
