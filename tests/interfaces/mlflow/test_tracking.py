"""Tracking by MLflow's API: what it answers, and what no client of good will sends."""

import json
import math

import pytest

from falaj.testing.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


@pytest.fixture(scope="module")
def ask(world):
    """Asks a route; gives the status and the document."""
    bearer = {"Authorization": f"Bearer {world.token(world.caller())}"}

    def asked(path, document=None, *, root="/mlflow", body=None):
        address = f"{root}/api/2.0/mlflow/{path}"
        if document is None and body is None:
            answer = world.http.get(address, headers=bearer)
        else:
            content = json.dumps(document) if body is None else body
            answer = world.http.post(address, headers=bearer, content=content)
        return answer.status_code, answer.json()

    return asked


@pytest.fixture
def run(world, ask):
    _, made = ask("experiments/create", {"name": world.new("model")})
    status, found = ask("runs/create", {**made, "start_time": 1_700_000_000_000})
    assert status == 200
    return found["run"]["info"]["run_id"]


def refused(answer, code="INVALID_PARAMETER_VALUE", status=400):
    assert (answer[0], answer[1]["error_code"]) == (status, code), answer
    assert answer[1]["message"]


@pytest.mark.parametrize("key", ["train/loss", "../up", "a b.c-d:e", "خسارة", "x" * 250, "%_`\"'"])
def test_a_metric_of_any_plain_name_is_kept_and_found(ask, run, key):
    point = {"key": key, "value": 0.5, "timestamp": 1_700_000_000_000, "step": 1}
    assert ask("runs/log-metric", {"run_id": run, **point}) == (200, {})
    assert ask("runs/log-batch", {"run_id": run, "metrics": [{**point, "step": 2}]}) == (200, {})
    _, found = ask(f"runs/get?run_id={run}")
    assert [one["key"] for one in found["run"]["data"]["metrics"]] == [key]
    if '"' not in key and "`" not in key:
        question = {"experiment_ids": [found["run"]["info"]["experiment_id"]],
                    "filter": f"metrics.`{key}` >= 0.5"}  # fmt: skip
        assert len(ask("runs/search", question)[1]["runs"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 251, "a\0b", "\ud800"])
def test_a_name_that_no_database_holds_is_refused_on_every_way(ask, run, key):
    point = {"key": key, "value": 0.5, "timestamp": 1, "step": 1}
    refused(ask("runs/log-metric", {"run_id": run, **point}))
    refused(ask("runs/log-batch", {"run_id": run, "metrics": [point]}))
    refused(ask("runs/log-batch", {"run_id": run, "params": [{"key": key, "value": "x"}]}))
    refused(ask("runs/log-batch", {"run_id": run, "tags": [{"key": key, "value": "x"}]}))
    refused(ask("runs/log-parameter", {"run_id": run, "key": key, "value": "x"}))
    refused(ask("runs/set-tag", {"run_id": run, "key": key, "value": "x"}))


@pytest.mark.parametrize(
    "document",
    [
        {"metrics": [{"key": "m", "value": True, "timestamp": 1}]},
        {"metrics": [{"key": "m", "value": "one", "timestamp": 1}]},
        {"metrics": [{"key": "m", "value": "1_0", "timestamp": 1}]},
        {"metrics": [{"key": "m", "timestamp": 1}]},
        {"metrics": [{"key": "m", "value": 1, "timestamp": -1}]},
        {"metrics": [{"key": "m", "value": 1, "timestamp": 10**18}]},
        {"metrics": [{"key": "m", "value": 1, "timestamp": 1, "step": 2**63}]},
        {"metrics": [{"key": "m", "value": 1, "timestamp": 1, "step": 1.5}]},
        {"metrics": {"key": "m"}},
        {"metrics": [None]},
        {"metrics": [{"key": "m", "value": 1, "timestamp": 1}] * 1001},
        {"params": [{"key": f"p{n}", "value": ""} for n in range(101)]},
        {"tags": [{"key": f"t{n}", "value": ""} for n in range(101)]},
        {"params": [{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]},
        {"params": [{"key": 1, "value": "1"}]},
    ],
)  # fmt: skip
def test_a_batch_that_is_wrong_is_refused_whole(ask, run, document):
    good = {"params": [{"key": "good", "value": "1"}]} if "params" not in document else {}
    refused(ask("runs/log-batch", {"run_id": run, **good, **document}))
    data = ask(f"runs/get?run_id={run}")[1]["run"]["data"]
    assert (data["metrics"], data["params"]) == ([], [])


def test_a_batch_that_is_too_large_or_no_json_is_refused(ask, run):
    refused(ask("runs/log-batch", body=b" " * 1_000_001), "REQUEST_LIMIT_EXCEEDED", 413)
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"run_id":1}'):
        refused(ask("runs/log-batch", body=body))


def test_nan_and_infinities_come_back_as_they_went(ask, run):
    values = ["NaN", "Infinity", "-Infinity"]
    for step, value in enumerate(values):
        point = {"key": "m", "value": value, "timestamp": 5, "step": step}
        assert ask("runs/log-batch", {"run_id": run, "metrics": [point]}) == (200, {})
    _, found = ask(f"metrics/get-history?run_id={run}&metric_key=m")
    assert [one["value"] for one in found["metrics"]] == values
    (last,) = ask(f"runs/get?run_id={run}")[1]["run"]["data"]["metrics"]
    assert last["value"] == "-Infinity"


def test_a_batch_that_is_sent_again_leaves_each_point_once(ask, run):
    points = [{"key": "m", "value": n / 7, "timestamp": n, "step": n % 3} for n in range(20)]
    batch = {"run_id": run, "metrics": points + points, "params": [{"key": "p", "value": "1"}],
             "tags": [{"key": "t", "value": "1"}, {"key": "t", "value": "2"}]}  # fmt: skip
    for _ in range(3):
        assert ask("runs/log-batch", batch) == (200, {})
    _, found = ask(f"metrics/get-history?run_id={run}&metric_key=m")
    assert [(one["value"], one["timestamp"], one["step"]) for one in found["metrics"]] == [
        (one["value"], one["timestamp"], one["step"]) for one in points
    ]
    tags = ask(f"runs/get?run_id={run}")[1]["run"]["data"]["tags"]
    assert {"key": "t", "value": "2"} in tags


def test_a_history_is_read_page_by_page_and_a_token_of_another_is_refused(ask, run):
    points = [{"key": "m", "value": n, "timestamp": n, "step": n} for n in range(10)]
    ask("runs/log-batch", {"run_id": run, "metrics": points})
    address, seen, token = f"metrics/get-history?run_id={run}&metric_key=m&max_results=4", [], ""
    while True:
        _, page = ask(address + (f"&page_token={token}" if token else ""))
        seen += [one["step"] for one in page["metrics"]]
        token = page.get("next_page_token")
        if not token:
            break
        last = token
    assert seen == list(range(10))
    other = f"metrics/get-history?run_id={run}&metric_key=n&max_results=4&page_token="
    refused(ask(other + last))
    for wrong in ("x", "e30=", "WzFd", "%FF", "A" * 5000, "W1tbW1tbW1tbW1tb"):
        refused(ask(f"{address}&page_token={wrong}"))
    refused(ask(f"metrics/get-history?run_id={run}&metric_key=m&max_results=0"))


@pytest.mark.parametrize("n", [0, 1, 9_999, 10_000, 10_001, 25_000])
def test_a_history_of_any_length_is_told_whole(ask, run, n):
    for start in range(0, n, 1000):
        points = [
            {"key": "long", "value": step / 8, "timestamp": step, "step": step}
            for step in range(start, min(start + 1000, n))
        ]
        ask("runs/log-batch", {"run_id": run, "metrics": points})
    address = f"metrics/get-history?run_id={run}&metric_key=long"
    _, told = ask(address)
    found = [(one["step"], one["value"]) for one in told["metrics"]]
    assert found == [(step, step / 8) for step in range(n)]
    assert "next_page_token" not in told
    if n > 15_000:
        _, part = ask(address + "&max_results=15000")
        assert [one["step"] for one in part["metrics"]] == list(range(15_000))
        _, rest = ask(f"{address}&max_results=15000&page_token={part['next_page_token']}")
        assert [one["step"] for one in rest["metrics"]] == list(range(15_000, n))


def test_points_over_a_range_of_steps_are_spread_evenly_with_first_and_last(ask, run):
    points = [{"key": "m", "value": n, "timestamp": 1, "step": n} for n in range(100)]
    ask("runs/log-batch", {"run_id": run, "metrics": points})
    address = f"metrics/get-history-bulk-interval?run_ids={run}&metric_key=m&max_results=5"
    _, found = ask(address)
    assert [one["step"] for one in found["metrics"]] == [0, 25, 50, 74, 99]
    _, found = ask(f"{address}&start_step=10&end_step=12")
    assert [(one["step"], one["run_id"]) for one in found["metrics"]] == [
        (10, run), (11, run), (12, run)
    ]  # fmt: skip
    refused(ask(f"{address}&start_step=10"))
    refused(ask(f"{address}&start_step=10&end_step=9"))
    _, found = ask(f"metrics/get-history-bulk?run_id={run}&metric_key=m&max_results=3")
    assert [one["step"] for one in found["metrics"]] == [0, 1, 2]


def test_a_long_history_is_the_same_json_as_a_short_one():
    import numpy as np

    from falaj.interfaces.mlflow import trackingmetrics
    from falaj.training.tracking.points import Points

    values = np.array([0.1, -1e-300, 1e300, 3.0, math.nan, math.inf, -math.inf, 1 / 3] * 1000)
    count = np.arange(len(values))
    points = Points({'a"b': len(values)}, count - 5, count * 1000, values)
    written = json.loads(b"[" + trackingmetrics.listed('a"b', points, "run_x") + b"]")
    assert len(points) >= trackingmetrics.MANY
    for place in (*range(8), len(values) - 1):
        one = written[place]
        assert one["key"] == 'a"b'
        assert (one["run_id"], one["step"], one["timestamp"]) == ("run_x", place - 5, place)
        kept, told = values[place], float(one["value"])
        assert told == kept or (math.isnan(told) and math.isnan(kept))


def test_what_is_of_another_workspace_looks_missing(world, ask):
    name = world.new("model")
    _, made = ask("experiments/create", {"name": name}, root="/t/risk/mlflow")
    _, found = ask("runs/create", dict(made), root="/t/risk/mlflow")
    run = found["run"]["info"]["run_id"]
    assert ask(f"runs/get?run_id={run}", root="/t/risk/mlflow")[0] == 200
    missing = ("RESOURCE_DOES_NOT_EXIST", 404)
    refused(ask(f"runs/get?run_id={run}"), *missing)
    refused(ask(f"experiments/get?experiment_id={made['experiment_id']}"), *missing)
    refused(ask(f"experiments/get-by-name?experiment_name={name}"), *missing)
    refused(ask("runs/create", dict(made)), *missing)
    point = {"run_id": run, "key": "m", "value": 1, "timestamp": 1}
    for path, document in (
        ("runs/log-metric", point),
        ("runs/log-batch", {"run_id": run, "metrics": [{**point}]}),
        ("runs/set-tag", {"run_id": run, "key": "a", "value": "b"}),
        ("runs/update", {"run_id": run, "status": "FAILED"}),
        ("runs/delete", {"run_id": run}),
        ("runs/restore", {"run_id": run}),
        ("runs/log-inputs", {"run_id": run}),
        ("experiments/update", {**made, "new_name": "x"}),
        ("experiments/delete", dict(made)),
        ("experiments/restore", dict(made)),
        ("experiments/set-experiment-tag", {**made, "key": "a", "value": "b"}),
    ):
        refused(ask(path, document), *missing)
    assert ask("runs/search", {"experiment_ids": [made["experiment_id"]]}) == (200, {"runs": []})
    # The same name is free in the other workspace.
    assert ask("experiments/create", {"name": name})[0] == 200


@pytest.mark.parametrize(
    "document",
    [
        {"experiment_ids": "x"}, {"experiment_ids": [1]}, {"experiment_ids": ["a\0"]},
        {"filter": 3}, {"filter": "metrics.m >"}, {"filter": "a" * 30_000},
        {"filter": "tags.a LIKE '" + "%" * 40 + "'"}, {"order_by": "x"}, {"order_by": ["x"]},
        {"order_by": ["metrics.m", "metrics.m DESC"]}, {"order_by": ["datasets.name"]},
        {"order_by": ["metrics.m; DROP TABLE runs"]}, {"max_results": 0},
        {"max_results": 50_001}, {"max_results": "many"}, {"page_token": "x"},
        {"run_view_type": "SOME"},
    ],
)  # fmt: skip
def test_a_search_that_is_wrong_is_refused(ask, document):
    refused(ask("runs/search", {"experiment_ids": ["exp_" + "0" * 32], **document}))


def test_what_falaj_does_not_offer_is_said(ask):
    asked = {"name": "x", "artifact_location": "s3://bucket/x"}
    refused(ask("experiments/create", asked))
    refused(ask("runs/create", {"experiment_id": "12345"}), "RESOURCE_DOES_NOT_EXIST", 404)
    refused(ask("runs/update", {"run_id": "x", "status": "SLEEPING"}))


def test_a_run_of_the_platform_takes_nothing_after_its_end(world, ask):
    run = world.facts["run"]
    point = {"run_id": run, "key": "test_auc", "value": 1, "timestamp": 2_000_000_000_000}
    refused(ask("runs/log-metric", point), "INVALID_STATE")
    refused(ask("runs/update", {"run_id": run, "status": "RUNNING"}), "INVALID_STATE")
