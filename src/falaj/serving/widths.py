"""Checks that every runtime makes of a model's shape, with the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from falaj.serving.model import ServableModel


def check_inputs(model: ServableModel, have: int) -> None:
    """Raise InvalidInput unless a model reads as many columns as its bundle names."""
    if have != len(model.inputs):
        raise InvalidInput(
            f"The model takes {have} columns, its bundle names {len(model.inputs)}.",
            hint="Make the bundle again from its run.",
        )


def columns_of(model: ServableModel, have: int) -> slice:
    """Which of a model's numbers a row are its outputs.

    A binary classifier gives one or two; the second is the probability of the positive
    class. Raises InvalidInput if the bundle names another number of outputs.
    """
    wanted = len(model.outputs)
    if have == wanted:
        return slice(None)
    if wanted == 1 and have == 2:
        return slice(1, 2)
    raise InvalidInput(
        f"The model gives {have} numbers a row, its bundle names {wanted} outputs.",
        hint="Make the bundle again from its run.",
    )


def check_rows(rows: NDArray[np.float32], n_inputs: int) -> None:
    """Raise InvalidInput unless rows are a matrix [n, n_inputs]."""
    if rows.ndim != 2 or rows.shape[1] != n_inputs:
        raise InvalidInput(
            f"The rows have the shape {rows.shape}; the model takes {n_inputs} columns.",
            hint="Give one float32 matrix with the model's inputs as columns.",
        )
