"""The parameters of a trainer: known names, the right types, defaults underneath."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.training.metrics import SingleClass
from falaj.training.ports import Rows


def completed(
    trainer: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    also: Mapping[str, type] | None = None,
) -> dict[str, Any]:
    """The defaults with the given parameters over them, each of its type.

    Args:
        trainer: how its users call it.
        also: names that have no default, and their types.

    Raises:
        InvalidInput: a name is not known, or a value is of another type.
    """
    known = {name: type(value) for name, value in defaults.items()} | dict(also or {})
    result = dict(defaults)
    for name, value in given.items():
        if name not in known:
            raise InvalidInput(
                f"{trainer}'s trainer has no parameter {name!r}.",
                hint=f"It takes: {', '.join(sorted(known))}.",
            )
        wanted = known[name]
        if not _fits(value, wanted):
            raise InvalidInput(
                f"The parameter {name!r} is {value!r}, not {wanted.__name__}.",
                hint="Mend the value.",
            )
        result[name] = wanted(value)
    return result


def at_least_one(params: Mapping[str, Any], *names: str) -> None:
    """Raise InvalidInput unless each of these parameters is at least 1."""
    if any(params[name] < 1 for name in names):
        raise InvalidInput(f"{' and '.join(names)} must be at least 1.", hint="Mend the value.")


def _fits(value: Any, wanted: type) -> bool:
    if wanted is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if wanted is float:
        return isinstance(value, int | float)
    return isinstance(value, wanted)


def check_learnable(train: Rows, validation: Rows) -> None:
    """Raise unless both parts have rows with different labels, and inputs to learn from.

    Raises:
        InvalidInput: a part is empty, or has no inputs. SingleClass: all its labels are the same.
    """
    for part, rows in (("train", train), ("validation", validation)):
        if rows.labels.size == 0:
            raise InvalidInput(
                f"The {part} part has no rows.", hint="Check the boundaries of the split."
            )
        if rows.matrix.shape[1] == 0:
            raise InvalidInput("There are no features to learn from.", hint="Name at least one.")
        if rows.labels.min() == rows.labels.max():
            raise SingleClass(
                f"All labels of the {part} part are {_told(rows)}.",
                hint="Check the label column and the boundaries of the split.",
            )


def _told(rows: Rows) -> str:
    """The first label, as its users know it."""
    first = rows.labels[0]
    return repr(rows.target.classes[int(first)]) if rows.target.classes else f"{first:g}"


def finite(matrix: Any) -> Any:
    """The same float32 rows with infinities as the greatest finite values; NaN stays."""
    most = np.finfo(np.float32).max
    return np.clip(matrix, -most, most) if np.isinf(matrix).any() else matrix
