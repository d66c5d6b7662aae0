"""Vectors of the feature store, as the request plan needs them: one float32 matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.features.model import FeatureService
from falaj.features.online import OnlineReader
from falaj.features.plan import ServicePlan
from falaj.features.types import DType, is_fixed_width
from falaj.features.vectors import NO_TIME, PRESENT, Block, OnlineColumns
from falaj.kernel.errors import InvalidInput
from falaj.serving.model import FieldType, RequestField

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.features.ports import OnlineStore, Secrets
    from falaj.trust.subjectciphers import SubjectCiphers

_FIELD = {
    DType.BOOL: FieldType.BOOLEAN,
    DType.INT64: FieldType.INT,
    DType.FLOAT64: FieldType.FLOAT,
    DType.STRING: FieldType.STRING,
    DType.TIMESTAMP: FieldType.TIMESTAMP,
}
_NAN = float("nan")


class EncodedReader:
    """Reads the vectors of one service as numbers; fulfils ``ports.FeatureReader``."""

    def __init__(self, reader: OnlineReader, categories: Mapping[str, Sequence[str]]) -> None:
        self._reader = reader
        self.names = tuple(reader.names)
        plan = reader.plan
        self._needed = plan.spine_columns
        self._taken = attrgetter(*self._needed) if self._needed else None
        self.asks_nothing = not (plan.views or plan.on_demand or plan.defaults)
        outputs = plan.outputs
        self._words = [
            (place, name, {word: float(number) for number, word in enumerate(categories[name])})
            for place, name in enumerate(self.names)
            if name in categories
        ]
        self._numbers = [
            (place, name)
            for place, name in enumerate(self.names)
            if name not in categories and is_fixed_width(outputs[name])
        ]
        # What is neither a number nor read as a category is not for the model at all.
        self._filled = {name for name in self.names if name in reader.plan.defaults}
        views = [use.plan.name for use in reader.plan.views]
        own = [_view_of(name, views) for name in self.names]
        self._view_of = np.array([len(views) if v is None else views.index(v) for v in own])

    def read(
        self, rows: Sequence[Any], at_us: int | NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]:
        """The vectors as numbers; see ``ports.FeatureReader.read``."""
        found = self._found(rows, at_us)
        n, statuses = len(rows), found.statuses
        if isinstance(found.values, Block):
            # Not as the block is laid out: models take rows, one behind another.
            matrix = found.values.array.T.astype(np.float32, order="C")
        else:
            matrix = np.full((n, len(self.names)), np.nan, np.float32)
            absent = statuses != PRESENT
            some = absent.any(axis=0).tolist()
            for place, name in self._numbers:
                matrix[:, place] = found.values[name]
                if some[place] and name not in self._filled:
                    matrix[absent[:, place], place] = np.nan
            for place, name, words in self._words:
                column = found.lists_of(name, place)
                matrix[:, place] = [
                    _NAN if word is None else words.get(str(word), _NAN) for word in column
                ]
        times = np.zeros((n, found.event_times.shape[1] + 1), np.int64)
        times[:, :-1] = found.event_times
        times[times == NO_TIME] = 0
        return matrix, statuses, times.take(self._view_of, 1)

    def _found(self, rows: Sequence[Any], at_us: int | NDArray[np.int64]) -> OnlineColumns:
        needed, taken = self._needed, self._taken
        if taken is None:
            return self._reader.columns_of([{} for _ in rows], at_us)
        given: dict[str, Sequence[Any]]
        if len(needed) == 1:
            given = {needed[0]: list(map(taken, rows))}
        else:
            given = dict(zip(needed, zip(*map(taken, rows), strict=True), strict=True))
        try:
            return self._reader.columns(given, at_us)
        except InvalidInput:  # asked again by row, it tells which row is wrong
            named = zip(*given.values(), strict=True)
            by_row = [dict(zip(given, row, strict=True)) for row in named]
            return self._reader.columns_of(by_row, at_us)


def _view_of(column: str, views: Sequence[str]) -> str | None:
    """The view that a column comes from; the longest name that fits."""
    fitting = [view for view in views if column.startswith(f"{view}__")]
    return max(fitting, key=len) if fitting else None


class StoredFeatures:
    """Compiles readers on the online store; fulfils ``ports.FeatureReaders``.

    Args:
        store: the online store.
        secrets: opens the rows of personal and sensitive views.
        definitions: describe services when a release is made; a worker needs none.
        subjects: opens the rows of views with a subject.
    """

    def __init__(
        self,
        store: OnlineStore,
        secrets: Secrets,
        definitions: Definitions | None,
        subjects: SubjectCiphers | None = None,
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._definitions = definitions
        self._subjects = subjects

    def compile(
        self, document: Mapping[str, Any], categories: Mapping[str, Sequence[str]]
    ) -> EncodedReader:
        """A reader; see ``ports.FeatureReaders.compile``."""
        plan = ServicePlan.from_documents(document["definitions"])
        return EncodedReader(
            OnlineReader(plan, self._store, self._secrets, self._subjects), categories
        )

    def describe(
        self, connection: Connection, service: str
    ) -> tuple[dict[str, Any], tuple[RequestField, ...]]:
        """The document of a service and its request fields; see ``ports.FeatureReaders``."""
        access = _Applied(self._definitions, connection)
        plan = ServicePlan.of(access.service(service), access)
        return {"definitions": plan.documents()}, _fields(plan)


class _Applied:
    """The applied definitions, read in one transaction."""

    def __init__(self, definitions: Definitions | None, connection: Connection) -> None:
        if definitions is None:
            raise RuntimeError("this process compiles releases; it does not make them")
        self._definitions = definitions
        self._connection = connection

    def get(self, kind: str, name: str) -> Any:
        return self._definitions.definition(self._connection, kind, name)

    def version(self, kind: str, name: str, version: int) -> Any:
        return self._definitions.definition(self._connection, kind, name, version)

    def all(self, kind: str) -> list[Any]:
        return [
            self.get(kind, one.name)
            for one in self._definitions.listed(self._connection, kind=kind)
        ]

    def service(self, name: str) -> FeatureService:
        found = self.get("feature_service", name)
        if not isinstance(found, FeatureService):
            raise TypeError(f"{name!r} is applied as {type(found).__name__}")
        return found


def _fields(plan: ServicePlan) -> tuple[RequestField, ...]:
    fields = []
    keys = _key_types(plan)
    for name in plan.spine_columns:
        dtype = plan.request_fields.get(name) or keys[name]
        fields.append(
            RequestField(
                name=name,
                type=_FIELD[DType(dtype)],
                required=name not in plan.defaults,
                nullable=True,
            )
        )
    return tuple(fields)


def _key_types(plan: ServicePlan) -> dict[str, DType]:
    types: dict[str, DType] = {}
    entities = {entity.name: entity for entity in plan.entities}
    for use in plan.views:
        entity = entities[use.plan.view.entity]
        for column, dtype in zip(use.key_columns, entity.keys.values(), strict=True):
            types[column] = dtype
    return types
