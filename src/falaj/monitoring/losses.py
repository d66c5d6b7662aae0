"""Losses while labels have not arrived yet, told from inputs: direct loss estimation (DLE).

A model of the loss learns, on labelled predictions of an earlier window, how far the served
model errs for which inputs and scores; what it says of later predictions is their expected
loss. Unlike an estimate from scores alone it sees that rows have moved to where the served
model is badly calibrated. It needs rows with their inputs, so it reads a sample of the log.
(As in NannyML, which does it for regression; here of a probability's losses too.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.estimates import single
from falaj.monitoring.expected import Vector
from falaj.monitoring.joined import Joined, Joins, instant
from falaj.monitoring.model import Band, Period
from falaj.monitoring.performancereports import LabelledWindow, LossPeriod, LossReport
from falaj.monitoring.regression import root_of
from falaj.training.targets import Task

if TYPE_CHECKING:
    from falaj.serving.model import Release

MOST_REFERENCE_ROWS = 50_000
MOST_ROWS = 20_000
"""Of a period."""
_FEWEST = 500
_LEAST_PROBABILITY = 1e-6
_PARAMETERS = {
    "objective": "regression",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 7,
    "verbosity": -1,
}
_ROUNDS = 100
_ROOTED = "rmse"


class LossModel:
    """What is expected of one loss.

    Learned on one half of the reference and set right on the other: the mean of what it errs
    there is added to what it says, and tells how sure that is.

    Args:
        inputs: (rows, inputs), NaN where one is missing.
        losses: of the same rows.
    """

    def __init__(self, inputs: NDArray[np.float32], losses: Vector) -> None:
        import lightgbm

        judged = np.arange(len(losses)) % 2 == 1
        data = lightgbm.Dataset(inputs[~judged], losses[~judged])
        self._model = lightgbm.train(_PARAMETERS, data, num_boost_round=_ROUNDS)
        off = losses[judged] - self._said(inputs[judged])
        plain = losses[judged] - losses[~judged].mean()
        self._added = float(off.mean())
        self._spread = float(off.std(ddof=1))
        self._error = self._spread / len(off) ** 0.5
        squares = float((plain**2).sum())
        self.gain = 1 - float((off**2).sum()) / squares if squares > 0 else 0.0

    def band(self, inputs: NDArray[np.float32], confidence: float) -> Band:
        """The mean loss of these rows, and between what limits the realised one should lie."""
        mean = float(self._said(inputs).mean()) + self._added
        chance = self._spread / len(inputs) ** 0.5
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * (chance**2 + self._error**2) ** 0.5
        estimate = max(mean, 0.0)
        return Band(estimate=estimate, low=max(0.0, mean - half), high=max(estimate, mean + half))

    def _said(self, inputs: NDArray[np.float32]) -> Vector:
        return np.asarray(self._model.predict(inputs, num_threads=1), dtype=np.float64)


class LossEstimates:
    """Reports the losses that are expected of a model version.

    Args:
        joins: read the prediction log and labels.
    """

    def __init__(self, joins: Joins) -> None:
        self._joins = joins

    def report(
        self,
        release: Release,
        reference: LabelledWindow,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        confidence: float = 0.95,
    ) -> LossReport:
        """Log loss and Brier score that are expected of [since, until) by period; of regression
        the mean absolute and the root mean squared error.

        Args:
            release: whose first variant is looked at, in all releases that served it.
            reference: labelled predictions that the model of the loss learns from.

        Raises:
            NotFound: there are no such predictions.
            InvalidInput: fewer than 500 labelled rows; or the endpoint serves a composition.
        """
        variant = single(release)
        version = (variant.model, variant.version)
        task = reference.labels.task
        known, inputs = self._joins.sampled(
            release.endpoint, reference.labels, reference.since, reference.until, "month",
            version, MOST_REFERENCE_ROWS, tasks=("binary", "regression"),
        )  # fmt: skip
        labelled = known.known
        if labelled.sum() < _FEWEST:
            raise InvalidInput(
                f"A reference of {int(labelled.sum())} labelled rows is too small to learn "
                f"losses from.",
                hint=f"Name a window with at least {_FEWEST}.",
            )
        realised = losses(known.label[labelled], known.score[labelled], task)
        rows = _with_score(inputs[labelled], known.score[labelled])
        models = {name: LossModel(rows, one) for name, one in realised.items()}
        asked, seen = self._joins.sampled(
            release.endpoint, None, since, until, by, version, MOST_ROWS
        )
        totals = self._joins.joined(release.endpoint, None, since, until, by, version=version)
        return LossReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            by=by,
            since=since,
            until=until,
            n_reference=int(labelled.sum()),
            task=task,
            gain=next(iter(models.values())).gain,
            periods=_periods(models, asked, seen, totals.period, confidence),
            **{f"reference_{name}": _mean(name, one) for name, one in realised.items()},
        )


def _periods(
    models: Mapping[str, LossModel],
    asked: Joined,
    seen: NDArray[np.float32],
    periods: Vector,
    confidence: float,
) -> list[LossPeriod]:
    """What is expected of each period of sampled rows; ``periods`` are those of all rows."""
    found = []
    for start in np.unique(asked.period):
        chosen = (asked.period == start) & np.isfinite(asked.score)
        if not chosen.any():
            continue
        matrix = _with_score(seen[chosen], asked.score[chosen])
        told = {name: _told(name, one.band(matrix, confidence)) for name, one in models.items()}
        found.append(
            LossPeriod(
                since=instant(start),
                n_predictions=int((periods == start).sum()),
                n_sampled=len(matrix),
                **told,
            )
        )
    return found


def losses(labels: Vector, scores: Vector, task: Task = "binary") -> dict[str, Vector]:
    """The losses of each row by the figure that they add up to; the first tells the gain.

    Of probabilities the Brier and the log loss; scores are kept 1e-6 away from 0 and 1, so that
    one row that was surely wrong does not teach the model of the loss all that it knows. Of
    numbers the absolute and the squared error, the root of whose mean is told.
    """
    off = scores - labels
    if task == "regression":
        return {"mae": np.abs(off), _ROOTED: off**2}
    p = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return {"brier": off**2, "log_loss": -(labels * np.log(p) + (1 - labels) * np.log1p(-p))}


def _told(name: str, band: Band) -> Band:
    return root_of(band) if name == _ROOTED else band


def _mean(name: str, one: Vector) -> float:
    mean = float(one.mean())
    return sqrt(mean) if name == _ROOTED else mean


def _with_score(inputs: NDArray[np.float32], scores: Vector) -> Any:
    return np.column_stack([inputs, scores.astype(np.float32)])
