"""From the rows of a training set to a fitted, calibrated, measured model; no database.

The training job and the reproduction of a run both fit through here, so that what is
reproduced is what was done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from falaj.kernel.errors import InvalidInput
from falaj.training import calibration
from falaj.training.encoding import Encoding, instants, learned
from falaj.training.folds import folds_of
from falaj.training.model import TEST, TRAIN, VALIDATION, TrainingRequest, TrainingSet
from falaj.training.options import ClassWeights
from falaj.training.partition import place_of_group, words_of
from falaj.training.ports import (
    UNKEPT,
    Checkpoints,
    FittedModel,
    Report,
    Rows,
    Trainer,
    check_task,
    untold,
)
from falaj.training.rowmetrics import metrics_of
from falaj.training.splits import GroupSplit
from falaj.training.targets import Target
from falaj.training.training_sets import part_of


@dataclass
class Fitting:
    """One request on the rows of one set.

    Args:
        rows: all of the set, as ``TrainingSets.load`` gives them.
    """

    trainer: Trainer
    request: TrainingRequest
    made: TrainingSet
    rows: pa.Table

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The features that are learned from; raises InvalidInput for one that is not there."""
        wanted = self.request.features
        if wanted is None:
            return self.made.features
        unknown = sorted(set(wanted) - set(self.made.features))
        if unknown:
            raise InvalidInput(
                f"The training set {self.made.id} has no feature {unknown[0]!r}.",
                hint=f"It has: {', '.join(self.made.features)}.",
            )
        return wanted

    @cached_property
    def label(self) -> str:
        """The name of the label."""
        return self.made.trainable()[0]

    @cached_property
    def target(self) -> Target:
        """What the model shall predict.

        Raises:
            InvalidInput: the trainer does not learn that, or the request asks for something
                that is of labels 0 and 1 alone.
        """
        target = self.made.spec.target
        check_task(self.trainer, target)
        weights = self.request.class_weights
        balanced = weights is not None and weights.balanced and bool(target.classes)
        asked = {
            "class_weights": weights is not None and not balanced,
            "calibration": self.request.calibration is not None,
            "cross_validation of the kind stratified": target.task == "regression"
            and self.request.cross_validation is not None
            and self.request.cross_validation.kind == "stratified",
        }
        for name, given in asked.items():
            if given and target.task != "binary":
                raise InvalidInput(
                    f"`{name}` is not of the task {target.task!r}, which {self.made.id} is of.",
                    hint="Train without it, or in another way.",
                )
        return target

    @cached_property
    def encoding(self) -> Encoding:
        """The encoding, learned from the training rows alone."""
        return self._learned(part_of(self.rows, TRAIN))

    @cached_property
    def train(self) -> Rows:
        """The training rows, with their weights."""
        return self._weighted(self.encoded(part_of(self.rows, TRAIN), self.encoding))

    @cached_property
    def validation(self) -> Rows:
        """The validation rows that are not calibrated on."""
        table = part_of(self.rows, VALIDATION)
        return self.encoded(table.filter(pa.array(~self._calibrated_on(table))), self.encoding)

    @cached_property
    def calibration(self) -> Rows | None:
        """The rows to calibrate on; None if that was not asked for."""
        if self.request.calibration is None:
            return None
        table = part_of(self.rows, VALIDATION)
        return self.encoded(table.filter(pa.array(self._calibrated_on(table))), self.encoding)

    @cached_property
    def test(self) -> Rows:
        """The test rows; there may be none."""
        return self.encoded(part_of(self.rows, TEST), self.encoding)

    def encoded(self, table: pa.Table, encoding: Encoding) -> Rows:
        """Rows of the set as the model reads them."""
        return Rows(encoding.matrix(table), self._labels(table), target=self.target)

    def fitted(self, *, report: Report = untold, checkpoints: Checkpoints = UNKEPT) -> FittedModel:
        """Fit, and calibrate if that was asked for; raises as ``Trainer.fit`` does."""
        made = self._fit(
            self.train, self.validation, self.encoding, report=report, checkpoints=checkpoints
        )
        if self.request.calibration is None or self.calibration is None:
            return made
        raw = self.trainer.scores(made, self.calibration.matrix)
        found = calibration.fitted(self.request.calibration.method, self.calibration.labels, raw)
        facts = {**made.facts, "calibrated_on_rows": float(len(raw))}
        return replace(made, calibration=found, facts=facts)

    def measured(self, fitted: FittedModel) -> dict[str, float]:
        """The metrics of both judging parts, and the figures among the facts."""
        metrics = self._of_part(VALIDATION, fitted, self.validation)
        test = self.test
        if test.labels.size and test.labels.min() < test.labels.max():
            metrics |= self._of_part(TEST, fitted, test)
        return metrics | {
            name: float(value)
            for name, value in fitted.facts.items()
            if isinstance(value, int | float)
        }

    def cross_validated(
        self,
        done: list[dict[str, float]],
        kept: Callable[[list[dict[str, float]]], None],
        report: Report,
    ) -> list[dict[str, float]]:
        """The metrics of each fold, in order.

        Args:
            done: of the folds that an earlier attempt finished.
            kept: told of all finished folds after each.
        """
        wanted = self.request.cross_validation
        if wanted is None:
            return []
        table = part_of(self.rows, TRAIN)
        timestamp = self.made.spec.timestamp
        labels = self._labels(table)
        folds = folds_of(
            wanted,
            at=instants(table.column(timestamp), timestamp),
            labels=labels,
            groups=None if wanted.group is None else words_of(table, wanted.group),
            seed=self.request.seed,
        )
        found = list(done)
        for place in range(len(done), len(folds)):
            fold = folds[place]
            part = table.take(fold.train)
            encoding = self._learned(part)  # of this fold alone: words and their rates too
            fitted = self._fit(
                self._weighted(self.encoded(part, encoding)),
                self.encoded(table.take(fold.stopping), encoding),
                encoding,
                report=_within(report, place, len(folds)),
            )
            judged = self.encoded(table.take(fold.judged), encoding)
            scores = self.trainer.scores(fitted, judged.matrix)
            found.append(metrics_of(self.target, judged.labels, scores))
            kept(found)
        return found

    def _fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        report: Report,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        made = self.trainer.fit(
            train,
            validation,
            encoding,
            params=self.request.params,
            seed=self.request.seed,
            report=report,
            checkpoints=checkpoints,
        )
        return replace(made, target=train.target)

    def _learned(self, table: pa.Table) -> Encoding:
        labels = self._labels(table)
        if self.target.classes:  # classes have no order: words are ordered by the largest one
            largest = np.bincount(labels.astype(np.int64)).argmax()
            labels = (labels == largest).astype(np.float64)
        return learned(table, self.features, labels)

    def _labels(self, table: pa.Table) -> npt.NDArray[np.float64]:
        return self.target.labels(table.column(self.label), self.label)

    def _weighted(self, rows: Rows) -> Rows:
        if self.request.class_weights is None:
            return rows
        if self.target.classes:
            return replace(rows, weights=balanced_weights(rows.labels, len(self.target.classes)))
        return replace(rows, weights=weights_of(self.request.class_weights, rows.labels))

    def _of_part(self, part: str, fitted: FittedModel, rows: Rows) -> dict[str, float]:
        scores = scored(self.trainer, fitted, rows.matrix)
        found = metrics_of(self.target, rows.labels, scores)
        return {f"{part}_{name}": value for name, value in found.items()}

    def _calibrated_on(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """True for the validation rows that the calibration is fitted on."""
        wanted = self.request.calibration
        if wanted is None:
            return np.zeros(table.num_rows, np.bool_)
        _, split = self.made.trainable()
        if isinstance(split, GroupSplit):
            words = words_of(table, split.group)
            return np.array(
                [place_of_group(str(one), split.seed, use="calibration") < wanted.share
                 for one in words], dtype=np.bool_)  # fmt: skip
        at = instants(table.column(self.made.spec.timestamp), self.made.spec.timestamp)
        if not at.size:
            return np.zeros(0, np.bool_)
        cut = np.sort(at)[int(at.size * (1 - wanted.share))]
        return np.asarray(at >= cut, dtype=np.bool_)


def scored(
    trainer: Trainer, fitted: FittedModel, matrix: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """What the model gives, with its calibration."""
    raw = trainer.scores(fitted, matrix)
    return raw if fitted.calibration is None else fitted.calibration.applied(raw)


def weights_of(wanted: ClassWeights, labels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each row counts; see ``ClassWeights``."""
    zero, one = wanted.zero, wanted.one
    if wanted.balanced:
        n_ones = float(labels.sum())
        zero = labels.size / max(2 * (labels.size - n_ones), 1.0)
        one = labels.size / max(2 * n_ones, 1.0)
    return np.where(labels == 1.0, one, zero)


def balanced_weights(labels: npt.NDArray[np.float64], n_classes: int) -> npt.NDArray[np.float64]:
    """A row of class c counts n / (k n_c): every class that there is has the same sum."""
    counts = np.bincount(labels.astype(np.int64), minlength=n_classes)
    return (labels.size / (np.count_nonzero(counts) * np.maximum(counts, 1)))[
        labels.astype(np.int64)
    ]


def summary(folds: list[dict[str, float]]) -> dict[str, float]:
    """Mean and standard deviation (of the folds) of each metric, ``cv_mean_…``, ``cv_std_…``."""
    names = folds[0] if folds else {}
    values = {name: np.array([fold[name] for fold in folds]) for name in names}
    means = {f"cv_mean_{name}": float(one.mean()) for name, one in values.items()}
    return means | {f"cv_std_{name}": float(one.std()) for name, one in values.items()}


def _within(report: Report, place: int, n: int) -> Report:
    return lambda share, told: report((place + share) / n, f"fold {place + 1} of {n}: {told}")
