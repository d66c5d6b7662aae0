"""Packed rows and entity keys: every type comes back, by row and by column."""

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.columns import arrow_type, typed
from falaj.features.entitykeys import LONGEST_KEY, KeyCodec
from falaj.features.order import times_of
from falaj.features.rows import RowCodec
from falaj.features.types import DType, Element, ListType
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded

VALUES = {
    DType.FLOAT64: [1.5, None, -0.0],
    DType.INT64: [-(2**63), 2**63 - 1, None],
    DType.BOOL: [True, None, False],
    DType.TIMESTAMP: [None, 0, -5],
    DType.STRING: ["é'; drop table x", None, ""],
    DType.BYTES: [b"\0\xff", b"", None],
    ListType(Element.FLOAT32, 3): [[1.0, 2.0, 3.0], None, [0.5, -1.0, 0.0]],
    ListType(Element.INT64, 2): [None, [1, -1], [2**62, 0]],
    ListType(Element.BOOL, 9): [[True] * 9, [False] * 9, None],
    ListType(Element.FLOAT64): [[1.0], [], None],
    ListType(Element.BOOL): [[True, False], None, []],
    ListType(Element.TIMESTAMP): [[1, 2, 3], None, [-1]],
    ListType(Element.STRING): [["a", "", "ü"], [], None],
    ListType(Element.STRING, 2): [["a", "b"], None, ["", "c"]],
}
TIMES = np.array([5, -7, 0])


def column(dtype, values):
    if dtype in (DType.TIMESTAMP, ListType(Element.TIMESTAMP)):
        plain = pa.int64() if dtype is DType.TIMESTAMP else pa.list_(pa.int64())
        return pa.array(values, plain).cast(arrow_type(dtype))
    return typed(pa.array(values, arrow_type(dtype)), dtype, "x")


def packed(dtypes, n=3):
    codec = RowCodec(dtypes)
    columns = [column(dtype, VALUES[dtype][:n]) for dtype in dtypes]
    return codec, codec.packed(TIMES[:n], TIMES[:n] + 1, columns)


def plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_every_type_comes_back_from_one_row():
    codec, rows = packed(list(VALUES))
    for i, row in enumerate(rows):
        assert times_of(row) == (TIMES[i], TIMES[i] + 1)
        assert list(codec.values(row)) == [values[i] for values in VALUES.values()]


def test_every_type_comes_back_from_columns_of_rows():
    codec, rows = packed(list(VALUES))
    matrix = codec.matrix(rows)
    valid = codec.valid(matrix)
    for slot, values in zip(codec.slots, VALUES.values(), strict=True):
        assert valid[:, slot.bit].tolist() == [value is not None for value in values]
        found = codec.column(slot, matrix, rows)
        for i, value in enumerate(values):
            if value is not None:
                assert plain(found[i]) == value


@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_every_type_stands_alone_and_in_any_order(dtype):
    codec, rows = packed([dtype])
    assert [codec.values(row)[0] for row in rows] == VALUES[dtype]
    columns = [column(dtype, VALUES[dtype])]
    some = codec.packed(TIMES, TIMES, columns, rows=np.array([0, 2]), order=np.array([1, 0]))
    assert [codec.values(row)[0] for row in some] == [VALUES[dtype][2], VALUES[dtype][0]]
    assert codec.packed(TIMES[:0], TIMES[:0], [columns[0][:0]]) == []


def test_rows_without_tails_have_one_length_and_a_bitmap_for_any_number_of_features():
    n = 10_000
    codec = RowCodec([DType.FLOAT64] * n)
    values = [None if i % 3 == 0 else float(i) for i in range(n)]
    columns = [pa.array([value], pa.float64()) for value in values]
    (row,) = codec.packed(TIMES[:1], TIMES[:1], columns)
    assert len(row) == codec.n_bytes == 24 + 8 * 157 + 8 * n
    assert codec.values(row) == values


def test_a_row_that_is_cut_short_is_refused():
    for dtypes in ([DType.INT64], [DType.STRING], [ListType(Element.STRING)]):
        codec, rows = packed(dtypes, 1)
        if VALUES[dtypes[0]][0] is None:
            continue
        for length in (len(rows[0]) - 1, 30, 3):
            with pytest.raises(Corrupt):
                codec.values(rows[0][:length])
        with pytest.raises(Corrupt):
            codec.matrix([rows[0][:30]])


KEYS = [-(2**63), -1, 0, 1, 2**63 - 1, 77]
TEXTS = ["", "a", "ab", "é", "\0", "b" * 470]


@pytest.mark.parametrize("secret", [None, b"s" * 32])
@pytest.mark.parametrize("keys", [["int64"], ["string"], ["int64", "string"], ["string", "string"]])
def test_keys_are_the_same_one_by_one_and_in_columns(keys, secret):
    dtypes = {f"k{i}": DType(kind) for i, kind in enumerate(keys)}
    codec = KeyCodec(b"prefix..", dtypes, secret=secret)
    short = TEXTS if len(keys) == 1 else [text[:200] for text in TEXTS]
    given = [(KEYS if kind == "int64" else short) * 2 for kind in keys]
    alone = [codec.encoded(values) for values in zip(*given, strict=True)]
    assert codec.asked(given) == alone
    assert codec.column([pa.array(one) for one in given]) == alone
    assert len(set(alone)) == len(KEYS)
    arrays = [
        np.array(one) if kind == "int64" else one for one, kind in zip(given, keys, strict=True)
    ]
    assert codec.asked(arrays) == alone
    given[0][3] = None
    assert codec.asked(given) == [None if i == 3 else key for i, key in enumerate(alone)]


def test_integer_keys_sort_as_numbers():
    codec = KeyCodec(b"", {"k": DType.INT64})
    assert sorted(KEYS, key=lambda key: codec.encoded([key])) == sorted(KEYS)


@pytest.mark.parametrize("bad", [1.0, True, "1", 2**63, float("nan")])
def test_one_wrong_key_among_many_is_refused(bad):
    codec = KeyCodec(b"", {"k": DType.INT64})
    with pytest.raises(InvalidInput, match="int64"):
        codec.asked([[1, 2, 3, 4, 5, 6, 7, bad]])


def test_a_key_over_the_limit_is_refused_alone_and_among_many():
    codec = KeyCodec(b"", {"k": DType.STRING})
    long = "k" * (LONGEST_KEY - 1)
    for ask in (
        lambda: codec.encoded([long]),
        lambda: codec.asked([["a"] * 10 + [long]]),
        lambda: codec.column([pa.array(["a", long])]),
    ):
        with pytest.raises(LimitExceeded):
            ask()
    assert codec.encoded([long[:-1]])
    two = KeyCodec(b"", {"a": DType.STRING, "b": DType.STRING})
    with pytest.raises(LimitExceeded):
        two.column([pa.array(["a" * 300]), pa.array(["b" * 300])])
