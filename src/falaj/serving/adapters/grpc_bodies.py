"""Requests and answers of inference over gRPC: protobuf messages from and to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.serving.adapters.grpc_messages import message
from falaj.serving.inferencebodies import instant_of
from falaj.serving.tensors import (
    BYTES,
    DTYPES,
    Answered,
    Tensor,
    answered,
    checked_shape,
    checked_version,
    chosen,
    facts_of,
    of_list,
    of_raw,
    parsed,
    text_of,
    version_told,
    wrong,
)

if TYPE_CHECKING:
    from falaj.serving.front import Told
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Outcome, Parsed

_LONGEST_ID = 200
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where the values of a datatype stand; FP16 has only its raw form."""


def decoded(name: str, data: bytes) -> Any:
    """A message from its bytes.

    Raises:
        BadRequest: they are none.
    """
    from google.protobuf.message import DecodeError

    try:
        return message(name).FromString(data)
    except DecodeError:
        raise wrong(f"The message is no {name}.") from None


def request_of(plan: RequestPlan, request: Any, *, caller: str, started: float) -> Parsed:
    """What a ``ModelInferRequest`` asks; its answer will be a ``ModelInferResponse``, in bytes.

    Raises:
        BadRequest: it is not what the protocol or the endpoint takes.
        BodyTooLarge: more rows than the endpoint takes.
    """
    checked_version(plan, request.model_version)
    if len(request.id) > _LONGEST_ID:
        raise wrong(f"The id has more than {_LONGEST_ID} characters.")
    raw = bool(request.raw_input_contents)
    tensors = _tensors(plan, request, raw=raw)
    if len(request.outputs) > len(plan.release.outputs) + 2:
        raise wrong(f"{len(request.outputs)} outputs are asked for; there are fewer.")
    for one in request.outputs:
        if "shared_memory_region" in one.parameters or "classification" in one.parameters:
            raise wrong("Outputs are neither written to shared memory nor classified.")
    names = chosen(plan, [one.name for one in request.outputs])
    at = request.parameters["at"].string_param if "at" in request.parameters else None
    found = parsed(
        plan,
        tensors,
        caller=caller,
        started=started,
        request_id=request.id or None,
        at_us=instant_of(at),
    )
    asked = request.id

    def render(plan: RequestPlan, _request: Parsed, outcome: Outcome) -> Told:
        return _answer(plan, names, asked, outcome, raw=raw)

    found.render = render
    return found


def _tensors(plan: RequestPlan, request: Any, *, raw: bool) -> list[Tensor]:
    inputs, sections = request.inputs, request.raw_input_contents
    if len(inputs) > len(plan.release.fields):
        raise wrong(f"{len(inputs)} tensors; the endpoint has {len(plan.release.fields)} fields.")
    if raw and len(sections) != len(inputs):
        raise wrong(f"{len(sections)} raw sections for {len(inputs)} tensors.")
    found = []
    for place, one in enumerate(inputs):
        if "shared_memory_region" in one.parameters:
            raise wrong("Tensors in shared memory are not read; send the values.")
        if not raw:
            found.append(_of_contents(one))
            continue
        if one.HasField("contents"):
            raise wrong(f"The tensor {one.name[:80]!r} has both contents and a raw section.")
        found.append(of_raw(one.name, one.datatype, one.shape, sections[place]))
    return found


def _of_contents(one: Any) -> Tensor:
    name, datatype, shape = one.name, one.datatype, tuple(one.shape)
    n = checked_shape(name, datatype, shape)
    where = _CONTENTS.get(datatype)
    if where is None:
        raise wrong(f"The tensor {name[:80]!r} is {datatype}, which comes as a raw section.")
    values = getattr(one.contents, where)
    if len(values) != n:
        raise wrong(
            f"The tensor {name[:80]!r} has {len(values)} values in {where}; its shape says {n}."
        )
    if datatype == BYTES:
        return of_list(name, datatype, shape, [text_of(name, value) for value in values])
    dtype = DTYPES[datatype]
    array = np.fromiter(values, np.int64 if where in _NARROW else dtype, n)
    if where in _NARROW:
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise wrong(f"The tensor {name[:80]!r} has a value that is no {datatype}.")
    return Tensor(name, datatype, shape, array)


_NARROW = ("int_contents", "uint_contents")
"""Fields of the protocol that are wider than some of the datatypes in them."""


def _answer(
    plan: RequestPlan, names: Sequence[str], asked: str, outcome: Outcome, *, raw: bool
) -> bytes:
    told = message("ModelInferResponse")(
        model_name=plan.release.endpoint, model_version=version_told(outcome), id=asked
    )
    for name, value in facts_of(plan, outcome).items():
        told.parameters[name].string_param = value
    for one in answered(plan, names, outcome):
        output = told.outputs.add(name=one.name, datatype=one.datatype, shape=[len(outcome.ids)])
        if raw:
            told.raw_output_contents.append(one.raw())
        else:
            _fill(output.contents, one)
    return bytes(told.SerializeToString())


def _fill(contents: Any, one: Answered) -> None:
    if isinstance(one.values, list):
        contents.bytes_contents.extend(text.encode() for text in one.values)
    else:
        contents.fp64_contents.extend(one.values.tolist())
