"""The words of leakage in production: limits, findings, a report."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LEAKAGE = "leakage"
"""The kind of its reports."""


class LeakageLimits(BaseModel):
    """From when on a single feature is suspicious."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.85
    """No honest feature should tell the label so well by itself."""
    gain: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    """Nor so much better than it did when the model was judged, where that is known."""


class LeakageFinding(BaseModel):
    """One way in which a feature knows too much."""

    name: Literal["from_the_future", "label_like"]
    column: str
    """The feature; empty for ``from_the_future``, which the log tells by prediction."""
    numbers: dict[str, float]
    sentence: str

    @property
    def key(self) -> str:
        """What makes it the same finding in another window."""
        return f"{self.name}-{self.column}" if self.column else self.name


class FeatureTells(BaseModel):
    """How well a feature tells the label by itself."""

    name: str
    auc: float
    auc_judged: float | None = None
    """On the rows of the gates, or at most so much; None if they kept no figures."""


class LeakageReport(BaseModel):
    """What was looked at, and what was found."""

    endpoint: str
    model: str
    version: int
    since: datetime
    until: datetime
    n_predictions: int
    n_labels: int
    n_from_the_future: int
    limits: LeakageLimits
    strongest: list[FeatureTells]
    """The strongest features; none without enough labels of both classes."""
    findings: list[LeakageFinding]
