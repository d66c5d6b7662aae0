"""What a policy asks of each version of its model: one rule for each family of gates.

Fields that came later are named in ``later``. A document leaves them out while they have
their default, so that a policy keeps its fingerprint over versions of the platform.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.training.targets import Task

Metric = Literal[
    "auc", "log_loss", "brier", "calibration_error",
    "rmse", "mae", "r2", "accuracy", "balanced_accuracy",
]  # fmt: skip
METRICS: Mapping[Task, tuple[Metric, ...]] = MappingProxyType(
    {
        "binary": ("auc", "log_loss", "brier", "calibration_error"),
        "regression": ("rmse", "mae", "r2"),
        "classes": ("log_loss", "brier", "accuracy", "balanced_accuracy"),
    }
)
"""Of each task those that there are, first the one that versions are compared by."""
Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Burden = Literal["not_surely_beyond", "surely_within"]
"""On whom the noise falls: a version fails when its interval lies wholly beyond the limit, or
already when it does not lie wholly within."""


class Rule(BaseModel):
    """What all rules are: unchanging, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    later: ClassVar[frozenset[str]] = frozenset()


def document_of(value: Any, dumped: Any) -> Any:
    """What was dumped of a rule, or of rules, without later fields that have their default."""
    if isinstance(value, tuple):
        return [document_of(one, told) for one, told in zip(value, dumped, strict=True)]
    if not isinstance(value, Rule):
        return dumped
    fields = type(value).model_fields
    return {
        name: document_of(getattr(value, name), told)
        for name, told in dumped.items()
        if name not in value.later or getattr(value, name) != fields[name].default
    }


class MetricRule(Rule):
    """A metric on the test rows must reach a floor (or stay under a ceiling for losses)."""

    later: ClassVar[frozenset[str]] = frozenset({"require", "confidence"})

    metric: Metric = "auc"
    limit: float
    require: Literal["estimate", "not_surely_beyond", "surely_within"] = "estimate"
    """What must reach the limit: the estimate, the better or the worse end of its interval."""
    confidence: Confidence = 0.95


class ChampionRule(Rule):
    """The version must not be worse than the one in production, on the same test rows.

    ``not_worse``: the difference's confidence interval must reach above ``-margin``;
    ``not_inferior``: all of it must lie above ``-margin``; ``better``: all of it must lie
    above 0. The difference counts in the good direction.
    """

    metric: Metric = "auc"
    require: Literal["not_worse", "not_inferior", "better"] = "not_worse"
    margin: Annotated[float, Field(ge=0)] = 0.0
    confidence: Confidence = 0.95


class SliceRule(Rule):
    """No slice may be surely worse than a limit: its interval must touch the good side.

    All slices of the rule are one family of tests: by Holm's method, a version whose slices
    are all just good enough fails with a probability of at most half of what
    ``confidence`` leaves, however many there are.
    """

    later: ClassVar[frozenset[str]] = frozenset({"correction"})

    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Each column is sliced by itself: by its words or numbers."""
    metric: Literal[
        "auc", "brier", "log_loss", "rmse", "mae", "r2", "accuracy", "balanced_accuracy"
    ] = "auc"
    limit: float
    least_rows: Annotated[int, Field(ge=2)] = 200
    """Smaller slices, and those with fewer than 10 rows of a class, are judged as one."""
    confidence: Confidence = 0.95
    correction: Literal["holm", "none"] = "holm"

    @model_validator(mode="after")
    def _limit_of_the_metric(self) -> Self:
        least = -math.inf if self.metric == "r2" else 0.0
        most = math.inf if self.metric in ("rmse", "mae", "log_loss") else 1.0
        if self.metric == "brier":
            most = 2.0  # of several classes
        if not least <= self.limit <= most:
            raise ValueError(f"{self.metric} can be {least:g} to {most:g}, not {self.limit:g}")
        return self


class CalibrationRule(Rule):
    """The expected calibration error must not be surely above a limit, or be surely under it."""

    limit: Share = 0.05
    require: Burden = "not_surely_beyond"
    n_bins: Annotated[int, Field(ge=2, le=100)] = 10
    confidence: Confidence = 0.95


class FairnessRule(Rule):
    """Groups of people (or of anything) are decided about alike.

    A decision is positive where the score reaches ``threshold``. Demographic parity: the
    greatest difference between two groups' shares of positive decisions. Equalised odds: the
    greatest difference of their true positive rates or false positive rates (Hardt, Price and
    Srebro, NeurIPS 2016). All pairs of groups are one family of intervals.
    """

    column: str
    """Of the spine or a feature: which group a row belongs to."""
    groups: tuple[str, ...] = ()
    """Which words are groups of their own; the rest is one. All of them, if none is named,
    but of a personal column they must be named: evidence tells no other word of it."""
    threshold: Share = 0.5
    demographic_parity: Share | None = 0.1
    equalised_odds: Share | None = 0.1
    require: Burden = "not_surely_beyond"
    least_rows: Annotated[int, Field(ge=10)] = 100
    """A group with fewer rows (for the odds: of a class) is not compared, and counted."""
    confidence: Confidence = 0.95


class RobustnessRule(Rule):
    """Decisions and AUC hold when inputs come damaged: missing, noisy, with unknown words."""

    threshold: Share = 0.5
    missing: Share = 0.1
    """So many values of each input are taken away."""
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Added to each number: normal, of so many standard deviations of the training rows."""
    unseen: Share = 0.1
    """So many words of each input are replaced by one that nobody has seen."""
    auc_loss: Share = 0.05
    """The AUC may not surely fall by more."""
    flips: Share = 0.1
    """Not surely more decisions may turn over."""
    one_missing_auc_loss: Share | None = None
    """The limit of the AUC's fall when any one input is missing in all rows; None: told alone."""
    confidence: Confidence = 0.95


class LatencyRule(Rule):
    """Single rows through the packaged model on one CPU thread, in milliseconds."""

    later: ClassVar[frozenset[str]] = frozenset({"hardware"})

    p50_ms: Annotated[float, Field(gt=0)] = 1.0
    p99_ms: Annotated[float, Field(gt=0)] = 5.0
    n_rows: Annotated[int, Field(ge=1000)] = 2000
    """Distinct rows; fewer than 1,000 make a tree model look faster than it is."""
    hardware: str | None = None
    """The name of the target's processor, ``*`` for any text: measured elsewhere, it fails."""


class MemoryRule(Rule):
    """A process that loads the model and scores with it stays small, at its peak."""

    largest_megabytes: Annotated[float, Field(gt=0)]
    """Resident, of the whole process with its interpreter and libraries, in MB (10^6 bytes)."""
    n_rows: Annotated[int, Field(ge=1, le=65_536)] = 1024
    """Scored at once."""
    hardware: str | None = None
    """As of ``LatencyRule``."""


class LeakageRule(Rule):
    """A model or a single feature that predicts too well knows the answer already."""

    later: ClassVar[frozenset[str]] = frozenset({"duplicates", "time_travel"})

    model_auc: Share = 0.9
    feature_auc: Share = 0.9
    first_event_auc: Share = 0.97
    """Among rows whose count feature is 1: a feature that then gives the label away shows
    that the window holds the row itself."""
    duplicates: Share | None = 0.01
    """By so much may the share of test rows with a twin among the fitted rows surely exceed that
    of fitted rows with one among each other."""
    time_travel: bool = True
    """Rows must lie in the part that their instant says, and no input may tell a later one."""


class ParentRule(Rule):
    """How far a version that was made from another may be from it, on the test rows."""

    worst_difference: Share = 0.05
    """Of a probability, the greatest absolute difference."""
    auc_loss: Share = 0.002
    """The greatest loss of the AUC."""


class SupplyChainRule(Rule):
    """What a version may be made of: licences and known vulnerabilities of its distributions."""

    attested: bool = True
    """It must attest how it was made, and bring a bill of materials."""
    worst_severity: Literal["none", "low", "moderate", "high", "critical"] = "moderate"
    """The worst known vulnerability that is let pass; one of unknown severity counts as high."""
    needs_vulnerabilities: bool = False
    """Fail where the settings name no file of vulnerabilities."""
    oldest_days: Annotated[int, Field(ge=0)] | None = None
    """Fail if the newest record of that file is older."""
    denied_licences: tuple[str, ...] = ()
    """Licences, or patterns with ``*`` (``AGPL-*``), that no distribution may have."""
    unknown_licences: bool = True
    """Whether distributions may be there that tell no licence."""
    excepted: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """Vulnerabilities (by any of their ids) or distributions that are let pass, each with why."""


class ExplainabilityRule(Rule):
    """What a decision rests on can be told."""

    dominant: Share = 0.9
    """No input may carry more of what the model has learned."""
    least_told: Share = 0.0
    """Inputs of which the importance is known must be at least this share of all."""


CardPart = Literal[
    "intended_use", "limitations", "owner", "description", "data", "metrics", "slices", "fairness",
    "inputs", "origin",
]  # fmt: skip


class CardRule(Rule):
    """The card tells what a reader must know before relying on the model."""

    needs: tuple[CardPart, ...] = (
        "intended_use", "limitations", "owner", "data", "metrics", "inputs", "origin",
    )  # fmt: skip
    least_words: Annotated[int, Field(ge=1)] = 5
    """Of intended use and limitations."""


class InputsRule(Rule):
    """The inputs are as the feature service declares them, and as the training rows had them."""

    outside: Share = 0.05
    """So many test values of a number may lie outside of what the training rows had."""
    unknown_words: Share = 0.05
    """So many test values of a category may be words that the model does not know."""
    missing: Share = 0.1
    """So much larger may the share of missing values be than it was in the training rows."""


__all__ = [
    "Burden", "CalibrationRule", "CardPart", "CardRule", "ChampionRule", "Confidence",
    "ExplainabilityRule", "FairnessRule", "InputsRule", "LatencyRule", "LeakageRule", "MemoryRule",
    "Metric", "MetricRule", "ParentRule", "RobustnessRule", "Rule", "Share", "SliceRule",
    "SupplyChainRule", "document_of",
]  # fmt: skip
