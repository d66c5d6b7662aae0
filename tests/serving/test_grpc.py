"""The Open Inference Protocol over gRPC, as its clients speak it."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from falaj.kernel.clock import SystemClock
from falaj.models.isolation import IsolationForest, grown
from falaj.serving.adapters.grpc_messages import MESSAGES, message
from falaj.serving.adapters.grpc_openinference import GrpcInference
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.inference import InferenceApp
from falaj.serving.model import AnomalyPolicy, Durability, FieldType, Limits, RequestField
from falaj.serving.routing import RoutingTable
from falaj.testing.serving import (
    MemoryBundles,
    Running,
    make_release,
    onnx_classifier,
    servable,
    worker,
)
from falaj.trust.certificates import CertificateAuthority

TOKEN = {"authorization": "Bearer user:amina"}
METADATA = tuple(TOKEN.items())
MOST_BYTES = 3 << 20


class Pair:
    """A certificate that stays as it is."""

    generation = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def pair(self) -> tuple[bytes, bytes]:
        return self.path.read_bytes(), self.path.read_bytes()


@dataclass
class Worker:
    """A worker that listens for gRPC."""

    running: Running
    port: int
    stub: Any
    ca: Path | None = None
    certificate: Pair | None = None

    def infer(self, request: Any, metadata: Any = METADATA, timeout: float = 5) -> Any:
        return self.stub.ModelInfer(request, metadata=metadata, timeout=timeout)

    def refused(self, request: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as error:
            self.infer(request, **options)
        return error.value.code().name, error.value.details()


@contextmanager
def listening(folder: Path, *, secure: bool = False) -> Iterator[Worker]:
    table = RoutingTable(folder / "routing")
    bundles = MemoryBundles({"sha256:a": servable(0), "sha256:b": servable(1)})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None)
    made: list[GrpcInference] = []
    certificate, context, ca = None, None, None
    if secure:
        authority = CertificateAuthority(folder / "tls", clock=SystemClock())
        issued = authority.server_certificate(["localhost", "127.0.0.1"])
        certificate, ca = Pair(issued.path), issued.ca_path
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.path)

    def beside(app: InferenceApp) -> list[GrpcInference]:
        made.append(GrpcInference(app.asking, "127.0.0.1:0", certificate, most_bytes=MOST_BYTES))
        return made

    with worker(table, bundles, compiler, folder, beside=beside, context=context) as running:
        running.activate(make_release())
        with grpc.insecure_channel(f"127.0.0.1:{made[0].port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            yield Worker(running, made[0].port, stub, ca, certificate)
    table.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for the tests that leave it as it was; hostile ones must."""
    with listening(tmp_path_factory.mktemp("grpc")) as found:
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Worker]:
    with listening(tmp_path) as found:
        yield found


def expected(rows: Any, seed: int = 0) -> np.ndarray:
    session = ort.InferenceSession(onnx_classifier(3, seed))
    return session.run(None, {"input": np.asarray(rows, dtype=np.float32)})[1][:, 1]


def some_rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)


def matrix(rows: np.ndarray) -> list[Any]:
    one = triton.InferInput("input", list(rows.shape), "FP32")
    one.set_data_from_numpy(rows)
    return [one]


def one_row(**values: Any) -> Any:
    """A whole request; the hostile ones differ from it in one thing."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "contents": {}, **values}
    if not tensor["contents"]:
        tensor["contents"] = {"fp32_contents": [1, 2, 3]}
    return service_pb2.ModelInferRequest(model_name="delays", inputs=[tensor])


def raw_row(raw: bytes, **values: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], **values}
    return service_pb2.ModelInferRequest(
        model_name="delays", inputs=[tensor], raw_input_contents=[raw]
    )


def test_every_message_has_the_names_and_numbers_of_the_protocol() -> None:
    for name in MESSAGES:
        ours, theirs = message(name).DESCRIPTOR, service_pb2.DESCRIPTOR
        outer, _, inner = name.partition(".")
        theirs = theirs.message_types_by_name[outer]
        theirs = theirs.nested_types_by_name[inner] if inner else theirs
        assert ours.full_name == theirs.full_name

        def told(descriptor: Any) -> set[Any]:
            return {
                (field.name, field.number, field.type, field.is_repeated,
                 field.message_type.full_name if field.message_type else None)
                for field in descriptor.fields
            }  # fmt: skip

        assert told(ours) == told(theirs)


def test_tritonclient_asks_health_and_metadata(shared: Worker) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{shared.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("delays", headers=TOKEN)
        assert client.is_model_ready("delays", "1", headers=TOKEN)
        assert not client.is_model_ready("delays", "2", headers=TOKEN)
        assert not client.is_model_ready("nothing", headers=TOKEN)
        assert list(client.get_server_metadata(headers=TOKEN).extensions) == ["binary_tensor_data"]
        told = client.get_model_metadata("delays", headers=TOKEN)
        assert (told.name, list(told.versions), told.inputs[2].name) == ("delays", ["1"], "c")
        assert (told.outputs[0].datatype, list(told.outputs[0].shape)) == ("FP64", [-1])


def test_tritonclient_infers(shared: Worker) -> None:
    rows = some_rows(11)
    inputs = []
    for place, name in enumerate("abc"):
        one = triton.InferInput(name, [11, 1], "FP32")
        one.set_data_from_numpy(rows[:, place : place + 1].copy())
        inputs.append(one)
    outputs = [triton.InferRequestedOutput(name) for name in ("score", "prediction_id")]
    with triton.InferenceServerClient(f"127.0.0.1:{shared.port}") as client:
        for given in (inputs, matrix(rows)):
            answer = client.infer(
                "delays", given, outputs=outputs, request_id="r", model_version="1", headers=TOKEN
            )
            assert answer.as_numpy("score") == pytest.approx(expected(rows), abs=1e-6)
            told = answer.get_response()
            assert (told.id, told.model_name, told.model_version) == ("r", "delays", "1")
            ids = [one.decode() for one in answer.as_numpy("prediction_id")]
            assert told.parameters["prediction_ids"].string_param == ",".join(ids)
            assert told.parameters["release"].string_param == "release_1"


def test_the_tags_of_a_release_stand_in_the_parameters(alone: Worker) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    forest = grown(rows, n_trees=30, rows_per_tree=128, share=0.02, seed=1)
    alone.running.bundles.models["sha256:t"] = replace(servable(0), isolation=forest)
    alone.running.activate(
        make_release("release_t", bundle="sha256:t", anomalies=AnomalyPolicy.TAG)
    )
    asked = np.array([[0, 0, 0], [50, -50, 50]], np.float32)
    with triton.InferenceServerClient(f"127.0.0.1:{alone.port}") as client:
        told = client.infer("delays", matrix(asked), headers=TOKEN).get_response().parameters
    assert told["anomalous"].string_param == "false,true"
    wanted = IsolationForest.read(forest, 3).scores(asked)
    scores = told["anomaly_score"].string_param.split(",")
    assert [float(one) for one in scores] == wanted.tolist()


def test_tritonclient_streams_requests_and_hears_of_errors_in_their_order(
    shared: Worker,
) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{shared.port}") as client:
        client.start_stream(lambda result, error: heard.put((result, error)), headers=TOKEN)
        for n in (2, 3):
            client.async_stream_infer("delays", matrix(some_rows(n)))
        client.async_stream_infer("nothing", matrix(some_rows(2)))
        client.async_stream_infer("delays", matrix(some_rows(4)))
        for n in (2, 3, None, 4):
            result, error = heard.get(timeout=5)
            if n is None:
                assert "no endpoint 'nothing'" in str(error)
            else:
                assert result.as_numpy("score") == pytest.approx(expected(some_rows(n)), abs=1e-6)
        client.stop_stream()


def test_a_stream_without_a_token_is_ended(shared: Worker) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(shared.stub.ModelStreamInfer(iter([one_row()]), timeout=5))
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_contents_of_a_message_are_answered_by_contents(shared: Worker) -> None:
    answer = shared.infer(one_row())
    (output,) = answer.outputs
    assert list(output.contents.fp64_contents) == pytest.approx(
        list(expected([[1, 2, 3]])), abs=1e-6
    )
    assert not answer.raw_output_contents


def test_a_renewed_certificate_is_seen_by_new_connections_and_open_ones_go_on(
    tmp_path: Path,
) -> None:
    with listening(tmp_path, secure=True) as found:
        assert found.ca is not None and found.certificate is not None
        credentials = grpc.ssl_channel_credentials(found.ca.read_bytes())
        with grpc.secure_channel(f"localhost:{found.port}", credentials) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ModelInfer(one_row(), metadata=METADATA, timeout=5)
            before = ssl.get_server_certificate(("127.0.0.1", found.port))
            authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
            found.certificate.path = authority.server_certificate(["localhost"], file="new").path
            assert ssl.get_server_certificate(("127.0.0.1", found.port)) == before
            found.certificate.generation = 1
            after = ssl.get_server_certificate(("127.0.0.1", found.port))
            assert after != before
            assert after.strip() in found.certificate.path.read_text()
            stub.ModelInfer(one_row(), metadata=METADATA, timeout=5)


def test_clients_that_trust_our_authority_speak_over_tls(tmp_path: Path) -> None:
    with listening(tmp_path, secure=True) as found:
        assert found.ca is not None
        rows = some_rows(3)
        with triton.InferenceServerClient(
            f"127.0.0.1:{found.port}", ssl=True, root_certificates=str(found.ca)
        ) as client:
            answer = client.infer("delays", matrix(rows), headers=TOKEN)
            assert answer.as_numpy("score") == pytest.approx(expected(rows), abs=1e-6)
        with (
            triton.InferenceServerClient(f"127.0.0.1:{found.port}", ssl=True) as stranger,
            pytest.raises(InferenceServerException),
        ):
            stranger.is_server_live()
        with pytest.raises(grpc.RpcError):
            found.infer(one_row(), timeout=1)  # not over TLS
        http = tritonclient.http.InferenceServerClient(
            found.running.url.removeprefix("https://"),
            ssl=True,
            ssl_options={"ca_certs": str(found.ca)},
        )
        one = tritonclient.http.InferInput("input", [3, 3], "FP32")
        one.set_data_from_numpy(rows)
        told = http.infer("delays", [one], headers=dict(TOKEN))
        assert told.as_numpy("score") == pytest.approx(expected(rows), abs=1e-6)


def test_who_may_not_ask_is_told_so_by_a_status(alone: Worker) -> None:
    request = one_row()
    for metadata in ((), (("authorization", "Bearer nobody"),), METADATA + METADATA):
        assert alone.refused(request, metadata=metadata)[0] == "UNAUTHENTICATED"
        for call, asked in (
            (alone.stub.ServerMetadata, service_pb2.ServerMetadataRequest()),
            (alone.stub.ModelMetadata, service_pb2.ModelMetadataRequest(name="delays")),
            (alone.stub.ModelReady, service_pb2.ModelReadyRequest(name="delays")),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call(asked, metadata=metadata, timeout=5)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    alone.running.refused |= {"user:eve endpoints.predict"}
    eve = (("authorization", "Bearer user:eve"),)
    assert alone.refused(request, metadata=eve)[0] == "PERMISSION_DENIED"
    alone.running.refused |= {"user:zoe endpoints.predict", "user:zoe assets.get"}
    zoe = (("authorization", "Bearer user:zoe"),)
    code, told = alone.refused(request, metadata=zoe)
    assert code == "NOT_FOUND"
    request.model_name = "nothing"
    assert alone.refused(request)[1] == told.replace("delays", "nothing")


def test_calls_count_are_logged_and_bounded_as_those_of_http(alone: Worker) -> None:
    running = alone.running
    running.activate(make_release("release_2", limits=Limits(rows=2, body_bytes=2_000)))
    ids = alone.infer(one_row()).parameters["prediction_ids"].string_param
    code, told = alone.refused(one_row(shape=[3, 3], contents={"fp32_contents": [1.0] * 9}))
    assert (code, "3 rows" in told) == ("RESOURCE_EXHAUSTED", True)
    request = one_row()
    request.parameters["x"].string_param = "y" * 2_000
    assert alone.refused(request)[0] == "RESOURCE_EXHAUSTED"
    request.parameters["x"].string_param = "y" * MOST_BYTES
    assert alone.refused(request)[0] == "RESOURCE_EXHAUSTED"
    traffic = running.meters.traffic("delays")
    assert (traffic.predictions, traffic.refused) == (1, 2)
    running.activate(make_release("release_3", durability=Durability.REQUEST))
    alone.infer(one_row())
    rows = running.spools.rows("predictions_delays")
    assert ids in {row["prediction_id"] for row in rows}


def test_a_call_ends_at_its_deadline_and_gives_its_place_back(alone: Worker) -> None:
    running = alone.running
    limits = Limits(concurrency=1, deadline_seconds=5)
    running.activate(make_release("release_2", limits=limits, durability=Durability.REQUEST))
    alone.infer(one_row())
    running.spools.gate.clear()
    assert alone.refused(one_row(), timeout=0.3)[0] == "DEADLINE_EXCEEDED"
    code, told = alone.refused(one_row())
    assert (code, "its limit" in told) == ("UNAVAILABLE", True)
    running.spools.gate.set()
    for _ in range(50):
        try:
            alone.infer(one_row())
        except grpc.RpcError:
            continue
        break
    alone.infer(one_row())


def test_a_worker_answers_both_protocols_while_it_switches(alone: Worker) -> None:
    for number in range(2, 8):
        alone.running.activate(make_release(f"release_{number}"))
        told = alone.infer(one_row()).parameters["release"].string_param
        row = {"a": 1, "b": 2, "c": 3}
        plain = alone.running.predict({"inputs": [row]}).json()
        assert told == plain["release"] == f"release_{number}"


def test_an_absent_endpoint_is_not_found_by_metadata(shared: Worker) -> None:
    with pytest.raises(grpc.RpcError) as error:
        shared.stub.ModelMetadata(
            service_pb2.ModelMetadataRequest(name="nothing"), metadata=METADATA
        )
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert dict(error.value.trailing_metadata())["falaj-code"] == "not-found"


def altered(**values: Any) -> Any:
    request = one_row()
    for name, value in values.items():
        setattr(request, name, value)
    return request


def twice(request: Any) -> Any:
    request.inputs.append(request.inputs[0])
    return request


FLOATS = np.array([1, 2, 3], dtype="<f4").tobytes()
HOSTILE = {
    "nothing": service_pb2.ModelInferRequest(model_name="delays"),
    "another version": altered(model_version="7"),
    "a long id": altered(id="x" * 201),
    "a zero side": one_row(shape=[0, 3]),
    "a negative side": one_row(shape=[-1, 3]),
    "sides whose product overflows": one_row(shape=[2**62, 2**62]),
    "no sides": one_row(shape=[]),
    "a thousand sides": one_row(shape=[1] * 1000),
    "an unknown datatype": one_row(datatype="FP8"),
    "fp16 in contents": one_row(datatype="FP16"),
    "another datatype than the contents": one_row(datatype="INT32"),
    "too few values": one_row(shape=[2, 3]),
    "a value beyond its datatype": one_row(datatype="INT8", contents={"int_contents": [1, 2, 300]}),
    "infinity": one_row(contents={"fp32_contents": [1, 2, float("inf")]}),
    "nan": one_row(contents={"fp32_contents": [1, 2, float("nan")]}),
    "texts for numbers": one_row(datatype="BYTES", contents={"bytes_contents": [b"1"] * 3}),
    "texts that are no utf-8": one_row(
        name="a", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"\xff"]}
    ),
    "truncated": raw_row(FLOATS[:-1]),
    "too long": raw_row(FLOATS + b"x"),
    "a raw overflow": raw_row(FLOATS, shape=[2**31 - 1, 2**31 - 1]),
    "lengths that lie": raw_row(b"\xff\xff\xff\xffa", datatype="BYTES", shape=[1], name="a"),
    "contents and raw": service_pb2.ModelInferRequest(
        model_name="delays", inputs=one_row().inputs, raw_input_contents=[FLOATS]
    ),
    "more raw sections than tensors": service_pb2.ModelInferRequest(
        model_name="delays", inputs=raw_row(FLOATS).inputs, raw_input_contents=[FLOATS] * 2
    ),
    "a tensor twice": twice(one_row(name="a", shape=[1], contents={"fp32_contents": [1]})),
    "a million tensors": service_pb2.ModelInferRequest.FromString(
        one_row().SerializeToString() + b"\x2a\x00" * 500_000
    ),
    "an unknown output": service_pb2.ModelInferRequest(
        model_name="delays", inputs=one_row().inputs, outputs=[{"name": "y"}]
    ),
    "many outputs": service_pb2.ModelInferRequest(
        model_name="delays", inputs=one_row().inputs, outputs=[{"name": "score"}] * 9
    ),
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_request_is_refused_and_the_worker_lives(shared: Worker, request_: Any) -> None:
    code, told = shared.refused(request_)
    assert code == "INVALID_ARGUMENT", told
    shared.infer(one_row())


def test_bytes_that_are_no_message_are_refused_and_the_worker_lives(shared: Worker) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{shared.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x80\x04\x95", b"\x2b" * 5_000):
            with pytest.raises(grpc.RpcError) as error:
                call(data, metadata=METADATA, timeout=5)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        unknown = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")
        with pytest.raises(grpc.RpcError) as error:
            unknown(b"", metadata=METADATA, timeout=5)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    shared.infer(one_row())


def test_fields_of_text_come_as_bytes(alone: Worker) -> None:
    fields = (
        *(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
        RequestField(name="word", type=FieldType.STRING),
    )
    alone.running.activate(make_release("release_2", fields=fields, durability=Durability.REQUEST))
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "contents": {"fp64_contents": [0.5]}}
        for name in "abc"
    ]
    word = {"name": "word", "datatype": "BYTES", "shape": [1],
            "contents": {"bytes_contents": ["فلج".encode()]}}  # fmt: skip
    alone.infer(service_pb2.ModelInferRequest(model_name="delays", inputs=[*inputs, word]))
    (row,) = alone.running.spools.rows("predictions_delays")
    assert '"word":"فلج"' in row["fields"]
