"""Scores rows with models of any format, for the gates and for models that are brought."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from falaj.serving.compiler import runtime_of
from falaj.serving.model import ServableModel
from falaj.training.targets import BINARY

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

    def of(
        self,
        model_format: str,
        model: bytes,
        names: tuple[str, ...],
        outputs: tuple[str, ...] = BINARY.outputs,
    ) -> RuntimeScorer:
        """A scorer of a model of any format; see ``ScorerFactory.of``."""
        servable = ServableModel(model_format, model, names, outputs)
        loaded = runtime_of(self._runtimes, model_format).load(servable)
        return RuntimeScorer(loaded, len(outputs))


class RuntimeScorer:
    """One loaded model; see ``models.ports.Scorer``."""

    def __init__(self, loaded: LoadedModel, n_outputs: int = 1) -> None:
        self._loaded = loaded
        self._n_outputs = n_outputs

    def scores(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The outputs of each row, [rows, outputs]; [rows] if there is one."""
        result = np.empty((len(matrix), self._n_outputs), dtype=np.float64)
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            part = np.ascontiguousarray(matrix[start : start + _ROWS_AT_ONCE])
            result[start : start + len(part)] = self._loaded.run(part)
        return result[:, 0] if self._n_outputs == 1 else result

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
