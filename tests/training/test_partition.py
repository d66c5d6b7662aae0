"""Splits by groups and by strata keep what they promise, whatever the rows are."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from falaj.kernel.errors import InvalidInput
from falaj.kernel.ids import new_id
from falaj.training.model import TrainingSetSpec
from falaj.training.partition import parts_of
from falaj.training.splits import GroupSplit, StratifiedSplit
from falaj.training.training_sets import part_of, unseen

words = st.sampled_from([None, *"abcdefghijklmnop", "فلج", ""])
shares = st.floats(0.05, 0.45)


def cut(rows, split):
    return parts_of(rows, split, timestamp="at", label="late").tolist()


def table(**columns):
    return pa.table({name: pa.array(values) for name, values in columns.items()})


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=60), shares, shares, st.integers(0, 99))
def test_all_rows_of_a_group_go_to_one_part_and_stay_there_when_rows_are_added(
    groups, validation, test, seed
):
    split = GroupSplit(group="who", validation=validation, test=test, seed=seed)
    parts = cut(table(who=pa.array(groups, pa.string())), split)
    of = {}
    for group, part in zip(groups, parts, strict=True):
        assert of.setdefault(group, part) == part
        assert (part == "") == (group is None)
    more = [*"qrstuv", *groups[::-1]]
    again = cut(table(who=pa.array(more, pa.string())), split)
    for group, part in zip(more, again, strict=True):
        assert of.get(group, part) == part


def test_groups_fall_into_parts_by_the_shares():
    rows = table(who=[f"customer {n}" for n in range(4000)])
    parts = cut(rows, GroupSplit(group="who", validation=0.2, test=0.1))
    assert abs(parts.count("validation") / 4000 - 0.2) < 0.03
    assert abs(parts.count("test") / 4000 - 0.1) < 0.03


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("xy")), min_size=1, max_size=80),
    shares, shares, st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_each_stratum_is_cut_by_the_shares_to_within_a_row(values, validation, test, seed):
    late, kind = zip(*values, strict=True)
    split = StratifiedSplit(by=("kind",), validation=validation, test=test, seed=seed)
    parts = np.array(cut(table(late=late, kind=kind), split))
    for stratum in set(values):
        inside = parts[[one == stratum for one in values]]
        n = len(inside)
        assert abs((inside == "test").sum() - test * n) <= 1
        assert abs((inside == "validation").sum() - validation * n) <= 1
        assert (inside == "train").sum() >= n * (1 - test - validation) - 1


def test_strata_are_shuffled_and_the_seed_decides_how():
    rows = table(late=[True] * 100)
    first, again = (cut(rows, StratifiedSplit(seed=1)) for _ in range(2))
    assert first == again
    assert first != cut(rows, StratifiedSplit(seed=2))
    places = [place for place, part in enumerate(first) if part == "test"]
    assert len(places) == 15
    assert max(places) > 60 and min(places) < 40


def test_the_order_of_a_shuffle_is_the_same_on_every_machine_and_version():
    parts = cut(table(late=[True] * 12), StratifiedSplit(validation=0.25, test=0.25, seed=3))
    assert "".join(part[0] if part != "test" else "T" for part in parts) == ("vttTtttTTvvt")


def test_a_column_that_is_not_there_or_has_no_words_is_refused():
    with pytest.raises(InvalidInput, match="no column 'who'"):
        cut(table(late=[True]), GroupSplit(group="who"))
    lists = pa.table({"who": pa.array([[1]]), "late": [True]})
    with pytest.raises(InvalidInput, match="cannot group"):
        cut(lists, GroupSplit(group="who"))


def test_shares_must_leave_rows_to_train_on():
    with pytest.raises(ValidationError, match="must leave rows"):
        GroupSplit(group="who", validation=0.5, test=0.5)


@pytest.mark.parametrize(
    "split",
    [
        GroupSplit(group="flight", validation=0.3, test=0.3),
        StratifiedSplit(by=("carrier",), validation=0.3, test=0.3),
    ],
)
def test_a_set_is_split_so_pinned_and_made_again(sets, spec, pinned, split):
    made = sets.build(
        spec.model_copy(update={"split": split}), set_id=new_id("ts"), pinned=pinned,
        created_by="user:amina",
    )  # fmt: skip
    rows = sets.load(made)
    assert made.n_rows["train"] + made.n_rows["validation"] + made.n_rows["test"] == len(rows)
    assert TrainingSetSpec.model_validate_json(made.spec.model_dump_json()).split == split
    assert sets.recreate(made, pinned, pinned).identical
    known = [
        *part_of(rows, "train")["at"].to_pylist(),
        *part_of(rows, "validation")["at"].to_pylist(),
    ]
    assert made.known_until == max(known)
    test = part_of(rows, "test")
    assert unseen(made, test, made).all()
    other = made.model_copy(update={"id": new_id("ts")})
    later = [at > made.known_until for at in test["at"].to_pylist()]
    assert unseen(made, test, other).tolist() == later
