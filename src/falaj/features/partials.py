"""Partial aggregates: what can be known of a set of values so that sets can be merged.

Both executions use these and no other arithmetic. Nothing is ever subtracted, so an
infinity, a NaN or a huge value reaches only the windows that hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.model import Function

State = tuple[Array, ...]


@dataclass(frozen=True)
class Partial:
    """One kind of partial aggregate.

    ``lift`` turns values and their validity into the state of each alone, ``merge`` joins
    two states elementwise. Arrays in a state have one shape; null values lift to the
    identity.
    """

    name: str
    fields: tuple[str, ...]
    lift: Callable[[Array, Array], State]
    merge: Callable[[State, State], State]


def _lift_count(_values: Array, valid: Array) -> State:
    return (valid.astype(np.int64),)


def _lift_sum(values: Array, valid: Array) -> State:
    return (np.where(valid, values, 0).astype(np.float64),)


def _lowest(values: Array) -> float | int:
    return -np.inf if values.dtype.kind == "f" else np.iinfo(np.int64).min


def _highest(values: Array) -> float | int:
    return np.inf if values.dtype.kind == "f" else np.iinfo(np.int64).max


def _lift_min(values: Array, valid: Array) -> State:
    return (np.where(valid, values, _highest(values)),)


def _lift_max(values: Array, valid: Array) -> State:
    return (np.where(valid, values, _lowest(values)),)


def _lift_moments(values: Array, valid: Array) -> State:
    mean = np.where(valid, values, 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return valid.astype(np.float64), mean, mean * 0.0


def _merge_moments(one: State, other: State) -> State:
    """Chan, Golub and LeVeque (1983), eq. 2.1: merged count, mean and squared deviations."""
    n_one, mean_one, squares_one = one
    n_other, mean_other, squares_other = other
    n = n_one + n_other
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        delta = mean_other - mean_one
        both = (n_one > 0) & (n_other > 0)
        mean = np.where(
            both, mean_one + delta * (n_other / n), np.where(n_one > 0, mean_one, mean_other)
        )
        between = np.where(both, delta * delta * (n_one * n_other / n), 0.0)
        return n, mean, squares_one + squares_other + between


def _add(one: State, other: State) -> State:
    with np.errstate(invalid="ignore", over="ignore"):
        return (one[0] + other[0],)


COUNT = Partial("count", ("n",), _lift_count, _add)
SUM = Partial("sum", ("sum",), _lift_sum, _add)
MIN = Partial("min", ("min",), _lift_min, lambda a, b: (np.minimum(a[0], b[0]),))
MAX = Partial("max", ("max",), _lift_max, lambda a, b: (np.maximum(a[0], b[0]),))
MOMENTS = Partial("moments", ("k", "mean", "squares"), _lift_moments, _merge_moments)

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


def identity(partial: Partial, values: Array, n: int) -> State:
    """The state of n empty sets of values of that dtype."""
    return partial.lift(np.zeros(n, values.dtype), np.zeros(n, np.bool_))


def running(partial: Partial, state: State, place: Ints) -> State:
    """Each element merged with all those before it in its segment.

    Args:
        state: arrays of (n,).
        place: (n,) position of each element in its segment, counted from 0.
    """
    reach, longest = 1, int(place.max()) + 1 if len(place) else 0
    out = tuple(part.copy() for part in state)
    while reach < longest:
        at = np.flatnonzero(place >= reach)
        merged = partial.merge(
            tuple(part[at - reach] for part in out), tuple(part[at] for part in out)
        )
        for part, new in zip(out, merged, strict=True):
            part[at] = new
        reach *= 2
    return out
