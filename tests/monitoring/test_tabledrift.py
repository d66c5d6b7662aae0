from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.columncounts import Edges, Numbers, as_numbers, numbers_counted
from falaj.monitoring.driftwords import TableDrift
from falaj.monitoring.tablecolumns import ArrowColumns, ParquetColumns
from falaj.monitoring.tabledrift import compare_tables
from falaj.testing.shifts import SHIFTS, as_table, shifted, steady

N = 20_000


@pytest.fixture(scope="module")
def reference() -> ArrowColumns:
    return ArrowColumns(as_table(steady(N, 1, 12)))


def compared(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> TableDrift:
    return compare_tables(ArrowColumns(as_table(before)), ArrowColumns(as_table(now)))


@pytest.mark.parametrize("name", SHIFTS)
def test_each_planted_shift_is_found_where_it_was_planted(
    name: str, reference: ArrowColumns
) -> None:
    told = compare_tables(reference, ArrowColumns(as_table(shifted(name, N, 2, 12))))
    planted = SHIFTS[name][0]
    assert any(planted in one for one in told.alarmed)
    assert all(planted in one for one in told.alarmed)


def test_equal_tables_raise_no_alarm(reference: ArrowColumns) -> None:
    for seed in range(3, 8):
        assert compare_tables(reference, ArrowColumns(as_table(steady(N, seed, 12)))).alarmed == []


def test_distances_of_skewed_columns_are_those_of_scipy() -> None:
    random = np.random.default_rng(8)
    before, now = random.lognormal(0, 2, 100_000), random.lognormal(0.3, 2, 100_000)
    (one,) = compared({"x": before}, {"x": now}).columns
    assert one.ks == pytest.approx(stats.ks_2samp(before, now).statistic, abs=2e-4)
    exact = stats.wasserstein_distance(before, now) / before.std()
    assert one.wasserstein == pytest.approx(exact, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.lists(st.floats(), max_size=60),
    st.integers(0, 60),
)
def test_the_kernel_counts_as_a_search_does(
    edges: list[float], values: list[float], cut: int
) -> None:
    growing = np.unique(np.array(edges))
    column = np.array(values, dtype=np.float64)
    column.flags.writeable = False
    told = numbers_counted(Numbers((column[:cut], column[cut:])), Edges.of(growing))
    known = column[~np.isnan(column)]
    places = np.searchsorted(growing, known, side="left")
    assert told.counts.tolist() == np.bincount(places, minlength=len(growing) + 1).tolist()
    assert (told.missing, told.infinite) == (np.isnan(column).sum(), np.isinf(column).sum())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.none() | st.floats(), max_size=9), max_size=6), st.data())
def test_a_column_in_pieces_has_the_rows_and_extremes_of_the_whole(
    pieces: list[list[float | None]], data: st.DataObject
) -> None:
    told = as_numbers(pa.chunked_array(pieces, pa.float64()))
    assert told is not None
    whole = np.array([np.nan if v is None else v for one in pieces for v in one], np.float64)
    n = len(whole)
    rows = np.array(sorted(data.draw(st.lists(st.integers(0, n - 1), max_size=20))) if n else [])
    np.testing.assert_array_equal(told.at(rows.astype(np.int64)), whole[rows.astype(np.int64)])
    finite = whole[np.isfinite(whole)]
    assert told.extremes() == ((finite.min(), finite.max()) if len(finite) else None)


def test_parquet_files_of_many_types_are_compared_and_what_cannot_be_is_named(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(9)
    for name, shift in (("a", 0), ("b", 40)):
        table = pa.table(
            {
                "at": pa.array(random.integers(0, 10**6, N) + shift, pa.timestamp("s", "UTC")),
                "flag": pa.array(random.uniform(size=N) < 0.2 + shift / 100),
                "word": pa.array(random.choice(["x", "y"], N)).dictionary_encode(),
                "list": pa.array([[1]] * N),
                name: pa.array(np.zeros(N)),
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=N // 3)
    told = compare_tables(
        ParquetColumns(tmp_path / "a.parquet"), ParquetColumns(tmp_path / "b.parquet")
    )
    assert [one.name for one in told.columns] == ["at", "flag", "word"]
    assert told.alarmed == ["flag"]
    assert told.skipped == ["a", "b", "list"]


def test_a_column_of_ever_new_words_is_no_finding_and_one_that_was_closed_is() -> None:
    ids = {"id": np.array([f"a{i}" for i in range(N)])}
    others = {"id": np.array([f"b{i}" for i in range(N)])}
    assert compared(ids, others).findings == []
    closed = {"id": np.array(["x", "y"] * (N // 2))}
    opened = {"id": np.array(["x", "z"] * (N // 2))}
    (one,) = compared(closed, opened).findings
    assert one.sentence == (
        "id has 1 words that the reference does not know in 50.0% of the rows: 'z'."
    )


def test_vectors_are_compared_as_such_and_rows_as_a_whole_where_that_is_asked() -> None:
    random = np.random.default_rng(10)

    def table(shift: float) -> ArrowColumns:
        vectors = (random.normal(size=(600, 8)) + shift).tolist()
        return ArrowColumns(pa.table({"v": vectors, "x": random.normal(size=600),
                                      "y": random.normal(size=600)}))  # fmt: skip

    before = table(0)
    same = compare_tables(before, table(0), together=True)
    assert same.alarmed == []
    assert same.embeddings["v"].p_value > 0.001
    assert same.separability is not None
    assert same.separability.low < 0.5
    assert same.reconstruction is not None
    assert compare_tables(before, table(0.5)).alarmed == ["v"]


def test_what_cannot_be_compared_is_refused() -> None:
    one, empty = (
        ArrowColumns(pa.table({"x": [1.0]})),
        ArrowColumns(pa.table({"x": pa.array([], pa.float64())})),
    )
    with pytest.raises(InvalidInput, match="no rows"):
        compare_tables(one, empty)
    with pytest.raises(InvalidInput, match="'y'"):
        compare_tables(one, one, columns=["y"])
    lists = ArrowColumns(pa.table({"x": [[1]]}))
    with pytest.raises(InvalidInput, match="no column"):
        compare_tables(lists, lists)
