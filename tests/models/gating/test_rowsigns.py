"""Rows in two parts, and travel in time."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from falaj.models.gating.leakage import leakage_gate
from falaj.models.gating.rowsigns import row_hashes, twins
from falaj.models.gating.rules import LeakageRule
from falaj.models.model import Outcome
from falaj.training.splits import GroupSplit

VALUES = [0.0, -0.0, 1.5, np.nan, np.inf]
LOOSE = LeakageRule(model_auc=1.0, feature_auc=1.0)


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.float32, (30, 2), elements=st.sampled_from(VALUES)))
def test_rows_have_one_hash_exactly_if_they_are_equal(matrix):
    hashes = row_hashes(matrix)
    for i in range(len(matrix)):
        for j in range(i):
            same = all(
                a == b or (np.isnan(a) and np.isnan(b))
                for a, b in zip(matrix[i], matrix[j], strict=True)
            )
            assert bool(hashes[i] == hashes[j]) is bool(same)


def test_many_rows_do_not_collide():
    values = np.arange(200_000, dtype=np.float32).reshape(-1, 1)
    assert np.unique(row_hashes(np.hstack([values, values % 7]))).size == 200_000


def with_copies(made, share):
    """Rows of which a share of the test part are copies of fitted rows, at their own instants."""
    rows = made.rows(3000)
    parts = np.array(rows["split"].to_pylist())
    test, train = np.flatnonzero(parts == "test"), np.flatnonzero(parts == "train")
    copied = test[: int(share * test.size)]
    for name in ("x", "n", "w"):
        values = np.array(rows[name].to_pylist(), dtype=object)
        values[copied] = values[train[: copied.size]]
        rows = rows.set_column(rows.schema.get_field_index(name), name, [values.tolist()])
    return rows


def test_test_rows_that_are_copies_of_fitted_rows_are_found(made):
    found = leakage_gate(LOOSE)(made.examined(with_copies(made, 0.1)))
    assert found.outcome is Outcome.FAILED
    assert "have a twin among the fitted rows, 10.0% more than" in found.message
    assert abs(found.evidence["duplicates"]["share"] - 0.1) < 0.005
    assert leakage_gate(LOOSE)(made.examined(with_copies(made, 0.005))).outcome is Outcome.PASSED


def test_rows_of_few_values_repeat_by_themselves_and_are_not_blamed(made):
    random = np.random.default_rng(0)
    rows = made.rows(x=random.integers(0, 3, 3000).astype(float), n=np.zeros(3000))
    found = twins(made.examined(rows))
    assert found.n_twins > 0.9 * found.n_rows
    assert found.n_fitted_twins > 0.9 * found.n_fitted
    assert leakage_gate(LOOSE)(made.examined(rows)).outcome is Outcome.PASSED


def test_a_row_in_the_wrong_part_is_counted(made):
    rows = made.rows()
    parts = rows["split"].to_pylist()
    parts[0], parts[1] = "test", "validation"
    rows = rows.set_column(rows.schema.get_field_index("split"), "split", [parts])
    found = leakage_gate(LOOSE)(made.examined(rows))
    assert found.outcome is Outcome.FAILED
    assert "2 rows lie in another part than their instant says" in found.message


def test_an_input_that_tells_an_instant_after_the_question_is_travel_in_time(made):
    rows = made.rows()
    at = rows["at"].cast(pa.int64()).to_numpy()
    for scale in (1_000_000, 1_000, 1):
        landed = (at + timedelta(hours=3) // timedelta(microseconds=1)) // scale
        late = rows.set_column(rows.schema.get_field_index("n"), "n", [landed.astype(float)])
        found = leakage_gate(LOOSE)(made.examined(late))
        assert found.evidence["time_travel"]["inputs_with_later_instants"]["n"] > 100
        assert "n tells an instant after the question" in found.message
    before = (at - 10_000_000) // 1_000_000
    early = rows.set_column(rows.schema.get_field_index("n"), "n", [before.astype(float)])
    assert leakage_gate(LOOSE)(made.examined(early)).outcome is Outcome.PASSED


def test_the_signs_in_the_rows_may_be_switched_off(made):
    rule = LOOSE.model_copy(update={"duplicates": None, "time_travel": False})
    found = leakage_gate(rule)(made.examined(with_copies(made, 0.5)))
    assert found.outcome is Outcome.PASSED
    assert "duplicates" not in found.evidence


def test_a_group_on_both_sides_of_the_test_is_counted(made):
    def cut(rows):
        version = made.examined(rows)
        split = GroupSplit(group="w")
        spec = version.training_set.spec.model_copy(update={"split": split})
        known = version.training_set.model_copy(update={"spec": spec})
        return leakage_gate(LOOSE)(replace(version, training_set=known))

    found = cut(made.rows())
    assert found.outcome is Outcome.FAILED
    assert "3 groups have rows on both sides of the test" in found.message
    rows = made.rows()
    words = np.where(np.array(rows["split"].to_pylist()) == "test", "c", "a").tolist()
    assert cut(rows.set_column(rows.schema.get_field_index("w"), "w", [words])).outcome is (
        Outcome.PASSED
    )
