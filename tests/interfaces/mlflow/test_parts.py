"""Artifacts in parts over MLflow's routes: what comes back, who is let in, what is refused."""

import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote, urlsplit

import pytest
from starlette.requests import Request

from falaj.interfaces.mlflow.routes import root_of
from falaj.kernel.errors import InvalidInput
from falaj.lake.streams import Kept
from falaj.testing.artifactsubjects import logged_model
from falaj.training.artifactparts import Receipts, Upload
from falaj.wiring.artifactparts import artifact_chores

ROOT = "/mlflow/api/2.0/mlflow-artifacts"


@pytest.fixture(scope="module")
def client(world):
    return Client(world, world.token(world.caller()))


@pytest.fixture
def run(world):
    return world.started_run()


class Client:
    def __init__(self, world, token, root=ROOT):
        self.http, self.root = world.http, root
        self.headers = {"Authorization": f"Bearer {token}"}

    def post(self, verb, place, **body):
        return self.http.post(
            f"{self.root}/mpu/{verb}/{quote(place)}", json=body, headers=self.headers
        )

    def begun(self, run, name, n_parts, folder=""):
        place = f"7/{run}/artifacts{folder}"
        answer = self.post("create", place, path=name, num_parts=n_parts)
        assert answer.status_code == 200, answer.text
        return Begun(self, place, name, answer.json())

    def put(self, credential, data):
        """As MLflow's client does: the address, and the headers beside it."""
        return self.http.put(credential["url"], content=data, headers=credential["headers"])

    def get(self, run, path):
        return self.http.get(
            f"{self.root}/artifacts/7/{run}/artifacts/{path}", headers=self.headers
        )


class Begun:
    """An upload under way."""

    def __init__(self, client, place, name, told):
        self.client, self.place, self.name = client, place, name
        self.id, self.credentials = told["upload_id"], told["credentials"]
        self.parts = []

    def send(self, *pieces):
        for credential, data in zip(self.credentials, pieces, strict=True):
            answer = self.client.put(credential, data)
            assert answer.status_code == 200, answer.text
            number, etag = credential["part_number"], answer.headers["etag"]
            self.parts.append({"part_number": number, "etag": etag, "url": credential["url"]})
        return self

    def complete(self, parts=None, **other):
        asked = {"path": self.name, "upload_id": self.id, "parts": parts or self.parts, **other}
        return self.client.post("complete", self.place, **asked)


def streams(world):
    return set(world.premises.streams.streams())


def pieces_of(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


@pytest.mark.parametrize("size", [0, 1, 1000, 2_500_001])
def test_parts_come_back_as_one_artifact_and_leave_nothing_else(world, client, run, size):
    before, data = streams(world), os.urandom(size)
    pieces = pieces_of(data, 700_000)
    upload = client.begun(run, "data é.bin", len(pieces), folder="/model").send(*pieces)
    assert upload.complete().json() == {}
    answer = client.get(run, "model/data é.bin")
    assert answer.content == data
    assert answer.headers["etag"] == f'"sha256:{hashlib.sha256(data).hexdigest()}"'
    assert len(streams(world) - before) == 1


def test_parts_may_arrive_in_any_order_and_again(client, run):
    upload = client.begun(run, "a", 3)
    upload.credentials.reverse()
    upload.send(b"cc", b"not this", b"aaa")
    upload.parts.pop(1)
    again = client.put(upload.credentials[1], b"b")
    upload.parts.append({"part_number": 2, "etag": again.headers["etag"]})
    assert upload.complete().status_code == 200
    assert client.get(run, "a").content == b"aaabcc"


def test_completing_again_is_good_while_the_artifact_is_what_the_parts_are(client, run):
    upload = client.begun(run, "a", 2).send(b"1234", b"5")
    assert [upload.complete().status_code for _ in range(2)] == [200, 200]
    client.begun(run, "a", 1).send(b"12346").complete()
    answer = upload.complete()
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_STATE")
    assert "Part 1 is not there any more" in answer.json()["message"]
    assert client.get(run, "a").content == b"12346"


def test_an_upload_in_a_workspace_stays_in_it(world, run):
    client = Client(world, world.token(world.caller()), root=f"/t/default{ROOT}")
    upload = client.begun(run, "a", 1)
    assert "/t/default/mlflow/" in upload.credentials[0]["url"]
    assert upload.send(b"x").complete().status_code == 200
    other = Client(world, world.token(world.caller()), root=f"/t/risk{ROOT}")
    begun = client.begun(run, "b", 1)
    moved = {**begun.credentials[0], "url": begun.credentials[0]["url"].replace("default", "risk")}
    etag = other.put(moved, b"x").headers["etag"]
    asked = {"upload_id": begun.id, "parts": [{"part_number": 1, "etag": etag}]}
    for verb, more in (("create", {"num_parts": 1}), ("complete", asked)):
        refused = other.post(verb, begun.place, path="b", **more)
        assert refused.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert "ETag of part 1" in client.post("complete", begun.place, path="b", **asked).text
    assert client.get(run, "b").status_code == 404


def test_an_address_names_no_secret_and_only_this_server(client, run):
    (credential,) = client.begun(run, "a", 1).credentials
    assert credential["headers"] == client.headers
    token = client.headers["Authorization"].split()[1]
    assert token not in credential["url"]
    assert urlsplit(credential["url"]).netloc == urlsplit(str(client.http.base_url)).netloc


def test_who_may_not_is_refused_before_anything_is_read(world, client, run, monkeypatch):
    upload = client.begun(run, "a", 1).send(b"x")
    nobody = Client(world, world.token(world.caller(nobody=True)))
    assert nobody.post("create", upload.place, path="a", num_parts=1).status_code in (403, 404)
    asked = {"path": "a", "upload_id": upload.id, "parts": upload.parts}
    assert nobody.post("complete", upload.place, **asked).status_code in (403, 404)

    async def read(self):
        raise AssertionError("the body was read")
        yield

    monkeypatch.setattr(Request, "stream", read)
    credential = {**upload.credentials[0], "headers": nobody.headers}
    assert nobody.put(credential, b"x").status_code in (403, 404)
    stranger = {**credential, "headers": {}}
    assert nobody.put(stranger, b"x").json()["error_code"] == "UNAUTHENTICATED"


def test_parts_of_another_run_path_or_upload_are_worth_nothing(world, client, run):
    upload = client.begun(run, "a", 1).send(b"x")
    other_run = world.started_run()
    attempts = (
        (f"7/{other_run}/artifacts", "a", upload.id),
        (upload.place, "b", upload.id),
        (upload.place, "a", client.begun(run, "a", 1).id),
    )
    for place, name, upload_id in attempts:
        asked = {"path": name, "upload_id": upload_id, "parts": upload.parts}
        answer = client.post("complete", place, **asked)
        assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE", (place, name)
        assert "ETag of part 1" in answer.json()["message"]
    assert upload.complete().status_code == 200


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((), "1 to 10,000 parts, not 0"),
        ((1, 1), "Part 1 stands twice"),
        ((1, 3), "Part 2 is missing"),
        ((2, 3), "Part 1 is missing"),
        ((1, 2, 4), "ETag of part 4"),
        ((0, 1, 2), "ETag of part 0"),
    ],
)
def test_numbers_that_do_not_make_a_whole_are_refused(client, run, numbers, told):
    upload = client.begun(run, "a", 3).send(b"1", b"2", b"3")
    etags = {one["part_number"]: one["etag"] for one in upload.parts}
    parts = [{"part_number": n, "etag": etags.get(n, "x")} for n in numbers]
    asked = {"path": "a", "upload_id": upload.id, "parts": parts}
    answer = client.post("complete", upload.place, **asked)
    assert answer.status_code == 400
    assert told in answer.json()["message"]


@pytest.mark.parametrize(
    "parts",
    ["x", [1], [{}], [{"part_number": "y", "etag": "z"}], [{"part_number": 1, "etag": 5}],
     [{"part_number": 1, "etag": "é"}], [{"part_number": 1, "etag": "A" * 100_000}]],
)  # fmt: skip
def test_what_are_no_parts_is_refused(client, run, parts):
    upload = client.begun(run, "a", 1)
    asked = {"path": "a", "upload_id": upload.id, "parts": parts}
    assert client.post("complete", upload.place, **asked).status_code == 400


def test_an_exchanged_etag_is_refused(client, run):
    upload = client.begun(run, "a", 2).send(b"1", b"2")
    first, second = upload.parts
    first["etag"], second["etag"] = second["etag"], first["etag"]
    answer = upload.complete()
    assert answer.status_code == 400
    assert "The ETag of part 1 is that of part 2" in answer.json()["message"]


@pytest.mark.parametrize("n_parts", [0, -1, 10_001, "many", None, 2**70])
def test_a_number_of_parts_that_no_upload_has_is_refused(client, run, n_parts):
    answer = client.post("create", f"7/{run}/artifacts", path="a", num_parts=n_parts)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1" * 5000, "²"])
def test_a_part_with_no_number_is_refused(client, run, number):
    upload = client.begun(run, "a", 1)
    address = f"{ROOT}/mpu/parts/{upload.id}/{quote(number)}/{upload.place}/a"
    assert client.http.put(address, content=b"x", headers=client.headers).status_code in (400, 404)


@pytest.mark.parametrize("upload_id", ["x", "upload_1", "run_" + "0" * 32, "../.."])
def test_what_is_no_id_of_an_upload_is_refused(client, run, upload_id):
    place = f"7/{run}/artifacts"
    answer = client.post("complete", place, path="a", upload_id=upload_id, parts=[])
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "c:\\..", "x/", "%2e%2e/%2e%2e/%2e%2e/b"])
def test_a_name_that_climbs_or_is_none_is_refused(client, run, name):
    answer = client.post("create", f"7/{run}/artifacts", path=name, num_parts=1)
    if answer.status_code == 200:  # what is behind the last slash is a name like any other
        (credential,) = answer.json()["credentials"]
        assert f"/{run}/artifacts/b" in credential["url"]
    else:
        assert answer.status_code == 400


def test_of_a_path_on_the_clients_machine_the_name_counts(client, run):
    for name in ("/home/amina/model.bin", "C:\\work\\model.bin", "model.bin"):
        (credential,) = client.begun(run, name, 1).credentials
        assert credential["url"].endswith(f"{run}/artifacts/model.bin")


def test_a_run_that_has_ended_takes_no_part_at_the_end(world, client, run):
    upload = client.begun(run, "a", 1).send(b"x")
    with world.call() as call:
        world.premises.runs.finish(call, run)
    again = client.post("create", upload.place, path="a", num_parts=1)
    for answer in (upload.complete(), again):
        assert answer.json()["error_code"] == "INVALID_STATE"
        assert "has ended" in answer.json()["message"]
    assert client.get(run, "a").status_code == 404


def test_a_run_that_is_deleted_meanwhile_takes_no_part_at_the_end(world, client, run):
    upload = client.begun(run, "a", 1).send(b"x")
    with world.call() as call:
        world.premises.runs.delete(call, run)
    assert upload.complete().status_code in (400, 404)
    with world.call() as call:
        world.premises.runs.restore(call, run)
    assert client.get(run, "a").status_code == 404
    assert upload.complete().status_code == 200


def test_a_file_where_a_folder_is_is_refused_before_parts_are_sent(client, run):
    client.begun(run, "a", 1, folder="/model").send(b"x").complete()
    answer = client.post("create", f"7/{run}/artifacts", path="model", num_parts=1)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "it is a folder" in answer.json()["message"]


def test_a_logged_model_takes_parts_and_replaces_nothing_once_it_is_ready(world, client):
    model = logged_model(world)
    place = f"7/models/{model}/artifacts"
    asked = {"path": "weights", "num_parts": 2}
    for parts, status in (((b"12", b"3"), 200), ((b"12", b"3"), 200), ((b"12", b"4"), 400)):
        told = client.post("create", place, **asked).json()
        upload = Begun(client, place, "weights", told).send(*parts)
        assert upload.complete().status_code == status
        client.http.post(
            f"/api/logged-models/{model}/status", json={}, headers=client.headers
        ).raise_for_status()
    address = f"{ROOT}/artifacts/{place}/weights"
    assert client.http.get(address, headers=client.headers).content == b"123"


def test_the_purpose_that_a_caller_states_is_stated_with_each_part_and_range(world, run):
    client = Client(world, world.token(world.caller()))
    client.headers["Falaj-Purpose"] = "fraud%20checks"
    upload = client.begun(run, "a", 1)
    (credential,) = upload.credentials
    assert credential["headers"]["falaj-purpose"] == "fraud%20checks"
    assert upload.send(b"x").complete().status_code == 200


def test_an_address_leads_back_to_any_workspace_whatever_its_name():
    for path in ("/mlflow/api/2.0/", "/mlflow/ajax-api/3.0/", "/t/mlflow-artifacts/mlflow/"):
        assert root_of(f"{path}mlflow-artifacts/mpu/create/7/run/artifacts") == path


def test_parts_that_are_too_large_together_are_refused(world, client, run, monkeypatch):
    upload = client.begun(run, "a", 2).send(b"x" * 600, b"x" * 600)
    monkeypatch.setattr(world.premises.settings.artifacts, "max_bytes", 1000)
    before = streams(world)
    assert client.put(upload.credentials[0], b"x" * 1001).status_code == 413
    assert streams(world) == before


def test_parts_of_an_upload_that_is_never_completed_go_after_a_day(world, client, run, monkeypatch):
    client.begun(run, "kept", 1).send(b"kept").complete()
    upload = client.begun(run, "a", 2).send(b"1", b"2")
    aborted = client.post("abort", upload.place, path="a", upload_id=upload.id)
    assert aborted.json() == {}
    before = streams(world)
    now = world.premises.clock.now
    monkeypatch.setattr(world.premises.clock, "now", lambda: now() + timedelta(hours=25))
    artifact_chores(world.premises)["left-over streams"]()
    monkeypatch.undo()
    assert len(before - streams(world)) >= 2
    assert client.get(run, "kept").content == b"kept"
    assert "Part 1 is not there any more" in upload.complete().text


UPLOAD = Upload("upload_1", "user:a", "default", "runs", "run_1", "a")


@pytest.mark.parametrize(
    "other",
    [{"id": "upload_2"}, {"principal": "user:b"}, {"workspace": "risk"}, {"kind": "loggedmodels"},
     {"owner": "run_2"}, {"path": "b"}],
)  # fmt: skip
def test_a_receipt_is_of_one_sender_upload_and_artifact(other):
    receipts = Receipts(lambda: b"1" * 32)
    part = Kept("stream_1", "sha256:0", 1)
    text = receipts.give(UPLOAD, 1, part)
    assert receipts.take(UPLOAD, [(1, f'"{text}"')]) == [part]
    with pytest.raises(InvalidInput, match="ETag of part 1"):
        receipts.take(replace(UPLOAD, **other), [(1, text)])


def test_a_receipt_of_another_key_opens_nothing():
    text = Receipts(lambda: b"1" * 32).give(UPLOAD, 1, Kept("stream_1", "sha256:0", 1))
    with pytest.raises(InvalidInput, match="ETag of part 1"):
        Receipts(lambda: b"2" * 32).take(UPLOAD, [(1, text)])
