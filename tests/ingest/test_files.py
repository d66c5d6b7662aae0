from __future__ import annotations

import gzip
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from falaj.ingest.files import Files
from falaj.ingest.model import Source, SourceBroken
from falaj.kernel.errors import LimitExceeded


def source(path="in.csv", **more):
    return Source(
        **{"name": "s", "table": "t", "path": path, "columns": {"a": "text", "b": "text"}, **more}
    )


def read(folder, given, **options):
    files = Files([folder], **options)
    return files.read(given, files.found(given))


def test_every_text_is_read_as_it_stands(tmp_path):
    (tmp_path / "in.csv").write_text('a,b\n007,"x, ""y""\nz"\n,""\n', encoding="utf-8")
    found = read(tmp_path, source())
    assert found.rows.to_pylist() == [
        {"a": "007", "b": 'x, "y"\nz', "_row": 1},
        {"a": None, "b": "", "_row": 2},
    ]


def test_columns_are_taken_by_name_in_any_order(tmp_path):
    (tmp_path / "in.csv").write_text("b;a\n1;2\n")
    rows = read(tmp_path, source(delimiter=";")).rows
    assert rows.to_pylist() == [{"a": "2", "b": "1", "_row": 1}]


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zip"])
def test_compressed_files_are_read(tmp_path, name):
    data = b"a,b\n1,2\n"
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(data))
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.csv", data)
    assert read(tmp_path, source(name)).n_rows == 1


def test_many_files_are_one_source_with_rows_numbered_through(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "2.csv").write_text("a,b\n3,3\n")
    (tmp_path / "d" / "1.csv").write_text("a,b\n1,1\n2,2\n")
    files = Files([tmp_path])
    found = files.found(source("d/*.csv"))
    assert [file.name for file in found] == ["d/1.csv", "d/2.csv"]
    rows = files.read(source("d/*.csv"), found).rows
    assert rows["_row"].to_pylist() == [1, 2, 3]
    assert rows["a"].to_pylist() == ["1", "2", "3"]


def test_lines_that_are_no_rows_are_told_with_their_number(tmp_path):
    (tmp_path / "in.csv").write_text("a,b\n1,1\n2\n3,3\n4,4,4\n5,5\n")
    found = read(tmp_path, source())
    assert found.rows["a"].to_pylist() == ["1", "3", "5"]
    assert found.rows["_row"].to_pylist() == [1, 3, 5]
    assert found.malformed == (
        (2, "it has 1 values, not 2", "2"),
        (4, "it has 3 values, not 2", "4,4,4"),
    )
    assert found.n_rows == 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a\n1\n", "lacks 'b'"),
        (b"a,b,c\n1,2,3\n", "unexpected 'c'"),
        (b"A,b\n1,2\n", "lacks 'a'.*unexpected 'A'"),
        (b"a,b,b\n1,2,3\n", "repeats 'b'"),
        (b"", "lacks 'a', 'b'"),
        (b"a,b\n", "no rows.*only a header"),
        (b"a,b\n1,\xff\n", "cannot be read.*UTF"),
    ],
)
def test_a_file_that_does_not_fit_is_told_by_name(tmp_path, content, told):
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(SourceBroken, match=f"(?s)in.csv.*{told}|{told}.*in.csv|no rows: in.csv"):
        read(tmp_path, source())


@pytest.mark.parametrize("name", ["x.gz", "x.zip", "x.parquet"])
def test_a_broken_archive_is_told_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"not at all")
    with pytest.raises(SourceBroken, match=name):
        read(tmp_path, source(name, format="parquet" if name == "x.parquet" else "csv"))


def test_an_archive_with_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1", b"")
        archive.writestr("2", b"")
    with pytest.raises(SourceBroken, match="holds 2 files"):
        read(tmp_path, source("x.zip"))


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"a,b\n" + b"1,2\n" * 200_000)
    with pytest.raises(LimitExceeded, match="more than 100000 bytes"):
        read(tmp_path, source("x.zip"), max_bytes=100_000)


@pytest.mark.parametrize("path", ["nope.csv", "d/*.csv"])
def test_a_missing_file_is_named(tmp_path, path):
    with pytest.raises(SourceBroken) as caught:
        Files([tmp_path]).found(source(path))
    assert path in caught.value.message
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.csv", "link.csv", "d/../../secret.csv"])
def test_a_source_never_reads_outside_of_its_folders(tmp_path, path):
    home = tmp_path / "home"
    (home / "d").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    (home / "link.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(SourceBroken, match="lies outside"):
        Files([home]).found(source(path))
    if path != "/etc/passwd":
        assert Files([home, tmp_path]).found(source(path))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("package:no-such-thing/x.csv", "needs the package"),
        ("package:pytest/nope.csv", "no file 'nope.csv'"),
        ("package:pytest/../../etc/passwd", "no file"),
    ],
)
def test_a_missing_package_or_file_in_it_is_named(tmp_path, path, told):
    with pytest.raises(SourceBroken, match=told):
        Files([tmp_path]).found(source(path))


def test_parquet_is_read_with_its_types(tmp_path):
    pq.write_table(pa.table({"b": [1, 2], "a": ["x", None]}), tmp_path / "x.parquet")
    given = source("x.parquet", format="parquet", columns={"a": "text", "b": "integer"})
    assert read(tmp_path, given).rows.to_pylist() == [
        {"a": "x", "b": 1, "_row": 1},
        {"a": None, "b": 2, "_row": 2},
    ]
