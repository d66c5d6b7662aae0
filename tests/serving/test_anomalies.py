"""Every prediction is tagged with what its isolation forest finds, where a release says so."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from falaj.kernel.errors import InvalidInput
from falaj.models.isolation import IsolationForest, grown
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.anomalies import Judged, MembersForests
from falaj.serving.batchoutputs import output_rows
from falaj.serving.batchscoring import BatchPlan
from falaj.serving.compiler import PlanCompiler
from falaj.serving.compositions import ComposedModel, described
from falaj.serving.endpointopenapi import document
from falaj.serving.explain import Explain
from falaj.serving.logged import SCHEMA, columnar, decoded, encoded, logged
from falaj.serving.model import (
    AnomalyPolicy,
    Combination,
    Endpoint,
    PinnedMember,
    Release,
    ServableModel,
    Variant,
)
from falaj.serving.plan import RequestPlan
from falaj.serving.predictions import Scored
from falaj.serving.splits import Assignment, Split
from falaj.testing.serving import MemoryBundles, Running, make_release, servable

TAGGED = {"anomalies": AnomalyPolicy.TAG}
USUAL, ODD = [0.0, 0.1, -0.1], [50.0, -50.0, 50.0]
TOKEN = {"authorization": "Bearer user:amina"}
ARROW = "application/vnd.apache.arrow.stream"


@functools.cache
def forest(n_inputs: int = 3, *, seed: int = 0, centre: float = 0.0) -> bytes:
    """Of rows around a centre."""
    rows = np.random.default_rng(seed).normal(loc=centre, size=(500, n_inputs))
    return grown(rows.astype(np.float32), n_trees=30, rows_per_tree=128, share=0.02, seed=seed + 1)


def with_forest(names: tuple[str, ...] = ("a", "b", "c"), **of: Any) -> ServableModel:
    return replace(servable(0, names), isolation=forest(len(names), **of))


def verdicts(rows: list[list[float]], **of: Any) -> list[dict[str, Any]]:
    """What the forest itself says."""
    found = IsolationForest.read(forest(**of), len(rows[0]))
    scores = found.scores(np.array(rows, np.float32))
    return [{"score": score, "anomalous": score > found.limit} for score in scores.tolist()]


def compiled(release: Release, **models: ServableModel) -> RequestPlan:
    bundles = MemoryBundles({"sha256:a": with_forest()} | models)
    return PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None).compile(release)


def body(*rows: list[float]) -> dict[str, Any]:
    return {"inputs": [dict(zip("abc", row, strict=True)) for row in rows]}


def scored(
    plan: RequestPlan, *rows: list[float], explain: int = 0
) -> tuple[list[dict[str, Any]], list[Scored]]:
    parsed = plan.parse(msgspec.json.encode(body(*rows)), caller="", started=0.0, explain=explain)
    (answer,), parts = plan.score([parsed])
    assert isinstance(answer, bytes), answer
    return msgspec.json.decode(answer)["predictions"], parts


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ── plain JSON ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [[USUAL], [ODD], [USUAL, ODD, USUAL]])
def test_every_prediction_has_the_score_and_the_verdict_of_the_forest(
    rows: list[list[float]],
) -> None:
    told, _ = scored(compiled(make_release(**TAGGED)), *rows)
    assert [one["anomaly"] for one in told] == verdicts(rows)
    assert [one["anomaly"]["anomalous"] for one in told] == [row is ODD for row in rows]


def test_a_tag_changes_nothing_else_of_an_answer() -> None:
    plain, _ = scored(compiled(make_release()), USUAL, ODD)
    told, _ = scored(compiled(make_release(**TAGGED)), USUAL, ODD)
    assert [set(one) for one in plain] == [{"id", "score"}] * 2
    for one, other in zip(plain, told, strict=True):
        assert set(other) == {"id", "score", "anomaly"}
        assert one["score"] == other["score"]


def test_an_answer_without_the_tag_has_no_forest_run_for_it() -> None:
    _, (part,) = scored(compiled(make_release()), ODD)
    assert part.vectors.judged is None
    assert part.variant.tags is None


def test_explanations_stand_beside_the_tag_and_asking_for_it_tells_it_once() -> None:
    plan = compiled(make_release(**TAGGED))
    (told,), _ = scored(plan, ODD, explain=Explain.FEATURES | Explain.ANOMALY)
    assert set(told) == {"id", "score", "features", "anomaly"}
    parsed = plan.parse(
        msgspec.json.encode(body(ODD)), caller="", started=0.0, explain=Explain.ANOMALY
    )
    (answer,), _ = plan.score([parsed])
    assert isinstance(answer, bytes)
    assert answer.count(b'"anomaly"') == 1


def test_each_row_is_tagged_by_the_forest_of_the_variant_that_it_met() -> None:
    halves = tuple(
        Variant(name=name, model="delay", version=place, bundle=f"sha256:{name}", share=0.5)
        for place, name in enumerate(("old", "new"), start=1)
    )
    release = make_release(variants=halves, unit="a", **TAGGED)
    plan = compiled(
        release, **{"sha256:old": with_forest(), "sha256:new": with_forest(seed=3, centre=50.0)}
    )
    rows = [[float(place), 0.0, 0.0] for place in range(12)]
    told, _ = scored(plan, *rows)
    assert {one["variant"] for one in told} == {"old", "new"}
    for row, one in zip(rows, told, strict=True):
        of = {"seed": 3, "centre": 50.0} if one["variant"] == "new" else {}
        assert [one["anomaly"]] == verdicts([row], **of)
    for row in rows:  # a request of one row is written another way
        (alone,), _ = scored(plan, row)
        assert alone["anomaly"] == told[rows.index(row)]["anomaly"]
        assert alone["model"].startswith("delay/")


# ── what may be deployed ─────────────────────────────────────────────────────────────


def test_a_model_without_a_forest_is_refused_where_anomalies_are_tagged() -> None:
    with pytest.raises(InvalidInput, match="delay/1 was trained without an isolation forest"):
        compiled(make_release(bundle="sha256:b", **TAGGED), **{"sha256:b": servable(1)})
    compiled(make_release(bundle="sha256:b"), **{"sha256:b": servable(1)})


def test_an_endpoint_and_a_release_without_the_tag_are_written_as_they_were() -> None:
    assert "anomalies" not in Endpoint(name="late", model="delay").document()
    assert Endpoint(name="late", model="delay", anomalies="tag").document()["anomalies"] == "tag"
    assert "anomalies" not in make_release().model_dump(mode="json")
    tagged = make_release(**TAGGED)
    assert Release.model_validate(tagged.model_dump(mode="json")) == tagged


def members(combine: Combination, **gives: str) -> Variant:
    pinned = tuple(
        PinnedMember(model=name, version=1, bundle=f"sha256:{name}", gives=gives.get(name, ""))
        for name in ("x", "y")
    )
    return Variant(model="x", version=1, bundle="sha256:x", combine=combine, members=pinned)


def test_a_mean_is_judged_by_the_forests_of_all_its_members_each_of_its_own_inputs() -> None:
    release = make_release(variants=(members(Combination.MEAN),), **TAGGED)
    plan = compiled(
        release,
        **{
            "sha256:x": with_forest(("a",)),
            "sha256:y": with_forest(("c", "b"), seed=5),
        },
    )
    rows = [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 50.0, -50.0]]
    told, _ = scored(plan, *rows)
    assert [one["anomaly"]["anomalous"] for one in told] == [False, True, True]
    of_x = verdicts([[row[0]] for row in rows], n_inputs=1)
    of_y = verdicts([[row[2], row[1]] for row in rows], n_inputs=2, seed=5)
    assert told[1]["anomaly"] == of_x[1]
    assert told[2]["anomaly"] == of_y[2]


def test_a_member_without_a_forest_is_named_and_refused() -> None:
    release = make_release(variants=(members(Combination.MEAN),), **TAGGED)
    with pytest.raises(InvalidInput, match="y/1 was trained without"):
        compiled(release, **{"sha256:x": with_forest(), "sha256:y": servable(1)})


class Twentyfold:
    """A model that gives twenty times its first input."""

    n_inputs = 2

    def run(self, rows: Any) -> Any:
        return 20.0 * rows[:, :1]


def test_in_a_chain_what_a_member_gives_is_judged_as_an_input_of_the_next() -> None:
    which = members(Combination.CHAIN, x="given")
    models = [
        ServableModel("m", b"", ("a", "b"), isolation=forest(2)),
        ServableModel("m", b"", ("c", "given"), isolation=forest(2, seed=5)),
    ]
    composed = ComposedModel(which, described(which, models), models, [Twentyfold(), Twentyfold()])
    forests = [IsolationForest.read(one.isolation, 2) for one in models]
    rows = np.array([[0, 0, 0], [0.5, 0, 4], [50, -50, 0]], np.float32)  # a, b, c
    found = MembersForests(composed, forests).judged(rows)
    first = forests[0].scores(rows[:, :2])
    second = forests[1].scores(np.stack([rows[:, 2], 20 * rows[:, 0]], axis=1))
    assert (first > forests[0].limit).tolist() == [False, False, True]
    assert second[1] > forests[1].limit  # 10 is odd to it, though it stands in no request
    assert found.anomalous.tolist() == [False, True, True]
    assert found.scores[1] == second[1]


# ── the other protocols ──────────────────────────────────────────────────────────────


@pytest.fixture
def tagging(running: Running) -> Running:
    running.bundles.models["sha256:t"] = with_forest()
    running.activate(make_release("release_t", bundle="sha256:t", **TAGGED))
    return running


def test_a_worker_tags_counts_and_logs_what_it_answers(tagging: Running) -> None:
    for rows in ([USUAL], [ODD], [USUAL, ODD]):
        told = tagging.predict(body(*rows))
        assert told.status_code == 200
        assert [one["anomaly"] for one in told.json()["predictions"]] == verdicts(rows)
    until(lambda: len(tagging.spools.rows("predictions_delays")) == 4)
    rows = tagging.spools.rows("predictions_delays")
    by_features = {tuple(row["features"]): row for row in rows}
    for row in (USUAL, ODD):
        (wanted,) = verdicts([row])
        kept = by_features[tuple(np.float32(row).tolist())]
        assert kept["anomaly_score"] == wanted["score"]
        assert kept["anomalous"] is wanted["anomalous"]
    until(lambda: tagging.meters.traffic("delays").tagged == 4)
    traffic = tagging.meters.traffic("delays")
    assert (traffic.predictions, traffic.anomalous) == (4, 2)
    assert (traffic.variants[0].tagged, traffic.variants[0].anomalous) == (4, 2)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(tagging.meters.exposition().decode())
        for sample in family.samples
        if sample.labels.get("variant") == "champion"
    }
    assert samples["falaj_endpoint_tagged_total"] == 4
    assert samples["falaj_endpoint_anomalous_total"] == 2


def test_what_is_not_tagged_is_null_in_the_log_and_counted_nowhere(running: Running) -> None:
    running.activate(make_release())
    running.predict(body(ODD))
    until(lambda: bool(running.spools.rows("predictions_delays")))
    (row,) = running.spools.rows("predictions_delays")
    assert (row["anomaly_score"], row["anomalous"]) == (None, None)
    assert running.meters.traffic("delays").tagged == 0


def test_the_open_inference_protocol_tells_the_tags_as_parameters(tagging: Running) -> None:
    wanted = verdicts([USUAL, ODD])
    tensor = {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": [*USUAL, *ODD]}
    told = tagging.client.post(
        "/v2/models/delays/infer", headers=TOKEN, json={"inputs": [tensor]}
    ).json()["parameters"]
    assert [float(one) for one in told["anomaly_score"].split(",")] == [
        one["score"] for one in wanted
    ]
    assert told["anomalous"] == "false,true"


def test_an_arrow_stream_has_the_tags_as_columns(tagging: Running) -> None:
    given = pa.table({name: [USUAL[place], ODD[place]] for place, name in enumerate("abc")})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, given.schema) as writer:
        writer.write_table(given)
    for params in ({}, {"explain": "anomaly"}):
        answer = tagging.predict(
            bytes(sink.getvalue()), headers={"content-type": ARROW}, params=params
        )
        assert answer.status_code == 200, answer.text
        told = pa.ipc.open_stream(answer.content).read_all()
        assert told.column_names == ["id", "score", "model", "anomaly_score", "anomalous"]
        assert told["anomaly_score"].to_pylist() == [one["score"] for one in verdicts([USUAL, ODD])]
        assert told["anomalous"].to_pylist() == [False, True]


def test_events_tell_the_tag_of_each_prediction(tagging: Running) -> None:
    answer = tagging.predict(body(USUAL, ODD), headers={"accept": "text/event-stream"})
    told = [
        json.loads(block.split("data: ", 1)[1])["anomaly"]
        for block in answer.text.split("\n\n")
        if block.startswith("event: prediction")
    ]
    assert told == verdicts([USUAL, ODD])


def test_a_shadow_is_tagged_in_the_log_by_its_own_forest(running: Running) -> None:
    running.bundles.models["sha256:t"] = with_forest()
    running.bundles.models["sha256:s"] = with_forest(seed=3, centre=50.0)
    variants = (
        Variant(model="delay", version=1, bundle="sha256:t"),
        Variant(name="new", model="delay", version=2, bundle="sha256:s", share=0.0, shadow=True),
    )
    release = make_release(
        "release_s", variants=variants, unit="a",
        assignment=Assignment(salt="s", final={"new": 1.0}), **TAGGED,
    )  # fmt: skip
    running.activate(release)
    running.table.split("delays", Split(endpoint="delays", release=release.id, shares={"new": 1.0}))
    (told,) = running.predict(body(USUAL)).json()["predictions"]
    assert [told["anomaly"]] == verdicts([USUAL])
    until(lambda: len(running.spools.rows("predictions_delays")) == 2)
    kept = {row["shadow"]: row for row in running.spools.rows("predictions_delays")}
    assert kept[False]["anomalous"] is False
    assert kept[True]["anomalous"] is True
    assert kept[True]["anomaly_score"] == verdicts([USUAL], seed=3, centre=50.0)[0]["score"]
    assert running.meters.traffic("delays").anomalous == 0  # nobody was answered by the shadow


# ── the log, and batches ─────────────────────────────────────────────────────────────


def test_runs_with_and_without_tags_are_rows_of_one_log() -> None:
    runs = []
    for release in (make_release(**TAGGED), make_release()):
        _, (part,) = scored(compiled(release), USUAL, ODD)
        runs.append(decoded(encoded(logged(part))))
    rows = columnar(runs)
    assert rows.schema == SCHEMA
    assert rows["anomalous"].to_pylist() == [False, True, None, None]
    assert rows["anomaly_score"].to_pylist() == [
        *(one["score"] for one in verdicts([USUAL, ODD])), None, None,
    ]  # fmt: skip


def test_a_record_of_a_version_without_tags_is_still_read() -> None:
    _, (part,) = scored(compiled(make_release()), ODD)
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(encoded(logged(part)))[:-1])
    assert columnar([decoded(older)])["anomalous"].to_pylist() == [None]


def test_some_rows_of_a_run_keep_their_own_tags() -> None:
    _, (part,) = scored(compiled(make_release(**TAGGED)), USUAL, ODD, USUAL)
    kept = part.only([1, 2]).vectors.judged
    assert kept is not None
    assert kept.told() == verdicts([ODD, USUAL])


def test_a_batch_has_the_tags_of_live_requests_and_none_for_rows_that_are_refused() -> None:
    release = make_release(**TAGGED)
    plan = compiled(release)
    columns = {name: pa.array([USUAL[place], ODD[place], None]) for place, name in enumerate("abc")}
    block = BatchPlan(plan).scored(columns, 3, 1_767_225_600_000_000, {})
    assert set(block.errors) == {2}
    rows = output_rows(
        "job_" + "0" * 32, release, 0, [block], {}, np.zeros(3, np.int64), np.zeros(3, bool)
    )
    live, _ = scored(plan, USUAL, ODD)
    assert rows["anomaly_score"].to_pylist() == [
        *(one["anomaly"]["score"] for one in live), None,
    ]  # fmt: skip
    assert rows["anomalous"].to_pylist() == [False, True, None]
    plain = BatchPlan(compiled(make_release())).scored(columns, 3, 0, {})
    assert plain.judged is None


# ── what clients are told ────────────────────────────────────────────────────────────


def test_the_openapi_document_promises_the_tag_where_there_is_one() -> None:
    def of(release: Release) -> tuple[list[str], list[str]]:
        schemas = document(release)["components"]["schemas"]
        prediction = schemas["Answer"]["properties"]["predictions"]["items"]
        assert set(prediction["properties"]["anomaly"]["properties"]) == {"score", "anomalous"}
        inference = schemas["InferenceAnswer"]["properties"]["parameters"]
        return prediction["required"], inference["required"]

    known = ["release", "model", "prediction_ids"]
    assert of(make_release()) == (["id", "score"], known)
    assert of(make_release(**TAGGED)) == (
        ["id", "score", "anomaly"],
        [*known, "anomaly_score", "anomalous"],
    )


def test_packed_tags_are_scores_and_then_verdicts() -> None:
    packed = Judged(np.array([0.25, 0.75]), np.array([False, True])).packed()
    assert np.frombuffer(packed[:16]).tolist() == [0.25, 0.75]
    assert packed[16:] == b"\x00\x01"
