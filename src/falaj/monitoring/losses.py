"""Losses while labels have not arrived yet, told from inputs: direct loss estimation (DLE).

A model of the loss learns, on labelled predictions of an earlier window, how far the served
model errs for which inputs and scores; what it says of later predictions is their expected
loss. Unlike an estimate from scores alone it sees that rows have moved to where the served
model is badly calibrated. It needs rows with their inputs, so it reads a sample of the log.
(As in NannyML, which does it for regression; here the losses are those of a probability.)
"""

from __future__ import annotations

from datetime import datetime
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.estimates import single
from falaj.monitoring.expected import Vector
from falaj.monitoring.joined import Joins, instant
from falaj.monitoring.model import Band, Period
from falaj.monitoring.performancereports import LabelledWindow, LossPeriod, LossReport

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
        """Log loss and Brier score that are expected of [since, until) by period.

        Args:
            release: whose first variant is looked at, in all releases that served it.
            reference: labelled predictions that the model of the loss learns from.

        Raises:
            NotFound: there are no such predictions.
            InvalidInput: fewer than 500 labelled rows; or the endpoint serves a composition.
        """
        variant = single(release)
        version = (variant.model, variant.version)
        known, inputs = self._joins.sampled(
            release.endpoint, reference.labels, reference.since, reference.until, "month",
            version, MOST_REFERENCE_ROWS,
        )  # fmt: skip
        labelled = known.known
        if labelled.sum() < _FEWEST:
            raise InvalidInput(
                f"A reference of {int(labelled.sum())} labelled rows is too small to learn "
                f"losses from.",
                hint=f"Name a window with at least {_FEWEST}.",
            )
        brier, logs = losses(known.label[labelled], known.score[labelled])
        rows = _with_score(inputs[labelled], known.score[labelled])
        of_brier, of_logs = LossModel(rows, brier), LossModel(rows, logs)
        asked, seen = self._joins.sampled(
            release.endpoint, None, since, until, by, version, MOST_ROWS
        )
        totals = self._joins.joined(release.endpoint, None, since, until, by, version=version)
        periods = []
        for start in np.unique(asked.period):
            chosen = (asked.period == start) & np.isfinite(asked.score)
            if not chosen.any():
                continue
            matrix = _with_score(seen[chosen], asked.score[chosen])
            periods.append(
                LossPeriod(
                    since=instant(start),
                    n_predictions=int((totals.period == start).sum()),
                    n_sampled=len(matrix),
                    log_loss=of_logs.band(matrix, confidence),
                    brier=of_brier.band(matrix, confidence),
                )
            )
        return LossReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            by=by,
            since=since,
            until=until,
            n_reference=int(labelled.sum()),
            reference_log_loss=float(logs.mean()),
            reference_brier=float(brier.mean()),
            gain=of_brier.gain,
            periods=periods,
        )


def losses(labels: Vector, scores: Vector) -> tuple[Vector, Vector]:
    """The Brier and log loss of each row; scores are kept 1e-6 away from 0 and 1, so that one
    row that was surely wrong does not teach the model of the loss all that it knows."""
    p = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return (scores - labels) ** 2, -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def _with_score(inputs: NDArray[np.float32], scores: Vector) -> Any:
    return np.column_stack([inputs, scores.astype(np.float32)])
