"""The words of anomalies in series: what is watched, and what was found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Step = Literal["minute", "hour"]
Method = Literal["seasonal", "rolling", "none"]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]


class MetricSeries(BaseModel):
    """A figure of the business over time: one SQL aggregate of a lake table by hour or minute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    table: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    at: _Name
    """The column of instants."""
    value: Annotated[str, Field(min_length=1, max_length=500)] = "count(*)"
    """The aggregate, such as ``sum(amount)``."""
    where: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Which rows count, as an SQL condition."""
    empty: Literal["zero", "gap"] = "zero"
    """What a stretch without rows is: none of it, or not known."""


class AnomalyWatch(BaseModel):
    """Which series of an endpoint are watched, and how far from the usual is too far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    traffic: bool = True
    latency: bool = True
    """The 95th percentile of the seconds to the answer."""
    errors: bool = True
    """The share of requests answered by a status of 500 and above; only too many are told."""
    anomalous: bool = Field(default=True, exclude_if=bool)
    """The share of predictions that the isolation forest of the model finds anomalous, where the
    endpoint tags them; only too many are told."""
    metrics: tuple[MetricSeries, ...] = ()
    step: Step = "hour"
    """A point of a series. Minutes are kept for two days: too short for a daily pattern."""
    history_days: Annotated[int, Field(ge=1, le=400)] = 28
    judged: Annotated[int, Field(ge=1, le=168)] = 24
    """So many of the newest whole points are held against those before them."""
    width: Annotated[float, Field(gt=0)] = 6.0
    """In robust standard deviations of what is left when the pattern is taken out."""
    least_change: Annotated[float, Field(ge=0, lt=10)] = 0.2
    """A point less than this share of the expected value away is never an anomaly."""
    persistence: Annotated[int, Field(ge=1, le=24)] = 2
    """So many points in a row must lie on the same side before an alert is raised."""

    @model_validator(mode="after")
    def _names_differ(self) -> AnomalyWatch:
        names = ["traffic", "latency", "errors", "anomalous", *(one.name for one in self.metrics)]
        if len(set(names)) != len(names):
            raise ValueError("two series have the same name")
        if self.persistence > self.judged:
            raise ValueError("persistence is longer than what is judged")
        return self


class SeriesPoint(BaseModel):
    """One judged point; ``seen`` is None in a gap."""

    at: datetime
    seen: float | None
    expected: float
    low: float
    high: float
    anomalous: bool


class SeriesFinding(BaseModel):
    """Points in a row that lie outside their bands on the same side."""

    series: str
    side: Literal["above", "below"]
    since: datetime
    until: datetime
    """The end of the last of them."""
    n_points: int
    lasts: bool
    """True if it reaches to the newest point that is known."""
    seen: float
    expected: float
    low: float
    high: float
    """Of the point that is farthest out."""

    @property
    def message(self) -> str:
        """The finding in a sentence."""
        return (
            f"{self.series} is {self.side} what is usual: {self.seen:.4g} from"
            f" {self.since:%Y-%m-%d %H:%M} UTC on, expected {self.expected:.4g}"
            f" ({self.low:.4g} to {self.high:.4g})"
        )


class SeriesJudged(BaseModel):
    """One series, judged."""

    name: str
    method: Method
    """``seasonal``: days (and weeks) were taken out. ``rolling``: the history is too short for
    that; median and deviations of the newest points. ``none``: too short for anything."""
    n_history: int
    points: list[SeriesPoint]
    findings: list[SeriesFinding]


class AnomalyReport(BaseModel):
    """The series of a monitor, held against their own past."""

    endpoint: str
    monitor: str
    step: Step
    since: datetime
    until: datetime
    series: list[SeriesJudged]

    @property
    def findings(self) -> list[SeriesFinding]:
        """What was found in all series."""
        return [finding for one in self.series for finding in one.findings]
