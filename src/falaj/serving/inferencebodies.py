"""Bodies of the Open Inference Protocol over HTTP: JSON, with raw sections where it says so.

A request with the header ``Inference-Header-Content-Length`` is so many bytes of JSON, then
the raw values of each tensor with a ``binary_data_size``, one behind the other. Answers have
the same form for the outputs that were asked for as binary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from falaj.kernel.clock import microseconds
from falaj.serving.errors import UnsupportedMedia
from falaj.serving.front import Response
from falaj.serving.tensors import (
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
    version_told,
    wrong,
)

if TYPE_CHECKING:
    from falaj.serving.front import Told
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Outcome, Parsed

HEADER_LENGTH = b"inference-header-content-length"
_RAW_MEDIA = b"application/octet-stream"
_NESTED_START = re.compile(rb"\s*\[\s*\[")
_WRONG = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_Parameters = dict[str, Any]


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: Annotated[list[int], msgspec.Meta(max_length=8)]
    data: msgspec.Raw = msgspec.Raw()
    parameters: _Parameters | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: _Parameters | None = None


class _Request(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


_INT8 = Annotated[int, msgspec.Meta(ge=-(2**7), le=2**7 - 1)]
_ELEMENTS: dict[str, Any] = {
    "BOOL": bool,
    "INT8": _INT8,
    "INT16": Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "UINT8": Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, msgspec.Meta(ge=0)],
    "FP16": Annotated[float, msgspec.Meta(ge=-65504, le=65504)],
    "FP32": Annotated[float, msgspec.Meta(ge=-3.4028235e38, le=3.4028235e38)],
    "FP64": float,
    "BYTES": str,
}
_decode = msgspec.json.Decoder(_Request).decode


def _lists(nested: bool) -> dict[str, Callable[[bytes], list[Any]]]:
    """What decodes the data of each datatype: a flat list, or rows."""
    found: dict[str, Callable[[bytes], list[Any]]] = {}
    for name, kind in _ELEMENTS.items():
        of: Any = list[kind | None]  # type: ignore[valid-type]
        found[name] = msgspec.json.Decoder(list[of] if nested else of).decode
    return found


_FLAT, _NESTED = _lists(nested=False), _lists(nested=True)
_encode = msgspec.json.Encoder().encode
_INSTANT = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(slots=True)
class Wanted:
    """Which outputs a request asked for, and which of them as raw sections."""

    names: list[str]
    binary: frozenset[str]
    id: str | None


def request_of(
    plan: RequestPlan,
    body: bytes,
    header_length: bytes | None,
    *,
    version: str,
    caller: str,
    started: float,
) -> Parsed:
    """Decode a request; its answer will be in the same protocol.

    Args:
        plan: of the endpoint.
        body: JSON, or JSON and raw sections.
        header_length: the header of that name, if it was there.
        version: of the model, as the path names it; empty for whichever is active.

    Raises:
        BadRequest: it is not what the protocol or the endpoint takes.
        BodyTooLarge: more rows than the endpoint takes.
    """
    checked_version(plan, version)
    document, raw = _split(body, header_length)
    try:
        request = _decode(document)
    except _WRONG as error:
        raise wrong(f"The body is no inference request: {_told(error)}.") from None
    tensors = _tensors(plan, request.inputs, raw)
    parameters = request.parameters or {}
    wanted = _wanted(plan, request, parameters)
    found = parsed(
        plan,
        tensors,
        caller=caller,
        started=started,
        request_id=request.id or None,
        at_us=instant_of(parameters.get("at")),
    )

    def render(plan: RequestPlan, _request: Parsed, outcome: Outcome) -> Told:
        return _answer(plan, wanted, outcome)

    found.render = render
    return found


def instant_of(value: Any) -> int | None:
    """The instant that a parameter names (RFC 3339), in Unix microseconds; None for none."""
    if value is None:
        return None
    try:
        return microseconds(msgspec.convert(value, _INSTANT))
    except msgspec.MsgspecError as error:
        raise wrong(f"The parameter 'at' is no instant: {_told(error)}.") from None


def checked_media(media: bytes, encoding: bytes) -> None:
    """Return if a body of that content type and encoding is read.

    Raises:
        UnsupportedMedia: it is not.
    """
    kind = media.partition(b";")[0].strip().lower()
    if kind not in (b"", b"application/json", _RAW_MEDIA):
        raise UnsupportedMedia(
            f"Inference requests are JSON, with or without raw sections, "
            f"not {media.decode('latin-1')[:100]!r}.",
            hint="Send application/json, or application/octet-stream with "
            "Inference-Header-Content-Length.",
        )
    if encoding and encoding.lower() != b"identity":
        raise UnsupportedMedia(
            f"Bodies are not read in the encoding {encoding.decode('latin-1')[:40]!r}.",
            hint="Send the body as it is, uncompressed.",
        )


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes | memoryview, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    digits = header_length.strip()
    if not digits.isdigit() or len(digits) > 12 or int(digits) > len(body):
        raise wrong(
            f"Inference-Header-Content-Length is {header_length[:20].decode('latin-1')!r}; "
            f"the body has {len(body)} bytes."
        )
    view = memoryview(body)
    return view[: int(digits)], view[int(digits) :]


def _tensors(plan: RequestPlan, inputs: Sequence[_Input], raw: memoryview) -> list[Tensor]:
    if len(inputs) > len(plan.release.fields):
        raise wrong(f"{len(inputs)} tensors; the endpoint has {len(plan.release.fields)} fields.")
    place = 0
    found = []
    for one in inputs:
        size = _raw_size(one)
        if size is None:
            found.append(_of_json(one))
            continue
        if size > len(raw) - place:
            raise wrong(
                f"The body ends inside the raw values of {one.name[:80]!r}: "
                f"{len(raw) - place} bytes of {size} are there."
            )
        found.append(of_raw(one.name, one.datatype, one.shape, raw[place : place + size]))
        place += size
    if place != len(raw):
        raise wrong(f"{len(raw) - place} bytes of the body are of no tensor.")
    return found


def _raw_size(one: _Input) -> int | None:
    """The size of a tensor's raw section; None if its values stand in the JSON."""
    parameters = one.parameters
    if not parameters:
        return None
    if "shared_memory_region" in parameters:
        raise wrong("Tensors in shared memory are not read; send the values.")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise wrong(f"The binary_data_size of {one.name[:80]!r} is no size.")
    if bytes(one.data):
        raise wrong(f"The tensor {one.name[:80]!r} has both data and binary_data_size.")
    return size


def _of_json(one: _Input) -> Tensor:
    checked_shape(one.name, one.datatype, one.shape)
    data = bytes(one.data)
    nested = len(one.shape) == 2 and _NESTED_START.match(data) is not None
    try:
        values = (_NESTED if nested else _FLAT)[one.datatype](data)
    except _WRONG as error:
        raise wrong(
            f"The data of {one.name[:80]!r} are no list of {one.datatype}: {_told(error)}."
        ) from None
    if nested:
        n, width = one.shape
        if len(values) != n or any(len(row) != width for row in values):
            raise wrong(f"The data of {one.name[:80]!r} are not of the shape {one.shape}.")
        values = list(chain.from_iterable(values))
    if one.datatype == "UINT64" and any(value is not None and value >= 1 << 64 for value in values):
        raise wrong(f"The data of {one.name[:80]!r} are no UINT64.")
    return of_list(one.name, one.datatype, one.shape, values)


def _wanted(plan: RequestPlan, request: _Request, parameters: _Parameters) -> Wanted:
    outputs = request.outputs or []
    if len(outputs) > len(plan.release.outputs) + 2:
        raise wrong(f"{len(outputs)} outputs are asked for; there are fewer.")
    names = chosen(plan, [one.name for one in outputs])
    all_binary = _truth(parameters, "binary_data_output", default=False)
    if not outputs:
        return Wanted(names, frozenset(names) if all_binary else frozenset(), request.id)
    binary = set()
    for one in outputs:
        asked = one.parameters or {}
        if "shared_memory_region" in asked or "classification" in asked:
            raise wrong("Outputs are neither written to shared memory nor classified.")
        if _truth(asked, "binary_data", default=all_binary):
            binary.add(one.name)
    return Wanted(names, frozenset(binary), request.id)


def _truth(parameters: _Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise wrong(f"The parameter {name!r} is true or false.")
    return value


def _answer(plan: RequestPlan, wanted: Wanted, outcome: Outcome) -> Response:
    outputs: list[dict[str, Any]] = []
    sections: list[bytes] = []
    n = len(outcome.ids)
    for one in answered(plan, wanted.names, outcome):
        told: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": [n]}
        if one.name in wanted.binary:
            sections.append(one.raw())
            told["parameters"] = {"binary_data_size": len(sections[-1])}
        else:
            told["data"] = _plain(one)
        outputs.append(told)
    document: dict[str, Any] = {
        "model_name": plan.release.endpoint,
        "model_version": version_told(outcome),
        "parameters": facts_of(plan, outcome),
        "outputs": outputs,
    }
    if wanted.id is not None:
        document["id"] = wanted.id
    head = _encode(document)
    if not sections:
        return Response(head)
    more = {b"Inference-Header-Content-Length": b"%d" % len(head)}
    return Response(b"".join((head, *sections)), media=_RAW_MEDIA, more=more)


def _plain(one: Answered) -> list[Any]:
    if isinstance(one.values, list):
        return one.values
    return [value if isfinite(value) else None for value in one.values.tolist()]


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:300].rstrip(".")
