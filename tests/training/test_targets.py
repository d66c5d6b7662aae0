"""What labels are: 0 and 1, numbers, or classes by name; whatever else they hold is refused."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from falaj.kernel.errors import InvalidInput
from falaj.training.model import TrainingSetSpec
from falaj.training.splits import StratifiedSplit
from falaj.training.targets import BINARY, RESERVED, Target

SIZES = Target(task="classes", classes=("small", "large"))
NUMBER = Target(task="regression")


def column(*values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def test_numbers_are_taken_as_they_are_and_missing_ones_are_nan():
    found = NUMBER.labels(column(1.5, None, -2.0), "minutes")
    np.testing.assert_array_equal(found, [1.5, np.nan, -2.0])


def test_an_infinite_number_is_refused():
    with pytest.raises(InvalidInput, match="infinite"):
        NUMBER.labels(column(1.0, float("inf")), "minutes")


def test_words_are_no_numbers():
    with pytest.raises(InvalidInput, match="a number is needed"):
        NUMBER.labels(column("many"), "minutes")


def test_a_class_becomes_its_place_and_a_missing_one_nan():
    np.testing.assert_array_equal(
        SIZES.labels(column("large", None, "small"), "size"), [1.0, np.nan, 0.0]
    )


def test_classes_may_be_whole_numbers():
    grades = Target(task="classes", classes=("1", "2", "3"))
    np.testing.assert_array_equal(grades.labels(column(3, 1, None), "grade"), [2.0, 0.0, np.nan])


def test_a_word_that_is_no_class_is_named():
    with pytest.raises(InvalidInput, match="'medium', which is none of its classes"):
        SIZES.labels(column("small", "medium"), "size")


def test_a_list_has_no_classes():
    with pytest.raises(InvalidInput, match="there are no classes"):
        SIZES.labels(column([1], [2]), "size")


def test_a_binary_label_is_read_as_ever():
    np.testing.assert_array_equal(BINARY.labels(column(True, None), "late"), [1.0, np.nan])
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        BINARY.labels(column(2), "late")


def test_what_a_model_gives_is_named():
    assert BINARY.outputs == NUMBER.outputs == ("score",)
    assert SIZES.outputs == ("small", "large")


@pytest.mark.parametrize(
    ("task", "classes", "why"),
    [
        ("classes", (), "needs 2 to 100"),
        ("classes", ("one",), "needs 2 to 100"),
        ("classes", ("a", "b", "a"), "named twice"),
        ("classes", ("a", ""), "at least 1 character"),
        ("classes", ("a", "Id"), "no class can be called 'Id'"),
        ("classes", ("late", "Late"), "differ in capitals alone"),
        ("binary", ("a", "b"), "are of the task"),
        ("regression", ("a", "b"), "are of the task"),
    ],
)
def test_classes_belong_to_the_task_that_has_them(task, classes, why):
    with pytest.raises(ValidationError, match=why):
        Target(task=task, classes=classes)
    with pytest.raises(ValidationError, match=why):
        TrainingSetSpec(feature_service="s", label="y", spine="t", task=task, classes=classes)


def test_numbers_have_no_strata():
    with pytest.raises(ValidationError, match="stratified split"):
        TrainingSetSpec(
            feature_service="s", label="y", spine="t", task="regression", split=StratifiedSplit()
        )


def test_no_class_can_hide_what_an_answer_or_a_table_of_scores_tells():
    from falaj.serving.anomalies import ANOMALOUS, SCORE
    from falaj.serving.batchmodel import OWN_COLUMNS
    from falaj.serving.tensors import MODEL, PREDICTION_ID

    assert {ANOMALOUS, SCORE, MODEL, PREDICTION_ID, *OWN_COLUMNS} <= RESERVED
