"""How requests of MLflow's client find their way, and what strangers and wrong ones are told."""

import pytest


@pytest.fixture(scope="module")
def bearer(world):
    return {"Authorization": f"Bearer {world.token(world.caller())}"}


@pytest.mark.parametrize("root", ["/mlflow", "/t/risk/mlflow"])
@pytest.mark.parametrize("version", ["api/2.0", "api/3.0", "ajax-api/2.0"])
def test_each_root_and_each_version_of_the_api_lead_to_the_same_route(world, bearer, root, version):
    answer = world.http.get(f"{root}/{version}/mlflow/server-info", headers=bearer)
    assert (answer.status_code, answer.json()["store_type"]) == (200, "SqlStore")


def test_a_stranger_is_told_nothing_but_that_a_token_is_missing(world):
    answer = world.http.get("/mlflow/api/2.0/mlflow/server-info")
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert world.http.get("/mlflow/api/2.0/mlflow/nothing").json() == answer.json()


def test_a_route_that_is_not_there_is_named(world, bearer):
    answer = world.http.get("/mlflow/api/2.0/mlflow/nothing", headers=bearer)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert "nothing" in answer.json()["message"]


@pytest.mark.parametrize("name", ["..", "A", "a" * 64, "-a"])
def test_a_workspace_with_an_odd_name_is_refused(world, bearer, name):
    quoted = name.replace(".", "%2E")
    answer = world.http.get(f"/t/{quoted}/mlflow/api/2.0/mlflow/server-info", headers=bearer)
    assert answer.status_code in (400, 404)
