"""Logged models over MLflow's routes: their life, their files, and the search for them."""

import os

import pytest
from sqlalchemy import insert

from falaj.training.tables import model_metric_rows

API = "/mlflow/api/2.0/mlflow/logged-models"
FILES = "/mlflow/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def headers(world):
    return {"Authorization": f"Bearer {world.token(world.caller())}"}


@pytest.fixture(scope="module")
def ask(world, headers):
    def asked(method, path="", root="", **given):
        body = {"params": given} if method == "GET" else {"json": given}
        return world.http.request(method, root + API + path, headers=headers, **body)

    return asked


@pytest.fixture(scope="module")
def experiment(world):
    with world.call() as call:
        world.premises.runs.start(call, experiment="models")
        return world.premises.runs.experiments_kept.named(call.connection, "models").id


@pytest.fixture
def create(ask, experiment):
    def created(**given):
        answer = ask("POST", experiment_id=experiment, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()["model"]

    return created


def pairs(**texts):
    return [{"key": key, "value": value} for key, value in texts.items()]


def names(answer):
    assert answer.status_code == 200, answer.text
    return [one["info"]["name"] for one in answer.json()["models"]]


def test_a_logged_model_is_pending_until_it_is_finished(ask, create):
    info = create(name="tree", model_type="boosted")["info"]
    assert (info["status"], info["model_type"]) == ("LOGGED_MODEL_PENDING", "boosted")
    path = f"/{info['model_id']}"
    done = ask("PATCH", path, model_id=info["model_id"], status="LOGGED_MODEL_READY")
    assert done.json()["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    assert ask("GET", path).json() == done.json()
    assert ask("PATCH", path, status="LOGGED_MODEL_UPLOAD_FAILED").status_code == 400
    assert ask("PATCH", path, status="LOGGED_MODEL_PENDING").status_code == 400
    assert ask("PATCH", path, status="ready").json()["error_code"] == "INVALID_PARAMETER_VALUE"


def test_a_logged_model_without_a_name_gets_one(create):
    assert create()["info"]["name"].startswith("model-")


def test_parameters_are_written_once_and_tags_are_replaced(ask, create):
    model = create(params=pairs(depth="3"), tags=pairs(team="a", **{"odd/key": "x"}))
    path = f"/{model['info']['model_id']}"
    assert ask("POST", path + "/params", params=pairs(depth="3", rate="0.1")).json() == {}
    assert ask("POST", path + "/params", params=pairs(depth="4")).status_code == 400
    tagged = ask("PATCH", path + "/tags", tags=pairs(team="b")).json()["model"]
    assert {"key": "team", "value": "b"} in tagged["info"]["tags"]
    assert ask("DELETE", path + "/tags/odd/key").json() == {}
    assert ask("DELETE", path + "/tags/odd/key").json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    found = ask("GET", path).json()["model"]
    assert found["data"]["params"] == pairs(depth="3", rate="0.1")
    assert found["info"]["tags"] == pairs(team="b")


def test_a_deleted_model_is_found_only_by_who_asks_for_deleted_ones(ask, create):
    path = f"/{create(name='gone')['info']['model_id']}"
    assert ask("DELETE", path).json() == {}
    assert ask("GET", path).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert ask("GET", path, allow_deleted="true").status_code == 200
    assert ask("PATCH", path + "/tags", tags=pairs(a="b")).status_code == 404


def test_files_of_a_logged_model_are_its_own(world, ask, create, headers):
    info = create()["info"]
    location = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    data = os.urandom(2_000_000)
    address = f"{FILES}/{location}/model/weights.bin"
    assert world.http.put(address, content=data, headers=headers).status_code == 200
    assert world.http.get(address, headers=headers).content == data
    listed = ask("GET", f"/{info['model_id']}/artifacts/directories").json()
    assert listed["files"] == [{"path": "model", "is_dir": True}]
    assert listed["root_uri"] == info["artifact_uri"]
    ask("PATCH", f"/{info['model_id']}", status="LOGGED_MODEL_READY")
    assert world.http.put(address, content=b"other", headers=headers).status_code == 400
    assert world.http.put(address, content=data, headers=headers).status_code == 200
    assert world.http.delete(address, headers=headers).status_code == 200
    assert world.http.get(address, headers=headers).status_code == 404


def test_a_model_of_a_run_is_what_the_run_trained(world, create):
    run = world.started_run()
    model = create(source_run_id=run)["info"]
    assert model["source_run_id"] == run
    with world.opened() as platform:
        edges = platform.assets.lineage("logged_model", model["model_id"])
    assert run in str(edges)


@pytest.mark.parametrize(
    "given",
    [
        {"source_run_id": "run_" + "0" * 32},
        {"experiment_id": "exp_" + "0" * 32},
        {"name": "a/b"},
        {"name": "x" * 501},
        {"name": "a\0b"},
        {"params": "depth"},
        {"params": [{"value": "x"}]},
        {"params": [{"key": "k" * 251, "value": ""}]},
        {"params": [{"key": "k", "value": "x" * 6_001}]},
        {"tags": [{"key": "k", "value": "x" * 8_001}]},
    ],
)
def test_a_wrong_model_is_refused(ask, experiment, given):
    answer = ask("POST", **{"experiment_id": experiment, **given})
    assert answer.status_code in (400, 404)


def test_who_may_not_sees_and_changes_nothing(world, ask, create, experiment):
    model = create(name="hidden")["info"]["model_id"]
    nobody = {"Authorization": f"Bearer {world.token(world.caller(nobody=True))}"}
    for method, path, body in (
        ("GET", f"/{model}", None),
        ("DELETE", f"/{model}", {}),
        ("PATCH", f"/{model}/tags", {"tags": pairs(a="b")}),
        ("POST", "", {"experiment_id": experiment}),
    ):
        answer = world.http.request(method, API + path, json=body, headers=nobody)
        assert answer.status_code in (403, 404)
    body = {"experiment_ids": [experiment]}
    answer = world.http.post(API + "/search", json=body, headers=nobody)
    assert answer.status_code == 403 or answer.json()["models"] == []


def test_a_model_of_another_workspace_is_not_found(ask, create):
    path = f"/{create()['info']['model_id']}"
    assert ask("GET", path, root="/t/risk").status_code == 404
    assert ask("DELETE", path, root="/t/risk").status_code == 404


@pytest.fixture(scope="module")
def searched(world, ask):
    """An experiment with three models, two of which have metrics."""
    with world.call() as call:
        run = world.premises.runs.start(call, experiment="searched")
        found = world.premises.runs.experiments_kept.named(call.connection, "searched").id
    for name, depth, auc in (("a", "3", 0.7), ("b", "5", 0.9), ("c", "3", None)):
        answer = ask(
            "POST", experiment_id=found, name=name, model_type="tree",
            params=pairs(depth=depth), tags=pairs(team=name.upper()),
        )  # fmt: skip
        model = answer.json()["model"]["info"]["model_id"]
        if auc is not None:
            with world.call() as call:
                call.connection.execute(
                    insert(model_metric_rows).values(
                        model_id=model, run_id=run.id, key="auc", step=1, at=call.now,
                        value=auc, is_nan=False, dataset_name="test", dataset_digest="d1",
                    )
                )  # fmt: skip
        if name == "b":
            ask("PATCH", f"/{model}", status="LOGGED_MODEL_READY")
    return found


class TestSearch:
    @pytest.mark.parametrize(
        ("filtered", "expected"),
        [
            ("", ["c", "b", "a"]),
            ("params.depth = '3'", ["c", "a"]),
            ("params.depth != '3'", ["b"]),
            ("tags.team ILIKE 'b%'", ["b"]),
            ("tags.team LIKE 'b%'", []),
            ("metrics.auc > 0.8", ["b"]),
            ("metrics.auc >= 0.7 AND params.depth = '3'", ["a"]),
            ("status = 'READY'", ["b"]),
            ("status != 'READY'", ["c", "a"]),
            ("name IN ('a', 'c')", ["c", "a"]),
            ("creation_timestamp > 0 AND model_type = 'tree'", ["c", "b", "a"]),
            ("creation_time < 5", []),
        ],
    )
    def test_a_filter_finds_what_fits(self, ask, searched, filtered, expected):
        assert names(ask("POST", "/search", experiment_ids=[searched], filter=filtered)) == expected

    @pytest.mark.parametrize(
        ("field", "ascending", "expected"),
        [
            ("metrics.auc", True, ["a", "b", "c"]),
            ("metrics.auc", False, ["b", "a", "c"]),
            ("name", True, ["a", "b", "c"]),
            ("creation_time", True, ["a", "b", "c"]),
        ],
    )
    def test_an_order_is_kept_over_pages(self, ask, searched, field, ascending, expected):
        order = [{"field_name": field, "ascending": ascending}]
        found, page = [], {}
        while True:
            answer = ask("POST", "/search", experiment_ids=[searched], order_by=order,
                         max_results=2, **page)  # fmt: skip
            found += names(answer)
            token = answer.json().get("next_page_token")
            if not token:
                break
            page = {"page_token": token}
        assert found == expected

    def test_metrics_are_asked_of_a_dataset(self, ask, searched):
        for name, digest, expected in (("test", "d1", 2), ("test", "d2", 0), ("train", None, 0)):
            dataset = {"dataset_name": name, **({"dataset_digest": digest} if digest else {})}
            answer = ask("POST", "/search", experiment_ids=[searched], datasets=[dataset])
            assert len(names(answer)) == expected

    def test_no_experiment_means_no_model(self, ask):
        assert names(ask("POST", "/search", experiment_ids=[])) == []

    @pytest.mark.parametrize(
        "given",
        [
            {"filter": "params.depth ="},
            {"filter": "secret = '1'"},
            {"filter": "metrics.auc = 'x'"},
            {"order_by": [{"field_name": "params.depth"}]},
            {"order_by": ["name"]},
            {"page_token": "forged"},
            {"max_results": 100_000},
            {"max_results": -1},
            {"filter": "name = 'a' OR 1 = 1; DROP TABLE logged_models"},
        ],
    )
    def test_a_wrong_search_is_refused(self, ask, searched, given):
        answer = ask("POST", "/search", experiment_ids=[searched], **given)
        assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
