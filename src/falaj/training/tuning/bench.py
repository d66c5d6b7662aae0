"""One training set, on which parameters are tried one after the other in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.training.fitting import Fitting
from falaj.training.model import VALIDATION
from falaj.training.rowmetrics import metrics_of
from falaj.training.training_sets import part_of
from falaj.training.tuning.request import PARITY

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from falaj.training.model import TrainingRequest, TrainingSet
    from falaj.training.ports import Trainer

LEAST_GROUP = 30
THRESHOLD = 0.5


class TrialBench:
    """Fits on the train rows of a set and measures on its validation rows.

    The rows are encoded once. Calibration and cross-validation are left to the training of
    the best parameters; the test rows are never looked at.

    Args:
        trainer: fits.
        request: what all trials have in common.
        made: the training set; ``rows`` are all of it.
    """

    def __init__(
        self, trainer: Trainer, request: TrainingRequest, made: TrainingSet, rows: pa.Table
    ) -> None:
        self._made = made
        self._plain = request.model_copy(update={"calibration": None, "cross_validation": None})
        self._fitting = Fitting(trainer, self._plain, made, rows)

    def measured(self, params: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, float]:
        """Fit with parameters; the metrics that are named, and no others.

        Raises:
            InvalidInput: a parameter or the name of a metric is unknown, or the rows cannot
                be learned from.
        """
        fitting = self._fitting
        fitting.request = self._plain.model_copy(update={"params": dict(params)})
        fitted = fitting.fitted()
        validation = fitting.validation
        begun = time.perf_counter()
        scores = fitting.trainer.scores(fitted, validation.matrix)
        seconds = time.perf_counter() - begun
        known = {
            **{k: float(v) for k, v in fitted.facts.items() if isinstance(v, int | float)},
            **metrics_of(fitting.target, validation.labels, scores),
            "size_bytes": float(len(fitted.data)),
            "microseconds_per_row": 1e6 * seconds / max(validation.labels.size, 1),
        }
        found = {}
        for metric in metrics:
            if metric.startswith(PARITY):
                found[metric] = self._parity(metric.removeprefix(PARITY), scores)
            elif metric in known:
                found[metric] = known[metric]
            else:
                raise InvalidInput(
                    f"There is no metric {metric!r}.",
                    hint=f"There are: {', '.join(sorted(known))}, {PARITY}COLUMN.",
                )
        return found

    def _parity(self, column: str, scores: npt.NDArray[np.float64]) -> float:
        """The demographic parity difference over the groups of a column."""
        if self._fitting.target.task != "binary":
            raise InvalidInput(
                f"{PARITY}{column} is of labels 0 and 1; those of {self._made.id} are of the task "
                f"{self._fitting.target.task!r}.",
                hint="Leave the constraint out.",
            )
        validation = part_of(self._fitting.rows, VALIDATION)
        if column not in validation.column_names:
            raise InvalidInput(
                f"The training set {self._made.id} has no column {column!r}.",
                hint=f"It has: {', '.join(validation.column_names)}.",
            )
        groups = np.asarray(validation.column(column).to_pylist(), dtype=object)
        told = scores >= THRESHOLD
        rates = [
            float(told[members].mean())
            for group in set(groups)
            if (members := groups == group).sum() >= LEAST_GROUP
        ]
        if not rates:
            raise InvalidInput(
                f"No group of {column!r} has {LEAST_GROUP} validation rows.",
                hint="Take a column of fewer groups, or a longer validation part.",
            )
        return max(rates) - min(rates)
