from __future__ import annotations

import functools
import math
import threading
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Corrupt
from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
from falaj.models.isolation import IsolationForest, grown
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import BadRequest, NotExplained
from falaj.serving.explain import Explain, asked
from falaj.serving.model import Combination, PinnedMember, ServableModel, Variant
from falaj.serving.plan import RequestPlan
from falaj.testing.serving import MemoryBundles, Running, make_release, servable
from falaj.testing.smallmodels import NAMES, lightgbm_booster, xgboost_booster
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.ports import FittedModel

RUNTIMES = [OnnxRuntime(device="cpu"), LightGbmRuntime(), XgBoostRuntime()]


@functools.cache
def converted() -> ServableModel:
    """An ONNX model whose bundle has the LightGBM model that it was made from."""
    text = lightgbm_booster().model_to_string().encode()
    encoding = Encoding(features=tuple(EncodedFeature(name=name) for name in NAMES))
    onnx = LightGbmToOnnx().convert(FittedModel("lightgbm", text, encoding))
    return ServableModel("onnx", onnx, NAMES, native_format="lightgbm", native=text)


@functools.cache
def forest() -> bytes:
    """Of rows around 0."""
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    return grown(rows, n_trees=30, rows_per_tree=128, share=0.02, seed=1)


@functools.cache
def plan(kind: str) -> RequestPlan:
    models = {
        "converted": converted(),
        "native": ServableModel("lightgbm", converted().native, NAMES),
        "xgboost": ServableModel("xgboost", bytes(xgboost_booster().save_raw("ubj")), NAMES),
        "plain": servable(0),
        "forested": replace(converted(), isolation=forest()),
    }
    bundles = MemoryBundles({"sha256:a": models[kind]})
    return PlanCompiler(bundles, RUNTIMES, None).compile(make_release())


def answered(kind: str, rows: list[list[float]], explain: int) -> list[dict[str, object]]:
    made = plan(kind)
    inputs = [dict(zip(NAMES, row, strict=True)) for row in rows]
    body = msgspec.json.encode({"inputs": inputs})
    (answer,), _ = made.score([made.parse(body, caller="", started=0.0, explain=explain)])
    assert isinstance(answer, bytes)
    found: list[dict[str, object]] = msgspec.json.decode(answer)["predictions"]
    return found


@pytest.mark.parametrize("kind", ["converted", "native", "xgboost"])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=4
    )
)
def test_contributions_and_base_add_up_to_the_log_odds_of_the_score(
    kind: str, rows: list[list[float]]
) -> None:
    for told in answered(kind, rows, Explain.CONTRIBUTIONS):
        found = told["contributions"]
        assert isinstance(found, dict)
        total = found["base"] + sum(found["inputs"].values())
        assert list(found["inputs"]) == list(NAMES)
        assert found["raw_score"] == pytest.approx(total, abs=1e-9)
        assert told["score"] == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)
        assert "features" not in told


def test_contributions_are_those_of_the_library_and_only_where_they_are_asked_for() -> None:
    made = plan("converted")
    rows = [[0.5, -1.0, 2.0], [1.5, 0.0, -2.0]]
    body = msgspec.json.encode({"inputs": [dict(zip(NAMES, row, strict=True)) for row in rows]})
    both = [
        made.parse(body, caller="", started=0.0, explain=explain)
        for explain in (0, Explain.CONTRIBUTIONS | Explain.FEATURES, Explain.FEATURES)
    ]
    answers, _ = made.score(both)
    told = [msgspec.json.decode(one)["predictions"] for one in answers]  # type: ignore[arg-type]
    assert [set(one[0]) for one in told] == [
        {"id", "score"},
        {"id", "score", "features", "contributions"},
        {"id", "score", "features"},
    ]
    wanted = lightgbm_booster().predict(np.array(rows), pred_contrib=True)
    for row, found in zip(wanted, told[1], strict=True):
        parts = found["contributions"]
        assert [*parts["inputs"].values(), parts["base"]] == pytest.approx(row.tolist(), abs=1e-9)


def test_a_model_without_contributions_refuses_before_it_scores() -> None:
    body = b'{"inputs":[{"a":1,"b":2,"c":3}]}'
    with pytest.raises(NotExplained, match="delay/1"):
        plan("plain").parse(body, caller="", started=0.0, explain=Explain.CONTRIBUTIONS)
    members = tuple(
        PinnedMember(model=name, version=1, bundle=f"sha256:{name}") for name in ("x", "y")
    )
    variant = Variant(
        model="x", version=1, bundle="sha256:x", combine=Combination.MEAN, members=members
    )
    bundles = MemoryBundles({"sha256:x": converted(), "sha256:y": converted()})
    made = PlanCompiler(bundles, RUNTIMES, None).compile(make_release(variants=(variant,)))
    with pytest.raises(NotExplained):
        made.parse(body, caller="", started=0.0, explain=Explain.CONTRIBUTIONS)


def test_an_anomaly_is_told_where_it_is_asked_for_and_changes_no_score() -> None:
    rows = [[0.0, 0.1, -0.1], [50.0, -50.0, 50.0]]
    plain, told = answered("forested", rows, 0), answered("forested", rows, Explain.ANOMALY)
    assert [one["anomaly"]["anomalous"] for one in told] == [False, True]  # type: ignore[index]
    wanted = IsolationForest.read(forest(), 3).scores(np.array(rows, np.float32))
    assert [one["anomaly"]["score"] for one in told] == wanted.tolist()  # type: ignore[index]
    assert [one["score"] for one in plain] == [one["score"] for one in told]
    assert set(plain[0]) == {"id", "score"}


def test_all_explanations_may_be_asked_for_at_once() -> None:
    every = Explain.FEATURES | Explain.CONTRIBUTIONS | Explain.ANOMALY
    (one,) = answered("forested", [[1.0, 2.0, 3.0]], every)
    assert set(one) == {"id", "score", "features", "contributions", "anomaly"}


def test_a_model_without_a_forest_refuses_to_tell_anomalies_before_it_scores() -> None:
    body = b'{"inputs":[{"a":1,"b":2,"c":3}]}'
    with pytest.raises(NotExplained, match="isolation forest"):
        plan("converted").parse(body, caller="", started=0.0, explain=Explain.ANOMALY)


def test_a_forest_over_other_inputs_is_not_served() -> None:
    other = grown(np.zeros((50, 2), np.float32), n_trees=10, rows_per_tree=16, share=0.1, seed=1)
    bundles = MemoryBundles({"sha256:a": replace(converted(), isolation=other)})
    with pytest.raises(Corrupt, match="isolation forest"):
        PlanCompiler(bundles, RUNTIMES, None).compile(make_release())


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"", 0),
        (b"x=1", 0),
        (b"explain=features", 1),
        (b"explain=contributions", 2),
        (b"explain=features,contributions", 3),
        (b"explain=anomaly,features", 5),
        (b"a=b&explain=contributions&explain=features", 3),
        (b"explain=", 0),
    ],
)
def test_a_query_says_what_to_explain(query: bytes, told: int) -> None:
    assert asked(query) == told


@pytest.mark.parametrize("query", [b"explain=all", b"explain=features,", b"explain=%ff"])
def test_an_unknown_explanation_is_a_bad_request(query: bytes) -> None:
    with pytest.raises(BadRequest, match="no explanation"):
        asked(query)


def test_a_worker_tells_contributions_over_http(running: Running) -> None:
    running.bundles.models["sha256:t"] = converted()
    running.activate(make_release("release_t", bundle="sha256:t"))
    body = {"inputs": [{"a": 1, "b": 2, "c": 3}]}
    for _ in range(3):  # the second and third go the short way of a known head
        told = running.predict(body, params={"explain": "contributions"})
        assert told.status_code == 200
        (prediction,) = told.json()["predictions"]
        assert set(prediction["contributions"]["inputs"]) == set(NAMES)
        (plain,) = running.predict(body).json()["predictions"]
        assert plain["score"] == prediction["score"]
    assert running.predict(body, params={"explain": "everything"}).status_code == 400
    running.activate(make_release("release_a"))
    refused = running.predict(body, params={"explain": "contributions"})
    assert (refused.status_code, refused.json()["code"]) == (422, "not-explained")
    assert running.predict(body).status_code == 200


SLOW = b"""
import time
import numpy as np

class Model:
    def __init__(self, folder): pass

    def predict(self, rows):
        if rows[0, 0] == 99: time.sleep(30)
        return np.full(len(rows), 0.25)
"""


def test_a_custom_model_that_hangs_does_not_hold_up_the_worker(running: Running) -> None:
    running.bundles.models["sha256:p"] = ServableModel("python", SLOW, ("a", "b", "c"))
    running.activate(make_release("release_p", bundle="sha256:p"))
    fine = {"inputs": [{"a": 1, "b": 2, "c": 3}]}
    assert running.predict(fine).json()["predictions"][0]["score"] == 0.25
    answers: list[str] = []
    hung = {"inputs": [{"a": 99, "b": 2, "c": 3}]}
    thread = threading.Thread(target=lambda: answers.append(running.predict(hung).json()["code"]))
    thread.start()
    n_alive = 0
    while thread.is_alive():
        n_alive += running.client.get("/healthz").status_code == 200
        time.sleep(0.02)
    thread.join()
    assert answers == ["model-failed"]
    assert n_alive > 3
    assert running.predict(fine).status_code == 200
