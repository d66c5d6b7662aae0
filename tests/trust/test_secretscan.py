"""Secrets are found by kind and place, and never told."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from falaj.testing.planted import HARMLESS, PLANTED
from falaj.trust.secretscan import FILE_BYTES, SecretFound, scan_document, scan_file

EACH = [(kind, text) for kind, texts in PLANTED.items() for text in texts]
TOKEN = PLANTED["GitHub token"][0]


def kinds(scan):
    return [one.kind for one in scan.findings]


def zipped(**files):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


@pytest.mark.parametrize(("kind", "text"), EACH, ids=[kind for kind, _ in EACH])
def test_each_kind_of_secret_is_found_in_a_file_with_its_line(kind, text):
    scan = scan_file("model.py", f"import x\n\nvalue = ({text!r})\n".encode())
    assert kind in kinds(scan)
    assert next(one for one in scan.findings if one.kind == kind).place == "model.py:3"


@pytest.mark.parametrize(("kind", "text"), EACH, ids=[kind for kind, _ in EACH])
def test_each_kind_of_secret_is_found_in_a_document_with_its_path(kind, text):
    scan = scan_document("definition 0", {"source": [{"path": f"see {text} "}]})
    assert [(one.kind, one.place) for one in scan.findings] == [
        (kind, "definition 0.source[0].path")
    ]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_is_let_pass(text):
    assert scan_file("model.py", text.encode()).findings == []
    assert scan_document("definition", {"note": text}).findings == []


def test_a_random_text_is_a_secret_only_under_a_name_that_says_so():
    value = "q8Zr2Vn0Lw5Tx7Kd"
    assert scan_document("d", {"password": value}).findings
    assert not scan_document("d", {"fingerprint": value}).findings
    assert not scan_document("d", {"password": "correct horse battery"}).findings


def test_a_secret_is_found_in_a_notebook_in_an_archive_and_in_a_packed_tape():
    notebook = json.dumps({"cells": [{"source": [f"token = '{TOKEN}'"]}]}).encode()
    assert kinds(scan_file("a.ipynb", notebook)) == ["GitHub token"]
    (found,) = scan_file("m.zip", zipped(**{"deep/a.ipynb": notebook})).findings
    assert found.place == "m.zip!deep/a.ipynb:1"
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tape:
        entry = tarfile.TarInfo("a.ipynb")
        entry.size = len(notebook)
        tape.addfile(entry, io.BytesIO(notebook))
    assert kinds(scan_file("m.tar", sink.getvalue())) == ["GitHub token"]
    assert kinds(scan_file("m.tgz", gzip.compress(sink.getvalue()))) == ["GitHub token"]
    assert kinds(scan_file("m.gz", gzip.compress(notebook))) == ["GitHub token"]


def test_a_secret_is_found_among_the_bytes_of_weights_and_in_wide_letters():
    weights = bytes(range(256)) * 500
    assert kinds(scan_file("m.onnx", weights + TOKEN.encode() + weights)) == ["GitHub token"]
    assert kinds(scan_file("m.py", TOKEN.encode("utf-16"))) == ["GitHub token"]


def test_what_lies_beyond_a_limit_is_not_looked_at_and_that_is_said():
    scan = scan_file("m.bin", b"a" * FILE_BYTES + TOKEN.encode())
    assert scan.findings == []
    assert not scan.whole
    assert not scan_file("m.zip", zipped(**{"a": b"0" * (FILE_BYTES + 1)})).whole
    assert not scan_file("m.zip", zipped(**{str(n): b"" for n in range(1_001)})).whole


def test_a_broken_archive_is_looked_through_as_bytes():
    scan = scan_file("m.zip", b"PK\x03\x04" + TOKEN.encode())
    assert kinds(scan) == ["GitHub token"]


def test_a_secret_in_a_name_is_found_and_not_told():
    scan = scan_file("m.zip", zipped(**{f"{TOKEN}.txt": b"nothing"}))
    assert kinds(scan) == ["secret in a name"]
    document = scan_document("d", {TOKEN: {"password": "q8Zr2Vn0Lw5Tx7Kd"}})
    assert TOKEN not in str(scan.told()) + str(document.told())


@pytest.mark.parametrize(("kind", "text"), EACH, ids=[kind for kind, _ in EACH])
def test_the_value_is_in_no_error(kind, text):
    scan = scan_file("model.py", text.encode())
    with pytest.raises(SecretFound) as caught:
        scan.refuse_unless(None, "The file")
    error = caught.value
    assert kind in str(error)
    assert text not in f"{error} {error.hint} {error.details}"


def test_a_finding_is_let_pass_with_a_reason_and_not_with_an_empty_one():
    scan = scan_file("model.py", TOKEN.encode())
    scan.refuse_unless("It is a token of a test server.", "The file")
    for reason in ("", "  ", None):
        with pytest.raises(SecretFound):
            scan.refuse_unless(reason, "The file")


@pytest.mark.parametrize("text", ["password=" * 20_000, "a" * 200_000 + "://", "eyJ" * 60_000,
                                  "://x:" * 30_000, "aws secret " * 15_000])  # fmt: skip
def test_a_text_that_is_made_to_slow_the_scan_down_is_done_with(text):
    scan_file("m.txt", text.encode())
