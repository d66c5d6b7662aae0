"""Features of the past, as the request plan needs them: from the lake, each row at its instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from falaj.features.columns import arrow_type
from falaj.features.plan import ServicePlan
from falaj.features.types import is_fixed_width
from falaj.kernel.errors import InvalidInput
from falaj.serving.model import FeatureStatus, RequestField

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.features.offline import Offline

AT = "_falaj_at"
"""The spine's column of instants; no request field can have this name."""


class HistoricalReader:
    """Reads the vectors of one service point-in-time; fulfils ``ports.FeatureReader``.

    What was recorded after a row's instant is invisible to it. Statuses are ``PRESENT`` or
    ``NULL``, event times 0: the point-in-time join does not tell more.
    """

    def __init__(
        self,
        plan: ServicePlan,
        offline: Offline,
        snapshot: int,
        pins: Mapping[str, str],
        categories: Mapping[str, Sequence[str]],
    ) -> None:
        self._plan = plan
        self._offline = offline
        self._snapshot = snapshot
        self._pins = pins
        self._categories = categories
        self.names = tuple(plan.outputs)
        self.asks_nothing = not (plan.views or plan.on_demand or plan.defaults)
        self._types = {name: arrow_type(dtype) for name, dtype in plan.request_fields.items()}
        for use in plan.views:
            for column, dtype in zip(use.key_columns, use.plan.keys.values(), strict=True):
                self._types.setdefault(column, arrow_type(dtype))

    def read(
        self, rows: Sequence[Any], at_us: int | NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]:
        """The vectors as numbers; see ``ports.FeatureReader.read``."""
        n = len(rows)
        at = np.full(n, at_us, np.int64) if isinstance(at_us, int) else at_us
        try:
            columns = {
                name: pa.array([getattr(row, name, None) for row in rows], kind)
                for name, kind in self._types.items()
            }
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InvalidInput(
                f"A key or a request field has the wrong type: {error}.",
                hint="Give the declared types.",
            ) from None
        spine = pa.table({**columns, AT: pa.array(at).cast(pa.timestamp("us", tz="UTC"))})
        frame = self._offline.frame(
            spine, self._plan, timestamp=AT, snapshot=self._snapshot, pins=self._pins
        )
        matrix = np.full((n, len(self.names)), np.nan, np.float32)
        statuses = np.zeros((n, len(self.names)), np.uint8)
        for place, name in enumerate(self.names):
            column = frame.column(name)
            absent = pc.is_null(column).to_numpy()
            statuses[absent, place] = FeatureStatus.NULL
            if name in self._categories:
                words = {word: number for number, word in enumerate(self._categories[name])}
                matrix[:, place] = [
                    np.nan if word is None else words.get(str(word), np.nan)
                    for word in column.to_pylist()
                ]
            elif is_fixed_width(self._plan.outputs[name]):
                matrix[:, place] = _numbers(column)
        return matrix, statuses, np.zeros(matrix.shape, np.int64)


class HistoricalFeatures:
    """Compiles readers of the past; fulfils ``ports.FeatureReaders`` for batch scoring.

    Args:
        offline: the offline execution.
        snapshot: of the lake; every row is answered from it.
        pins: the versions of foreign tables to read.
    """

    def __init__(
        self, offline: Offline, snapshot: int, pins: Mapping[str, str] | None = None
    ) -> None:
        self._offline = offline
        self._snapshot = snapshot
        self._pins = pins or {}

    def compile(
        self, document: Mapping[str, Any], categories: Mapping[str, Sequence[str]]
    ) -> HistoricalReader:
        """A reader; see ``ports.FeatureReaders.compile``."""
        plan = ServicePlan.from_documents(document["definitions"])
        return HistoricalReader(plan, self._offline, self._snapshot, self._pins, categories)

    def describe(
        self, connection: Connection, service: str
    ) -> tuple[dict[str, Any], tuple[RequestField, ...]]:
        """Releases are made from what stands online; raises InvalidInput."""
        raise InvalidInput(
            f"A release cannot be made from the past of {service!r}.",
            hint="Deploy it as it stands now.",
        )


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as float64, NaN where it is null; instants as Unix microseconds."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers
