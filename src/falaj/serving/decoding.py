"""From a request's bytes or columns to checked rows: the decoder of one release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from math import isinf, isnan
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from falaj.kernel.clock import microseconds
from falaj.serving.errors import BadRequest, BodyTooLarge
from falaj.serving.explain import Explain
from falaj.serving.model import FieldType, Release, RequestField
from falaj.serving.predictions import NumberRows, Parsed

_FLOAT32_MAX = 3.4028234e38
TYPES: Mapping[FieldType, Any] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.STRING: Annotated[str, msgspec.Meta(max_length=4_096)],
    FieldType.BOOLEAN: bool,
    FieldType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
}
"""What a request field's value must be, as a request is decoded."""


class RequestDecoder:
    """Decodes and checks the requests of one release.

    Args:
        release: says the fields and the limits.
        numbers: True if its rows may stay one matrix (see ``NumberRows``): nothing but
            numbers goes from the request to the model.
        check_explained: raises if what is asked for (flags) cannot be told.
    """

    def __init__(
        self, release: Release, *, numbers: bool, check_explained: Callable[[int], None]
    ) -> None:
        self._endpoint = release.endpoint
        limits = self._limits = release.limits
        self._most_bytes, self._most_rows = limits.body_bytes, limits.rows
        self._seconds = limits.deadline_seconds
        self._fields = release.fields
        self._check_explained = check_explained
        self.row_type, self._decode = _decoder(release.fields)
        self.names = tuple(item.name for item in release.fields)
        self.takes_numbers = numbers and all(
            item.type is FieldType.FLOAT for item in release.fields
        )
        """True if ``matrix`` may be asked."""
        self._whole = np.array([item.required and not item.nullable for item in release.fields])
        self._instants = tuple(
            item.name for item in release.fields if item.type is FieldType.TIMESTAMP
        )

    def body(self, body: bytes, *, caller: str, started: float, explain: int = 0) -> Parsed:
        """Decode and check a body.

        Raises:
            NotExplained: contributions are asked for, and a variant cannot tell them.
            BadRequest: it is not JSON, or has a missing, unknown or wrongly typed field.
            BodyTooLarge: more rows than the endpoint takes.
        """
        if len(body) > self._most_bytes:
            raise BodyTooLarge(
                f"The body has {len(body)} bytes; {self._endpoint!r} takes "
                f"{self._limits.body_bytes}.",
                hint="Send the rows in several requests.",
            )
        if explain & (Explain.CONTRIBUTIONS | Explain.ANOMALY):
            self._check_explained(explain)
        try:
            decoded = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The body is not what {self._endpoint!r} takes: {_told(error)}.",
                hint=self._shape(),
            ) from None
        rows = decoded.inputs
        if not 0 < len(rows) <= self._most_rows:
            self._check_size(len(rows))
        at, at_us = decoded.at, None
        if at is not None:
            self._check_instant(at, "at")
            at_us = microseconds(at)
        if self._instants:
            self._check_instants(rows)
        deadline = started + self._seconds
        return Parsed(rows, decoded.request_id, at_us, explain, caller, started, deadline)

    def columns(
        self,
        columns: Mapping[str, Any],
        *,
        caller: str,
        started: float,
        request_id: str | None = None,
        at_us: int | None = None,
        explain: int = 0,
    ) -> Parsed:
        """Check a request that came as columns (V2 tensors, Arrow): the same rules as JSON.

        Args:
            columns: by field name, each a sequence of n plain values or a numpy array [n].

        Raises:
            BadRequest: a missing, unknown or wrongly typed field, or columns of unequal length.
            BodyTooLarge: more rows than the endpoint takes.
        """
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            told = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
            raise BadRequest(f"The columns are not of one length ({told}).", hint=self._shape())
        (n,) = lengths
        self._check_size(n)
        if self._are_numbers(columns):
            return self.matrix(
                np.stack([columns[name] for name in self.names], axis=1),
                caller=caller,
                started=started,
                request_id=request_id,
                at_us=at_us,
                explain=explain,
            )
        values = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]
        names = list(columns)
        try:
            rows = msgspec.convert(
                [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)],
                list[self.row_type],  # type: ignore[name-defined]
            )
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The rows are not what {self._endpoint!r} takes: {_told(error)}.",
                hint=self._shape(),
            ) from None
        self._check_instants(rows)
        deadline = started + self._seconds
        return Parsed(rows, request_id, at_us, explain, caller, started, deadline)

    def matrix(
        self,
        matrix: NDArray[Any],
        *,
        caller: str,
        started: float,
        request_id: str | None = None,
        at_us: int | None = None,
        explain: int = 0,
    ) -> Parsed:
        """Check a request that came as one matrix of numbers; only where ``takes_numbers``.

        Args:
            matrix: float32 or float64 [n, fields], in the order of the fields.

        Raises:
            BadRequest: another width, a number that is infinite or too large, or a NaN where
                nothing may be missing.
            BodyTooLarge: more rows than the endpoint takes.
        """
        self._check_size(len(matrix))
        if matrix.shape[1] != len(self.names):
            raise BadRequest(
                f"The rows have {matrix.shape[1]} numbers; {self._endpoint!r} takes "
                f"{len(self.names)}.",
                hint=self._shape(),
            )
        with np.errstate(invalid="ignore"):
            fine = np.abs(matrix) <= _FLOAT32_MAX
        if not fine.all():
            self._check_numbers(matrix, fine)
        deadline = started + self._seconds
        rows = NumberRows(self.names, matrix)
        return Parsed(rows, request_id, at_us, explain, caller, started, deadline)

    def _check_numbers(self, matrix: NDArray[Any], fine: NDArray[np.bool_]) -> None:
        """Raise for the first number that its field does not take."""
        wrong = np.argwhere(~fine & (~np.isnan(matrix) | self._whole)).tolist()
        if wrong:
            row, column = wrong[0]
            value, name = float(matrix[row, column]), self.names[column]
            if isnan(value):
                told = f"NaN or null in the field {name!r}, which may not be missing"
            elif isinf(value):
                told = f"an infinite value in the field {name!r}"
            else:
                told = f"{value!r} in the field {name!r}, which takes the numbers of a float32"
            raise BadRequest(f"Row {row} has {told}.", hint=self._shape())

    def _check_instants(self, rows: Sequence[Any]) -> None:
        """Raise for an instant that has no date in UTC: nothing behind could write it down."""
        for name in self._instants:
            for row in rows:
                value = getattr(row, name)
                if value is not None:
                    self._check_instant(value, name)

    def _check_instant(self, value: datetime, name: str) -> None:
        if value.year not in (MINYEAR, MAXYEAR):
            return
        try:
            value.astimezone(UTC)
        except OverflowError:
            raise BadRequest(
                f"The instant {value.isoformat()} in {name!r} has no date in UTC.",
                hint="Send an instant between the years 1 and 9999.",
            ) from None

    def _are_numbers(self, columns: Mapping[str, Any]) -> bool:
        return (
            self.takes_numbers
            and columns.keys() == set(self.names)
            and all(
                isinstance(column, np.ndarray) and column.dtype.kind == "f"
                for column in columns.values()
            )
        )

    def _check_size(self, n: int) -> None:
        if n > self._limits.rows:
            raise BodyTooLarge(
                f"{n} rows in one request; {self._endpoint!r} takes {self._limits.rows}.",
                hint="Send them in several requests.",
            )
        if n == 0:
            raise BadRequest("The body has no inputs.", hint=self._shape())

    def _shape(self) -> str:
        fields = ", ".join(
            f'"{item.name}": {item.type}{"" if item.required else " (optional)"}'
            for item in self._fields
        )
        return f'Send {{"inputs": [{{{fields}}}]}}.'


def _decoder(fields: tuple[RequestField, ...]) -> tuple[Any, Callable[[bytes], Any]]:
    """The type of an input row, and what decodes a body."""
    required: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    for item in fields:
        kind = TYPES[item.type]
        if item.required:
            required.append((item.name, kind | None if item.nullable else kind))
        else:
            optional.append((item.name, kind | None, None))
    row = msgspec.defstruct("Row", [*required, *optional], forbid_unknown_fields=True, gc=False)
    request = msgspec.defstruct(
        "Request",
        [
            ("inputs", list[row]),  # type: ignore[valid-type]
            ("request_id", Annotated[str, msgspec.Meta(max_length=200)] | None, None),
            ("at", TYPES[FieldType.TIMESTAMP] | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(request).decode
    return row, decode


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:300].rstrip(".")
