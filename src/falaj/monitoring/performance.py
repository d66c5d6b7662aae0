"""Realised performance: predictions joined with labels that arrived late, by period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.personal import rule_of
from falaj.lake.ports import Lake
from falaj.models.intervals import auc_interval
from falaj.monitoring.model import Band, Labels, PerformanceReport, Period, PeriodPerformance
from falaj.serving.names import table_of
from falaj.training.metrics import SingleClass

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST_PROBABILITY = 1e-15


class Performance:
    """Reports realised performance from the prediction log and a label table."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def report(
        self,
        endpoint: str,
        labels: Labels,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        confidence: float = 0.95,
    ) -> PerformanceReport:
        """AUC, log loss and Brier score of [since, until) by period, each with its band.

        A week begins on Monday, in UTC. Predictions without a label are counted, and are
        no part of the figures.

        Raises:
            NotFound: there are no such predictions, or no label table.
            InvalidInput: a label is neither 0 nor 1, or a column is missing.
        """
        joined = self._joined(endpoint, labels, since, until, by)
        if not len(joined["score"]):
            raise NotFound(
                f"{endpoint!r} has no logged predictions between {since:%Y-%m-%d} and "
                f"{until:%Y-%m-%d}.",
                hint="Ask for another window.",
            )
        starts, places = np.unique(joined["period"], return_inverse=True)
        periods = [
            _period(
                _instant(start),
                joined["score"][places == place],
                joined["label"][places == place],
                confidence,
            )
            for place, start in enumerate(starts)
        ]
        return PerformanceReport(
            endpoint=endpoint,
            labels=labels,
            by=by,
            since=since,
            until=until,
            confidence=confidence,
            n_predictions=sum(period.n_predictions for period in periods),
            n_labels=sum(period.n_labels for period in periods),
            periods=periods,
        )

    def _joined(
        self, endpoint: str, labels: Labels, since: datetime, until: datetime, by: Period
    ) -> dict[str, NDArray[np.float64]]:
        table = table_of(endpoint)
        for wanted, told in ((table, "prediction log"), (labels.table, "label table")):
            if not self._lake.exists(wanted):
                raise NotFound(
                    f"There is no {told} {wanted!r} in the lake yet.",
                    hint="`falaj tables list` shows what there is.",
                )
        columns = set(self._lake.schema(labels.table).names)
        key = labels.key or labels.on
        for column in filter(None, (key, labels.label, labels.recorded_at)):
            if column not in columns:
                raise InvalidInput(
                    f"The label table {labels.table!r} has no column {column!r}.",
                    hint=f"It has: {', '.join(sorted(columns))}.",
                )
        latest = f'"{labels.recorded_at}" DESC, ' if labels.recorded_at else ""
        opened: dict[str, pa.Table] = {}
        when = {"since": since, "until": until}
        logged = self._named(
            opened, "logged", table, ("prediction_id", "predicted_for", "score", labels.on),
            "predicted_for >= $since AND predicted_for < $until", when,
        )  # fmt: skip
        known = (key, labels.label, labels.recorded_at)
        labelled = self._named(opened, "labelled", labels.table, known)
        found = self._lake.query(
            f"""
            WITH truths AS (
                SELECT CAST("{key}" AS VARCHAR) AS key, CAST("{labels.label}" AS DOUBLE) AS label
                FROM {labelled} WHERE "{labels.label}" IS NOT NULL
                QUALIFY row_number() OVER (PARTITION BY "{key}" ORDER BY {latest}label DESC) = 1
            )
            SELECT epoch_us(date_trunc('{by}', p.predicted_for AT TIME ZONE 'UTC')) AS period,
                   p.score, t.label
            FROM {logged} p LEFT JOIN truths t ON p.{labels.on} = t.key
            WHERE p.predicted_for >= $since AND p.predicted_for < $until
            ORDER BY p.prediction_id
            """,
            parameters=when,
            inputs=opened,
        )
        return {
            name: np.asarray(found.column(name).to_numpy(), dtype=np.float64)
            for name in ("period", "score", "label")
        }

    def _named(
        self,
        opened: dict[str, pa.Table],
        name: str,
        table: str,
        columns: Sequence[str | None],
        where: str | None = None,
        parameters: Mapping[str, datetime] | None = None,
    ) -> str:
        """What a query calls a table: SQL sees nothing of sealed columns, so those are opened."""
        if rule_of(self._lake, table) is None:
            return table
        wanted = list(dict.fromkeys(column for column in columns if column is not None))
        opened[name] = self._lake.scan(table, columns=wanted, where=where, parameters=parameters)
        return name


def _period(
    since: datetime,
    scores: NDArray[np.float64],
    labels: NDArray[np.float64],
    confidence: float,
) -> PeriodPerformance:
    known = ~np.isnan(labels) & np.isfinite(scores)
    y, s = labels[known], scores[known]
    told = PeriodPerformance(since=since, n_predictions=len(scores), n_labels=len(y))
    if not len(y):
        return told
    if not np.isin(y, (0.0, 1.0)).all():
        raise InvalidInput(
            "The label column holds values other than 0 and 1.",
            hint="Give a boolean column, or 0 and 1; null while the label is not known.",
        )
    told.positive_rate = float(y.mean())
    told.mean_score = float(s.mean())
    try:
        interval = auc_interval(y, s, confidence=confidence)
        told.auc = Band(estimate=interval.estimate, low=interval.low, high=interval.high)
    except SingleClass:
        told.auc = None
    p = np.clip(s, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    told.log_loss = mean_band(-(y * np.log(p) + (1 - y) * np.log1p(-p)), confidence)
    told.brier = mean_band((s - y) ** 2, confidence)
    return told


def mean_band(losses: NDArray[np.float64], confidence: float) -> Band:
    """The mean of losses with its normal confidence band; one row has the widest band."""
    mean = float(losses.mean())
    if len(losses) < 2:
        return Band(estimate=mean, low=0.0, high=float("inf"))
    error = float(losses.std(ddof=1)) / len(losses) ** 0.5
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Band(estimate=mean, low=max(0.0, mean - half), high=mean + half)


def _instant(microseconds: float) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
