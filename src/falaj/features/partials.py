"""Partial aggregates: what can be known of a set of values so that sets can be merged.

Both executions keep these and no others; compiled loops add to them and merge them
(``kernels_tiles``, ``index.kernels_windows``). Nothing is ever subtracted, so an infinity, a
NaN or a huge value reaches only the windows that hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from falaj.features.columns import Array
from falaj.features.model import Function

State = tuple[Array, ...]


@dataclass(frozen=True)
class Partial:
    """One kind of partial aggregate: its name, and the fields of its state."""

    name: str
    fields: tuple[str, ...]


COUNT = Partial("count", ("n",))
SUM = Partial("sum", ("sum",))
MIN = Partial("min", ("min",))
MAX = Partial("max", ("max",))
MOMENTS = Partial("moments", ("k", "mean", "squares"))

NEEDS: dict[Function, tuple[Partial, ...]] = {
    Function.COUNT: (COUNT,),
    Function.SUM: (COUNT, SUM),
    Function.MEAN: (COUNT, SUM),
    Function.MIN: (COUNT, MIN),
    Function.MAX: (COUNT, MAX),
    Function.STD: (COUNT, MOMENTS),
}
"""Which partials each function is finished from (``last`` is a latest value instead)."""


def finish(function: Function, states: dict[str, State]) -> tuple[Array, Array]:
    """Values and validity from merged states; without any value all but count are null.

    ``std`` is the population's standard deviation.
    """
    n = states["count"][0]
    some = n > 0
    if function is Function.COUNT:
        return n, np.ones(n.shape, np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        if function is Function.STD:
            k, _, squares = states["moments"]
            return np.sqrt(squares / np.where(some, k, 1.0)), some
        if function in (Function.SUM, Function.MEAN):
            total = states["sum"][0]
            return (total if function is Function.SUM else total / np.where(some, n, 1)), some
    value = states[function.value][0]
    return np.where(some, value, np.zeros((), value.dtype)), some
