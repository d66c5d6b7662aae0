"""How named feature values become the numbers that a model reads, the same everywhere.

A model reads one row of float32 for each example, in the order of the encoding. A number
stays a number (a missing one is NaN); a word becomes the place of that word in a list
that was frozen with the model (an unknown or rare word is NaN, as if it were missing).
Training, gates, batch scoring and serving all encode through this one class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Matrix = npt.NDArray[np.float32]

MOST_CATEGORIES = 64
FEWEST_ROWS = 50
"""A word that is rarer than this in the training rows is treated as unknown."""
_PRIOR_WEIGHT = 50.0


class FeatureType(StrEnum):
    """What a feature's values are."""

    NUMBER = "number"
    CATEGORY = "category"


class EncodedFeature(BaseModel):
    """One input of a model."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: FeatureType = FeatureType.NUMBER
    categories: tuple[str, ...] = ()
    """For a category: the known words; their place is the number that the model reads."""


class Encoding(BaseModel):
    """The inputs of a model, in order."""

    model_config = ConfigDict(frozen=True)

    features: tuple[EncodedFeature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def words(self) -> frozenset[str]:
        """The names of the inputs that are words."""
        return frozenset(one.name for one in self.features if one.type is FeatureType.CATEGORY)

    @cached_property
    def places(self) -> tuple[dict[str, float] | None, ...]:
        """For each input the number of each known word, or None for a number."""
        return tuple(
            {word: float(place) for place, word in enumerate(feature.categories)}
            if feature.type is FeatureType.CATEGORY
            else None
            for feature in self.features
        )

    def matrix(self, table: pa.Table) -> Matrix:
        """The rows of a table as float32 of shape (rows, inputs).

        Raises:
            InvalidInput: a column is missing or cannot be read as its type.
        """
        missing = [name for name in self.names if name not in table.column_names]
        if missing:
            raise InvalidInput(
                f"The rows lack the columns {', '.join(missing)} that the model reads.",
                hint="Build them with the model's own feature service.",
                missing=missing,
            )
        import numpy as np

        result = np.empty((table.num_rows, len(self.features)), dtype=np.float32)
        for place, feature in enumerate(self.features):
            column = table.column(feature.name)
            result[:, place] = (
                _words(column, feature)
                if feature.type is FeatureType.CATEGORY
                else numbers(column, feature.name)
            )
        return result

    def row(self, values: Mapping[str, Any]) -> list[float]:
        """One example by name as the numbers that the model reads; None and unknown are NaN.

        Raises:
            InvalidInput: a value is not a number where one is needed.
        """
        result: list[float] = []
        for feature, places in zip(self.features, self.places, strict=True):
            value = values.get(feature.name)
            if value is None:
                result.append(float("nan"))
            elif places is not None:
                result.append(places.get(str(value), float("nan")))
            else:
                result.append(_number(value, feature.name))
        return result


def learned(table: pa.Table, names: Sequence[str], labels: npt.NDArray[np.float64]) -> Encoding:
    """The encoding of training rows.

    The words of a text column are ordered by the smoothed mean of their labels (of 0 and 1:
    the rate of 1), so that a tree can part them with one threshold; at most 64 words with at
    least 50 rows are kept.

    Raises:
        InvalidInput: a column is neither a number, a boolean nor text.
    """
    import pyarrow as pa

    features: list[EncodedFeature] = []
    for name in names:
        column = table.column(name)
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            words = _ordered_words(column, labels)
            features.append(EncodedFeature(name=name, type=FeatureType.CATEGORY, categories=words))
        elif _is_number(kind):
            features.append(EncodedFeature(name=name))
        else:
            raise InvalidInput(
                f"The feature {name!r} has the type {kind}, which a model cannot read.",
                hint="Give numbers, booleans or text; turn times into numbers in a feature view.",
            )
    return Encoding(features=tuple(features))


def _number(value: Any, name: str) -> float:
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise InvalidInput(
        f"The feature {name!r} is {type(value).__name__}, not a number.",
        hint="Give a number, or null where it is unknown.",
    )


def numbers(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    """A numeric or boolean column as float64, missing values as NaN."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _is_number(column.type):
        raise InvalidInput(
            f"The column {name!r} has the type {column.type}, but a number is needed.",
            hint="Mend the type at its source, or in the feature view.",
        )
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    column = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _words(column: pa.ChunkedArray, feature: EncodedFeature) -> npt.NDArray[np.float64]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        text = column.cast(pa.string())
    except pa.ArrowInvalid:
        raise InvalidInput(
            f"The column {feature.name!r} has the type {column.type}, but text is needed.",
            hint="Mend the type at its source, or in the feature view.",
        ) from None
    place = pc.index_in(text, value_set=pa.array(feature.categories, pa.string()))
    return np.asarray(
        pc.fill_null(place.cast(pa.float64()), float("nan")).to_numpy(), dtype=np.float64
    )


def _ordered_words(column: pa.ChunkedArray, labels: npt.NDArray[np.float64]) -> tuple[str, ...]:
    import numpy as np
    import pyarrow as pa

    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    words: list[str] = coded.dictionary.to_pylist()
    codes = coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes, minlength=len(words) + 1)[: len(words)]
    ones = np.bincount(codes, weights=labels, minlength=len(words) + 1)[: len(words)]
    prior = float(labels.mean()) if labels.size else 0.0
    rates = (ones + _PRIOR_WEIGHT * prior) / (counts + _PRIOR_WEIGHT)
    kept = [place for place in range(len(words)) if counts[place] >= FEWEST_ROWS]
    kept = sorted(kept, key=lambda place: (-counts[place], words[place]))[:MOST_CATEGORIES]
    return tuple(words[place] for place in sorted(kept, key=lambda p: (rates[p], words[p])))


def as_labels(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    """A label column as float64 of 0 and 1, missing ones as NaN.

    Raises:
        InvalidInput: it holds something else.
    """
    import numpy as np

    values = numbers(column, name)
    known = values[~np.isnan(values)]
    if not np.isin(known, (0.0, 1.0)).all():
        raise InvalidInput(
            f"The label {name!r} holds values other than 0 and 1.",
            hint="Give a boolean column, or 0 and 1; null where the label is not known.",
        )
    return values


def instants(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64]:
    """A timestamp column as Unix microseconds.

    Raises:
        InvalidInput: it is not a timestamp, or one is missing.
    """
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        raise InvalidInput(
            f"The column {name!r} has the type {column.type}, but a timestamp is needed.",
            hint="Give instants in UTC.",
        )
    if column.null_count:
        raise InvalidInput(
            f"The column {name!r} lacks {column.null_count} timestamps.",
            hint="Every row of a spine needs the instant at which it is asked.",
        )
    exact = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return np.asarray(exact.cast(pa.int64()).to_numpy(), dtype=np.int64)
