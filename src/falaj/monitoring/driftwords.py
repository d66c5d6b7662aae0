"""The words of drift: when a difference is one, against what, and what is found beside it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
DetectorName = Literal["adwin", "page_hinkley", "kswin"]
ReferenceKind = Literal["training", "fixed", "rolling", "seasonal"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftLimits(_Frozen):
    """When a difference is a drift: it is surely there, and it is large by one measure."""

    psi: Annotated[float, Field(gt=0)] = 0.2
    missing: Share = 0.1
    """Difference of the share of missing values."""
    false_discovery_rate: Share = 0.05
    """Over all features of a report together (Benjamini-Hochberg)."""
    wasserstein: Annotated[float, Field(gt=0)] | None = None
    """In standard deviations of the reference; None: it is told, and no limit."""
    ks: Share | None = None
    """Greatest difference of the distribution functions."""
    jensen_shannon: Share | None = None
    """Distance, base 2."""


class DriftReference(_Frozen):
    """What a window is compared with.

    ``training``: the rows that the model was made of. The others are windows of its own
    traffic, from kept sketches: one ``fixed`` for good, the ``rolling`` one right before, or
    the same stretch of earlier ``seasonal`` periods.
    """

    kind: ReferenceKind = "training"
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    """Of a fixed window."""
    windows: Annotated[int, Field(ge=1, le=52)] = 1
    """Rolling: how many windows of the same length; seasonal: how many periods back."""
    period: timedelta = timedelta(days=7)
    """Of the season: a week compares an hour with the same hour of the same weekday."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "fixed":
            if self.since is None or self.until is None or self.since >= self.until:
                raise ValueError("a fixed reference needs `since` before `until`")
        elif self.since is not None or self.until is not None:
            raise ValueError(f"a {self.kind} reference has no `since` and `until` of its own")
        if self.period <= timedelta(0):
            raise ValueError("the period of a season is longer than nothing")
        return self


class QualityLimits(_Frozen):
    """When a column's values are called faulty, whatever their distribution does."""

    null_surge: Share = 0.05
    """Growth of the share of missing values."""
    outside: Share = 0.002
    """Share of values outside the reference's range."""
    unknown: Share = 0.001
    """Share of words that the reference does not know."""
    scale: Annotated[float, Field(gt=1)] = 1.5
    """The least factor, or its inverse, that is called a change of unit."""
    least_rows: Annotated[int, Field(ge=2)] = 50
    """Fewer rows show no finding."""


class Detector(_Frozen):
    """A detector of change in a series, and what it is set to; what is left out is as the
    library river has it."""

    name: DetectorName = "adwin"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of ADWIN the significance, of Page-Hinkley the change that is let pass."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Of Page-Hinkley."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of KSWIN the significance, of Page-Hinkley the forgetting."""
    seed: int = 0
    """Of KSWIN, which samples."""


class WatchedSeries(_Frozen):
    """A series of minutes and the detector that follows it.

    Args:
        figure: the mean of a column, or the share of its missing values.
        column: an input of the model, or ``score``.
        detector: which.
    """

    figure: Literal["mean", "missing"] = "mean"
    column: str = "score"
    detector: Detector = Detector()

    @property
    def series(self) -> str:
        """The series in words."""
        return f"{self.figure} of {self.column}"


class DriftWatch(_Frozen):
    """How a monitor watches for drift, beyond comparing with the training rows each time."""

    reference: DriftReference = DriftReference()
    needed: Annotated[int, Field(ge=1, le=100)] = 1
    """In how many of the last windows a thing must be found before it raises an alert."""
    of_last: Annotated[int, Field(ge=1, le=100)] = 1
    """Windows that share no instant, and were of the version that serves."""
    quality: QualityLimits | None = QualityLimits()
    weighted: Annotated[float, Field(gt=0)] | None = None
    """Limit of the PSI of all inputs, weighted by the model's feature importance."""
    labels: Share | None = None
    """Limit of the difference of the share of label 1; the monitor names the label table."""
    sample: Annotated[int, Field(ge=200, le=100_000)] | None = None
    """How many rows of each side the multivariate checks read; None: they are not made."""
    follow: tuple[WatchedSeries, ...] = ()
    """Series of minutes that detectors follow from check to check."""
    separable: Annotated[float, Field(ge=0.5, lt=1)] = 0.6
    """The AUC of a classifier that tells now from the reference, above which its whole band
    must lie."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.needed > self.of_last:
            raise ValueError(f"{self.needed} of {self.of_last} windows can never be")
        return self


class Finding(BaseModel):
    """One named thing that is wrong with a column."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    column: str
    numbers: dict[str, float]
    sentence: str

    @property
    def key(self) -> str:
        """What makes it the same finding in another window."""
        return f"{self.name}-{self.column}"


class FeatureDrift(BaseModel):
    """How one input (or the score) differs from its reference."""

    name: str
    psi: float
    jensen_shannon: float
    ks: float | None
    """None for a category: it has no order."""
    wasserstein: float | None = None
    """In standard deviations of the reference; None for a category, or if it has none."""
    p_value: float
    """Of the smaller of the tests on values and on missing values, counted twice."""
    adjusted_p_value: float = 1.0
    """After Benjamini-Hochberg over the report."""
    missing_reference: float
    missing_observed: float
    weight: float | None = None
    """Its share of the model's importance; None if the bundle does not tell."""
    drifted: bool = False
    why: str = ""


class LabelDrift(BaseModel):
    """How the share of label 1 differs from that of a reference window."""

    reference_share: float
    observed_share: float
    n_reference: int
    n_observed: int
    p_value: float
    drifted: bool
    why: str = ""


class Separability(BaseModel):
    """How well a classifier tells now from the reference: 0.5 is not at all."""

    auc: float
    low: float
    high: float
    columns: list[str]
    """What it looked at most, the first most of all."""


class Reconstruction(BaseModel):
    """How well the reference's principal components rebuild rows."""

    components: int
    reference_error: float
    """Mean squared error of a standardised value, on rows that the components were not made of."""
    observed_error: float
    p_value: float
    """That the mean errors are equal (Welch's test, normal for such samples)."""


class SampledDrift(BaseModel):
    """What samples of rows tell, of the window and of its reference."""

    against: str
    n_reference: int
    n_observed: int
    separability: Separability | None = None
    reconstruction: Reconstruction | None = None
    """None of either if a side has too few rows."""


class DriftReport(BaseModel):
    """The inputs and scores of one model version over a window, against a reference."""

    endpoint: str
    model: str
    version: int
    bundle: str
    since: datetime
    until: datetime
    n_reference: int
    n_observed: int
    source: Literal["sketches", "rows"] = "rows"
    """What it was told from: sketches of whole minutes (further back hours and days) that
    begin in the window, or every row."""
    against: str = "the training rows"
    limits: DriftLimits
    features: list[FeatureDrift]
    score: FeatureDrift
    weighted_psi: float | None = None
    """PSI of the inputs, weighted by their importance; None if the bundle does not tell."""
    findings: list[Finding] = []
    labels: LabelDrift | None = None
    sampled: SampledDrift | None = None
    """Of rows as a whole, if the monitor reads samples of them."""

    @property
    def drifted(self) -> list[FeatureDrift]:
        """What drifted, the farthest first; the score stands among them as ``score``."""
        found = [one for one in (*self.features, self.score) if one.drifted]
        return sorted(found, key=lambda one: -one.psi)


class Discrepancy(BaseModel):
    """How far two samples of vectors lie apart."""

    squared: float
    """The unbiased estimate of the squared discrepancy; about 0, also below, if there is none."""
    p_value: float
    n_reference: int
    n_observed: int


class TableDrift(BaseModel):
    """How a table differs from another with the same columns."""

    n_reference: int
    n_observed: int
    limits: DriftLimits
    columns: list[FeatureDrift]
    findings: list[Finding]
    skipped: list[str]
    """Columns of one side only, or of a type that is not compared."""
    embeddings: dict[str, Discrepancy] = {}
    """Of columns of vectors."""
    separability: Separability | None = None
    reconstruction: Reconstruction | None = None
    """Of rows of numbers as a whole, if that was asked for."""

    @property
    def alarmed(self) -> list[str]:
        """The columns that drifted or have a finding, by name."""
        names = {one.name for one in self.columns if one.drifted}
        return sorted(names | {one.column for one in self.findings})
