"""The Open Inference Protocol over HTTP, as its clients speak it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from falaj.serving.model import FieldType, Limits, RequestField, ServableModel, Variant
from falaj.testing.serving import Running, make_release, onnx_classifier

TOKEN = {"authorization": "Bearer user:amina"}
NAMES = ("a", "b", "c")


def token() -> dict[str, str]:
    return dict(TOKEN)  # tritonclient writes its own headers into what it is given


def expected(rows: Any, seed: int = 0) -> np.ndarray:
    session = ort.InferenceSession(onnx_classifier(3, seed))
    return session.run(None, {"input": np.asarray(rows, dtype=np.float32)})[1][:, 1]


def some_rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)


def client_of(running: Running) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(running.url.removeprefix("http://"))


def named(rows: np.ndarray, *, binary: bool = True) -> list[Any]:
    inputs = []
    for place, name in enumerate(NAMES):
        one = triton.InferInput(name, [len(rows), 1], "FP32")
        one.set_data_from_numpy(rows[:, place : place + 1].copy(), binary_data=binary)
        inputs.append(one)
    return inputs


def matrix(rows: np.ndarray, *, binary: bool = True) -> list[Any]:
    one = triton.InferInput("input", list(rows.shape), "FP32")
    one.set_data_from_numpy(rows, binary_data=binary)
    return [one]


def infer(running: Running, body: Any, *, path: str = "/v2/models/delays/infer", **headers: str):
    kind = "content" if isinstance(body, bytes) else "json"
    return running.client.post(path, headers={**TOKEN, **headers}, **{kind: body})


def test_tritonclient_asks_health_and_metadata(running: Running) -> None:
    running.activate(make_release())
    client = client_of(running)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delays", headers=token())
    assert client.is_model_ready("delays", "1", headers=token())
    assert not client.is_model_ready("delays", "2", headers=token())
    assert not client.is_model_ready("nothing", headers=token())
    assert not client.is_model_ready("delays")
    assert client.get_server_metadata(headers=token())["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("delays", headers=token())
    assert (told["name"], told["versions"]) == ("delays", ["1"])
    assert told["inputs"][0] == {"name": "a", "datatype": "FP64", "shape": [-1]}
    assert told["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [-1]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("inputs", [named, matrix])
def test_tritonclient_infers(running: Running, inputs: Any, binary: bool) -> None:
    running.activate(make_release())
    rows = some_rows(9)
    outputs = [triton.InferRequestedOutput("score", binary_data=binary)]
    answer = client_of(running).infer(
        "delays",
        inputs(rows, binary=binary),
        outputs=outputs,
        request_id="mine",
        model_version="1",
        headers=token(),
    )
    assert answer.as_numpy("score") == pytest.approx(expected(rows), abs=1e-6)
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "delays", "1")
    assert told["parameters"]["release"] == "release_1"
    assert len(set(told["parameters"]["prediction_ids"].split(","))) == 9


def test_tritonclient_asks_for_all_outputs_as_binary_when_it_names_none(running: Running) -> None:
    running.activate(make_release())
    answer = client_of(running).infer("delays", named(some_rows(3)), headers=token())
    assert answer.get_output("score")["parameters"] == {"binary_data_size": 24}
    assert answer.as_numpy("score") == pytest.approx(expected(some_rows(3)), abs=1e-6)


def test_ids_and_models_are_outputs_of_text_for_who_asks(running: Running) -> None:
    running.activate(make_release())
    outputs = [
        triton.InferRequestedOutput(name, binary_data=name != "score")
        for name in ("prediction_id", "score", "model")
    ]
    answer = client_of(running).infer(
        "delays", matrix(some_rows(2)), outputs=outputs, headers=token()
    )
    ids = [one.decode() for one in answer.as_numpy("prediction_id")]
    assert ids == answer.get_response()["parameters"]["prediction_ids"].split(",")
    assert list(answer.as_numpy("model")) == [b"delay/1", b"delay/1"]


def test_a_kserve_client_infers(running: Running) -> None:
    running.activate(make_release())
    rows = some_rows(2)
    # As kserve.InferenceRESTClient writes an InferRequest.
    body = {
        "id": "4be4e82f-5500-420a-a5c5-ac86841e271b",
        "inputs": [
            {"name": "input-0", "shape": [2, 3], "datatype": "FP32", "data": rows.ravel().tolist()}
        ],
    }
    answer = infer(running, body, **{"content-type": "application/json"}).json()
    assert answer["id"] == body["id"]
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP64", [2])
    assert output["data"] == pytest.approx(list(expected(rows)), abs=1e-6)
    nested = {**body["inputs"][0], "data": rows.tolist()}
    again = infer(running, {"inputs": [nested]}).json()
    assert again["outputs"][0]["data"] == output["data"]
    assert "id" not in again
    for path in ("/v2/models/delays/ready", "/v2/models/delays", "/v2"):
        assert running.client.get(path, headers=token()).status_code == 200
    assert running.client.get("/v2/health/live").json() == {"live": True}


def test_what_is_inferred_reaches_the_log_once(running: Running) -> None:
    running.activate(make_release())
    body = {
        "id": "r1",
        "parameters": {"at": "2013-10-01T12:00:00Z"},
        "inputs": [
            {"name": name, "shape": [1], "datatype": "FP64", "data": [value]}
            for name, value in zip(NAMES, (0.5, -1.25, 2.0), strict=True)
        ],
    }
    told = infer(running, body).json()
    until = time.monotonic() + 5
    while not (rows := running.spools.rows("predictions_delays")):
        assert time.monotonic() < until
        time.sleep(0.01)
    (row,) = rows
    assert row["prediction_id"] == told["parameters"]["prediction_ids"]
    assert (row["request_id"], row["caller"]) == ("r1", "user:amina")
    assert row["features"] == [0.5, -1.25, 2.0]
    assert row["predicted_for"] == datetime(2013, 10, 1, 12, tzinfo=UTC)
    assert row["score"] == pytest.approx(told["outputs"][0]["data"][0])


EVERY_TYPE = (
    RequestField(name="a", type=FieldType.FLOAT, nullable=True),
    RequestField(name="b", type=FieldType.INT),
    RequestField(name="c", type=FieldType.BOOLEAN),
    RequestField(name="word", type=FieldType.STRING, required=False),
    RequestField(name="moment", type=FieldType.TIMESTAMP, required=False),
)


def asked_row(running: Running) -> dict[str, Any]:
    until = time.monotonic() + 5
    while not (rows := running.spools.rows("predictions_delays")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return json.loads(rows[-1]["fields"])


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_of_every_type_are_the_fields_of_that_type(running: Running, binary: bool) -> None:
    running.activate(make_release(fields=EVERY_TYPE))
    given = {
        "a": ("FP16", np.array([0.5], np.float16)),
        "b": ("UINT8", np.array([200], np.uint8)),
        "c": ("BOOL", np.array([True])),
        "word": ("BYTES", np.array(["فلج".encode()], dtype=np.object_)),
        "moment": ("BYTES", np.array([b"2013-10-01T12:00:00Z"], dtype=np.object_)),
    }
    inputs = []
    for name, (datatype, values) in given.items():
        one = triton.InferInput(name, [1], datatype)
        # tritonclient has no JSON form of FP16
        one.set_data_from_numpy(values, binary_data=binary or datatype == "FP16")
        inputs.append(one)
    client_of(running).infer("delays", inputs, headers=token())
    assert asked_row(running) == {
        "a": 0.5, "b": 200, "c": True, "word": "فلج", "moment": "2013-10-01T12:00:00Z",
    }  # fmt: skip


def test_a_matrix_gives_whole_numbers_and_truths_to_fields_that_take_them(
    running: Running,
) -> None:
    running.activate(make_release(fields=EVERY_TYPE[:3]))
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [[0.5, 7, 1]]}
    assert infer(running, {"inputs": [tensor]}).status_code == 200
    assert asked_row(running) == {"a": 0.5, "b": 7, "c": True}
    for row, says in (([0.5, 7.5, 1], "whole numbers"), ([0.5, 7, 2], "0 or 1")):
        refused = infer(running, {"inputs": [{**tensor, "data": row}]})
        assert (refused.status_code, says in refused.json()["error"]) == (400, True)


def test_a_raw_nan_is_a_missing_value_where_that_is_allowed(running: Running) -> None:
    running.activate(make_release(fields=EVERY_TYPE[:3]))
    rows = np.array([[np.nan, 1, 0]], dtype=np.float32)
    client = client_of(running)
    client.infer("delays", matrix(rows), headers=token())
    assert asked_row(running)["a"] is None
    for row in ([np.inf, 1, 0], [0, np.nan, 0]):
        with pytest.raises(InferenceServerException, match=r"infinite|NaN") as refused:
            client.infer("delays", matrix(np.array([row], dtype=np.float32)), headers=token())
        assert refused.value.status() == "400"


def test_a_split_endpoint_tells_which_version_scored_and_refuses_to_be_told(
    running: Running,
) -> None:
    variants = (
        Variant(model="delay", version=1, bundle="sha256:a", share=0.5),
        Variant(name="challenger", model="delay", version=2, bundle="sha256:b", share=0.5),
    )
    running.activate(make_release(variants=variants, unit="a"))
    rows = some_rows(40)
    client = client_of(running)
    outputs = [triton.InferRequestedOutput(name) for name in ("score", "model")]
    answer = client.infer("delays", matrix(rows), outputs=outputs, headers=token())
    assert answer.get_response()["model_version"] == "1,2"
    models = answer.as_numpy("model")
    for seed, label in enumerate((b"delay/1", b"delay/2")):
        mine = models == label
        assert 0 < mine.sum() < 40
        assert answer.as_numpy("score")[mine] == pytest.approx(expected(rows[mine], seed), abs=1e-6)
    with pytest.raises(InferenceServerException, match="shared by the versions 1, 2"):
        client.infer("delays", matrix(rows), model_version="2", headers=token())


def test_who_may_not_ask_is_told_so_in_the_protocols_shape(running: Running) -> None:
    running.activate(make_release())
    body = {"inputs": []}
    for headers, status in (({}, 401), ({"authorization": "Bearer nobody"}, 401)):
        for path in ("/v2/models/delays/infer", "/v2/models/delays", "/v2"):
            method = "POST" if path.endswith("infer") else "GET"
            answer = running.client.request(method, path, headers=headers, json=body)
            assert answer.status_code == status
            assert set(answer.json()) == {"error"}
    running.refused |= {"user:eve endpoints.predict"}
    headers = {"authorization": "Bearer user:eve"}
    for path in ("/v2/models/delays/ready", "/v2/models/delays"):
        assert running.client.get(path, headers=headers).status_code == 403
    assert infer(running, body, **headers).status_code == 403
    running.refused |= {"user:zoe endpoints.predict", "user:zoe assets.get"}
    assert infer(running, body, authorization="Bearer user:zoe").status_code == 404


def test_the_worker_counts_requests_of_every_protocol(running: Running) -> None:
    running.activate(make_release())
    client = client_of(running)
    client.infer("delays", matrix(some_rows(5)), headers=token())
    infer(running, b"{")
    traffic = running.meters.traffic("delays")
    assert (traffic.requests, traffic.predictions, traffic.refused) == (2, 5, 1)


def test_a_worker_that_is_not_ready_says_so(running: Running) -> None:
    running.bundles.models["sha256:bad"] = ValueError("no")
    running.spools.broken = True
    running.activate(make_release(durability="request"))
    assert infer(running, {"inputs": [ONE]}).status_code == 503
    answer = running.client.get("/v2/health/ready")
    assert (answer.status_code, set(answer.json())) == (503, {"error"})
    assert running.client.get("/v2/health/live").status_code == 200


ONE = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
"""A whole tensor; the hostile ones differ from it in one thing."""


def having(**values: Any) -> dict[str, Any]:
    return {"inputs": [{**ONE, **values}]}


def per_field(**values: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": "FP32", "data": [1.5]} | values
            for name in NAMES
        ]
    }


HOSTILE_JSON = {
    "no inputs": {"inputs": []},
    "inputs are null": {"inputs": None},
    "a list": [],
    "a zero side": having(shape=[0, 3], data=[]),
    "a negative side": having(shape=[-1, -3]),
    "sides whose product overflows": having(shape=[2**31 - 1, 2**31 - 1]),
    "a side beyond 64 bits": having(shape=[2**70, 3]),
    "a fraction as a side": having(shape=[1.5, 3]),
    "three sides": having(shape=[1, 1, 3]),
    "no sides": having(shape=[]),
    "a thousand sides": having(shape=[1] * 1000),
    "fewer values than the shape says": having(shape=[2, 3]),
    "more values than the shape says": having(data=[1, 2, 3, 4]),
    "rows of unequal length": having(shape=[2, 3], data=[[1, 2, 3], [4, 5]]),
    "deeper than the shape": having(data=[[[1, 2, 3]]]),
    "too wide": having(shape=[1, 4], data=[1, 2, 3, 4]),
    "an unknown datatype": having(datatype="FP8"),
    "a datatype of 10,000 letters": having(datatype="F" * 10_000),
    "texts for numbers": having(data=["1", "2", "3"]),
    "truths for numbers": having(data=[True, False, True]),
    "an object for data": having(data={"0": 1}),
    "no data": {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]},
    "a number beyond its datatype": having(datatype="INT8", data=[1, 2, 300]),
    "a number beyond the model's": having(datatype="FP64", data=[1, 2, 1e300]),
    "a whole number of 400 digits": having(datatype="INT64", data=[1, 2, 10**400]),
    "beyond signed 64 bits": per_field(datatype="UINT64", data=[2**64 - 1]) | {"id": "x" * 201},
    "a null where none may be": having(data=[1, 2, None]),
    "an unknown field": per_field(name="z"),
    "a tensor twice": {"inputs": per_field()["inputs"][:2] + per_field()["inputs"][1:2]},
    "columns of unequal length": {
        "inputs": [*per_field()["inputs"][:2],
                   {"name": "c", "shape": [2], "datatype": "FP32", "data": [1, 2]}],
    },
    "a field too few": {"inputs": per_field()["inputs"][:2]},
    "more tensors than fields": {"inputs": [ONE] * 5_000},
    "an unknown output": having() | {"outputs": [{"name": "y"}]},
    "an output twice": having() | {"outputs": [{"name": "score"}] * 2},
    "a thousand outputs": having() | {"outputs": [{"name": "score"}] * 1000},
    "classification": having()
    | {"outputs": [{"name": "score", "parameters": {"classification": 3}}]},
    "shared memory": having(parameters={"shared_memory_region": "r"}),
    "a size that is none": having(parameters={"binary_data_size": "12"}),
    "data and a size": having(parameters={"binary_data_size": 12}),
    "an instant that is none": having() | {"parameters": {"at": "soon"}},
    "an instant that is a number": having() | {"parameters": {"at": 12}},
    "a truth that is none": having() | {"parameters": {"binary_data_output": 1}},
}  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_a_hostile_inference_request_is_refused_and_the_worker_lives(
    hardened: Running, body: Any
) -> None:
    answer = infer(hardened, body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert infer(hardened, having()).status_code == 200


RAW = np.array([1, 2, 3], dtype="<f4").tobytes()


def with_raw(raw: bytes, size: Any, head: Any = None, **values: Any) -> tuple[bytes, bytes]:
    one = {**ONE, "parameters": {"binary_data_size": size}, **values}
    del one["data"]
    document = json.dumps({"inputs": [one]}).encode()
    return document + raw, b"%d" % len(document) if head is None else head


HOSTILE_RAW = {
    "truncated": with_raw(RAW[:-1], 12),
    "nothing": with_raw(b"", 12),
    "bytes of no tensor": with_raw(RAW + b"x", 12),
    "a size below the shape": with_raw(RAW[:8], 8),
    "a negative size": with_raw(RAW, -12),
    "a size beyond 64 bits": with_raw(RAW, 2**70),
    "a fraction": with_raw(RAW, 12.5),
    "the header longer than the body": with_raw(RAW, 12, b"1000000"),
    "the header negative": with_raw(RAW, 12, b"-1"),
    "the header no number": with_raw(RAW, 12, b"0x10"),
    "the header of 1,000 digits": with_raw(RAW, 12, b"9" * 1000),
    "the header too short": with_raw(RAW, 12, b"10"),
    "the header zero": with_raw(RAW, 12, b"0"),
    "the header empty": with_raw(RAW, 12, b""),
    "a shape that overflows": with_raw(RAW, 12, shape=[2**31 - 1, 2**31 - 1]),
    "infinity": with_raw(np.array([1, np.inf, 3], dtype="<f4").tobytes(), 12),
    "nan": with_raw(np.array([1, np.nan, 3], dtype="<f4").tobytes(), 12),
    "texts whose length lies": with_raw(
        b"\xff\xff\xff\x7fa", 5, datatype="BYTES", shape=[1], name="a"
    ),
    "fewer texts than the shape": with_raw(
        b"\x01\0\0\0a", 5, datatype="BYTES", shape=[2**31 - 1], name="a"
    ),
    "more texts than the shape": with_raw(
        b"\x01\0\0\0a\0\0\0\0", 9, datatype="BYTES", shape=[1], name="a"
    ),
    "a text cut in its length": with_raw(b"\x01\0", 2, datatype="BYTES", shape=[1], name="a"),
    "a text that is no utf-8": with_raw(
        b"\x01\0\0\0\xff", 5, datatype="BYTES", shape=[1], name="a"
    ),
    "a truth that is neither": with_raw(b"\x02", 1, datatype="BOOL", shape=[1], name="a"),
}


@pytest.mark.parametrize(("body", "head"), HOSTILE_RAW.values(), ids=HOSTILE_RAW.keys())
def test_hostile_raw_sections_are_refused_and_the_worker_lives(
    hardened: Running, body: bytes, head: bytes
) -> None:
    answer = infer(hardened, body, **{"inference-header-content-length": head.decode()})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert infer(hardened, having()).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"inputs": ' + b"[" * 200_000, "Expected"),
        (b'{"inputs": [{"name": "x", "x": ' + b"[" * 200_000, "deep"),
        (b'{"inputs": [{"name":"x","shape":[1,3],"datatype":"FP32","data":' + b"[" * 100_000, ""),
        (b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN,1,2]}]}', ""),
        (b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1e999,1,2]}]}', ""),
        (b'{"inputs":[' + b",".join([b'{"name":"a","shape":[1],"datatype":"FP32"}'] * 15_000)
         + b"]}", "15000 tensors"),
        (b"\x80\x04\x95.", ""),
        (b"", ""),
    ],
    ids=lambda value: f"{len(value)}",
)  # fmt: skip
def test_hostile_json_text_is_refused_and_the_worker_lives(
    hardened: Running, body: bytes, says: str
) -> None:
    answer = infer(hardened, body)
    assert answer.status_code == 400, answer.text
    assert says.lower() in answer.json()["error"].lower()
    assert infer(hardened, having()).status_code == 200


def test_limits_media_and_paths_are_refused_as_the_protocol_says(running: Running) -> None:
    running.activate(make_release(limits=Limits(rows=2, body_bytes=2_000)))
    too_many = having(shape=[3, 3], data=list(range(9)))
    assert infer(running, too_many).status_code == 413
    told = infer(running, b" " * 2_001)
    assert (told.status_code, set(told.json())) == (413, {"error"})
    for headers in (
        {"content-type": "application/x-python-pickle"},
        {"content-type": "application/x-pickle; a=application/json"},
        {"content-encoding": "gzip"},
        {"content-encoding": "deflate, gzip"},
    ):
        assert infer(running, having(), **headers).status_code == 415
    for method, path, status in (
        ("GET", "/v2/models/delays/infer", 405),
        ("POST", "/v2/models/delays", 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/delays/versions", 404),
        ("GET", "/v2/models/delays/versions/1/2/3", 404),
        ("GET", "/v2/models/delays/config", 404),
        ("GET", "/v2x", 404),
        ("GET", "/v2/models/delays/versions/9/ready", 400),
        ("POST", "/v2/models/delays/versions/9/infer", 400),
        ("POST", "/v2/models/%00/infer", 404),
        ("POST", "/v2/models/" + "x" * 500 + "/infer", 404),
    ):
        answer = running.client.request(
            method, path, headers=token(), content=json.dumps(having()).encode()
        )
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), path
    assert infer(running, having(), path="/v2/models/delays/versions/1/infer").status_code == 200


def test_categories_are_texts(running: Running) -> None:
    words = ServableModel("onnx", onnx_classifier(3, 0), NAMES, categories={"c": ("late", "early")})
    running.bundles.models["sha256:words"] = words
    fields = (
        *(RequestField(name=name, type=FieldType.FLOAT) for name in "ab"),
        RequestField(name="c", type=FieldType.STRING),
    )
    running.activate(make_release(bundle="sha256:words", fields=fields))
    body = per_field()
    body["inputs"][2] |= {"datatype": "BYTES", "data": ["early"]}
    answer = infer(running, body).json()
    assert answer["outputs"][0]["data"] == pytest.approx(
        list(expected([[1.5, 1.5, 1.0]])), abs=1e-6
    )
    refused = infer(running, having())
    assert (refused.status_code, "send a tensor for each" in refused.text) == (400, True)
