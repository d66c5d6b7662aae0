"""Reports of performance that was estimated, of calibration and of fairness."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from falaj.monitoring.model import Band, Labels, Period
from falaj.monitoring.performancewords import Figure, Gap, Slice
from falaj.training.targets import Task


@dataclass(frozen=True)
class LabelledWindow:
    """Predictions of an earlier window whose labels are known, as the reference."""

    labels: Labels
    since: datetime
    until: datetime


class EstimatedPeriod(BaseModel):
    """What is expected of the predictions of one period, whose labels need not be known."""

    since: datetime
    n_predictions: int
    figures: dict[Figure, Band]
    """Between the ends of the band the realised figure should lie, while the reference holds.
    A figure that is not defined (nothing predicted positive) is left out."""
    cannot_tell: str = ""
    """Why figures are left out of which so few rows say nothing; empty if none is."""


class EstimateReport(BaseModel):
    """Performance of one model version that is expected from its scores alone, by period."""

    endpoint: str
    model: str
    version: int
    bundle: str
    by: Period
    since: datetime
    until: datetime
    task: Task = "binary"
    threshold: float
    """Of no meaning for classes: the likeliest one is predicted."""
    confidence: float
    source: Literal["sketches", "rows"]
    """What the scores were taken from: counts on the bins of kept sketches, or every row."""
    reference: Literal["bundle", "labels"]
    """Where it is known from how often scores come true: the validation rows of the bundle, or
    labelled predictions of an earlier window."""
    n_reference: int
    recalibrated: bool
    """True if the scores did not come true as they are on the reference, and were corrected."""
    reference_figures: dict[Figure, float]
    """Realised on the reference."""
    n_predictions: int
    periods: list[EstimatedPeriod]


class LossPeriod(BaseModel):
    """The loss that is expected of the predictions of one period."""

    since: datetime
    n_predictions: int
    n_sampled: int
    log_loss: Band | None = None
    brier: Band | None = None
    mae: Band | None = None
    """Of regression, in the label's unit; so is the next."""
    rmse: Band | None = None


class LossReport(BaseModel):
    """Losses that are expected from inputs and scores, by a model of the loss."""

    endpoint: str
    model: str
    version: int
    by: Period
    since: datetime
    until: datetime
    n_reference: int
    """Labelled rows that the model of the loss has learned from and was judged on."""
    task: Task = "binary"
    reference_log_loss: float | None = None
    reference_brier: float | None = None
    reference_mae: float | None = None
    reference_rmse: float | None = None
    """Realised on those."""
    gain: float
    """By what share the model of the Brier loss (of regression: of the absolute error) errs less,
    on rows that it has not seen, than the mean loss does; 0 or less: inputs tell nothing of where
    the model errs."""
    periods: list[LossPeriod]


class ReliabilityBin(BaseModel):
    """Rows of like scores: what was predicted of them, and what came."""

    n: int
    predicted: float
    observed: Band


class PeriodCalibration(BaseModel):
    """How often the scores of one period came true."""

    since: datetime
    n_predictions: int
    n_labels: int
    error: Band | None = None
    """The expected calibration error: the mean distance of predicted and observed over bins. Its
    band leaves out what chance alone adds."""
    by_chance: float | None = None
    """The error that scores which come true would show with so few labels."""
    p_value: float | None = None
    """Of the test that scores come true as often as they say."""
    young: bool = False
    """More labels of it are likely to arrive."""
    bins: list[ReliabilityBin] = []


class CalibrationReport(BaseModel):
    """Calibration by period, from joined labels, on the same bins in all periods."""

    endpoint: str
    labels: Labels
    by: Period
    since: datetime
    until: datetime
    confidence: float
    n_predictions: int
    n_labels: int
    edges: list[float]
    """Of the bins: quantiles of the labelled scores of the window."""
    periods: list[PeriodCalibration]


class GroupFairness(BaseModel):
    """How one group was treated in a period."""

    group: str
    n_predictions: int
    n_labels: int
    selection_rate: Band
    """The share that was predicted positive."""
    true_positive_rate: Band | None = None
    false_positive_rate: Band | None = None
    positive_rate: Band | None = None
    calibration_gap: Band | None = None
    """Mean score less the share of label 1: above 0 the group is over-estimated."""


class PeriodFairness(BaseModel):
    """The groups of one period, and how far they are apart."""

    since: datetime
    groups: list[GroupFairness]
    gaps: dict[Gap, Band]
    """Between the groups that are farthest apart; those that are not defined are left out."""
    young: bool = False
    """More labels of it are likely to arrive; without labels nothing is."""


class FairnessReport(BaseModel):
    """Treatment of groups by period. There are no figures over all of them together: with
    those one could reckon the figures of a group that is not shown."""

    endpoint: str
    labels: Labels | None
    groups: Slice
    by: Period
    since: datetime
    until: datetime
    threshold: float
    confidence: float
    least_shown: int
    """Groups with fewer predictions (or labels) in a period are not shown in it."""
    n_groups_not_shown: int
    """Over all periods."""
    periods: list[PeriodFairness]
