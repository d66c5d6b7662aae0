from __future__ import annotations

import gzip
import pickle
import socket
import threading
import time
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from falaj.kernel.errors import Corrupt
from falaj.serving.model import Durability, Limits, Variant
from falaj.testing.serving import Running, make_release, onnx_classifier

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}


def expected(rows: list[list[float]], seed: int = 0) -> np.ndarray:
    session = ort.InferenceSession(onnx_classifier(3, seed))
    return session.run(None, {"input": np.array(rows, dtype=np.float32)})[1][:, 1]


def eventually(rows: Any, n: int) -> list[dict[str, Any]]:
    until = time.monotonic() + 5
    while len(found := rows()) < n:
        assert time.monotonic() < until, f"{len(found)} of {n}"
        time.sleep(0.01)
    return found


def test_an_answer_carries_the_models_own_score_and_its_release(running: Running) -> None:
    running.activate(make_release())
    answer = running.predict({"inputs": [ROW], "request_id": 'say "hi"'})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["request_id"] == 'say "hi"'
    assert told["release"] == "release_1"
    assert told["model"] == "delay/1"
    (prediction,) = told["predictions"]
    assert prediction["score"] == pytest.approx(expected([[0.5, -1.25, 2.0]])[0], abs=1e-7)
    assert prediction["id"].startswith("pred_")


def test_a_request_without_an_id_is_named_by_its_first_prediction(running: Running) -> None:
    running.activate(make_release())
    told = running.predict({"inputs": [ROW, ROW]}).json()
    assert told["request_id"] == told["predictions"][0]["id"]
    assert len({item["id"] for item in told["predictions"]}) == 2


def test_every_prediction_reaches_the_log_once_with_what_it_was_made_of(running: Running) -> None:
    running.activate(make_release(unit="a"))
    told = running.predict({"inputs": [ROW], "at": "2013-10-01T12:00:00Z"}).json()
    (row,) = eventually(lambda: running.spools.rows("predictions_delays"), 1)
    assert row["prediction_id"] == told["predictions"][0]["id"]
    assert row["request_id"] == told["request_id"]
    assert row["features"] == [0.5, -1.25, 2.0]
    assert row["score"] == pytest.approx(told["predictions"][0]["score"])
    assert row["fields"] == '{"a":0.5,"b":-1.25,"c":2.0}'
    assert (row["unit"], row["caller"], row["version"]) == ("0.5", "user:amina", 1)
    assert row["predicted_for"].isoformat() == "2013-10-01T12:00:00+00:00"
    assert row["latency_us"] > 0


def test_explain_shows_the_features_of_a_prediction(running: Running) -> None:
    running.activate(make_release())
    answer = running.predict({"inputs": [ROW]}, params={"explain": "features"}).json()
    shown = answer["predictions"][0]["features"]
    assert shown["a"] == {"value": 0.5, "status": "present", "event_time": None}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"inputs": [{"a": 1, "b": 2}]}', "missing required field `c`"),
        (b'{"inputs": [{"a": "x", "b": 2, "c": 3}]}', "Expected `float`, got `str`"),
        (b'{"inputs": [{"a": 1, "b": 2, "c": 3, "d": 4}]}', "unknown field `d`"),
        (b'{"inputs": [{"a": null, "b": 2, "c": 3}]}', "got `null`"),
        (b'{"inputs": [{"a": NaN, "b": 2, "c": 3}]}', "malformed"),
        (b'{"inputs": [{"a": 1e400, "b": 2, "c": 3}]}', "out of range"),
        (b'{"inputs": [{"a": 1e39, "b": 2, "c": 3}]}', "float"),
        (b'{"inputs": [{"a": ' + b"9" * 5000 + b', "b": 2, "c": 3}]}', "out of range"),
        (b'{"inputs": []}', "no inputs"),
        (b'{"inputs": {}}', "Expected `array`"),
        (b'{"inputs": [[1, 2, 3]]}', "Expected `object`"),
        (b'{"inputs": [{"a": [[1]], "b": 2, "c": 3}]}', "Expected `float`"),
        (b'{"inputs": [{"a": 1, "b": 2', "truncated"),
        (b"", "truncated"),
        (b"null", "Expected `object`"),
        (b"\xff\xfe\x00", "malformed"),
        (b'{"inputs": ' + b"[" * 200_000, "Expected"),
        (b'{"x": ' + b"[" * 200_000, "unknown field"),
        (b'{"inputs": [], "request_id": "' + b"x" * 500 + b'"}', "length"),
        (b'{"inputs": [], "request_id": "\xff"}', ""),
        (b'{"inputs": [], "at": "yesterday"}', "Invalid"),
        (b'{"inputs": [], "at": "2013-10-01T12:00:00"}', "timezone"),
        (pickle.dumps({"inputs": [ROW]}), "malformed"),
        (gzip.compress(b'{"inputs": []}', mtime=0), "malformed"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else f"{len(value)}B",
)
def test_a_hostile_body_is_refused_with_what_is_wrong_and_the_worker_lives(
    running: Running, body: bytes, says: str
) -> None:
    running.activate(make_release())
    answer = running.predict(body)
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "bad-request"
    assert says.lower() in problem["detail"].lower()
    assert '"a": float' in problem["hint"] or "surrogate" in problem["hint"]
    assert running.predict({"inputs": [ROW]}).status_code == 200


def test_a_pickle_content_type_is_refused(running: Running) -> None:
    running.activate(make_release())
    headers = {"content-type": "application/x-python-pickle"}
    answer = running.predict(pickle.dumps(ROW), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media")


def test_too_many_rows_and_too_large_bodies_are_refused(running: Running) -> None:
    running.activate(make_release(limits=Limits(rows=2, body_bytes=400)))
    assert running.predict({"inputs": [ROW] * 2}).status_code == 200
    assert running.predict({"inputs": [ROW] * 3}).status_code == 413
    told = running.predict(b" " * 401)
    assert (told.status_code, told.json()["code"]) == (413, "body-too-large")
    chunked = running.client.post(
        "/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina"},
        content=iter([b" " * 300, b" " * 300]),
    )
    assert chunked.status_code == 413


def test_nobody_asks_without_a_valid_token(running: Running) -> None:
    running.activate(make_release())
    for value in (
        "",
        "Basic dXNlcg==",
        "Bearer",
        "Bearer nobody",
        "Bearer \xe9",
        "Bearer " + "x" * 9000,
    ):
        answer = running.client.post(
            "/v1/endpoints/delays/predict",
            headers={"authorization": value.encode("latin-1")},
            json={"inputs": [ROW]},
        )
        assert answer.status_code == 401, value
        assert answer.headers["www-authenticate"] == "Bearer"
    assert running.client.get("/metrics").status_code == 401


def test_a_forbidden_endpoint_and_a_missing_one_look_the_same_to_a_stranger(
    running: Running,
) -> None:
    running.activate(make_release())
    headers = {"authorization": "Bearer user:eve"}
    running.refused |= {"user:eve endpoints.predict", "user:eve assets.get"}
    there = running.predict({"inputs": [ROW]}, headers=headers)
    missing = running.predict({"inputs": [ROW]}, endpoint="nothing", headers=headers)
    assert (there.status_code, missing.status_code) == (404, 404)
    assert there.json()["detail"].replace("delays", "X") == missing.json()["detail"].replace(
        "nothing", "X"
    )
    running.refused.discard("user:eve assets.get")
    time.sleep(1.05)
    assert running.predict({"inputs": [ROW]}, headers=headers).status_code == 403


def test_a_revoked_token_is_refused_within_a_second(running: Running) -> None:
    running.activate(make_release())
    for _ in range(20):
        assert running.predict({"inputs": [ROW]}).status_code == 200
    assert running.tokens.asked == 1
    running.tokens.revoked.add("user:amina")
    time.sleep(1.05)
    assert running.predict({"inputs": [ROW]}).status_code == 401


def test_a_switch_of_releases_under_load_has_no_error_and_no_stale_answer(
    running: Running,
) -> None:
    running.activate(make_release("release_0"))
    stop = threading.Event()
    wrong: list[Any] = []
    acknowledged = ["release_0"]

    def load() -> None:
        import httpx

        with httpx.Client(base_url=running.url) as client:
            while not stop.is_set():
                before = acknowledged[0]
                answer = client.post(
                    "/v1/endpoints/delays/predict",
                    headers={"authorization": "Bearer user:amina"},
                    json={"inputs": [ROW]},
                )
                release = answer.json().get("release", "")
                if answer.status_code != 200 or int(release[8:]) < int(before[8:]):
                    wrong.append((before, answer.text))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 16):
        name = f"release_{number}"
        running.table.write(make_release(name, bundle=("sha256:a", "sha256:b")[number % 2]))
        running.table.flip("delays", name)
        acknowledged[0] = name
        time.sleep(0.03)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert running.predict({"inputs": [ROW]}).json()["release"] == "release_15"


def test_an_announced_release_is_built_beside_the_old_one(running: Running) -> None:
    running.activate(make_release("release_0"))
    assert running.predict({"inputs": [ROW]}).json()["release"] == "release_0"
    running.table.write(make_release("release_9", bundle="sha256:b"))
    running.table.announce("delays", "release_9")
    until = time.monotonic() + 3
    while running.plans.prepared().get("release_9") != "ready":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert running.predict({"inputs": [ROW]}).json()["release"] == "release_0"
    opened = len(running.bundles.opened)
    running.table.flip("delays", "release_9")
    answer = running.predict({"inputs": [ROW]}).json()
    assert answer["release"] == "release_9"
    assert answer["predictions"][0]["score"] == pytest.approx(
        expected([[0.5, -1.25, 2.0]], seed=1)[0], abs=1e-7
    )
    assert len(running.bundles.opened) == opened


def test_an_active_release_whose_bundle_is_damaged_answers_no_prediction(
    running: Running,
) -> None:
    running.bundles.models["sha256:bad"] = Corrupt("The bundle was changed.", hint="Restore it.")
    running.activate(make_release("release_bad", bundle="sha256:bad"))
    answer = running.predict({"inputs": [ROW]})
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt")
    assert running.client.get("/readyz").status_code == 503
    assert running.client.get("/healthz").status_code == 200
    running.activate(make_release("release_good"))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    assert running.client.get("/readyz").status_code == 200


def test_a_policy_by_attributes_forbids_a_release_that_cannot_be_loaded(running: Running) -> None:
    running.refused |= {"user:amina endpoints.predict classification=sensitive"}
    running.bundles.models["sha256:bad"] = Corrupt("The bundle was changed.", hint="Restore it.")
    secret = {"attributes": {"classification": "sensitive"}}
    running.activate(make_release("release_bad", bundle="sha256:bad", **secret))
    for _ in range(2):
        assert running.predict({"inputs": [ROW]}).status_code == 403
    running.activate(make_release("release_good", **secret))
    assert running.predict({"inputs": [ROW]}).status_code == 403, "no permit was remembered"


def test_nobody_is_admitted_to_a_release_whose_document_is_damaged(running: Running) -> None:
    with running.table._writing() as transaction:
        transaction.put(b"release/release_1", b'{"id": ')
    running.table.flip("delays", "release_1")
    assert running.predict({"inputs": [ROW]}).status_code == 404
    running.activate(make_release("release_good"))
    assert running.predict({"inputs": [ROW]}).status_code == 200, "no refusal was remembered"


def test_a_full_lane_is_told_when_to_come_back(running: Running) -> None:
    limits = Limits(concurrency=1, deadline_seconds=5)
    running.activate(make_release(limits=limits, durability=Durability.REQUEST))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    running.spools.gate.clear()
    first: list[Any] = []
    waiting = threading.Thread(target=lambda: first.append(asked_alone(running)))
    waiting.start()
    time.sleep(0.3)
    answer = asked_alone(running)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["code"] == "overloaded"
    assert running.predict(b"{").status_code == 503, "the body was looked at"
    running.spools.gate.set()
    waiting.join(5)
    assert first[0].status_code == 200
    assert running.predict({"inputs": [ROW]}).status_code == 200


def asked_alone(running: Running) -> Any:
    return httpx.post(
        f"{running.url}/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina"},
        json={"inputs": [ROW]},
    )


def test_a_client_that_never_ends_its_body_loses_its_place(running: Running) -> None:
    running.activate(make_release(limits=Limits(deadline_seconds=0.2)))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as slow:
        slow.sendall(
            b"POST /v1/endpoints/delays/predict HTTP/1.1\r\nhost: x\r\n"
            b"authorization: Bearer user:amina\r\ncontent-length: 100\r\n\r\n{"
        )
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    assert running.predict({"inputs": [ROW]}).status_code == 200


def test_batches_are_scored_in_order_inline_and_aside(running: Running) -> None:
    running.activate(make_release())
    rows = [{"a": float(i), "b": i / 7, "c": -float(i)} for i in range(600)]
    want = expected([[row["a"], row["b"], row["c"]] for row in rows])
    for n in (7, 600):
        told = running.predict({"inputs": rows[:n]}).json()["predictions"]
        assert [item["score"] for item in told] == pytest.approx(list(want[:n]), abs=1e-6)


def test_with_durability_request_the_answer_waits_for_the_disk(running: Running) -> None:
    running.activate(make_release(durability=Durability.REQUEST))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    assert len(running.spools.rows("predictions_delays")) == 1
    running.spools.broken = True
    assert running.predict({"inputs": [ROW]}).status_code == 503
    assert running.client.get("/readyz").status_code == 503
    running.spools.broken = False
    assert running.predict({"inputs": [ROW]}).status_code == 200
    assert len(running.spools.rows("predictions_delays")) == 2


def test_a_full_log_is_counted_and_answers_go_on(running: Running) -> None:
    running.activate(make_release())
    running.spools.gate.clear()
    for _ in range(5):
        assert running.predict({"inputs": [ROW] * 900}).status_code == 200
    running.spools.gate.set()
    traffic = running.meters.traffic("delays")
    assert traffic.predictions == 4500
    logged = 4500 - traffic.unlogged
    assert traffic.unlogged > 0
    assert len(eventually(lambda: running.spools.rows("predictions_delays"), logged)) == logged


def test_variants_are_sticky_by_unit_and_shared_as_declared(running: Running) -> None:
    variants = (
        Variant(model="delay", version=1, bundle="sha256:a", share=0.7),
        Variant(name="challenger", model="delay", version=2, bundle="sha256:b", share=0.3),
    )
    running.activate(make_release(variants=variants, unit="a"))
    rows = [{"a": float(i), "b": 0.5, "c": 0.25} for i in range(200)]
    first = running.predict({"inputs": rows}).json()["predictions"]
    again = running.predict({"inputs": rows[::-1]}).json()["predictions"][::-1]
    assert [item["variant"] for item in first] == [item["variant"] for item in again]
    share = sum(item["variant"] == "challenger" for item in first) / 200
    assert 0.2 < share < 0.4
    for seed, name in enumerate(("champion", "challenger")):
        mine = [i for i, item in enumerate(first) if item["variant"] == name]
        want = expected([[float(i), 0.5, 0.25] for i in mine], seed)
        assert [first[i]["score"] for i in mine] == pytest.approx(list(want), abs=1e-6)
    logged = eventually(lambda: running.spools.rows("predictions_delays"), 400)
    assert {row["prediction_id"]: row["variant"] for row in logged} == {
        item["id"]: item["variant"] for answer in (first, again) for item in answer
    }


def test_metrics_count_what_happened_for_those_who_may_see_it(running: Running) -> None:
    running.activate(make_release())
    for _ in range(3):
        running.predict({"inputs": [ROW, ROW]})
    running.predict(b"{")
    told = running.client.get("/metrics", headers={"authorization": "Bearer user:amina"}).text
    served = '{endpoint="delays",variant="champion"}'
    assert f"falaj_endpoint_requests_total{served} 3" in told
    assert f"falaj_endpoint_predictions_total{served} 6" in told
    assert 'falaj_endpoint_refused_total{endpoint="delays"} 1' in told
    assert f"falaj_endpoint_seconds_count{served} 3" in told
    traffic = running.meters.traffic("delays")
    assert traffic.p50_ms is not None
    assert 0 < traffic.p50_ms <= (traffic.p99_ms or 0)


def test_other_paths_and_methods_are_refused(running: Running) -> None:
    running.activate(make_release())
    headers = {"authorization": "Bearer user:amina"}
    assert running.client.get("/v1/endpoints/delays/predict", headers=headers).status_code == 405
    assert running.client.get("/nothing").status_code == 404
    assert running.client.post("/healthz").status_code == 404
    assert running.client.get("/healthz").json() == {"status": "ok"}


def test_a_fault_inside_the_worker_is_a_500_without_its_details_and_the_worker_lives(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.activate(make_release())
    assert running.predict({"inputs": [ROW]}).status_code == 200
    plan = running.plans.active["delays"]

    def faulty(*_values: Any, **_named: Any) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(plan, "parse", faulty)
    answer = running.predict({"inputs": [ROW]})
    assert (answer.status_code, answer.json()["code"]) == (500, "scoring-failed")
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert running.predict({"inputs": [ROW]}).status_code == 200


@pytest.mark.parametrize("left", ["0", "-5", "0.000"])
def test_a_request_whose_deadline_has_passed_is_refused_before_any_work(
    running: Running, left: str
) -> None:
    running.activate(make_release())
    told = running.predict(b"not even looked at", headers={"falaj-deadline-ms": left})
    assert (told.status_code, told.json()["code"]) == (504, "deadline-exceeded")
    assert running.predict({"inputs": [ROW]}).status_code == 200
    assert running.meters.traffic("delays").predictions == 1


def test_a_deadline_of_the_sender_only_shortens_that_of_the_endpoint(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.activate(make_release(limits=Limits(deadline_seconds=0.25)))
    assert running.predict({"inputs": [ROW]}).status_code == 200
    plan, seen = running.plans.active["delays"], []
    score = plan.score

    def noted(requests: list[Any]) -> Any:
        seen.extend(round(request.deadline - request.started, 6) for request in requests)
        return score(requests)

    monkeypatch.setattr(plan, "score", noted)
    for left in ("200", "5000"):
        headers = {"falaj-deadline-ms": left}
        assert running.predict({"inputs": [ROW]}, headers=headers).status_code == 200
    assert running.predict({"inputs": [ROW]}).status_code == 200
    assert seen == [0.2, 0.25, 0.25]


@pytest.mark.parametrize("left", ["soon", "1e3", "", "nan", "1" * 13, "1.x", "0x10"])
def test_a_deadline_that_is_no_number_is_refused(running: Running, left: str) -> None:
    running.activate(make_release())
    told = running.predict({"inputs": [ROW]}, headers={"falaj-deadline-ms": left})
    assert (told.status_code, told.json()["code"]) == (400, "bad-request")
    assert "milliseconds" in told.json()["detail"]


def test_a_request_without_a_token_learns_nothing_of_its_deadline(running: Running) -> None:
    running.activate(make_release())
    headers = {"falaj-deadline-ms": "0", "authorization": ""}
    assert running.predict({"inputs": [ROW]}, headers=headers).status_code == 401


def test_metrics_tell_variants_apart_and_prometheus_reads_them(running: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    variants = (
        Variant(model="delay", version=1, bundle="sha256:a", share=0.5),
        Variant(name="challenger", model="delay", version=2, bundle="sha256:b", share=0.5),
    )
    running.activate(make_release(variants=variants, unit="a"))
    rows = [{"a": float(i), "b": 0.5, "c": 0.25} for i in range(40)]
    told = running.predict({"inputs": rows}).json()["predictions"]
    text = running.client.get("/metrics", headers={"authorization": "Bearer user:amina"}).text
    counted = {
        sample.labels["variant"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "falaj_endpoint_predictions_total" and sample.value
    }
    names = [item["variant"] for item in told]
    assert counted == {name: names.count(name) for name in ("champion", "challenger")}
    traffic = running.meters.traffic("delays")
    assert (traffic.requests, traffic.predictions) == (1, 40)
    by_variant = {one.variant: one.requests for one in traffic.variants}
    assert by_variant[told[0]["variant"]] == 1
