"""Many points of metrics as columns: what a call logs, and what a history gives.

A thousand points as objects cost more than all else that is done to keep them, so that they
travel as three arrays. ``Points`` is a type that an action can take and give: in JSON it is a
list of ``MetricPoint`` on the way in (or its columns), and columns on the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from falaj.kernel.actions import Recorded
from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.kernel.numbers import written
from falaj.training.model import MetricPoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Reals = NDArray[np.float64]

POINT_BYTES = 24


@dataclass(frozen=True, slots=True, eq=False)
class Points(Recorded):
    """Points of one metric or several, those of one metric together and in order of logging.

    Attributes:
        keys: each metric once, with how many of the points are its.
        steps, at, values: one element for each point; ``at`` in Unix microseconds.
    """

    keys: Mapping[str, int]
    steps: Integers
    at: Integers
    values: Reals

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        steps: Sequence[int],
        at: Sequence[int],
        values: Sequence[float],
    ) -> Self:
        """Points from columns in any order.

        Raises:
            InvalidInput: the columns are not equally long, or a number does not fit 64 bits.
        """
        import numpy as np

        if not len(names) == len(steps) == len(at) == len(values):
            raise InvalidInput("The columns of metric points are not equally long.")
        try:
            columns = np.array(steps, np.int64), np.array(at, np.int64)
            reals = np.array(values, np.float64)
        except (OverflowError, ValueError, TypeError):
            raise InvalidInput(
                "A step or an instant of a metric point does not fit 64 bits.",
                hint="Steps are whole numbers between -2^63 and 2^63 - 1.",
            ) from None
        counts: dict[str, int] = {}
        for name in names:
            counts[name] = counts.get(name, 0) + 1
        if len(counts) > 1:
            places = {name: place for place, name in enumerate(counts)}
            order = np.argsort(np.array([places[name] for name in names]), kind="stable")
            columns, reals = (columns[0][order], columns[1][order]), reals[order]
        return cls(counts, *columns, reals)

    @classmethod
    def of_points(cls, points: Iterable[MetricPoint], now: datetime) -> Self:
        """Points from objects; those without an instant were measured ``now``."""
        listed, present = list(points), microseconds(now)
        return cls.of(
            [point.key for point in listed],
            [point.step for point in listed],
            [present if point.at is None else microseconds(point.at) for point in listed],
            [point.value for point in listed],
        )

    @classmethod
    def unpacked(cls, keys: Mapping[str, int], data: bytes) -> Self:
        """What ``packed`` wrote; raises Corrupt if the lengths do not agree."""
        import numpy as np

        n = sum(keys.values())
        if len(data) != n * POINT_BYTES:
            raise Corrupt(
                f"Packed points of metrics have {len(data)} bytes instead of {n * POINT_BYTES}.",
                hint="Restore the metadata database from a backup.",
            )
        steps = np.frombuffer(data, "<i8", n)
        at = np.frombuffer(data, "<i8", n, 8 * n)
        return cls(keys, steps, at, np.frombuffer(data, "<f8", n, 16 * n))

    def packed(self) -> bytes:
        """The three columns one after the other, little-endian, 8 bytes for each element."""
        return (
            self.steps.astype("<i8", copy=False).tobytes()
            + self.at.astype("<i8", copy=False).tobytes()
            + self.values.astype("<f8", copy=False).tobytes()
        )

    def __len__(self) -> int:
        return len(self.values)

    def parts(self) -> Iterable[tuple[str, Points]]:
        """The points of each metric by themselves."""
        start = 0
        for key, n in self.keys.items():
            end = start + n
            part = slice(start, end)
            yield key, Points({key: n}, self.steps[part], self.at[part], self.values[part])
            start = end

    def last(self) -> list[tuple[str, int, int, float]]:
        """Of each metric: key, step, instant and value of its greatest (step, instant).

        Of points that share both, the one that was logged last.
        """
        found = []
        start = 0
        steps, at, values = self.steps.tolist(), self.at.tolist(), self.values.tolist()
        for key, n in self.keys.items():
            best = start
            for place in range(start + 1, start + n):
                if (steps[place], at[place]) >= (steps[best], at[best]):
                    best = place
            found.append((key, steps[best], at[best], values[best]))
            start += n
        return found

    def objects(self) -> list[MetricPoint]:
        """The points as objects."""
        return [
            MetricPoint(key=key, value=value, step=step, at=from_microseconds(at))
            for key, part in self.parts()
            for step, at, value in zip(
                part.steps.tolist(), part.at.tolist(), part.values.tolist(), strict=True
            )
        ]

    def recorded(self) -> dict[str, Any]:
        """What the audit record keeps of them: how many, of how many metrics, and a digest."""
        digest = hashlib.sha256(json.dumps(dict(self.keys)).encode() + self.packed()).hexdigest()
        return {"n_points": len(self), "n_metrics": len(self.keys), "sha256": digest}

    def columns(self) -> dict[str, list[Any]]:
        """JSON-ready columns: ``key``, ``step``, ``at`` (Unix microseconds), ``value``."""
        return {
            "key": [key for key, n in self.keys.items() for _ in range(n)],
            "step": self.steps.tolist(),
            "at": self.at.tolist(),
            "value": [written(value) for value in self.values.tolist()],
        }

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        columns = core_schema.typed_dict_schema(
            {
                "key": core_schema.typed_dict_field(handler(list[str])),
                "step": core_schema.typed_dict_field(handler(list[int])),
                "at": core_schema.typed_dict_field(handler(list[int])),
                "value": core_schema.typed_dict_field(handler(list[float])),
            }
        )
        read = core_schema.no_info_after_validator_function(
            lambda given: cls.of(given["key"], given["step"], given["at"], given["value"]), columns
        )
        return core_schema.json_or_python_schema(
            json_schema=read,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), read], mode="left_to_right"
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.columns),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kinds = {"key": "string", "step": "integer", "at": "integer", "value": "number"}
        properties = {
            name: {"type": "array", "items": {"type": kind}} for name, kind in kinds.items()
        }
        return {"type": "object", "properties": properties, "required": list(kinds)}
