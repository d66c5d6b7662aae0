"""The hash of a table's content depends on its values and order, and on nothing else."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.lake.content import canonical, content_hash, content_hash_of

SCHEMA = pa.schema([("a", pa.float64()), ("b", pa.string()), ("c", pa.bool_()), ("d", pa.int64())])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.none() | st.floats(),
            "b": st.none() | st.text(max_size=5),
            "c": st.none() | st.booleans(),
            "d": st.none() | st.integers(-(2**63), 2**63 - 1),
        }
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(0, 12))
def test_how_a_table_is_cut_into_chunks_plays_no_part(values, cut):
    whole = pa.Table.from_pylist(values, schema=SCHEMA)
    cut = min(cut, len(values))
    parts = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert content_hash(parts) == content_hash(whole)


@settings(deadline=None, max_examples=60)
@given(rows)
def test_a_slice_is_what_it_shows(values):
    whole = pa.Table.from_pylist([*values, *values], schema=SCHEMA)
    alone = pa.Table.from_pylist(values, schema=SCHEMA)
    assert content_hash(whole.slice(len(values))) == content_hash(alone)


@settings(deadline=None, max_examples=60)
@given(rows.filter(bool), st.data())
def test_any_other_value_gives_another_hash(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    changed = [dict(row) for row in values]
    changed[place]["d"] = 7 if changed[place]["d"] != 7 else None
    assert content_hash(pa.Table.from_pylist(changed, schema=SCHEMA)) != content_hash(
        pa.Table.from_pylist(values, schema=SCHEMA)
    )


def test_text_is_not_shifted_between_rows_and_nulls_are_not_values():
    def of(values):
        return content_hash(pa.table({"b": pa.array(values, pa.string())}))

    assert len({of(["ab", "c"]), of(["a", "bc"]), of(["abc", ""]), of(["abc", None])}) == 4
    assert content_hash(pa.table({"a": [0.0, None]})) != content_hash(pa.table({"a": [0.0, 0.0]}))


def test_order_names_and_types_count():
    table = pa.table({"a": [1, 2], "b": [3, 4]})
    others = [
        table.select(["b", "a"]),
        table.rename_columns(["a", "c"]),
        table.take([1, 0]),
        table.set_column(0, "a", pa.array([1.0, 2.0])),
    ]
    assert len({content_hash(one) for one in [table, *others]}) == 5


def test_encodings_of_the_same_values_are_the_same_content():
    words = pa.array(["x", "y", "x"])
    instants = pa.array([1, 2, None], pa.timestamp("s", "UTC"))
    plain = pa.table({"w": words, "t": instants.cast(pa.timestamp("us", "UTC"))})
    encoded = pa.table({"w": words.dictionary_encode(), "t": instants})
    large = pa.table({"w": words.cast(pa.large_string()), "t": instants})
    assert content_hash(plain) == content_hash(encoded) == content_hash(large)
    assert canonical(encoded).schema == plain.schema
    assert canonical(pa.table({"n": pa.nulls(2)})).schema.field("n").type == pa.float64()


def test_dates_bytes_decimals_and_empty_tables_have_hashes():
    table = pa.table(
        {
            "d": pa.array([0, None], pa.date32()),
            "b": pa.array([b"x", None]),
            "n": pa.array([Decimal("1.5"), None]),
        }
    )
    assert content_hash(table) == content_hash(table.slice(0))
    assert content_hash(table.slice(0, 0)) != content_hash(table)


def test_structs_are_refused_by_name():
    with pytest.raises(InvalidInput, match="'pairs'"):
        content_hash(pa.table({"pairs": [{"x": 1}]}))


def test_lists_are_hashed_by_their_values_whether_their_length_is_fixed_or_not():
    def of(values, kind=None):
        return content_hash(pa.table({"l": pa.array(values, kind or pa.list_(pa.float32()))}))

    some = [[1.0, 2.0], None, [3.0, 4.0]]
    assert of(some) == of(some, pa.list_(pa.float32(), 2))
    cut = [[[1.0], [2.0]], [[1.0, 2.0], []], [[], [1.0, 2.0]], [[1.0, 2.0], None]]
    assert len({of(values) for values in cut}) == 4
    words = [of(values, pa.list_(pa.string())) for values in ([["ab"]], [["a", "b"]], [["a"]])]
    assert len(set(words)) == 3


def test_a_table_in_batches_has_the_hash_of_the_whole():
    whole = pa.table({"a": [1.0, None, 3.0], "b": ["x", "", None], "l": [[1], [], None]})
    assert content_hash_of([whole.slice(0, 2), whole.slice(2)]) == content_hash(whole)
    with pytest.raises(InvalidInput, match="different columns"):
        content_hash_of([whole, whole.select(["a"])])
