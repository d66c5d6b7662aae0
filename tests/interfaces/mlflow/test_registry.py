"""MLflow's routes of registered models and versions, as its client asks them."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.testing.world import BEGIN, World

API = "/mlflow/api/2.0/mlflow/"
RISK = "/t/risk/mlflow/api/2.0/mlflow/"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


@pytest.fixture(scope="module")
def client(world):
    return Client(world, world.token(world.caller()))


class Client:
    def __init__(self, world, token, root=API):
        self.world, self.token, self.root = world, token, root
        self.source = f"mlflow-artifacts:/1/{world.facts['run']}/artifacts/model"

    def within(self, root):
        return Client(self.world, self.token, root)

    def __call__(self, method, path, status=200, **fields):
        how = {"params": fields} if method == "GET" else {"json": fields}
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.world.http.request(method, self.root + path, headers=headers, **how)
        assert answer.status_code == status, answer.text
        return answer.json()

    def model(self, name=None, versions=1, **fields):
        name = name or self.world.new("model")
        self("POST", "registered-models/create", name=name, **fields)
        for _ in range(versions):
            self("POST", "model-versions/create", name=name, source=self.source)
        return name

    def version(self, name, number):
        return self("GET", "model-versions/get", name=name, version=number)["model_version"]

    def wrong(self, method, path, **fields):
        """The code and message of an error."""
        how = {"params": fields} if method == "GET" else {"json": fields}
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.world.http.request(method, self.root + path, headers=headers, **how)
        told = answer.json()
        return answer.status_code, told["error_code"], told["message"]


def approved(world, change):
    with world.call("user:omar") as call:
        return world.premises.changes.approve(call, change, "Good.")


def last_change(world):
    with world.premises.database.reading() as connection:
        return world.premises.changes.listed(connection)[0]


def test_a_model_is_made_described_tagged_and_told_as_the_client_reads_it(client):
    name = client.world.new("model")
    made = client(
        "POST", "registered-models/create", name=name, description="It.",
        tags=[{"key": "team", "value": "risk"}],
    )["registered_model"]  # fmt: skip
    assert (made["name"], made["description"]) == (name, "It.")
    assert made["tags"] == [{"key": "team", "value": "risk"}]
    client("PATCH", "registered-models/update", name=name, description="Other.")
    client("POST", "registered-models/set-tag", name=name, key="team", value="ops")
    client("POST", "registered-models/set-tag", name=name, key="tier", value="1")
    client("DELETE", "registered-models/delete-tag", name=name, key="team")
    found = client("GET", "registered-models/get", name=name)["registered_model"]
    assert (found["description"], found["tags"]) == ("Other.", [{"key": "tier", "value": "1"}])
    assert found["creation_timestamp"] <= found["last_updated_timestamp"]


def test_a_version_stands_in_development_at_once_and_says_where_its_files_are(client):
    name = client.model(versions=0)
    made = client(
        "POST", "model-versions/create", name=name, source=client.source, description="First.",
        tags=[{"key": "a", "value": "b"}], run_link="https://ci/1",
    )["model_version"]  # fmt: skip
    assert (made["version"], made["current_stage"], made["status"]) == ("1", "None", "READY")
    assert made["run_id"] == client.world.facts["run"]
    assert (made["run_link"], made["description"]) == ("https://ci/1", "First.")
    uri = client("GET", "model-versions/get-download-uri", name=name, version="1")
    assert uri == {"artifact_uri": client.source}
    client("PATCH", "model-versions/update", name=name, version="1", description="Other.")
    client("POST", "model-versions/set-tag", name=name, version="1", key="c", value="d")
    client("DELETE", "model-versions/delete-tag", name=name, version="1", key="a")
    found = client.version(name, 1)
    assert (found["description"], found["tags"]) == ("Other.", [{"key": "c", "value": "d"}])


def test_an_alias_leads_to_its_version_and_is_told_with_both(client):
    name = client.model(versions=2)
    for version in ("1", "2"):
        client("POST", "registered-models/alias", name=name, alias="blue", version=version)
    found = client("GET", "registered-models/alias", name=name, alias="blue")["model_version"]
    assert (found["version"], found["aliases"]) == ("2", ["blue"])
    model = client("GET", "registered-models/get", name=name)["registered_model"]
    assert model["aliases"] == [{"alias": "blue", "version": "2"}]
    client("DELETE", "registered-models/alias", name=name, alias="blue")
    code = client.wrong("GET", "registered-models/alias", name=name, alias="blue")[:2]
    assert code == (404, "RESOURCE_DOES_NOT_EXIST")


def test_the_latest_version_of_each_stage_is_told(client):
    name = client.model(versions=3)
    client("POST", "model-versions/transition-stage", name=name, version="1", stage="Archived")
    approved(client.world, last_change(client.world).id)
    found = client("GET", "registered-models/get-latest-versions", name=name)["model_versions"]
    assert [(one["version"], one["current_stage"]) for one in found] == [
        ("1", "Archived"), ("3", "None"),
    ]  # fmt: skip
    found = client("POST", "registered-models/get-latest-versions", name=name, stages=["archived"])[
        "model_versions"
    ]
    assert [one["version"] for one in found] == ["1"]
    (model,) = client("GET", "registered-models/search", filter=f"name = '{name}'")[
        "registered_models"
    ]
    assert [one["version"] for one in model["latest_versions"]] == ["1", "3"]


def test_a_transition_waits_for_an_approval_and_the_answer_says_so(client):
    name = client.model()
    asked = {"name": name, "version": "1", "stage": "Archived"}
    told = client("POST", "model-versions/transition-stage", **asked)["model_version"]
    change = last_change(client.world).id
    assert (told["current_stage"], told["tags"]) == (
        "None", [{"key": "falaj.change", "value": change}],
    )  # fmt: skip
    assert told["status_message"].startswith(f"{change} waits")
    again = client("POST", "model-versions/transition-stage", **asked)["model_version"]
    assert "waits already" in again["status_message"]
    approved(client.world, change)
    assert client.version(name, 1)["current_stage"] == "Archived"
    told = client("POST", "model-versions/transition-stage", **asked)["model_version"]
    assert "status_message" not in told


@pytest.mark.parametrize("stage", ["Production", "staging"])
def test_a_transition_never_goes_around_the_gates(client, stage):
    code, told, message = client.wrong(
        "POST", "model-versions/transition-stage", name=client.model(), version="1", stage=stage
    )
    assert (code, told) == (400, "INVALID_STATE")
    assert "no bundle yet" in message
    name = client.world.copied_model()  # it has a bundle, and no policy
    code = client.wrong(
        "POST", "model-versions/transition-stage", name=name, version="1", stage=stage
    )[:2]
    assert code == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_transition_never_goes_around_the_second_factor_or_the_role(client, world):
    name = client.model()
    asked = {"name": name, "version": "1", "stage": "Archived"}
    stale = Client(world, world.token(world.caller(stepped_up=False)))
    nobody = Client(world, world.token(world.caller(nobody=True)))
    for one in (stale, nobody):
        code = one.wrong("POST", "model-versions/transition-stage", **asked)
        assert code[:2] in ((403, "PERMISSION_DENIED"), (404, "RESOURCE_DOES_NOT_EXIST")), code
    assert client.version(name, 1)["current_stage"] == "None"


def test_a_guarded_alias_is_asked_for_and_stands_until_it_is_approved(client, world):
    asked = {"name": "late", "alias": "champion", "version": "1"}
    code, told, message = client.wrong("POST", "registered-models/alias", **asked)
    change = last_change(world)
    assert (code, told) == (400, "INVALID_STATE")
    assert change.id in message
    assert client.wrong("GET", "registered-models/alias", name="late", alias="champion")[0] == 404
    approved(world, change.id)
    found = client("GET", "registered-models/alias", name="late", alias="champion")
    assert found["model_version"]["version"] == "1"
    stale = Client(world, world.token(world.caller(stepped_up=False)))
    code = stale.wrong("DELETE", "registered-models/alias", name="late", alias="champion")[:2]
    assert code == (403, "PERMISSION_DENIED")


def test_versions_and_models_are_searched_page_by_page(client):
    names = sorted(client.model(tags=[{"key": "page", "value": "x"}]) for _ in range(3))
    asked = {"filter": "tags.page = 'x'", "max_results": 2, "order_by": ["name DESC"]}
    first = client("GET", "registered-models/search", **asked)
    second = client("GET", "registered-models/search", **asked, page_token=first["next_page_token"])
    found = [*first["registered_models"], *second["registered_models"]]
    assert [one["name"] for one in found] == names[::-1]
    assert "next_page_token" not in second
    found = client(
        "GET", "model-versions/search", filter=f"name = '{names[0]}'", max_results=200_000
    )
    assert [one["version"] for one in found["model_versions"]] == ["1"]


def test_models_of_two_workspaces_never_meet(client):
    risk = client.within(RISK)
    name = client.model(versions=2)
    risk.model(name, versions=1, description="Of risk.")
    assert (
        risk("GET", "registered-models/get", name=name)["registered_model"]["description"]
        == "Of risk."
    )
    assert (
        client("GET", "registered-models/get", name=name)["registered_model"]["description"] == ""
    )
    assert risk.version(name, 1)["name"] == name
    assert risk.wrong("GET", "model-versions/get", name=name, version="2")[0] == 404
    listed = risk("GET", "registered-models/search")["registered_models"]
    assert [one["name"] for one in listed] == [name]
    (found,) = risk("GET", "model-versions/search", filter=f"name = '{name}'")["model_versions"]
    assert found["name"] == name
    assert client.wrong("GET", "registered-models/get", name=f"risk..{name}")[:2] == (
        400, "INVALID_PARAMETER_VALUE",
    )  # fmt: skip


def test_a_version_is_copied_from_a_model_of_the_same_workspace(client):
    risk = client.within(RISK)
    name, other = risk.model(), risk.model(versions=0)
    copied = risk("POST", "model-versions/create", name=other, source=f"models:/{name}/1")
    assert copied["model_version"]["source"] == client.source
    target = client.model(versions=0)
    code = client.wrong("POST", "model-versions/create", name=target, source=f"models:/{name}/1")[
        :2
    ]
    assert code == (404, "RESOURCE_DOES_NOT_EXIST")
    made = client("POST", "model-versions/create", name=target, source="models:/late/1")
    assert made["model_version"]["run_id"] == client.world.facts["run"]


def test_a_rename_is_refused_with_its_reason(client):
    name = client.model()
    code, told, message = client.wrong(
        "POST", "registered-models/rename", name=name, new_name="other"
    )
    assert (code, told) == (400, "INVALID_STATE")
    assert "signed bundles" in message


def test_what_is_deleted_is_gone_and_what_serves_is_not_deleted(client):
    name = client.model(versions=2)
    client("DELETE", "model-versions/delete", name=name, version="2")
    assert client.wrong("GET", "model-versions/get", name=name, version="2")[0] == 404
    client("DELETE", "registered-models/delete", name=name)
    assert client.wrong("GET", "registered-models/get", name=name)[0] == 404
    for wrong in (
        client.wrong("DELETE", "model-versions/delete", name="late", version="1"),
        client.wrong("DELETE", "registered-models/delete", name="late"),
    ):
        assert wrong[:2] == (400, "INVALID_STATE")
        assert "production" in wrong[2]


@pytest.mark.parametrize(
    ("method", "path", "fields", "code"),
    [
        ("POST", "registered-models/create", {"name": "late"}, "RESOURCE_ALREADY_EXISTS"),
        ("POST", "registered-models/create", {}, "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/create", {"name": " "}, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/get", {"name": "none"}, "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "model-versions/create", {"name": "none", "source": "models:/late/1"},
         "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "model-versions/create", {"name": "late", "source": "/etc/passwd"},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "model-versions/create", {"name": "late"}, "INVALID_PARAMETER_VALUE"),
        ("GET", "model-versions/get", {"name": "late", "version": "99"}, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "model-versions/get", {"name": "late", "version": "x"}, "INVALID_PARAMETER_VALUE"),
        ("GET", "model-versions/get", {"name": "late", "version": "9" * 40},
         "INVALID_PARAMETER_VALUE"),
        ("GET", "model-versions/get-download-uri", {"name": "late", "version": "1"},
         "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "registered-models/search", {"filter": "name > 1"}, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/search", {"max_results": 1001}, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/search", {"max_results": 0}, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/search", {"page_token": "x"}, "INVALID_PARAMETER_VALUE"),
        ("GET", "model-versions/search", {"order_by": "x"}, "INVALID_PARAMETER_VALUE"),
        ("POST", "model-versions/transition-stage",
         {"name": "late", "version": "1", "stage": "Live"}, "INVALID_PARAMETER_VALUE"),
        ("POST", "model-versions/transition-stage",
         {"name": "late", "version": "1", "stage": "Staging", "archive_existing_versions": True},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/alias", {"name": "late", "alias": "latest", "version": "1"},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/alias", {"name": "late", "alias": "a/b", "version": "1"},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/alias", {"name": "late", "alias": "blue", "version": "77"},
         "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "registered-models/set-tag", {"name": "late", "key": "k" * 300, "value": "v"},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/create",
         {"name": "p", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/create", {"name": "p", "tags": "x"}, "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/create", {"name": "p", "tags": ["x"]},
         "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/get-latest-versions", {"name": "late", "stages": [1]},
         "INVALID_PARAMETER_VALUE"),
    ],
)  # fmt: skip
def test_a_wrong_request_gets_the_code_that_the_client_knows(client, method, path, fields, code):
    found = client.wrong(method, path, **fields)
    assert found[1] == code, found


@pytest.mark.parametrize("name", ["a/b", "a:b", "..", ".", "../late", " a", "a ", "a\n",
                                  "a\tb", "ملف", "late\0", "a..b", "x" * 201, "%2e%2e",
                                  "-a"])  # fmt: skip
def test_a_name_that_no_model_here_has_is_refused_on_every_route(client, name):
    from falaj.interfaces.mlflow import registry, registryversions

    more = {"version": "1", "source": client.source, "key": "k", "value": "v", "alias": "blue",
            "stage": "Archived", "new_name": "other", "description": ""}  # fmt: skip
    for route in (*registry.ROUTES, *registryversions.ROUTES):
        path = route.path.removeprefix("mlflow/")
        if path.endswith("search"):
            continue
        status, code, message = client.wrong(route.method, path, name=name, **more)
        assert (status, code) == (400, "INVALID_PARAMETER_VALUE"), (path, message)


def test_nothing_is_done_for_somebody_without_a_role_and_all_looks_missing(client, world):
    nobody = Client(world, world.token(world.caller(nobody=True)))
    assert nobody.wrong("GET", "registered-models/search")[:2] == (403, "PERMISSION_DENIED")
    there = nobody.wrong("GET", "registered-models/get", name="late")
    gone = nobody.wrong("GET", "registered-models/get", name="gone")
    assert there[:2] == gone[:2] == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_viewer_finds_no_model_that_is_personal(client, world):
    name = client.model(tags=[{"key": "secret", "value": "x"}])
    with world.call() as call:
        world.premises.catalog.describe(
            call, world.premises.catalog.load(call.connection, _ref(name)).ref,
            classification="personal",
        )  # fmt: skip
    viewer = Principal("user:vera", PrincipalKind.USER, ("viewer",))
    door = _door(world, viewer)
    found = door("models.search", filter="tags.secret = 'x'")
    assert found.models == []
    versions = door("models.search_versions", filter=f"name = '{name}'")
    assert versions.versions == []
    assert name not in {one.name for one in door("models.list")}


def _ref(name):
    from falaj.kernel.call import AssetRef

    return AssetRef("model", name)


def _door(world, principal):
    from falaj.kernel.call import Caller
    from falaj.testing.world import door_of

    actions = world.premises.backend.services.actions
    door = door_of(world, Caller(principal))
    return lambda action, **arguments: door.call(actions[action], arguments)


# ---- from a folder of MLflow's to a version that serves; these change what `late` serves

MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.{name}
  {name}:
{more}
signature:
  inputs: '{inputs}'
"""
NAMES = ("signal", "recent__mean_2d", "recent__count_2d")


def mlmodel(name, inputs=NAMES, **more):
    listed = json.dumps([{"name": one, "type": "double"} for one in inputs])
    lines = "\n".join(f"    {key}: {value}" for key, value in more.items())
    return MLMODEL.format(name=name, more=lines, inputs=listed)


def logged(world, client, **files):
    """The source of a folder with these files, in a run of its own."""
    run = world.started_run()
    for name, data in files.items():
        path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/m/{name}"
        headers = {"Authorization": f"Bearer {client.token}"}
        assert world.http.put(path, content=data, headers=headers).status_code == 200
    return f"mlflow-artifacts:/1/{run}/artifacts/m"


def registered(client, source, **fields):
    made = client("POST", "model-versions/create", name="late", source=source, **fields)
    return int(made["model_version"]["version"])


def adopted(world, version, **given):
    """The ended job that adopts a version."""
    with world.opened() as platform:
        job = platform.models.adopt("late", version, **given)
        world.work()
        return platform.jobs.get(job.id)


@pytest.fixture(scope="module")
def learned(world):
    """Rows and labels of the part of the world's training set that models learn from."""
    made = world.premises
    with made.database.reading() as connection:
        found = made.training_sets.get(connection, world.facts["training_set"])
    rows = made.training_sets.load(found).to_pandas()
    rows = rows[rows["split"] == "train"]
    return rows[list(NAMES)].to_numpy(dtype="float32"), rows["late"].to_numpy(dtype=int)


@pytest.fixture(scope="module")
def booster(learned):
    import lightgbm

    params = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    return lightgbm.train(params, lightgbm.Dataset(*learned), 15).model_to_string()


def test_an_mlflow_model_is_adopted_judged_approved_and_served(world, client, booster):
    files = {"MLmodel": mlmodel("lightgbm", data="model.lgb"), "model.lgb": booster}
    tags = [
        {"key": "falaj.training_set", "value": world.facts["training_set"]},
        {"key": "falaj.trained_until", "value": (BEGIN + timedelta(days=45)).isoformat()},
    ]
    version = registered(client, logged(world, client, **files), tags=tags)
    job = adopted(world, version)
    assert job.error is None
    assert (job.result["flavour"], job.result["version"]) == ("lightgbm", version)
    with world.opened() as platform:
        platform.models.gates("late", version)
        world.work()
        report = platform.models.gate_report("late", version)
        assert report.passed, [one.message for one in report.results if one.outcome == "failed"]
        client("POST", "model-versions/transition-stage", name="late", version=str(version),
               stage="Production")  # fmt: skip
        assert client.version("late", version)["current_stage"] == "None"
        approved(world, last_change(world).id)
        assert client.version("late", version)["current_stage"] == "Production"
        assert client.version("late", 1)["current_stage"] == "Archived"
        released = platform.endpoints.deploy("late")
        platform.endpoints.activate("late", released.id, wait_seconds=1.0)
        answer = platform.endpoints.predict("late", [{"signal": 2.0, "carrier": "AA"}])
        assert answer.predictions[0]["score"] > 0.5
        then = platform.models.history("late", at=datetime.now(UTC) + timedelta(minutes=1))
        assert then.production == version
        code = client.wrong("DELETE", "model-versions/delete", name="late", version=str(version))
        assert "production" in code[2]
        with pytest.raises(Conflict, match="has a bundle already"):
            platform.models.adopt("late", version)


def test_a_version_that_no_rows_judge_is_adopted_and_fails_its_gates(world, client, booster):
    files = {"MLmodel": mlmodel("lightgbm", data="model.lgb"), "model.lgb": booster}
    version = registered(client, logged(world, client, **files))
    assert adopted(world, version).error is None
    with world.opened() as platform:
        platform.models.gates("late", version)
        world.work()
        assert not platform.models.gate_report("late", version).passed
    code = client.wrong(
        "POST", "model-versions/transition-stage", name="late", version=str(version),
        stage="Production",
    )  # fmt: skip
    assert code[1] == "INVALID_STATE"


def test_an_adoption_whose_worker_was_lost_ends_at_the_same_bundle(world, client, booster):
    files = {"MLmodel": mlmodel("lightgbm", data="model.lgb"), "model.lgb": booster}
    version = registered(client, logged(world, client, **files))
    with world.opened() as platform:
        first = platform.models.adopt("late", version)
    job = world.premises.handlers["models.adopt"]
    made = job(_run(first), first.arguments)
    assert job(_run(first), first.arguments)["bundle"] == made["bundle"]
    world.work()  # the job that waits finds the bundle of the worker that was lost
    with world.opened() as platform:
        assert platform.jobs.get(first.id).result["bundle"] == made["bundle"]


def _run(job):
    return SimpleNamespace(submitted_by=job.submitted_by, report=lambda share, told: None)


def test_a_logged_model_is_registered_loaded_back_and_adopted(world, client, booster):
    run = world.started_run()
    with world.opened() as platform:
        experiment = platform.runs.get(run).experiment
    made = client(
        "POST", "logged-models", experiment_id=experiment, name="m", source_run_id=run
    )["model"]["info"]  # fmt: skip
    for name, data in (("MLmodel", mlmodel("lightgbm", data="model.lgb")), ("model.lgb", booster)):
        path = made["artifact_uri"].removeprefix("mlflow-artifacts:/") + "/" + name
        world.http.put(
            f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{path}", content=data,
            headers={"Authorization": f"Bearer {client.token}"},
        ).raise_for_status()  # fmt: skip
    version = registered(client, f"models:/{made['model_id']}")
    found = client.version("late", version)
    assert (found["run_id"], found["model_id"]) == (run, made["model_id"])
    uri = client("GET", "model-versions/get-download-uri", name="late", version=str(version))
    assert uri["artifact_uri"] == made["artifact_uri"]
    job = adopted(world, version)
    assert job.error is None, job.error


@pytest.mark.parametrize("flavour", ["xgboost", "onnx"])
def test_other_flavours_that_need_no_pickle_are_adopted(world, client, learned, flavour):
    rows, labels = learned
    if flavour == "xgboost":
        import xgboost

        params = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
        trained = xgboost.train(params, xgboost.DMatrix(rows, labels), 5)
        file, data = "model.ubj", bytes(trained.save_raw("ubj"))
    else:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        from falaj.models.adapters.onnx_sklearn import SklearnToOnnx

        fitted = make_pipeline(SimpleImputer(), LogisticRegression()).fit(rows, labels)
        file, data = "model.onnx", SklearnToOnnx().convert(fitted, rows[:50])
    files = {"MLmodel": mlmodel(flavour, data=file), file: data}
    job = adopted(world, registered(client, logged(world, client, **files)))
    assert job.error is None
    assert job.result["flavour"] == flavour


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"MLmodel": mlmodel("sklearn", pickled_model="model.pkl", serialization_format="pickle"),
          "model.pkl": b"\x80\x04N."}, "is a pickle"),
        ({"MLmodel": mlmodel("sklearn", pickled_model="m.pkl", serialization_format="cloudpickle"),
          "m.pkl": b"\x80\x04N."}, "is a pickle"),
        ({"MLmodel": mlmodel("lightgbm", data="model.pkl"), "model.pkl": b"\x80\x04N."},
         "is a pickle"),
        ({"MLmodel": mlmodel("lightgbm", data="model.lgb"), "model.lgb": b"\x80\x04N."},
         "is a pickle"),
        ({"MLmodel": mlmodel("lightgbm", data="../../x/model.lgb")}, "x/model.lgb"),
        ({"MLmodel": mlmodel("lightgbm", data="gone.lgb")}, "no artifact"),
        ({"MLmodel": mlmodel("pytorch", data="model.pt")}, "No flavour"),
        ({"MLmodel": "flavors: {python_function: {loader_module: x}}"}, "No flavour"),
        ({"MLmodel": "flavors: [1"}, "describes no model"),
        ({"MLmodel": "[" * 5_000}, "describes no model"),
        ({"MLmodel": b"\xff\xfe"}, "describes no model"),
        ({"MLmodel": "!!python/object/apply:os.system ['true']"}, "describes no model"),
        ({"MLmodel": mlmodel("lightgbm", inputs=(), data="m"), "m": "tree\n"}, "no signature"),
        ({"MLmodel": mlmodel("lightgbm", data="m").replace("double", "string"), "m": "tree\n"},
         "not a number"),
        ({"other": "x"}, "no artifact"),
        ({"MLmodel": "x" * (1 << 20 | 1)}, "larger than"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_a_plain_reason(world, client, files, told):
    version = registered(client, logged(world, client, **files))
    job = adopted(world, version)
    assert told in job.error["message"] + job.error.get("hint", ""), job.error
    assert client.version("late", version)["current_stage"] == "None"


def test_an_adoption_that_nobody_could_judge_is_refused_at_once(world, client):
    name = client.model()
    with world.opened() as platform:
        with pytest.raises(NotFound, match="No policy"):
            platform.models.adopt(name, 1)
        version = registered(client, client.source)
        with pytest.raises(NotFound):
            platform.models.adopt("late", version, training_set="ts_" + "0" * 32)
        platform.models.tag_version("late", version, tags={"falaj.trained_until": "soon"})
        with pytest.raises(InvalidInput, match="not an instant"):
            platform.models.adopt("late", version)
