"""An input is cut into slices that hold each of its rows once, in order, and always alike."""

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.serving import batchinputs
from falaj.serving.batchinputs import (
    beside,
    columns_of,
    file_batches,
    file_slices,
    stamped,
    table_batches,
    table_slices,
)
from falaj.serving.batchmodel import InputChanged


def rows_of(slices, batches_of, column):
    """All values of a column by way of slices; each slice begins where the one before ended."""
    found = []
    for number, part in enumerate(slices):
        assert (part.number, part.first_row) == (number, len(found))
        for batch in batches_of(part):
            values = batch.columns[column].to_pylist()
            found += [None if place in batch.refused else value
                      for place, value in enumerate(values)]  # fmt: skip
            assert batch.n_rows == len(values)
        assert len(found) == part.first_row + part.n_rows
    return found


def from_files(paths, column, part_rows):
    stamps = {one.path: one for one in stamped(paths)}
    return rows_of(
        file_slices(paths, part_rows=part_rows),
        lambda part: file_batches(part, stamps[part.source], [column]),
        column,
    )


def from_table(lake, snapshot, part_rows):
    return rows_of(
        table_slices(lake, "numbers", snapshot, part_rows=part_rows),
        lambda part: table_batches(lake, part, snapshot, ["n"]),
        "n",
    )


def test_a_table_is_read_at_its_snapshot_in_the_order_of_its_log(ducklake):
    for first in range(0, 250, 50):
        ducklake.append("numbers", pa.table({"n": list(range(first, first + 50))}))
    snapshot = ducklake.latest()
    ducklake.append("numbers", pa.table({"n": [999]}))
    ducklake.compact()
    for part_rows in (1000, 100, 33):
        assert from_table(ducklake, snapshot, part_rows) == list(range(250))


def test_a_table_whose_rows_were_replaced_has_each_row_once(ducklake):
    ducklake.append("numbers", pa.table({"n": list(range(70))}))
    ducklake.replace("numbers", pa.table({"n": list(range(100, 150))}))
    ducklake.append("numbers", pa.table({"n": list(range(150, 160))}))
    for part_rows in (1000, 20):
        found = from_table(ducklake, ducklake.latest(), part_rows)
        assert found == list(range(100, 160))


def test_a_table_without_rows_has_no_slices(ducklake):
    ducklake.append("numbers", pa.table({"n": pa.array([], pa.int64())}))
    assert table_slices(ducklake, "numbers", ducklake.latest()) == []


def test_parquet_and_arrow_files_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(batchinputs, "LARGEST_GROUP", 64)
    table = pa.table({"n": list(range(300)), "other": ["x"] * 300})
    pq.write_table(table.slice(0, 200), tmp_path / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(200, 10), tmp_path / "b.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    pq.write_table(table.slice(210, 70), tmp_path / "c.parquet", row_group_size=70)
    with pa.ipc.new_file(tmp_path / "d.arrow", table.schema) as writer:
        for start in (280, 290):
            writer.write_table(table.slice(start, 10))
    paths = [str(tmp_path / f"{name}") for name in
             ("a.parquet", "b.parquet", "empty.parquet", "c.parquet", "d.arrow")]  # fmt: skip
    for part_rows in (1000, 30, 16):
        assert from_files(paths, "n", part_rows) == list(range(300))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=6)


@given(
    st.lists(texts, min_size=1, max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 9),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_a_csv_file_is_cut_at_ends_of_rows_and_nowhere_else(
    tmp_path_factory, values, end, part_rows, chunk, ended
):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=end)
    writer.writerow(["n", "text"])
    for number, value in enumerate(values):
        writer.writerow([number, value])
        if number % 3 == 0:
            text.write(end)  # an empty line is no row
    whole = text.getvalue()
    path.write_text(whole if ended else whole.rstrip("\r\n"), encoding="utf-8", newline="")
    kept = batchinputs._CHUNK
    batchinputs._CHUNK = chunk
    try:
        slices = file_slices([str(path)], part_rows=part_rows)
    finally:
        batchinputs._CHUNK = kept
    (stamp,) = stamped([str(path)])
    for column, expected in (("n", [str(n) for n in range(len(values))]), ("text", values)):
        found = rows_of(slices, lambda part: file_batches(part, stamp, [column]), column)  # noqa: B023
        assert found == expected


def test_a_line_with_too_many_values_is_a_refused_row_in_its_place(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("a,b\n1,2\n3\n4,5,6\n7,8\n")
    (part,) = file_slices([str(path)])
    (stamp,) = stamped([str(path)])
    (batch,) = file_batches(part, stamp, ["b", "a"])
    assert batch.n_rows == 4
    assert batch.columns["a"].to_pylist() == ["1", None, None, "7"]
    assert dict(batch.refused) == {
        1: "the line has 1 values, not 2",
        2: "the line has 3 values, not 2",
    }


def test_a_file_that_has_changed_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n\n1\n")
    (part,) = file_slices([str(path)])
    (stamp,) = stamped([str(path)])
    path.write_text("n\n1\n2\n")
    with pytest.raises(InputChanged, match=r"a\.csv has changed"):
        list(file_batches(part, stamp, ["n"]))


def test_files_that_are_not_what_their_name_says_are_named(tmp_path):
    for name in ("a.parquet", "b.arrow"):
        (tmp_path / name).write_text("n\n1\n")
        with pytest.raises(InvalidInput, match=name):
            columns_of(str(tmp_path / name))
        with pytest.raises(InvalidInput, match=name):
            file_slices([str(tmp_path / name)])
    with pytest.raises(InvalidInput, match=r"ends in '\.gz'"):
        columns_of(str(tmp_path / "c.csv.gz"))


def test_a_reader_beside_gives_all_batches_in_order_and_its_error_in_its_place():
    assert list(beside(iter(range(50)))) == list(range(50))

    def breaking():
        yield 1
        raise InvalidInput("broken")

    taken = beside(breaking())
    assert next(taken) == 1
    with pytest.raises(InvalidInput, match="broken"):
        next(taken)


def test_a_reader_beside_stops_when_nobody_takes_any_more():
    read = []

    def endless():
        while True:
            read.append(1)
            yield 1

    taken = beside(endless(), ahead=2)
    next(taken)
    taken.close()
    n = len(read)
    assert n <= 5
    assert len(read) == n
