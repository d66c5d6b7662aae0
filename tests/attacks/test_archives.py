"""Archives that want out of their folder, or are far larger than they say."""

import gzip
import io
import os
import struct
import tarfile
import zipfile

import pytest

from falaj.kernel.errors import AlreadyExists, Corrupt, InvalidInput
from falaj.models.exporting import unpack
from falaj.models.files import check_bytes
from falaj.models.model import ModelFormat
from falaj.serving.adapters.runtime_python import ProcessLimits, PythonRuntime
from falaj.serving.model import ServableModel
from falaj.trust.secretscan import ARCHIVE_BYTES, FILE_BYTES, scan_file

MODEL = (
    b"class Model:\n    def __init__(self, folder): ...\n    def predict(self, r): return r[:, 0]\n"
)
TRAVERSALS = [
    "../outside",
    "../../../../../../tmp/outside",
    "/tmp/outside",
    "a/../../outside",
    "a/b/../../../outside",
    "./../outside",
    "//tmp/outside",
    "a/./../../outside",
]
"""Eight ways to name a file outside of the folder."""


def zipped(*entries, kind=zipfile.ZIP_STORED):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return sink.getvalue()


def link(name, to):
    """An entry that is a symbolic link."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    return entry, to


def served(data, **limits):
    """A runtime that tries to load an archive as a custom model."""
    runtime = PythonRuntime(ProcessLimits(**limits))
    return runtime.load(ServableModel("python", data, ("a",)))


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The folder in which everything is unpacked, and nothing else beside it."""
    import falaj.serving.adapters.runtime_python as runtime

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(runtime, "_MEMORY", tmp_path / "work")
    return tmp_path


def left(folder):
    """What lies in a folder, but for the one in which is unpacked."""
    return sorted(one.name for one in folder.rglob("*") if one.name != "work")


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_custom_model_is_not_unpacked_out_of_its_folder(inside, name):
    with pytest.raises(Corrupt, match="outside"):
        served(zipped(("model.py", MODEL), (name, b"x")))
    assert left(inside) == []
    assert not os.path.exists("/tmp/outside")  # noqa: PTH110 - the name that the archive says


@pytest.mark.parametrize("name", [*TRAVERSALS, "..", "a\\..\\outside", "with/folder"])
def test_an_exported_bundle_is_not_unpacked_out_of_its_folder(tmp_path, name):
    with pytest.raises(Corrupt):
        unpack(zipped(("model.onnx", b"m"), (name, b"x")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", [b"/etc/passwd", b"../../secret", b"model.py"])
def test_a_link_in_a_custom_model_is_refused(inside, to):
    with pytest.raises(Corrupt, match="weights"):
        served(zipped(("model.py", MODEL), link("weights", to)))
    assert left(inside) == []


def test_an_exported_bundle_is_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        unpack(zipped(("model.onnx", b"m")), tmp_path / "out")
    assert [one.name for one in (tmp_path / "elsewhere").iterdir()] == ["kept"]


def test_a_bomb_is_not_unpacked(inside):
    bomb = zipped(("model.py", MODEL), ("zeros", bytes(50 << 20)), kind=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    with pytest.raises(Corrupt, match="too large"):
        served(bomb, unpacked_bytes=1 << 20)
    assert left(inside) == []


def test_a_bomb_that_says_it_is_small_is_not_unpacked(inside):
    bomb = bytearray(
        zipped(("model.py", MODEL), ("zeros", bytes(20 << 20)), kind=zipfile.ZIP_DEFLATED)
    )
    true = struct.pack("<I", 20 << 20)
    lie = struct.pack("<I", 10)
    place = bomb.find(true)
    while place >= 0:
        bomb[place : place + 4] = lie
        place = bomb.find(true, place)
    with pytest.raises(Corrupt):
        served(bytes(bomb), unpacked_bytes=1 << 20)
    assert left(inside) == []


def test_ten_thousand_small_files_are_not_unpacked(inside):
    many = zipped(("model.py", MODEL), *((f"f{number}", b"") for number in range(10_001)))
    with pytest.raises(Corrupt, match="too large"):
        served(many)
    assert left(inside) == []


def test_two_files_of_one_name_do_not_show_one_and_serve_the_other():
    """What is searched for secrets is every entry, not the last of each name."""
    token = "ghp_" + "a1" * 18
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped(("model.py", MODEL), ("n.txt", token.encode()), ("n.txt", b"harmless"))
    assert [one.kind for one in scan_file("m.zip", data).findings] == ["GitHub token"]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zipped(("a", data), kind=8)])
def test_the_search_for_secrets_unpacks_a_bomb_only_as_far_as_it_reads(pack):
    import tracemalloc

    bomb = pack(bytes(300 << 20))
    tracemalloc.start()
    scan = scan_file("bomb", bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not scan.whole
    assert most < 5 * (ARCHIVE_BYTES + FILE_BYTES)


def test_a_tape_with_links_and_devices_is_searched_without_following_them():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tape:
        for kind, to in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "/etc/shadow"),
                         (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")):  # fmt: skip
            entry = tarfile.TarInfo(f"entry-{kind!r}")
            entry.type, entry.linkname = kind, to
            tape.addfile(entry)
    assert scan_file("m.tar", sink.getvalue()).findings == []


@pytest.mark.parametrize("model_format", [ModelFormat.ONNX, ModelFormat.LIGHTGBM,
                                          ModelFormat.XGBOOST, ModelFormat.TORCH])  # fmt: skip
def test_an_archive_is_not_taken_for_a_model_of_another_format(model_format):
    with pytest.raises(InvalidInput):
        check_bytes(zipped(("model.py", MODEL)), model_format)
