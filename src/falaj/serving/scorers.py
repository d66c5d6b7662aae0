"""Scores rows with models of any format, for the gates and for models that are brought."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from falaj.serving.compiler import runtime_of
from falaj.serving.model import ServableModel

if TYPE_CHECKING:
    from falaj.serving.ports import LoadedModel, Runtime

_ROWS_AT_ONCE = 65_536
_WARM = 50


class RuntimeScorers:
    """Loads models by the runtimes that serve them; fulfils ``models.ports.ScorerFactory``.

    Args:
        runtimes: one for each format.
    """

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = runtimes

    def of(self, model_format: str, model: bytes, names: tuple[str, ...]) -> RuntimeScorer:
        """A scorer of a model of any format; see ``ScorerFactory.of``."""
        servable = ServableModel(model_format, model, names)
        return RuntimeScorer(runtime_of(self._runtimes, model_format).load(servable))


class RuntimeScorer:
    """One loaded model; see ``models.ports.Scorer``."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def scores(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The first output of each row."""
        result = np.empty(len(matrix), dtype=np.float64)
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            part = np.ascontiguousarray(matrix[start : start + _ROWS_AT_ONCE])
            result[start : start + len(part)] = self._loaded.run(part)[:, 0]
        return result

    def seconds_per_row(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The time of each row, run alone."""
        rows = [np.ascontiguousarray(row[None, :]) for row in matrix]
        for row in rows[:_WARM]:
            self._loaded.run(row)
        taken = np.empty(len(rows), dtype=np.float64)
        for place, row in enumerate(rows):
            started = time.perf_counter_ns()
            self._loaded.run(row)
            taken[place] = (time.perf_counter_ns() - started) / 1e9
        return taken
