"""The messages of ``inference.GRPCInferenceService``, described here and built by protobuf.

The names and numbers are those of the Open Inference Protocol, version 2. They live in a
descriptor pool of their own, so that a client library in the same process may bring its own.
"""

from __future__ import annotations

import functools
from typing import Any

SERVICE = "inference.GRPCInferenceService"
_METADATA = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")}
_TENSOR: dict[str, tuple[int, str]] = {
    "name": (1, "string"),
    "datatype": (2, "string"),
    "shape": (3, "repeated int64"),
    "parameters": (4, "map InferParameter"),
    "contents": (5, "InferTensorContents"),
}
_NAMED = {"name": (1, "string"), "version": (2, "string")}
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, "repeated string"),
    },
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse.TensorMetadata": _METADATA,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "InferParameter": {
        "bool_param": (1, "oneof bool"),
        "int64_param": (2, "oneof int64"),
        "string_param": (3, "oneof string"),
        "double_param": (4, "oneof double"),
        "uint64_param": (5, "oneof uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, "map InferParameter"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "map InferParameter"),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "map InferParameter"),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelStreamInferResponse": {
        "error_message": (1, "string"),
        "infer_response": (2, "ModelInferResponse"),
    },
}
"""Each message's fields: number, and type as the protocol's own text writes it."""


@functools.cache
def message(name: str) -> Any:
    """The class of a message, by its name in ``MESSAGES``."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@functools.cache
def _pool() -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

    file = FileDescriptorProto(
        name="falaj/open_inference.proto", package="inference", syntax="proto3"
    )
    described: dict[str, Any] = {}
    for name in sorted(MESSAGES, key=lambda one: one.count(".")):
        outer, _, inner = name.rpartition(".")
        add = described[outer].nested_type.add if outer else file.message_type.add
        described[name] = add(name=inner)
    for name, fields in MESSAGES.items():
        for field, (number, told) in fields.items():
            _add_field(described[name], name, field, number, told)
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(within: Any, path: str, name: str, number: int, told: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    how, _, kind = told.rpartition(" ")
    field = within.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
    if how == "map":
        entry = within.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, path, "key", 1, "string")
        _add_field(entry, path, "value", 2, kind)
        how, kind = "repeated", f"{path}.{entry.name}"
    if how == "repeated":
        field.label = Field.LABEL_REPEATED
    if how == "oneof":
        if not within.oneof_decl:
            within.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[0].isupper():
        field.type, field.type_name = Field.TYPE_MESSAGE, f".inference.{kind}"
    else:
        field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
