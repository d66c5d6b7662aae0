"""The words of monitoring: monitors, what they measure and what they found."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import Definition
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound
from falaj.monitoring.anomalywords import AnomalyWatch
from falaj.monitoring.driftwords import DriftLimits, DriftWatch
from falaj.monitoring.leakagewords import LeakageLimits
from falaj.monitoring.performancewords import FIGURES_OF, Quality, Slice
from falaj.monitoring.schedulewords import CheckSchedule
from falaj.operations.model import Severity
from falaj.serving.model import EndpointName
from falaj.training.targets import Task

Column = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
Table = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Period = Literal["day", "week", "month"]
Share = Annotated[float, Field(ge=0, le=1)]


class NoPredictions(NotFound):
    """An endpoint has no predictions in a window, or too few of them to measure."""

    code = "no-predictions"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Frozen):
    """Where the truth arrives: a lake table with a row for each known outcome."""

    table: Table
    label: Column
    """As ``task`` says; null while it is not known."""
    on: Literal["prediction_id", "request_id", "unit"] = "request_id"
    """The column of the prediction log that the label's ``key`` answers."""
    key: Column | None = None
    """The label table's column; of the same name as ``on`` if None."""
    recorded_at: Column | None = None
    """If a key has several labels, the one recorded last counts."""
    task: Task = "binary"
    """``binary``: 0 or 1 (or a boolean), against the score as the probability of 1;
    ``regression``: a number, against the score as what was predicted of it; ``classes``: a
    class, against all outputs as the probabilities of the classes in their order."""
    classes: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    """The labels that stand for the outputs, in their order; without them labels are numbers
    of outputs, from 0 on."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.classes and self.task != "classes":
            raise ValueError('classes are of the task "classes"')
        if self.classes and not 2 <= len(set(self.classes)) == len(self.classes):
            raise ValueError("classes are at least two different ones")
        return self

    def document(self) -> dict[str, Any]:
        """As plain data, without what is as it always was before it could be said."""
        told = self.model_dump(mode="json")
        if self.task == "binary":
            del told["task"], told["classes"]
        return told


class PerformanceLimits(_Frozen):
    """What the realised figures must keep; a limit is crossed when the whole confidence
    band lies on its wrong side."""

    auc_at_least: Share | None = None
    log_loss_at_most: Annotated[float, Field(gt=0)] | None = None
    brier_at_most: Share | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    least_labels: Annotated[int, Field(ge=2)] = 100
    """Periods with fewer labels raise nothing."""


_FIRST = frozenset({"owner", "classification", "region", "drift", "labels", "performance"})
"""Fields of a monitor that a document names although they are None."""


class Monitor(Definition):
    """What is watched of an endpoint, and what raises an alert."""

    kind: ClassVar[str] = "monitor"

    endpoint: EndpointName
    window: timedelta = timedelta(days=7)
    """How far back a check looks."""
    drift: DriftLimits | None = DriftLimits()
    labels: Labels | None = None
    performance: PerformanceLimits | None = None
    severity: Severity = Severity.WARNING
    schedule: CheckSchedule | None = None
    """When it checks by itself; never, if there is none."""
    drift_watch: DriftWatch | None = None
    """What drift is measured against, and when it is alerted; None: against the training rows,
    at once."""
    anomalies: AnomalyWatch | None = None
    """Which series are held against their own past; None: none."""
    quality: Quality | None = None
    """Of performance, estimated and realised, of calibration and of fairness."""
    leakage: LeakageLimits | None = None
    """Whether single features know too much; it needs ``labels``."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.labels is None and self.quality is not None and self.quality.needs_labels:
            raise ValueError("a limit of `quality` needs labels; say in `labels` where they arrive")
        if self.labels is not None and self.labels.task != "binary":
            self._check_task(self.labels.task)
        return self

    def _check_task(self, task: Task) -> None:
        """Raise ValueError if something is watched that labels of another kind do not tell."""
        watch = self.drift_watch
        if self.performance is not None:
            raise ValueError("`performance` is of labels 0 and 1; give `quality` `realised` limits")
        if self.leakage is not None or (watch is not None and watch.labels is not None):
            raise ValueError("`leakage` and drift of labels are told from labels 0 and 1")
        quality = self.quality
        if quality is None:
            return
        if quality.estimated or quality.calibration is not None or quality.fairness:
            raise ValueError(
                "`estimated`, `calibration` and `fairness` are of labels 0 and 1; others have "
                "`realised` limits"
            )
        for one in quality.realised:
            if one.figure not in FIGURES_OF[task]:
                told = ", ".join(sorted(FIGURES_OF[task]))
                raise ValueError(f"{task} labels have no {one.figure}, but {told}")

    def document(self) -> dict[str, Any]:
        """As ``Definition.document``; what is unset and came later is left out, so that a
        monitor keeps its fingerprint over versions of the platform."""
        told = super().document()
        kept = {name: one for name, one in told.items() if one is not None or name in _FIRST}
        if kept["drift"] is not None:
            kept["drift"] = {name: one for name, one in kept["drift"].items() if one is not None}
        if self.labels is not None:
            kept["labels"] = self.labels.document()
        return kept

    def references(self) -> list[AssetRef]:
        """The endpoint that it watches."""
        return [AssetRef("endpoint", self.endpoint)]


class Band(BaseModel):
    """A figure with its confidence band."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    estimate: float
    low: float
    high: float

    def beyond(self, least: float | None, most: float | None) -> bool:
        """True if the whole band lies below ``least`` or above ``most``; None bounds nothing."""
        below = least is not None and self.high < least
        return below or (most is not None and self.low > most)


class PeriodPerformance(BaseModel):
    """How right the predictions of one period turned out to be."""

    since: datetime
    n_predictions: int
    n_labels: int
    positive_rate: float | None = None
    mean_score: float | None = None
    """Of classes, the mean probability of the likeliest one."""
    auc: Band | None = None
    """None without both classes."""
    log_loss: Band | None = None
    brier: Band | None = None
    accuracy: Band | None = None
    precision: Band | None = None
    """None if nothing was predicted positive."""
    recall: Band | None = None
    """None without a positive label."""
    f1: Band | None = None
    average_precision: Band | None = None
    mae: Band | None = None
    """Of regression: the mean absolute error, in the label's unit."""
    rmse: Band | None = None
    """Of regression: the root of the mean squared error, in the label's unit."""
    bias: Band | None = None
    """Of regression: the mean of what was predicted less what came."""
    macro_f1: Band | None = None
    """Of classes: the mean of their F1, over those that came or were predicted."""
    young: bool = False
    """More labels of it are likely to arrive: its figures may change, and those that arrive
    early may differ from those that arrive late."""

    @property
    def labelled(self) -> float:
        """The share of the predictions whose label is known."""
        return self.n_labels / self.n_predictions if self.n_predictions else 0.0


class SlicePerformance(BaseModel):
    """Realised performance of one group of rows by period."""

    slice: Slice
    group: str
    n_predictions: int
    n_labels: int
    periods: list[PeriodPerformance]


class PerformanceReport(BaseModel):
    """Realised performance by period, from labels that arrived late."""

    endpoint: str
    labels: Labels
    by: Period
    since: datetime
    until: datetime
    confidence: float
    n_predictions: int
    n_labels: int
    periods: list[PeriodPerformance]
    threshold: float = 0.5
    """A score from here on predicted label 1."""
    slices: list[SlicePerformance] = []
    n_groups_not_shown: int = 0
    """Of the slices: those with too few labels to say anything, or to keep one row's secret."""
    label_delay_p50_seconds: float | None = None
    """From a prediction to its first label, of the older half of the window; None unless the
    labels say when they were recorded."""
    label_delay_p95_seconds: float | None = None
    warning: str = ""
    """What to know before one believes the latest figures."""


class ReportKind(BaseModel):
    """A kept report, in a list."""

    id: str
    kind: str
    """``drift``, ``performance``, ``estimate``, ``calibration``, ``fairness``, ``parity``, …"""
    endpoint: str
    monitor: str | None
    at: datetime
    by: str


class KeptReport(ReportKind):
    """A kept report, whole."""

    document: dict[str, Any]


class CheckResult(BaseModel):
    """What one check of a monitor found."""

    monitor: str
    since: datetime
    until: datetime
    reports: list[str]
    """Ids of the kept reports."""
    alerts: list[str]
    """Ids of the alerts that were raised (or raised again)."""
    findings: list[str]
    waiting: list[str] = []
    """What was found, and not yet in as many windows as the monitor wants."""
    nothing: list[str] = []
    """Why parts of the monitor had nothing to measure: there were no predictions."""
    told_from: dict[str, list[str] | None] = {}
    """The columns by table (None: all) that these sentences were told from, beyond sketches and
    meters: who may not read them is not shown the sentences."""


Instant = AwareDatetime
