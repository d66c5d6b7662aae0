"""Numbers of entities: exact for every kind of key, however many there are."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.features.index.entities import Entities, IntKeys

INTS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-2, 2))
TEXTS = st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["", "a", "aa", "a" * 9, "é"]))
KEYS = st.tuples(INTS, TEXTS, INTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS, max_size=40), st.data())
def test_equal_keys_have_equal_numbers_and_others_have_not(keys, data):
    known_or_not = st.one_of(KEYS, st.sampled_from([*keys, (None, None, None)]))
    asked = data.draw(st.lists(known_or_not, max_size=20))

    def columns(rows):
        kinds = (pa.int64(), pa.string(), pa.int64())
        return [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]

    entities, codes = Entities.numbered(columns(keys))
    entities = Entities.of(entities.arrays())
    known = {}
    for key, code in zip(keys, codes, strict=True):
        assert code == (-1 if None in key else known.setdefault(key, len(known)))
    assert entities.n == len(known)
    found = entities.find(columns(asked)).tolist()
    assert found == [known.get(key, -1) if None not in key else -1 for key in asked]
    sliced = [pa.concat_arrays([column[:1], column]).slice(1) for column in columns(asked)]
    if asked:
        assert entities.find(sliced).tolist() == found


def test_many_integers_grow_the_table_and_all_are_found():
    chance = np.random.default_rng(0)
    keys = chance.integers(-(2**62), 2**62, 50_000)
    numbered, codes = IntKeys.numbered(np.repeat(keys, 2), np.ones(100_000, bool))
    assert numbered.n == len(np.unique(keys))
    assert numbered.find(keys, np.ones(50_000, bool)).tolist() == codes[::2].tolist()
    assert len(numbered.table) < 8 * numbered.n


@pytest.mark.parametrize("n_columns", [1, 2, 8])
def test_keys_of_many_wide_columns_do_not_overflow(n_columns):
    chance = np.random.default_rng(0)
    columns = [pa.array(chance.integers(0, 10**9, 3000)) for _ in range(n_columns)]
    entities, codes = Entities.numbered(columns)
    different = set(zip(*[column.to_pylist() for column in columns], strict=True))
    assert len(np.unique(codes)) == entities.n == len(different)
    assert entities.find(columns).tolist() == codes.tolist()
