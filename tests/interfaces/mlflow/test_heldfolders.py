"""The files of a registered version stay as they were judged, whoever asks and however."""

import pytest

from falaj.testing.artifactsubjects import logged_model, run_with_file

API = "/mlflow/api/2.0/mlflow/"
FILES = "/mlflow/api/2.0/mlflow-artifacts/artifacts/"
PARTS = "/mlflow/api/2.0/mlflow-artifacts/mpu/"


class Client:
    def __init__(self, world):
        self.world = world
        self.headers = {"Authorization": f"Bearer {world.token(world.caller())}"}

    def register(self, source):
        """A new model whose first version is this folder."""
        name = self.world.new("held")
        for path, fields in (("registered-models", {}), ("model-versions", {"source": source})):
            self.ask("POST", f"{API}{path}/create", json={"name": name, **fields})
        return name

    def ask(self, method, path, status=200, **more):
        answer = self.world.http.request(method, path, headers=self.headers, **more)
        assert answer.status_code == status, answer.text
        return answer

    def refused(self, name, method, path, **more):
        """True if the answer is that the version needs the file, and the file is as it was."""
        told = self.world.http.request(method, path, headers=self.headers, **more)
        return told.status_code >= 400 and f"version 1 of {name} is made" in told.text


@pytest.fixture(scope="module")
def client(world):
    return Client(world)


def test_the_folder_of_a_run_stays_while_a_version_is_made_of_it(world, client):
    run = run_with_file(world)
    root = f"1/{run}/artifacts"
    name = client.register(f"mlflow-artifacts:/{root}/a")
    for path in ("a/b", "a/new", "a/deep/new"):
        assert client.refused(name, "PUT", f"{FILES}{root}/{path}", content=b"swapped"), path
    for path in ("a/b", "a"):
        assert client.refused(name, "DELETE", f"{FILES}{root}/{path}"), path
    assert client.ask("GET", f"{FILES}{root}/a/b").content == b"what is kept"
    client.ask("PUT", f"{FILES}{root}/ab", content=b"beside it")
    where = {"name": name, "version": "1"}
    client.ask("DELETE", API + "model-versions/delete", json=where)
    client.ask("PUT", f"{FILES}{root}/a/b", content=b"another one")


def test_an_upload_in_parts_that_was_begun_before_changes_no_registered_file(world, client):
    run = run_with_file(world)
    place = f"1/{run}/artifacts/a"
    asked = {"path": "b", "num_parts": 1}
    told = client.ask("POST", f"{PARTS}create/{place}", json=asked).json()
    (part,) = told["credentials"]
    name = client.register(f"mlflow-artifacts:/{place}")
    etag = client.ask("PUT", part["url"], content=b"swapped").headers["etag"]
    upload = {"path": "b", "upload_id": told["upload_id"]}
    parts = [{"part_number": 1, "etag": etag}]
    assert client.refused(name, "POST", f"{PARTS}complete/{place}", json={**upload, "parts": parts})
    for path in ("b", "new"):
        again = {"path": path, "num_parts": 1}
        assert client.refused(name, "POST", f"{PARTS}create/{place}", json=again)
        whole = {"run_id": run, "path": f"a/{path}"}
        assert client.refused(name, "POST", f"{API}artifacts/presigned-upload-url", json=whole)
    assert client.ask("GET", f"{FILES}{place}/b").content == b"what is kept"


@pytest.mark.parametrize("source", ["models:/{}", "mlflow-artifacts:/1/models/{}/artifacts"])
def test_a_logged_model_stays_while_a_version_is_made_of_it(world, client, source):
    model = logged_model(world)
    root = f"1/models/{model}/artifacts"
    name = client.register(source.format(model))
    assert client.refused(name, "DELETE", f"{FILES}{root}/a/b")
    assert client.refused(name, "PUT", f"{FILES}{root}/a/b", content=b"swapped")
    assert client.refused(name, "PUT", f"{FILES}{root}/new", content=b"swapped")
    assert client.refused(name, "DELETE", f"{API}logged-models/{model}")
    assert client.ask("GET", f"{FILES}{root}/a/b").content == b"what is kept"
    client.ask("POST", API + "registered-models/create", json={"name": name + "-copy"})
    copy = {"name": name + "-copy", "source": f"models:/{name}/1"}
    client.ask("POST", API + "model-versions/create", json=copy)
    client.ask("DELETE", API + "model-versions/delete", json={"name": name, "version": "1"})
    assert client.refused(name + "-copy", "DELETE", f"{FILES}{root}/a/b")
