"""One training set, on which parameters are tried one after the other in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import Encoding, as_labels, learned
from falaj.training.metrics import binary_metrics
from falaj.training.model import TRAIN, VALIDATION
from falaj.training.ports import Rows, untold
from falaj.training.training_sets import part_of
from falaj.training.tuning.request import PARITY

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from falaj.training.model import TrainingSet
    from falaj.training.ports import Trainer
    from falaj.training.training_sets import TrainingSets

LEAST_GROUP = 30
THRESHOLD = 0.5


class TrialBench:
    """Fits on the train rows of a set and measures on its validation rows.

    Args:
        sets: reads the rows, once.
        made: the training set.
        features: those that are learned from.
        trainer: fits.
    """

    def __init__(
        self, sets: TrainingSets, made: TrainingSet, features: Sequence[str], trainer: Trainer
    ) -> None:
        self._sets = sets
        self._made = made
        self._features = tuple(features)
        self._trainer = trainer

    def measured(
        self, params: Mapping[str, Any], seed: int, metrics: Sequence[str]
    ) -> dict[str, float]:
        """Fit with parameters; the metrics that are named, and no others.

        Raises:
            InvalidInput: a parameter or the name of a metric is unknown, or the rows cannot
                be learned from.
        """
        encoding, train, validation = self._encoded
        fitted = self._trainer.fit(
            train, validation, encoding, params=params, seed=seed, report=untold
        )
        begun = time.perf_counter()
        scores = self._trainer.scores(fitted, validation.matrix)
        seconds = time.perf_counter() - begun
        known = {
            **{k: float(v) for k, v in fitted.facts.items() if isinstance(v, int | float)},
            **binary_metrics(validation.labels, scores),
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

    @cached_property
    def _parts(self) -> tuple[pa.Table, pa.Table]:
        rows = self._sets.load(self._made)
        return part_of(rows, TRAIN), part_of(rows, VALIDATION)

    @cached_property
    def _encoded(self) -> tuple[Encoding, Rows, Rows]:
        train, validation = self._parts
        label, _ = self._made.trainable()
        labels = as_labels(train.column(label), label)
        encoding = learned(train, self._features, labels)
        return (
            encoding,
            Rows(encoding.matrix(train), labels),
            Rows(encoding.matrix(validation), as_labels(validation.column(label), label)),
        )

    def _parity(self, column: str, scores: npt.NDArray[np.float64]) -> float:
        """The demographic parity difference over the groups of a column."""
        _, validation = self._parts
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
