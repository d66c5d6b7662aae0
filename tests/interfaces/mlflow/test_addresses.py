"""Addresses that MLflow's clients are given: where files are read by ranges and sent."""

from urllib.parse import urlsplit

import pytest

from falaj.testing.artifactsubjects import logged_model, run_with_file

API = "/mlflow/api/2.0/"
FILES = "mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def client(world):
    return Client(world, world.token(world.caller()))


@pytest.fixture
def run(world):
    """A run that goes on, with the file ``a/b`` of twelve bytes."""
    return run_with_file(world)


class Client:
    def __init__(self, world, token, root=API):
        self.http, self.root = world.http, root
        self.headers = {"Authorization": f"Bearer {token}"}

    def told(self, which, **fields):
        route = f"{self.root}mlflow/artifacts/presigned-{which}-url"
        return self.http.post(route, json=fields, headers=self.headers)

    def of_a_file(self, path):
        return self.http.get(f"{self.root}mlflow-artifacts/presigned/{path}", headers=self.headers)


def test_a_download_is_told_where_and_how_long(client, run):
    told = client.of_a_file(f"7/{run}/artifacts/a/b").json()
    assert told["file_size"] == len(b"what is kept")
    headers = {**told["headers"], "Range": "bytes=5-6"}
    answer = client.http.get(told["url"], headers=headers)
    assert (answer.status_code, answer.content) == (206, b"is")
    missing = client.of_a_file(f"7/{run}/artifacts/none")
    assert missing.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_a_file_of_a_run_or_a_logged_model_is_read_where_the_server_says(world, client, run):
    for owner in ({"run_id": run}, {"model_id": logged_model(world)}):
        told = client.told("download", path="a/b", **owner).json()
        assert told["file_size"] == len(b"what is kept")
        answer = client.http.get(told["presigned_url"], headers=told["headers"])
        assert answer.content == b"what is kept"


def test_a_file_of_a_run_or_a_logged_model_is_sent_where_the_server_says(world, client, run):
    for owner in ({"run_id": run}, {"model_id": logged_model(world)}):
        told = client.told("upload", path="new é/words", expiration="900", **owner).json()
        sent = client.http.put(told["presigned_url"], content=b"words", headers=told["headers"])
        assert sent.status_code == 200
        told = client.told("download", path="new é/words", **owner).json()
        answer = client.http.get(told["presigned_url"], headers=told["headers"])
        assert answer.content == b"words"


def test_an_address_is_of_this_server_this_workspace_and_names_no_secret(world, client, run):
    there = Client(world, world.token(world.caller()), root=f"/t/default{API}")
    told = there.told("download", run_id=run, path="a/b")
    url = urlsplit(told.json()["presigned_url"])
    assert url.netloc == urlsplit(str(client.http.base_url)).netloc
    assert url.path.startswith("/t/default/mlflow/api/2.0/mlflow-artifacts/artifacts/")
    assert there.headers["Authorization"].split()[1] not in told.json()["presigned_url"]
    assert told.headers["cache-control"] == "no-store"
    other = Client(world, world.token(world.caller()), root=f"/t/risk{API}")
    for which in ("download", "upload"):
        refused = other.told(which, run_id=run, path="a/b")
        assert refused.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize("which", ["download", "upload"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"path": "a/b"}, {"run_id": "R"}, {"run_id": "R", "model_id": "m", "path": "a/b"},
     {"run_id": "R", "path": ""}, {"run_id": "R", "path": "../../x"},
     {"run_id": "R", "path": "/etc/passwd"}, {"run_id": "R", "path": "%2e%2e/x"},
     {"run_id": "R", "path": 5}, {"run_id": "R", "path": "a/b", "expiration": 0},
     {"run_id": "R", "path": "a/b", "expiration": 604_801},
     {"run_id": "R", "path": "a/b", "expiration": "soon"}],
)  # fmt: skip
def test_what_names_no_file_is_refused(client, run, which, fields):
    asked = {name: run if value == "R" else value for name, value in fields.items()}
    answer = client.told(which, **asked)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_who_may_not_is_told_no_address(world, client, run):
    nobody = Client(world, world.token(world.caller(nobody=True)))
    for which in ("download", "upload"):
        answer = nobody.told(which, run_id=run, path="a/b")
        assert answer.status_code in (403, 404)
        assert "presigned_url" not in answer.text
    assert nobody.of_a_file(f"7/{run}/artifacts/a/b").status_code in (403, 404)
    stranger = client.http.post(f"{API}mlflow/artifacts/presigned-upload-url", json={})
    assert stranger.json()["error_code"] == "UNAUTHENTICATED"


def test_a_run_that_has_ended_is_told_before_the_file_is_sent(world, client, run):
    with world.call() as call:
        world.premises.runs.finish(call, run)
    answer = client.told("upload", run_id=run, path="new")
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_STATE")
    assert client.told("download", run_id=run, path="a/b").status_code == 200


def test_what_stands_behind_the_route_is_none(client, run):
    route = f"{API}mlflow/artifacts/presigned-upload-urls"
    answer = client.http.post(route, json={}, headers=client.headers)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
