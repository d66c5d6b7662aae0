"""gRPC calls in traces and in the access log, as requests over HTTP are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from falaj.kernel.settings import Settings
from falaj.serving.accesslog import AccessLog
from falaj.serving.adapters.grpc_openinference import GrpcInference
from falaj.serving.adapters.grpc_trails import client
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.inference import InferenceApp
from falaj.serving.meters import Meters
from falaj.serving.model import Durability
from falaj.serving.routing import RoutingTable
from falaj.serving.trails import Trails
from falaj.testing.collector import collecting, told
from falaj.testing.serving import MemoryBundles, Running, make_release, servable, worker
from falaj.wiring.traces import request_spans

METADATA = (("authorization", "Bearer user:amina"),)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = ("traceparent", f"00-{TRACE}-{PARENT}-01")
INFER = "inference.GRPCInferenceService/ModelInfer"


@contextmanager
def listening(
    folder: Path, trails: Callable[[Meters], Trails | None] = lambda _: None
) -> Iterator[tuple[Running, Any]]:
    table = RoutingTable(folder / "routing")
    bundles = MemoryBundles({"sha256:a": servable(0)})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None)
    companions: list[GrpcInference] = []
    made: list[Trails | None] = []

    def tracked(meters: Meters) -> Trails | None:
        made.append(trails(meters))
        return made[0]

    def beside(app: InferenceApp) -> list[GrpcInference]:
        companions.append(
            GrpcInference(app.asking, "127.0.0.1:0", None, most_bytes=1 << 20, trails=made[0])
        )
        return companions

    with worker(table, bundles, compiler, folder, beside=beside, trails=tracked) as running:
        running.activate(make_release())
        with grpc.insecure_channel(f"127.0.0.1:{companions[0].port}") as channel:
            yield running, service_pb2_grpc.GRPCInferenceServiceStub(channel)
    table.close()


def row(name: str = "delays", **values: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    tensor |= {"contents": {"fp32_contents": [1, 2, 3]}, **values}
    return service_pb2.ModelInferRequest(model_name=name, id="mine", inputs=[tensor])


def test_each_message_is_a_line_of_the_access_log_whatever_becomes_of_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def trails(meters: Meters) -> Trails:
        return Trails(access=AccessLog(str(path), dropped=meters.lines_dropped))

    with listening(tmp_path, trails) as (running, stub):
        answer = stub.ModelInfer(row(), metadata=(*METADATA, CONTEXT), timeout=5)
        stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
        for request, metadata in (
            (row(shape=[2, 3]), METADATA),
            (row(), (("authorization", "Bearer hush"),)),
        ):
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(request, metadata=metadata, timeout=5)
        list(stub.ModelStreamInfer(iter([row(), row("nothing")]), metadata=METADATA, timeout=5))
        running.activate(make_release("release_2", durability=Durability.REQUEST))
        running.spools.gate.clear()
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(row(), metadata=METADATA, timeout=0.6)
        until = time.monotonic() + 10
        while path.read_text().count("\n") < 7 and time.monotonic() < until:
            time.sleep(0.05)
        running.spools.gate.set()
    first, *others = [json.loads(line) for line in path.read_text().splitlines()]
    assert first.pop("time").endswith("Z")
    assert 0 < first.pop("duration_ms") < 10_000
    assert first == {
        "method": "POST",
        "path": f"/{INFER}",
        "status": 200,
        "bytes": answer.ByteSize(),
        "client": "127.0.0.1",
        "endpoint": "delays",
        "release": "release_1",
        "variant": "champion",
        "caller": "user:amina",
        "request_id": "mine",
        "trace_id": TRACE,
        "grpc_code": "OK",
    }
    shown = [
        (one["path"].rpartition("/")[2], one["status"], one["grpc_code"], one.get("error", ""))
        for one in others
    ]
    assert shown == [
        ("ServerLive", 200, "OK", ""),
        ("ModelInfer", 400, "INVALID_ARGUMENT", "bad-request"),
        ("ModelInfer", 401, "UNAUTHENTICATED", "unauthenticated"),
        ("ModelStreamInfer", 200, "OK", ""),
        ("ModelStreamInfer", 404, "NOT_FOUND", "not-found"),
        ("ModelInfer", 504, "DEADLINE_EXCEEDED", "deadline-exceeded"),
    ]
    assert not any(word in path.read_text() for word in ("hush", "Bearer"))


def test_a_sampled_call_is_a_span_within_its_senders_with_a_child_for_each_step(
    tmp_path: Path,
) -> None:
    with collecting() as collector:
        settings = Settings(traces=collector.url)

        def trails(meters: Meters) -> Trails:
            spans = request_spans(settings, "w0", dropped=meters.spans_dropped, secure=False)
            return Trails(spans=spans)

        with listening(tmp_path, trails) as (_, stub):
            _, call = stub.ModelInfer.with_call(row(), metadata=(*METADATA, CONTEXT), timeout=5)
            plain = stub.ModelInfer.with_call(row(), metadata=METADATA, timeout=5)[1]
            with pytest.raises(grpc.RpcError) as error:
                stub.ModelInfer(row("nothing"), metadata=(*METADATA, CONTEXT), timeout=5)
            span, failed = collector.named(INFER, n=2)
    trailing = dict(call.trailing_metadata())
    assert trailing["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert "traceparent" not in dict(plain.trailing_metadata())
    refused = dict(error.value.trailing_metadata())
    assert refused["falaj-code"] == "not-found"
    assert refused["traceparent"] == f"00-{TRACE}-{failed.span_id.hex()}-01"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == 2  # SERVER
    facts = told(span)
    assert {
        "rpc.system.name": "grpc",
        "rpc.method": INFER,
        "rpc.response.status_code": "OK",
        "client.address": "127.0.0.1",
        "enduser.id": "user:amina",
        "falaj.endpoint": "delays",
        "falaj.release": "release_1",
        "falaj.request_id": "mine",
        "falaj.rows": 1,
    }.items() <= facts.items()
    assert not any(name.startswith("url.") for name in facts)
    steps = [one.name for one in collector.spans if one.parent_span_id == span.span_id]
    assert steps == ["parse", "queue", "features", "model", "answer", "log"]
    assert told(failed)["rpc.response.status_code"] == "NOT_FOUND"
    assert told(failed)["error.type"] == "not-found"
    assert "Bearer" not in str(collector.spans)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:51000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:51000", "::1"),
        ("ipv6:[2001:db8::7]:51000", "2001:db8::7"),
        ("unix:/run/falaj", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_address_of_a_client_is_read_from_what_grpc_says_of_it(peer: str, address: str) -> None:
    assert client(peer) == address
