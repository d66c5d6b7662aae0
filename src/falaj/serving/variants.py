"""One model version of a release, compiled: from input rows to the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.errors import ModelFailed
from falaj.serving.model import (
    AnomalyPolicy,
    FeatureStatus,
    FieldType,
    Release,
    RequestField,
    Variant,
)
from falaj.serving.ports import GeneratingModel
from falaj.serving.predictions import NumberRows

if TYPE_CHECKING:
    from falaj.serving.anomalies import Judge, Judged
    from falaj.serving.explain import Explanation
    from falaj.serving.model import ServableModel
    from falaj.serving.ports import FeatureReader, LoadedModel

NUMBERS = (FieldType.FLOAT, FieldType.INT, FieldType.BOOLEAN)
_NAN = float("nan")


@dataclass(slots=True)
class Vectors:
    """What a variant read and gave for n rows; columns are the model's inputs, in order."""

    matrix: NDArray[np.float32]
    """[n, inputs]; NaN is missing."""
    statuses: NDArray[np.uint8] | None
    """[n, inputs] of ``FeatureStatus``; None if all inputs came with the request."""
    times: NDArray[np.int64] | None
    """[n, inputs] event times in Unix microseconds, 0 where there is none."""
    outputs: NDArray[np.floating[Any]]
    """[n, outputs]."""
    begun: float = 0.0
    """``time.perf_counter()`` before the features were looked up."""
    read: float = 0.0
    """Behind that, before the model ran."""
    ran: float = 0.0
    """Behind the model's run."""
    judged: Judged | None = None
    """How unlike the training rows each is, where the release tags anomalies."""


@dataclass(slots=True)
class Looked:
    """What a reader found for n rows; columns are its own, in order."""

    values: NDArray[np.float32]
    """[n, features]; NaN is missing."""
    statuses: NDArray[np.uint8]
    """[n, features] of ``FeatureStatus``."""
    times: NDArray[np.int64]
    """[n, features] event times in Unix microseconds, 0 where there is none."""
    seconds: float
    """How long that took."""

    def only(self, places: Sequence[int]) -> Looked:
        """Some of the rows, by their places, ascending."""
        if len(places) == len(self.values):
            return self
        return Looked(
            self.values.take(places, 0),
            self.statuses.take(places, 0),
            self.times.take(places, 0),
            self.seconds,
        )


class CompiledVariant:
    """A loaded model with the plan of where each of its inputs comes from.

    Args:
        release: whose variant it is.
        variant: which one.
        servable: the bundle's description of the model.
        model: the model in memory.
        reader: reads the features, compiled with this model's categories; None if all
            inputs come with the request.
        explanation: tells the contributions of its inputs; None if nothing can.
        judge: tells which rows are unlike those of the training; None if nothing can.

    Raises:
        InvalidInput: an input is neither a feature nor a request field, or is no number.
    """

    def __init__(
        self,
        release: Release,
        variant: Variant,
        servable: ServableModel,
        model: LoadedModel,
        reader: FeatureReader | None,
        explanation: Explanation | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.explanation = explanation
        self.judge = judge
        self.tags = judge if release.anomalies is AnomalyPolicy.TAG else None
        """The judge, where it is asked of every row."""
        self.waits: bool = getattr(model, "waits", False)
        self.variant = variant
        self.label = variant.label
        self.columns = servable.inputs
        self.categories = servable.categories
        self._endpoint = release.endpoint
        self._model = model
        self.generating = model if isinstance(model, GeneratingModel) else None
        """The model, if it also answers in parts."""
        self.reader = reader
        """Reads the features; the same object where another variant reads the same."""
        known = tuple(reader.names) if reader else ()
        asked = _asked(release, known, servable)
        self._numbers = _numbers(asked, servable.categories) if asked else None
        self._n_asked = len(asked)
        fields = [item.name for item in release.fields]
        of_fields = [fields.index(name) for name in asked]
        self.takes_numbers = reader is None and not servable.categories and bool(asked)
        """True if a matrix of the request's fields holds all inputs (see ``NumberRows``)."""
        same = of_fields == list(range(len(fields)))
        self._of_fields = None if same else np.array(of_fields, dtype=np.int64)
        read = known + tuple(asked)
        self.from_request = np.array([name in asked for name in self.columns], dtype=bool)
        """[inputs]; True for what the caller sends, which the policy on missing features does
        not speak of."""
        places = [read.index(name) for name in self.columns]
        self._places = None if places == list(range(len(read))) else np.array(places)

    @property
    def reads_features(self) -> bool:
        """False if every input of the model comes with the request."""
        return self.reader is not None

    def run(
        self,
        rows: Sequence[Any],
        at_us: int | NDArray[np.int64],
        looked: Looked | None = None,
    ) -> Vectors:
        """Look the features up and run the model.

        Args:
            rows: as the plan decodes them.
            at_us: the instant, one for all rows or one for each.
            looked: what ``look`` gave for these rows, if they were looked up before.

        Raises:
            ModelFailed: an on-demand function or the model raised.
            FalajError: what the online store raises.
        """
        begun = perf_counter()
        try:
            if looked is None and self.reader is not None:
                looked = self.look(rows, at_us)
            elif looked is not None:
                begun -= looked.seconds
            matrix, statuses, times = self._assembled(rows, looked)
            read = perf_counter()
            outputs = self.scored(matrix)
        except ModelFailed as error:
            error.variant = self.variant.name
            raise
        found = Vectors(matrix, statuses, times, outputs, begun, read, perf_counter())
        if self.tags is not None:
            found.judged = self.tags.judged(matrix)
        return found

    def look(self, rows: Sequence[Any], at_us: int | NDArray[np.int64]) -> Looked:
        """Look the features of rows up, for every variant that has the same reader.

        Raises:
            ModelFailed: an on-demand function raised, or there is nothing to look up.
            FalajError: what the online store raises.
        """
        begun = perf_counter()
        if self.reader is None:
            raise ModelFailed(f"The model {self.label} reads no features.", hint="Deploy another.")
        try:
            values, statuses, times = self.reader.read(rows, at_us)
        except FalajError:
            raise
        except Exception as error:  # a declared on-demand function is the user's own code
            raise ModelFailed(
                f"The features of {self._endpoint!r} failed on this input: "
                f"{type(error).__name__}: {str(error)[:200]}.",
                hint="Mend the on-demand feature function, or the input.",
            ) from error
        return Looked(values, statuses, times, perf_counter() - begun)

    def scored(self, matrix: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The model's outputs [n, k] for its inputs [n, columns]; raises ModelFailed."""
        try:
            return self._model.run(matrix)
        except FalajError:
            raise
        except Exception as error:
            raise ModelFailed(
                f"The model {self.label} failed: {type(error).__name__}: {str(error)[:200]}.",
                hint="Roll the endpoint back: `falaj endpoints rollback NAME`.",
            ) from error

    def _of_matrix(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """The inputs that come with the request, of a matrix of its fields."""
        chosen = matrix if self._of_fields is None else matrix.take(self._of_fields, 1)
        return np.ascontiguousarray(chosen, dtype=np.float32)

    def _assembled(
        self, rows: Sequence[Any], looked: Looked | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.int64] | None]:
        """The model's inputs with their statuses and times, in its order."""
        numbers = None
        if isinstance(rows, NumberRows):
            numbers = self._of_matrix(rows.matrix)
        elif self._numbers is not None:
            # numpy turns None into NaN, the model's own missing value.
            numbers = np.array(list(map(self._numbers, rows)), dtype=np.float32)
        places = self._places
        if looked is None:
            if numbers is None:
                raise ModelFailed(f"The model {self.label} has no inputs.", hint="Deploy another.")
            return (numbers if places is None else numbers.take(places, 1)), None, None
        values, statuses, times = looked.values, looked.statuses, looked.times
        if numbers is not None:
            present = np.full(numbers.shape, FeatureStatus.PRESENT, dtype=np.uint8)
            present[np.isnan(numbers)] = FeatureStatus.NULL
            values = np.concatenate((values, numbers), axis=1)
            statuses = np.concatenate((statuses, present), axis=1)
            times = np.concatenate((times, np.zeros(numbers.shape, dtype=np.int64)), axis=1)
        if places is None:
            return values, statuses, times
        return values.take(places, 1), statuses.take(places, 1), times.take(places, 1)


def _asked(
    release: Release, known: Sequence[str], servable: ServableModel
) -> dict[str, RequestField]:
    """The inputs that come straight from the request, in the model's order."""
    fields = {item.name: item for item in release.fields}
    asked: dict[str, RequestField] = {}
    for name in servable.inputs:
        if name in known:
            continue
        item = fields.get(name)
        if item is None:
            raise InvalidInput(
                f"The model's input {name!r} is neither a feature of "
                f"{release.feature_service!r} nor a field of the request.",
                hint="Deploy with the feature service that the model was trained on.",
            )
        if item.type not in NUMBERS and name not in servable.categories:
            raise InvalidInput(
                f"The model's input {name!r} is a request field of type {item.type}; "
                "the model takes a number.",
                hint="Encode it in an on-demand feature.",
            )
        asked[name] = item
    return asked


def _numbers(
    asked: Mapping[str, RequestField], categories: Mapping[str, tuple[str, ...]]
) -> Callable[[Any], tuple[Any, ...]]:
    """Takes a decoded row to the tuple of its numbers."""
    names = list(asked)
    words = [
        {word: float(place) for place, word in enumerate(categories[name])}
        if name in categories
        else None
        for name in names
    ]
    getter = attrgetter(*names)
    if any(word is not None for word in words):
        # A word's place; unknown words are NaN, as if they were missing.
        if len(names) == 1:
            (only,) = words
            table = only or {}
            return lambda row: (table.get(_text(getter(row)), _NAN),)
        return lambda row: tuple(
            value if table is None else table.get(_text(value), _NAN)
            for value, table in zip(getter(row), words, strict=True)
        )
    if len(names) == 1:
        return lambda row: (getter(row),)
    return getter


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
