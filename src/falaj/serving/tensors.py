"""Tensors of the Open Inference Protocol, and the columns of fields that they stand for.

A request carries one tensor for each field ([n] or [n, 1]), or, where all fields are
numbers, one tensor over all of them in their order ([n, fields]). A tensor says of itself
how large it is; nothing is believed before it is checked against the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.clock import from_microseconds
from falaj.serving.anomalies import parameters
from falaj.serving.errors import BadRequest
from falaj.serving.model import FieldType, RequestField

if TYPE_CHECKING:
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Outcome, Parsed

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""How numbers stand in a raw section; texts are BYTES."""
BYTES = "BYTES"
DATATYPES = (*DTYPES, BYTES)
_INTEGERS = frozenset(name for name in DTYPES if "INT" in name)
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_NUMBERS = (FieldType.FLOAT, FieldType.INT, FieldType.BOOLEAN)
_TAKEN: Mapping[FieldType, frozenset[str]] = {
    FieldType.FLOAT: _FLOATS | _INTEGERS,
    FieldType.INT: _INTEGERS,
    FieldType.BOOLEAN: frozenset({"BOOL"}),
    FieldType.STRING: frozenset({BYTES}),
    FieldType.TIMESTAMP: frozenset({BYTES, "INT64"}),
}
TOLD: Mapping[FieldType, str] = {
    FieldType.FLOAT: "FP64",
    FieldType.INT: "INT64",
    FieldType.BOOLEAN: "BOOL",
    FieldType.STRING: BYTES,
    FieldType.TIMESTAMP: BYTES,
}
"""The datatype by which an endpoint's metadata names a field."""
PREDICTION_ID, MODEL = "prediction_id", "model"
"""Outputs of text that a request may ask for beside those of the release."""
_LONGEST_SIDE = 1 << 31
_HINT = "GET /v2/models/NAME tells the tensors that the endpoint takes."


@dataclass(slots=True)
class Tensor:
    """One input, decoded and checked: its values are as many as its shape says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """[n] or [n, k]; all positive."""
    values: NDArray[Any] | list[Any]
    """Flat, row by row; an array where they came as raw numbers."""


@dataclass(slots=True)
class Answered:
    """One output: an array of float64 [n], or n texts."""

    name: str
    values: NDArray[np.float64] | list[str]

    @property
    def datatype(self) -> str:
        """FP64 or BYTES."""
        return BYTES if isinstance(self.values, list) else "FP64"

    def raw(self) -> bytes:
        """The values as a raw section."""
        if isinstance(self.values, list):
            texts = [text.encode() for text in self.values]
            return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        return self.values.tobytes()


def wrong(message: str) -> BadRequest:
    """That a tensor is not what it says or not what the endpoint takes."""
    return BadRequest(message, hint=_HINT)


# ── what is asked ────────────────────────────────────────────────────────────────────


def checked_shape(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many values a tensor of this shape has.

    Raises:
        BadRequest: no such datatype, or not one or two positive sides.
    """
    if datatype not in DATATYPES:
        raise wrong(f"The tensor {name[:80]!r} has the unknown datatype {datatype[:40]!r}.")
    if len(shape) not in (1, 2) or not all(0 < side < _LONGEST_SIDE for side in shape):
        raise wrong(
            f"The tensor {name[:80]!r} has the shape {list(shape[:8])}; "
            "tensors here are [n] or [n, k] with positive sides."
        )
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]


def of_raw(name: str, datatype: str, shape: Sequence[int], raw: memoryview | bytes) -> Tensor:
    """A tensor from its raw section (little-endian numbers; texts with their length before).

    Raises:
        BadRequest: the section is not as long as the shape says, or a text is none.
    """
    n = checked_shape(name, datatype, shape)
    if datatype == BYTES:
        return Tensor(name, datatype, tuple(shape), _texts(name, bytes(raw), n))
    dtype = DTYPES[datatype]
    if len(raw) != n * dtype.itemsize:
        raise wrong(
            f"The tensor {name[:80]!r} has {len(raw)} bytes; {n} values of {datatype} "
            f"have {n * dtype.itemsize}."
        )
    values = np.frombuffer(raw, dtype)
    if datatype == "BOOL" and (values.view(np.uint8) > 1).any():
        raise wrong(f"The tensor {name[:80]!r} has a BOOL that is neither 0 nor 1.")
    return Tensor(name, datatype, tuple(shape), values)


def of_list(name: str, datatype: str, shape: Sequence[int], values: list[Any]) -> Tensor:
    """A tensor from plain values that are of its datatype already.

    Raises:
        BadRequest: there are not as many as the shape says.
    """
    n = checked_shape(name, datatype, shape)
    if len(values) != n:
        raise wrong(f"The tensor {name[:80]!r} has {len(values)} values; its shape says {n}.")
    return Tensor(name, datatype, tuple(shape), values)


def text_of(name: str, raw: bytes) -> str:
    """One element of BYTES as text; raises BadRequest if it is no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise wrong(f"The tensor {name[:80]!r} has a text that is no UTF-8.") from None


def _texts(name: str, raw: bytes, n: int) -> list[str]:
    found: list[str] = []
    place, end = 0, len(raw)
    while len(found) < n and place + 4 <= end:
        size = int.from_bytes(raw[place : place + 4], "little")
        place += 4
        if size > end - place:
            break
        found.append(text_of(name, raw[place : place + size]))
        place += size
    if len(found) != n or place != end:
        raise wrong(f"The lengths inside the tensor {name[:80]!r} do not fit its {n} texts.")
    return found


def parsed(
    plan: RequestPlan,
    tensors: Sequence[Tensor],
    *,
    caller: str,
    started: float,
    request_id: str | None,
    at_us: int | None,
) -> Parsed:
    """Hand a request of tensors to a plan.

    Raises:
        BadRequest, BodyTooLarge: the tensors are not what the endpoint takes.
    """
    matrix = _whole_matrix(plan, tensors)
    if matrix is not None:
        return plan.decoder.matrix(
            matrix, caller=caller, started=started, request_id=request_id, at_us=at_us
        )
    columns = columns_of(plan.release.fields, tensors)
    return plan.parse_columns(
        columns, caller=caller, started=started, request_id=request_id, at_us=at_us
    )


def _whole_matrix(plan: RequestPlan, tensors: Sequence[Tensor]) -> NDArray[Any] | None:
    """The fields of a request as one matrix, where plan and tensors allow it."""
    if not plan.decoder.takes_numbers or len(tensors) != 1:
        return None
    tensor = tensors[0]
    values = tensor.values
    if (
        len(tensor.shape) != 2
        or tensor.shape[1] != len(plan.decoder.names)
        or not isinstance(values, np.ndarray)
        or tensor.datatype not in ("FP32", "FP64")
        or not _is_matrix(tensor, dict.fromkeys(plan.decoder.names))
    ):
        return None
    return values.reshape(tensor.shape)


def columns_of(
    fields: Sequence[RequestField], tensors: Sequence[Tensor]
) -> dict[str, NDArray[Any] | list[Any]]:
    """The columns of a request, by field.

    Raises:
        BadRequest: a tensor is of no field, stands twice, or has a datatype, a shape or a
            value that its field does not take.
    """
    if not tensors:
        raise wrong("The request has no tensors.")
    known = {item.name: item for item in fields}
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2 and _is_matrix(first, known):
        return _columns_of_matrix(fields, first)
    columns: dict[str, NDArray[Any] | list[Any]] = {}
    for tensor in tensors:
        field = known.get(tensor.name)
        if field is None:
            raise wrong(f"There is no field for the tensor {tensor.name[:80]!r}.")
        if tensor.name in columns:
            raise wrong(f"The tensor {tensor.name!r} stands twice.")
        if len(tensor.shape) == 2 and tensor.shape[1] != 1:
            raise wrong(
                f"The tensor {tensor.name!r} has the shape {list(tensor.shape)}; "
                "the tensor of one field is [n] or [n, 1]."
            )
        if tensor.datatype not in _TAKEN[field.type]:
            raise wrong(
                f"The tensor {tensor.name!r} is {tensor.datatype}; the field is {field.type} and "
                f"takes {', '.join(sorted(_TAKEN[field.type]))}."
            )
        columns[tensor.name] = column_of(field, tensor.values)
    return columns


def _is_matrix(tensor: Tensor, known: Mapping[str, RequestField | None]) -> bool:
    return tensor.name not in known or tensor.shape[1] > 1


def _columns_of_matrix(
    fields: Sequence[RequestField], tensor: Tensor
) -> dict[str, NDArray[Any] | list[Any]]:
    n, width = tensor.shape
    texts = [item.name for item in fields if item.type not in _NUMBERS]
    if texts:
        raise wrong(
            f"The field {texts[0]!r} is no number, so the fields do not fit in one tensor; "
            "send a tensor for each."
        )
    if width != len(fields):
        names = ", ".join(item.name for item in fields)
        raise wrong(
            f"The tensor {tensor.name[:80]!r} has {width} columns; "
            f"the fields are {len(fields)}: {names[:400]}."
        )
    if tensor.datatype not in _FLOATS | _INTEGERS:
        raise wrong(f"A tensor over all fields is a number, not {tensor.datatype}.")
    values = tensor.values
    if isinstance(values, np.ndarray):
        # Copied into columns at once: a field's values then lie together.
        columns: list[Any] = list(np.ascontiguousarray(values.reshape(n, width).T))
        if all(item.type is FieldType.FLOAT for item in fields) and np.isfinite(values).all():
            return dict(zip((item.name for item in fields), columns, strict=True))
    else:
        columns = [values[place::width] for place in range(width)]
    return {item.name: _cast(item, column) for item, column in zip(fields, columns, strict=True)}


def _cast(field: RequestField, values: NDArray[Any] | list[Any]) -> NDArray[Any] | list[Any]:
    """A column of a matrix as its field's type: whole numbers, or 0 and 1, where it needs them."""
    if field.type is FieldType.FLOAT:
        return column_of(field, values)
    plain = column_of(field, values)
    listed = plain.tolist() if isinstance(plain, np.ndarray) else plain
    if field.type is FieldType.BOOLEAN:
        if any(value not in (0, 1, None) for value in listed):
            raise wrong(f"The field {field.name!r} takes 0 or 1.")
        return [None if value is None else bool(value) for value in listed]
    if any(value is not None and value != int(value) for value in listed):
        raise wrong(f"The field {field.name!r} takes whole numbers.")
    return [None if value is None else int(value) for value in listed]


def column_of(field: RequestField, values: NDArray[Any] | list[Any]) -> NDArray[Any] | list[Any]:
    """Values as their field takes them: NaN is null where null is allowed, and refused else.

    Raises:
        BadRequest: a value is infinite, or NaN where nothing may be missing; or an instant
            (whole numbers are Unix microseconds) is in no year.
    """
    if field.type is FieldType.TIMESTAMP:
        return _instants(field, values)
    if not isinstance(values, np.ndarray):
        if field.type is FieldType.FLOAT and any(one is not None and isnan(one) for one in values):
            return column_of(field, _without_null(values))
        return values
    if values.dtype.kind != "f":
        return values
    if np.isfinite(values).all():
        return values
    missing = np.isnan(values)
    if not np.isfinite(values[~missing]).all():
        raise wrong(f"The field {field.name!r} has an infinite value.")
    if field.required and not field.nullable:
        raise wrong(f"The field {field.name!r} has a NaN, and may not be missing.")
    return [
        None if gone else value
        for gone, value in zip(missing.tolist(), values.tolist(), strict=True)
    ]


def _without_null(values: list[Any]) -> NDArray[np.float64]:
    """Numbers with NaN in the place of null."""
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)


def _instants(field: RequestField, values: NDArray[Any] | list[Any]) -> list[Any]:
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    try:
        return [from_microseconds(one) if isinstance(one, int) else one for one in listed]
    except (OverflowError, ValueError):
        raise wrong(
            f"The field {field.name!r} has an instant that is in no year; "
            "INT64 are microseconds since 1970, UTC."
        ) from None


# ── what is answered ─────────────────────────────────────────────────────────────────


def checked_version(plan: RequestPlan, version: str) -> None:
    """Return if a request that names this model version may be answered by the plan.

    Raises:
        BadRequest: another version is active, or several share the endpoint.
    """
    if not version:
        return
    active = versions_of(plan)
    if active == [version]:
        return
    if version in active:
        raise wrong(
            f"{plan.release.endpoint!r} is shared by the versions {', '.join(active)}; "
            "which one answers is decided by the unit. Ask without a version."
        )
    raise wrong(
        f"The active version of {plan.release.endpoint!r} is {', '.join(active)}, "
        f"not {version[:40]!r}."
    )


def versions_of(plan: RequestPlan) -> list[str]:
    """The model versions of the active release that may answer; shadows never do."""
    return sorted({str(one.variant.version) for one in plan.variants}, key=int)


def chosen(plan: RequestPlan, names: Sequence[str]) -> list[str]:
    """The outputs that a request asked for, or all of the release if it named none.

    Raises:
        BadRequest: there is no such output, or it is named twice.
    """
    if not names:
        return list(plan.release.outputs)
    known = {*plan.release.outputs, PREDICTION_ID, MODEL}
    for name in names:
        if name not in known:
            raise wrong(f"There is no output {name[:80]!r}.")
    if len(set(names)) != len(names):
        raise wrong("An output is named twice.")
    return list(names)


def answered(plan: RequestPlan, names: Sequence[str], outcome: Outcome) -> list[Answered]:
    """The outputs of a request, in the order in which it named them."""
    given = plan.release.outputs
    told = []
    for name in names:
        if name in given:
            column = outcome.outputs[:, given.index(name)]
            told.append(Answered(name, np.ascontiguousarray(column, dtype="<f8")))
        else:
            told.append(Answered(name, outcome.ids if name == PREDICTION_ID else outcome.labels))
    return told


def facts_of(plan: RequestPlan, outcome: Outcome) -> dict[str, str]:
    """What an answer's parameters tell: the release, the models, the prediction ids, and the tags
    where the release has them."""
    models = sorted(set(outcome.labels))
    facts = {
        "release": plan.release.id,
        "model": ",".join(models),
        "prediction_ids": ",".join(outcome.ids),
    }
    return facts if outcome.judged is None else facts | parameters(outcome.judged)


def version_told(outcome: Outcome) -> str:
    """The version (or versions) that scored a request's rows."""
    found = {label.rpartition("/")[2] for label in set(outcome.labels)}
    return ",".join(sorted(found, key=int))
