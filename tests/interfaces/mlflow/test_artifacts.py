"""Artifacts over MLflow's routes: what comes back, who is let in, what hostile paths meet."""

import asyncio
import errno
import hashlib
import os
from urllib.parse import quote

import pytest
from sqlalchemy import func, select
from starlette.requests import Request

from falaj.lake.disk import disk_error
from falaj.training.artifacts import RUNS
from falaj.trust.audit_tables import audit_records
from falaj.wiring.artifactparts import artifact_chores, artifacts

API = "/mlflow/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def client(world):
    return Client(world, world.token(world.caller()))


@pytest.fixture
def run(world):
    return world.started_run()


class Client:
    def __init__(self, world, token):
        self.http = world.http
        self.headers = {"Authorization": f"Bearer {token}"}

    def put(self, run, path, data, **more):
        return self.http.put(
            f"{API}/7/{run}/artifacts/{quote(path)}", content=data, headers=self.headers, **more
        )

    def get(self, run, path, **headers):
        return self.http.get(
            f"{API}/7/{run}/artifacts/{quote(path)}", headers={**self.headers, **headers}
        )

    def list(self, run, path=""):
        answer = self.http.get(
            API, params={"path": f"7/{run}/artifacts/{path}"}, headers=self.headers
        )
        return answer.json()["files"]

    def delete(self, run, path):
        return self.http.delete(f"{API}/7/{run}/artifacts/{quote(path)}", headers=self.headers)


def streams(world):
    return set(world.premises.streams.streams())


@pytest.mark.parametrize("size", [0, 1, 2**20, 5_000_001])
def test_an_artifact_comes_back_to_the_byte(client, run, size):
    data = os.urandom(size)
    assert client.put(run, "model/data.bin", data).json() == {}
    answer = client.get(run, "model/data.bin")
    assert answer.content == data
    assert answer.headers["etag"] == f'"sha256:{hashlib.sha256(data).hexdigest()}"'
    assert client.list(run, "model") == [{"path": "data.bin", "is_dir": False, "file_size": size}]


def test_a_body_of_unknown_length_is_kept_whole(client, run):
    data = os.urandom(3_000_000)
    pieces = (data[first : first + 70_001] for first in range(0, len(data), 70_001))
    assert client.put(run, "f", pieces).status_code == 200
    assert client.get(run, "f").content == data


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=1048570-1048585", 206, (1_048_570, 1_048_586)),
        ("bytes=2999999-", 206, (2_999_999, 3_000_000)),
        ("bytes=-5", 206, (2_999_995, 3_000_000)),
        ("bytes=2999990-4000000", 206, (2_999_990, 3_000_000)),
        ("bytes=5-2", 200, (0, 3_000_000)),
        ("bytes=0-1,5-6", 200, (0, 3_000_000)),
        ("bytes=-", 200, (0, 3_000_000)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(client, run, asked, status, expected):
    data = bytes(range(256)) * 11_719
    data = data[:3_000_000]
    client.put(run, "f", data)
    answer = client.get(run, "f", Range=asked)
    assert answer.status_code == status
    assert answer.content == data[slice(*expected)]
    if status == 206:
        first, end = expected
        assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/3000000"


def test_a_range_behind_the_end_is_refused(client, run):
    client.put(run, "f", b"1234")
    answer = client.get(run, "f", Range="bytes=4-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */4")


def test_a_listing_shows_files_and_folders_of_one_level(client, run):
    for path in ("model/MLmodel", "model/data/x", "plot é.png", "Model/y", "z"):
        client.put(run, path, b"-")
    assert [(one["path"], one["is_dir"]) for one in client.list(run)] == [
        ("Model", True), ("model", True), ("plot é.png", False), ("z", False),
    ]  # fmt: skip
    assert [one["path"] for one in client.list(run, "model")] == ["MLmodel", "data"]
    assert client.list(run, "z") == client.list(run, "nothing") == []


def test_the_tracking_route_lists_with_paths_from_the_root(client, run):
    client.put(run, "model/data/x", b"-")
    answer = client.http.get(
        "/mlflow/api/2.0/mlflow/artifacts/list",
        params={"run_id": run, "path": "model"}, headers=client.headers,
    )  # fmt: skip
    assert answer.json()["files"] == [{"path": "model/data", "is_dir": True}]


def test_a_file_takes_no_folders_place_nor_a_folder_a_files(client, run):
    client.put(run, "a/b", b"-")
    for path in ("a", "a/b/c"):
        answer = client.put(run, path, b"-")
        assert answer.status_code == 400
        assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert client.put(run, "A", b"-").status_code == 200


HOSTILE = [
    "../x", "a/../../x", "a/./b", "a//b", "/etc/passwd", "a/", "..", ".", "a\\b", "..\\x",
    "%2e%2e/x", "%252e%252e/x", "a/%2e%2e%2fx", "%00", "a\x00b", "a\nb", "C:/x", "c:x",
    "a/．．/b", " a", "a ", "x" * 256, "é" * 128, "/".join(["abcd"] * 101), "%5c%5cserver",
    "%25252525252e",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_refused_and_nothing_is_kept(world, client, run, path):
    before = streams(world)
    spellings = {quote(path, safe=""), quote(path, safe="/")}
    if {".", ".."} & set(path.split("/")):
        # As text the client of the test would walk such a path itself.
        spellings = {quote(path, safe="").replace(".", "%2E")}
    for spelled in spellings:
        address = f"{API}/7/{run}/artifacts/{spelled}"
        for method in ("PUT", "GET", "DELETE"):
            content = b"x" if method == "PUT" else None
            answer = client.http.request(method, address, content=content, headers=client.headers)
            if not (method == "DELETE" and path == "a/"):  # a folder may end so
                assert answer.status_code in (400, 404)
    assert client.list(run) == []
    assert streams(world) == before


@pytest.mark.parametrize("path", ["x", "7", "7/RUN", "7/RUN/other/x", "RUN/artifacts/x"])
def test_a_path_outside_of_a_runs_artifacts_is_not_found(client, run, path):
    address = f"{API}/{path.replace('RUN', run)}"
    answer = client.http.put(address, content=b"-", headers=client.headers)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_removed_artifact_is_gone_with_its_bytes(world, client, run):
    before = streams(world)
    for path in ("m/a", "m/b/c", "other"):
        client.put(run, path, path.encode() + run.encode())
    assert client.delete(run, "m").status_code == 200
    assert [one["path"] for one in client.list(run)] == ["other"]
    artifact_chores(world.premises)["dropped artifacts"]()
    assert len(streams(world) - before) == 1
    assert client.delete(run, "m").json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_equal_bytes_lie_once_and_go_with_their_last_path(world, client, run):
    before, data, other = streams(world), os.urandom(100), world.started_run()
    client.put(run, "a", data)
    client.put(other, "b", data)
    clear = artifact_chores(world.premises)["dropped artifacts"]
    clear()
    assert len(streams(world) - before) == 1
    client.delete(run, "a")
    clear()
    assert client.get(other, "b").content == data
    client.put(other, "b", os.urandom(100))
    artifact_chores(world.premises)["dropped artifacts"]()
    assert len(streams(world) - before) == 1


def test_a_run_that_has_ended_takes_no_artifact_unless_it_was_begun_open_ended(world, client, run):
    client.put(run, "a", b"1")
    with world.call() as call:
        runs = world.premises.runs
        open_ended = runs.start(call, experiment="by-hand", open_ended=True).id
        for one in (run, open_ended):
            runs.finish(call, one)
    for path in ("a", "later"):
        assert client.put(run, path, b"2").json()["error_code"] == "INVALID_STATE"
        assert client.put(open_ended, path, b"2").status_code == 200
    assert client.get(run, "a").content == b"1"


def test_a_run_of_another_workspace_is_not_found(world, client, run):
    client.put(run, "a", b"1")
    address = f"/t/risk{API}/7/{run}/artifacts/a"
    for method, content in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
        answer = world.http.request(method, address, content=content, headers=client.headers)
        assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_who_may_not_is_refused_before_the_body_is_read_and_that_is_recorded(
    world, run, monkeypatch
):
    async def read(self):
        raise AssertionError("the body was read")
        yield

    monkeypatch.setattr(Request, "stream", read)
    refused = (
        select(func.count())
        .select_from(audit_records)
        .where(audit_records.c.action == "runs.keep_artifact", audit_records.c.outcome == "refused")
    )
    with world.premises.database.reading() as connection:
        before = connection.execute(refused).scalar_one()
    nobody = Client(world, world.token(world.caller(nobody=True)))
    assert nobody.put(run, "a", b"x").status_code in (403, 404)
    assert nobody.put("run_" + "0" * 32, "a", b"x").status_code in (403, 404)
    stranger = world.http.put(f"{API}/7/{run}/artifacts/a", content=b"x")
    assert (stranger.status_code, stranger.json()["error_code"]) == (401, "UNAUTHENTICATED")
    with world.premises.database.reading() as connection:
        assert connection.execute(refused).scalar_one() == before + 2


def test_who_may_not_reads_and_removes_nothing(world, client, run):
    client.put(run, "a", b"x")
    nobody = Client(world, world.token(world.caller(nobody=True)))
    assert nobody.get(run, "a").status_code in (403, 404)
    assert nobody.delete(run, "a").status_code in (403, 404)
    assert client.get(run, "a").content == b"x"


def test_a_run_that_is_not_there_is_told_before_the_body_is_read(world, client, monkeypatch):
    async def read(self):
        raise AssertionError("the body was read")
        yield

    monkeypatch.setattr(Request, "stream", read)
    answer = client.put("run_" + "0" * 32, "a", b"x")
    assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_no_document_becomes_a_stream_that_has_arrived(world, client, run):
    client.put(run, "secret", b"secret words")
    with world.premises.database.reading() as connection:
        found = artifacts(world.premises).content(connection, RUNS, run, "secret").artifact
    forged = {"stream": "stream_" + "0" * 32, "digest": found.digest, "size": found.size}
    answer = world.http.post(
        f"/api/runs/{run}/artifacts", json={"path": "mine", "content": forged},
        headers=client.headers,
    )  # fmt: skip
    assert answer.status_code in (400, 422)
    assert [one["path"] for one in client.list(run)] == ["secret"]


def test_an_artifact_that_is_too_large_is_refused_and_leaves_nothing(
    world, client, run, monkeypatch
):
    before = streams(world)
    monkeypatch.setattr(world.premises.settings.artifacts, "max_bytes", 1000)
    for body in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        answer = client.put(run, "a", body)
        assert answer.status_code == 413
        assert "artifacts.max_bytes" in answer.json()["message"]
    assert client.put(run, "a", b"x" * 1000).status_code == 200
    assert len(streams(world) - before) == 1


def test_a_full_disk_is_told_once_and_leaves_nothing(world, client, run, monkeypatch):
    from falaj.lake.adapters.blobs_local import LocalWriter

    def full(self, data):
        raise disk_error(OSError(errno.ENOSPC, "No space left on device"), "the blob")

    before = streams(world)
    monkeypatch.setattr(LocalWriter, "write", full)
    answer = client.put(run, "a", b"x" * 100)
    # 507, since the client would send the whole body again after a 429 or 503.
    assert answer.status_code == 507
    monkeypatch.undo()
    assert streams(world) == before
    assert not any(world.premises.settings.home.rglob(".unfinished-*"))


def test_an_upload_of_which_nothing_arrives_is_given_up(world, client, run, monkeypatch):
    monkeypatch.setattr(world.premises.settings.artifacts, "idle_seconds", 0.05)

    async def silent(self):
        await asyncio.sleep(5)
        yield b""

    monkeypatch.setattr(Request, "stream", silent)
    answer = client.put(run, "a", b"x")
    assert answer.status_code == 429
    assert "artifacts.idle_seconds" in answer.json()["message"]


def test_changed_bytes_are_told_before_an_answer_begins(world, client, run):
    before = streams(world)
    client.put(run, "a", os.urandom(5_000))
    (stream,) = streams(world) - before
    (path,) = world.premises.settings.home.rglob(stream)
    sealed = bytearray(path.read_bytes())
    sealed[-100] ^= 1
    path.write_bytes(sealed)
    answer = client.get(run, "a")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "DATA_LOSS")
