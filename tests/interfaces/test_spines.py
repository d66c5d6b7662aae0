"""Spines are handed over in parts that a call can carry, in their order."""

import pandas
import polars
import pyarrow as pa
import pytest

from falaj.interfaces.spines import is_table, parts_of
from falaj.kernel.errors import InvalidInput

ROWS = pa.table({"card": [f"card {i}" for i in range(1000)], "n": list(range(1000))})


def read(parts):
    return pa.concat_tables([pa.ipc.open_stream(part).read_all() for part in parts])


@pytest.mark.parametrize(
    "spine",
    [ROWS, ROWS.to_batches()[0], ROWS.to_reader(max_chunksize=300), polars.from_arrow(ROWS),
     ROWS.to_pandas()],
)  # fmt: skip
def test_rows_of_every_sort_are_cut_into_parts_of_bounded_size(spine):
    parts = list(parts_of(spine, bytes_per_part=4_000))
    assert len(parts) > 3
    assert max(map(len, parts)) < 8_000
    assert read(parts).cast(ROWS.schema).equals(ROWS)


@pytest.mark.parametrize("spine", [ROWS.slice(0, 0), pandas.DataFrame({"card": []})])
def test_a_spine_without_rows_is_refused(spine):
    with pytest.raises(InvalidInput, match="empty"):
        list(parts_of(spine))


def test_what_has_no_rows_is_refused():
    with pytest.raises(InvalidInput, match="cannot be made of a dict"):
        list(parts_of({"card": [1]}))


def test_a_name_is_a_table_and_a_sentence_is_a_query():
    assert is_table("orders_2026")
    assert not is_table("SELECT * FROM orders")
